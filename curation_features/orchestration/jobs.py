"""The job that makes all features of a batch."""

import dagster as dg

from curation_features.schema import ASSETS

extract_features = dg.define_asset_job(
    "extract_features",
    selection=dg.AssetSelection.assets(*ASSETS),
    description="""From a manifest to finished features: everything that is not up to date in the cache is computed.

The five assets that are made, in the one step `photo_features`. The sensor `preprocess_outputs` launches it for each
manifest.""",
)
