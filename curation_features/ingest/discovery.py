"""Search for photos in folders, with counts of skipped files and folders."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from curation_features.errors import InputError
from curation_features.photos.formats import SUFFIXES
from curation_features.photos.reader import RANKING_FOLDER
from curation_features.text import escape_unprintable

PHOTO_SUFFIXES = frozenset(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)

OTHER_FORMATS = {
    "JPEG 2000": ".jp2 .j2k .j2c .jpc .jpf .jpx .jpm",
    "JPEG XR": ".jxr .wdp .hdp",
    "Photoshop": ".psd .psb",
    "GIMP": ".xcf",
    "OpenEXR": ".exr",
    "Radiance HDR": ".hdr",
    "Capture One": ".eip",
}
"""Photo formats that are not read, with their suffixes."""

_OTHER_SUFFIXES = {suffix: name for name, suffixes in OTHER_FORMATS.items() for suffix in suffixes.split()}

SKIPPED_KINDS = MappingProxyType(
    {
        "other_programs": "thumbnails and trash of other programs",
        "own_files": "this project's own files",
        "linked_folders": "links to folders, which are not followed",
        "hidden": "hidden files and folders",
    }
)
"""Kinds of skipped files and folders -> description."""

_OTHER_PROGRAMS = frozenset(  # folders, in lower case
    {
        *("@eadir", "#recycle", "#snapshot"),  # Synology
        *(".@__thumb", "@recycle", "@recently-snapshot"),  # QNAP
        *("$recycle.bin", "system volume information"),  # Windows
        *(".trashes", ".spotlight-v100", "__macosx"),  # macOS
        *(".thumbnails", ".trash", ".dtrash"),  # freedesktop.org, digiKam
        "captureone",  # caches and settings in each folder of photos
    }
)
_OTHER_PROGRAMS_SUFFIX = ".lrdata"  # Lightroom's previews
_APPLE_DOUBLE = "._"  # metadata files of macOS on other file systems
_MAX_EXAMPLES, _MAX_SHOWN = 3, 20


@dataclass(frozen=True, slots=True)
class Skipped:
    """Files of one suffix that are not read. `format` is empty if unknown."""

    suffix: str
    format: str
    files: int
    examples: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Skipped files and folders of one `kind` of `SKIPPED_KINDS`. A folder counts as one entry."""

    kind: str
    entries: int
    examples: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """Result of a scan.

    Attributes:
        photos: files with the suffix of a format that is read, sorted by path.
        skipped: files of other formats by suffix, most frequent first.
        left_out: other skipped files and folders, in the order of `SKIPPED_KINDS`.
        unreadable: folders that cannot be listed, with the reason.
    """

    photos: tuple[Path, ...]
    skipped: tuple[Skipped, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    unreadable: tuple[tuple[Path, str], ...] = ()

    def messages(self) -> Iterator[str]:
        """Yield a line of text per group of skipped files."""
        for path, reason in self.unreadable[:_MAX_SHOWN]:
            yield f"skipped unreadable folder: {_printable(path)}: {reason}"
        if len(self.unreadable) > _MAX_SHOWN:
            yield f"... and {len(self.unreadable) - _MAX_SHOWN} more folders, {len(self.unreadable)} in all"
        for skipped in self.skipped:
            files = f"{skipped.files} {_printable(skipped.suffix) or 'other'} file{'s' if skipped.files > 1 else ''}"
            remedy = f" ({skipped.format}; export as JPEG)" if skipped.format else ""
            yield f"not read: {files}{remedy}, such as {_printable(skipped.examples[0])}"
        for left_out in self.left_out:
            names, more = ", ".join(map(_printable, left_out.examples)), left_out.entries - len(left_out.examples)
            yield f"skipped: {names}{f' and {more} more' if more else ''} ({SKIPPED_KINDS[left_out.kind]})"


def scan(paths: Sequence[Path], data_path: Path) -> Found:
    """Find the photos among files and, recursively, in folders. Duplicate paths count once.

    Hidden files, thumbnails of other programs, this project's own files and links to folders are skipped, unless they
    are in `paths`. An unreadable subfolder is skipped, too.

    Args:
        data_path: the project's data folder, which is skipped unless a path is inside it.

    Raises:
        InputError: a path does not exist, a folder in `paths` cannot be listed, or no photo was found.
    """
    scanner = _Scanner(data_path)
    for path in paths:
        scanner.add(path)
    found = scanner.result()
    if not found.photos:
        names = ", ".join(map(_printable, paths))
        cause = f"no photos; a photo has one of the suffixes {', '.join(sorted(PHOTO_SUFFIXES))}"
        if any(skipped.format for skipped in found.skipped):
            cause = "no photos in a format that is read"
        raise InputError("; ".join([f"{names}: {cause}", *found.messages()]))
    return found


@dataclass(slots=True)
class _Scanner:
    """Collects paths as text, since many `Path` objects are slow. `files` are by suffix in lower case."""

    data_path: Path
    files: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    left_out: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    unreadable: dict[str, str] = field(default_factory=dict)

    def add(self, path: Path) -> None:
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except OSError as error:
            if not path.is_symlink():
                raise _explain(path, error) from error
            is_folder = False
        if is_folder:
            self._walk(str(path))
        else:
            self.files[path.suffix.lower()].append(str(path))

    def _walk(self, top: str) -> None:
        own = _find_own_folders(Path(top), self.data_path)

        def collect_error(error: OSError) -> None:
            if error.filename == top:
                raise _explain(Path(top), error) from error
            self.unreadable[str(error.filename)] = str(error.strerror)

        for parent, folders, names in os.walk(top, onerror=collect_error):
            folders[:] = [name for name in folders if self._is_entered(parent, name, own)]
            for name in names:
                suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (a Path for each file takes long)
                if suffix in PHOTO_SUFFIXES or suffix in _OTHER_SUFFIXES:
                    hidden = "other_programs" if name.startswith(_APPLE_DOUBLE) else "hidden"
                    group = self.left_out[hidden] if name.startswith(".") else self.files[suffix]
                    group.append(os.path.join(parent, name))  # noqa: PTH118

    def _is_entered(self, parent: str, name: str, own: Sequence[Path]) -> bool:
        path, known = os.path.join(parent, name), name.casefold()  # noqa: PTH118
        if known in _OTHER_PROGRAMS or known.endswith(_OTHER_PROGRAMS_SUFFIX):
            kind = "other_programs"
        elif any(_is_same(Path(path), folder) for folder in own):
            kind = "own_files"
        elif name.startswith("."):
            kind = "hidden"
        elif os.path.islink(path):  # noqa: PTH114
            kind = "linked_folders"
        else:
            return True
        self.left_out[kind].append(path)
        return False

    def result(self) -> Found:
        photos = [path for suffix, paths in self.files.items() if suffix in PHOTO_SUFFIXES for path in paths]
        skipped = [
            Skipped(suffix, _OTHER_SUFFIXES.get(suffix, ""), *_count(paths))
            for suffix, paths in self.files.items()
            if suffix not in PHOTO_SUFFIXES
        ]
        return Found(
            tuple(map(Path, _deduplicate(photos))),
            tuple(sorted(skipped, key=lambda group: (-group.files, group.suffix))),
            tuple(LeftOut(kind, *_count(self.left_out[kind])) for kind in SKIPPED_KINDS if kind in self.left_out),
            tuple((Path(path), reason) for path, reason in sorted(self.unreadable.items())),
        )


def _explain(path: Path, error: OSError) -> InputError:
    """Return the `InputError` for a path that cannot be searched."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        start = "" if path.is_absolute() else f" in {_printable(Path.cwd())}"
        return InputError(f"{_printable(path)}: no such file or folder{start}; correct the path")
    remedy = "; allow this user to read it" if isinstance(error, PermissionError) else ""
    return InputError(f"{_printable(path)}: cannot be read: {error.strerror}{remedy}")


def _find_own_folders(top: Path, data_path: Path) -> Sequence[Path]:
    """Return the project's own folders that are not entered from `top`."""
    if _is_same(top, data_path):
        return data_path / RANKING_FOLDER, data_path / "cache"  # no other has photos
    return () if top.resolve().is_relative_to(data_path.resolve()) else (data_path,)


def _is_same(path: Path, other: Path) -> bool:
    with suppress(OSError):  # one of them does not exist
        return path.samefile(other)
    return False


def _deduplicate(paths: Sequence[str]) -> list[str]:
    """Return each file once, in its first spelling, sorted by absolute path."""
    spellings = {os.path.abspath(path): path for path in reversed(paths)}  # noqa: PTH100 (a link keeps its own name)
    return [spellings[path] for path in sorted(spellings, key=lambda path: path.split(os.sep))]  # noqa: PTH206 (Path is slow)


def _count(paths: Sequence[str]) -> tuple[int, tuple[Path, ...]]:
    """Return the number of distinct paths, and some examples."""
    distinct = sorted(set(paths))
    return len(distinct), tuple(map(Path, distinct[:_MAX_EXAMPLES]))


def _printable(path: Path | str) -> str:
    return escape_unprintable(str(path))
