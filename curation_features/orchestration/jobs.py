"""The job that computes all features of a batch."""

import dagster as dg

from curation_features.schema import ASSETS

extract_features = dg.define_asset_job(
    "extract_features",
    selection=dg.AssetSelection.assets(*ASSETS),
    description="""From a manifest to finished features: computes everything that is not in the cache.

It materializes five assets in the single step `photo_features`. The sensor `preprocess_outputs` launches it for each
manifest.""",
)
