"""Stages of a batch, shared by the service and the Dagster assets.

measure   photos -> records with technical measurements and image embeddings, as a stream
label     records with embeddings -> records with labels
merge     records -> features -> the enriched document
"""

from curation_features.pipeline.batch_log import log_batch
from curation_features.pipeline.feature_stages import FeatureStages
from curation_features.pipeline.merge import EnrichedBatch, merge
from curation_features.pipeline.pixels import Earlier
from curation_features.pipeline.plan import Models, Plan
from curation_features.pipeline.stats import RunStats

__all__ = ["Earlier", "EnrichedBatch", "FeatureStages", "Models", "Plan", "RunStats", "log_batch", "merge"]
