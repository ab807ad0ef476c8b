"""The index for searches over all batches: an asset without partitions."""

from __future__ import annotations

from typing import Any

import dagster as dg

from curation_features.orchestration.assets import OWNERS, Stages, Store
from curation_features.search.index import FOLDER, FORMAT, NAME
from curation_features.search.indexing import update_index
from curation_features.versions import digest

ASSET = "search_index"


@dg.asset(
    name=ASSET,
    deps=["features", "groups"],
    group_name="library",
    owners=OWNERS,
    kinds={"python", "numpy"},
    tags={"stage": ASSET},
    code_version=str(FORMAT),
    description="""Half-precision image embeddings of all batches, mapped into memory by searches.

Made incrementally: only batches that are new or were made again are read. `curation-features search` and `process`
make the same. The sensor `photo_groups` launches it with the groups. With `search_index = false` it is not made.""",
)
def search_index_asset(stages: Stages, store: Store) -> dg.MaterializeResult[None]:
    """Add the batches that have changed."""
    if not stages.settings.search_index:
        return dg.MaterializeResult(metadata={"state": "off: search_index = false in the settings"})
    made = update_index(store.data_path)
    path = store.data_path / FOLDER / NAME
    metadata: dict[str, Any] = {
        "batches": made.batches,
        "photos": made.photos,
        "added": made.added,
        "versions": dg.MetadataValue.json(dict(made.versions)),
        "path": dg.MetadataValue.path(str(path)),
    }
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(digest(made.contents)[:16]))
