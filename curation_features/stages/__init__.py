"""The batch-level steps that the service and the Dagster assets share.

measure   photos -> records with technical measurements and image embeddings, as a stream
label     records with embeddings -> records with labels
merge     records -> features -> the enriched document
"""

from curation_features.stages.batch_log import log_batch
from curation_features.stages.feature_stages import FeatureStages
from curation_features.stages.merge import Merged, merge
from curation_features.stages.pixels import Earlier
from curation_features.stages.plan import Models, Plan
from curation_features.stages.stats import RunStats

__all__ = ["Earlier", "FeatureStages", "Merged", "Models", "Plan", "RunStats", "log_batch", "merge"]
