"""The one partition dimension: `batch_id`, a partition for each accepted manifest."""

import dagster as dg

DIMENSION = "batch_id"
BATCHES = dg.DynamicPartitionsDefinition(name=DIMENSION)
