"""Selects the batches of a dataset, and checks that their tables fit together."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

from curation_features import __version__
from curation_features.dataset.options import Options
from curation_features.dataset.schemas import UnifiedSchema
from curation_features.dataset.sources import Source, read_source
from curation_features.errors import InputError, StoreError
from curation_features.inventory import known_batch_ids
from curation_features.settings import Settings, nearest
from curation_features.storage.places import EMBEDDINGS, FEATURES, TABLE, Listing, list_places

if TYPE_CHECKING:
    import pyarrow as pa

_NAMED = 3  # batches in a message
UNKNOWN = "unknown"


@dataclass
class Plan:
    """The batches of a dataset, and its schema.

    Attributes:
        batch_ids: the finished batches to gather, sorted.
        unfinished: ids of batches without features, which are skipped; only if no batch was named.
        failed: batch -> why its tables cannot be read.
        sources: the readable batches, sorted by id.
        other_versions: version of embeddings that were not selected -> number of batches.
    """

    settings: Settings
    options: Options
    batch_ids: Sequence[str]
    unfinished: tuple[str, ...]
    listing: Listing
    failed: dict[str, str] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)
    other_versions: Mapping[str, int] = field(default_factory=dict)
    schema: pa.Schema = None

    @property
    def rows(self) -> int:
        """Number of rows of the readable tables."""
        return sum(source.rows for source in self.sources)

    @property
    def dimension(self) -> int:
        """Length of the vectors."""
        return next(source.vectors.dimension for source in self.sources if source.vectors)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the options, and of size and time of each file; equal: the dataset would be the same."""
        digest = hashlib.sha256(json.dumps([__version__, asdict(self.options)]).encode())
        for batch_id in self.batch_ids:
            files = [self.listing[place].get(batch_id) for place in (TABLE, EMBEDDINGS)]
            digest.update(json.dumps([batch_id, files]).encode())
        return digest.hexdigest()

    def read(self, advance: Callable[[], object] = lambda: None) -> None:
        """Read the footers of all tables.

        Args:
            advance: is called after each batch.

        Raises:
            StoreError: a column has a type that does not fit the others', or no table can be read.
            InputError: the embeddings have several versions, or none.
        """
        schema, wanted = UnifiedSchema(), self.options.embeddings
        vocabularies: dict[tuple[str, ...], tuple[str, ...]] = {}  # thousands of batches share one
        for batch_id in self.batch_ids:
            try:
                source, found = read_source(self.settings.data_path, batch_id, self.listing, embeddings=wanted)
            except StoreError as error:
                self.failed[batch_id] = str(error)
            else:
                schema.add(batch_id, found)
                labels = vocabularies.setdefault(source.labels, source.labels)
                self.sources.append(replace(source, labels=labels))
            advance()
        if not self.sources:
            raise StoreError("no table can be read:\n" + "\n".join(self.failed.values()))
        self.schema = schema.without(self.options.without)
        if wanted:
            self._select_vectors()

    def _select_vectors(self) -> None:
        """Keep the embeddings of the selected version. Raises `InputError` if several would be mixed."""
        batches: dict[str, list[str]] = {}
        for source in self.sources:
            if source.vectors:
                batches.setdefault(source.vectors.version or UNKNOWN, []).append(source.batch_id)
        if not batches:
            raise InputError(
                "no batch has embeddings: fetch the weights (curation-features models pull), and compute the batches "
                "again; or gather without --embeddings"
            )
        if self.options.version is not None:
            self._keep_version(self.options.version, batches)
        elif not self.options.mixed and (len(batches) > 1 or UNKNOWN in batches):
            raise InputError(
                f"the embeddings have {len(batches)} versions, and vectors of different models cannot be compared:\n"
                f"{_describe(batches)}\nselect one (--version VERSION), compute the other batches again, or gather "
                "all with --mixed: the column version_embedding distinguishes them"
            )
        dimensions = Counter(source.vectors.dimension for source in self.sources if source.vectors)
        if len(dimensions) > 1:
            raise InputError(
                f"the embeddings have {' and '.join(map(str, sorted(dimensions)))} numbers, which one column cannot "
                f"hold:\n{_describe(batches)}\nselect a version: --version VERSION"
            )

    def _keep_version(self, version: str, batches: Mapping[str, Sequence[str]]) -> None:
        if version not in batches or version == UNKNOWN:
            raise InputError(
                f"no batch has embeddings of version {version!r}{nearest(version, batches)}; there are:\n"
                f"{_describe(batches)}"
            )
        self.other_versions = {name: len(ids) for name, ids in batches.items() if name != version}
        self.sources = [_with_version(source, version) for source in self.sources]


def plan_dataset(settings: Settings, batch_ids: Sequence[str], options: Options) -> Plan:
    """Select the batches of a dataset; no table is opened.

    Args:
        batch_ids: by default all finished batches.

    Raises:
        InputError: a named batch is unknown or not finished, or there is none.
        StoreError: a folder cannot be listed.
    """
    listing = list_places(settings.data_path)
    known = known_batch_ids(listing)
    finished = [batch_id for batch_id in known if batch_id in listing[FEATURES]]
    folder = settings.data_path / "features"
    for batch_id in batch_ids:
        if batch_id not in finished:
            remedy = nearest(batch_id, finished) or "; to process it: curation-features process MANIFEST"
            raise InputError(f"batch {batch_id!r} has no finished features in {folder}{remedy}")
    if not finished:
        raise InputError(f"no batch in {folder} is finished; to process one: curation-features process MANIFEST")
    unfinished = () if batch_ids else tuple(batch_id for batch_id in known if batch_id not in listing[FEATURES])
    return Plan(settings, options, sorted(set(batch_ids)) or finished, unfinished, listing)


def _with_version(source: Source, version: str) -> Source:
    is_other = source.vectors is not None and source.vectors.version != version
    return replace(source, vectors=None) if is_other else source


def _describe(batches: Mapping[str, Sequence[str]]) -> str:
    """List versions with the number and first ids of their batches, most frequent first."""
    lines = []
    for version, ids in sorted(batches.items(), key=lambda item: -len(item[1])):
        more = ", ..." if len(ids) > _NAMED else ""
        lines.append(f"  {version}: {len(ids):,} of the batches ({', '.join(ids[:_NAMED])}{more})")
    return "\n".join(lines)
