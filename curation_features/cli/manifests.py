"""What people call a batch on the command line: its id, or the path of one of its files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from curation_features.cli.terminal import printable
from curation_features.errors import ManifestError
from curation_features.settings import Settings, nearest

MANIFEST_HELP = (
    "a batch manifest, bare or as a CloudEvent; or the id of a batch: its manifest in data/batches (ingested last), "
    "else the one in data/manifests (accepted last)"
)
BATCH_HELP = "id of a batch, or the path of its manifest or of a file of its features"


def find_manifest(given: str, settings: Settings) -> Path:
    """The manifest that a person means: a file, or that of a batch with this id.

    What was ingested last goes before what was accepted last: it is what the person has made since.

    Raises:
        ManifestError: there is neither; names the batch whose id is nearest.
    """
    if _is_file(Path(given)):
        return Path(given)
    for folder in _folders(settings):
        path = folder / f"{given}.json"
        if "/" not in given and _is_file(path):
            return path
    folders = " or ".join(map(str, _folders(settings)))
    missing = "no such file" if _is_path(given) else f"no such file, and no batch of this id in {folders}"
    hint = nearest(Path(given).stem, _known(settings))
    raise ManifestError("", f"{printable(given)}: cannot be read: {missing}{hint}")


def batch_id_of(given: str, settings: Settings) -> str:
    """The id of the batch that a person means: the id itself, or that of the manifest or features in a file.

    Raises:
        ManifestError: the file is not a manifest.
    """
    from curation_features.manifest import read_manifest

    path = Path(given)
    if not _is_file(path):
        return given
    ours = (*_folders(settings), settings.data_path / "features", settings.data_path / "features" / "embeddings")
    return path.stem if path.resolve().parent in ours else read_manifest(path).batch_id


def _folders(settings: Settings) -> tuple[Path, Path]:
    return settings.data_path / "batches", settings.data_path / "manifests"


def _known(settings: Settings) -> Iterator[str]:
    """The ids of the batches that have a manifest."""
    for folder in _folders(settings):
        yield from sorted(path.stem for path in folder.glob("[A-Za-z0-9]*.json"))


def _is_path(given: str) -> bool:
    return "/" in given or given.endswith(".json")


def _is_file(path: Path) -> bool:
    """Whether a path exists and is not a folder: a folder of photos often has the name of its batch."""
    with suppress(OSError, ValueError):  # a name that is too long; a NUL
        return path.exists() and not path.is_dir()
    return False
