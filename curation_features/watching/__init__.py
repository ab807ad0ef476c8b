"""Watched folders of photos: new photos that have come to rest become batches.

    look         finds new and changed files, and which have come to rest
    plan         cuts the photos at rest into batches
    journal      keeps what is known, in one SQLite file
    ingested     knows the photos in the manifests of the data folder
    watch        all of it: a look, then the ingest of each planned batch

Photos are only read; a deleted file changes nothing.
"""

from curation_features.watching.watch import Looked, Planned, Watch

__all__ = ["Looked", "Planned", "Watch"]
