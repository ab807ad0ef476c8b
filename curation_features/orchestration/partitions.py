"""The partition dimension `batch_id`, with one partition per batch."""

import dagster as dg

DIMENSION = "batch_id"
BATCHES = dg.DynamicPartitionsDefinition(name=DIMENSION)
