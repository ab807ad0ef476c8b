"""The job that makes all features of a batch."""

import dagster as dg

extract_features = dg.define_asset_job(
    "extract_features",
    selection=dg.AssetSelection.assets(
        "label_embeddings", "technical_metrics", "image_embeddings", "clip_labels", "features"
    ),
    description="""From a manifest to finished features: everything that is not up to date in the cache is computed.

The five assets that are made, in the one step `photo_features`. The sensor `preprocess_outputs` launches it for each
manifest.""",
)
