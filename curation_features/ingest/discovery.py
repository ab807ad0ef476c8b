"""Search for photos and their companions in folders, with counts of skipped files and folders."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from curation_features.errors import InputError
from curation_features.ingest.companions import SIDECAR_SUFFIXES, VIDEO_SUFFIXES, pair
from curation_features.ingest.patterns import Expansion, fixed_part, is_pattern
from curation_features.photos.formats import RAW_FORMATS, SUFFIXES
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

RAW_SUFFIXES = frozenset(suffix for suffixes in RAW_FORMATS.values() for suffix in suffixes)
"""Suffixes of camera raw files: companions of a rendered photo of the same shot, else photos."""

COMPANION_KINDS = {
    **dict.fromkeys(sorted(RAW_SUFFIXES), "raw"),
    **dict.fromkeys(SIDECAR_SUFFIXES, "sidecar"),
    **dict.fromkeys(VIDEO_SUFFIXES, "video"),
}
"""Suffix -> kind of companion."""

_OTHER_SUFFIXES = {suffix: name for name, suffixes in OTHER_FORMATS.items() for suffix in suffixes.split()}

_RENDERED_SUFFIXES = PHOTO_SUFFIXES - RAW_SUFFIXES
_NAMED_SUFFIXES = PHOTO_SUFFIXES | _OTHER_SUFFIXES.keys() | COMPANION_KINDS.keys()

SKIPPED_KINDS = MappingProxyType(
    {
        "other_programs": "thumbnails and trash of other programs",
        "own_files": "this project's own files",
        "linked_folders": "links to folders, which are not followed",
        "hidden": "hidden files and folders",
        "unpaired": "sidecars and videos without a photo",
    }
)
"""Kinds of skipped files and folders -> description."""

_OTHER_PROGRAMS = frozenset(  # folders, in lower case
    {
        *("@eadir", "#recycle", "#snapshot", "@tmp"),  # Synology
        *(".@__thumb", "@recycle", "@recently-snapshot"),  # QNAP
        *("$recycle.bin", "system volume information"),  # Windows
        *(".trashes", ".spotlight-v100", "__macosx"),  # macOS
        *(".thumbnails", ".trash", ".dtrash"),  # freedesktop.org, digiKam
        "captureone",  # caches and settings in each folder of photos
    }
)
_OTHER_PROGRAMS_SUFFIX = ".lrdata"  # Lightroom's previews
_LIBRARY_SUFFIX, _ORIGINALS = ".photoslibrary", ("originals", "masters")  # Apple Photos; other folders are derivatives
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
        photos: files with the suffix of a format that is read, sorted by path; without raw files that are companions
            of another photo (`find_companions` lists them).
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
    are in `paths`. An unreadable subfolder is skipped, too. Of a raw file and the rendered file of the same shot (see
    `companions`), only the rendered file is a photo.

    Args:
        paths: files, folders, and patterns with `*`, `?`, `[...]` and `**`. A path that exists is not a pattern.
        data_path: the project's data folder, which is skipped unless a path is inside it.

    Raises:
        InputError: a path does not exist or matches nothing, a folder in `paths` cannot be listed, or no photo was
            found.
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


def find_companions(photos: Iterable[str]) -> dict[str, list[tuple[str, str]]]:
    """Find the companions of photos in the photos' folders, each of which is listed once.

    Args:
        photos: absolute paths.

    Returns:
        Path of a photo -> kind (`raw`, `sidecar`, `video`) and path of each companion; without photos that have none.
    """
    given = dict.fromkeys(photos)
    folders = dict.fromkeys(map(os.path.dirname, given))
    others = [path for folder in folders for path in _list_companions(folder) if path not in given]
    companions: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for path, photo in pair(given, others, COMPANION_KINDS).items():
        companions[photo].append((COMPANION_KINDS[_suffix(path)], path))
    return dict(companions)


def photos_among(files: Collection[str]) -> set[str]:
    """Find the photos among files: without raw files that are companions of a rendered one.

    Args:
        files: absolute paths.
    """
    rendered = [path for path in files if _suffix(path) in _RENDERED_SUFFIXES]
    raws = [path for path in files if _suffix(path) in RAW_SUFFIXES]
    rendered_raws = pair(rendered, raws, COMPANION_KINDS).keys()
    return {path for path in files if _suffix(path) in PHOTO_SUFFIXES and path not in rendered_raws}


def skipped_kind(parent: str, name: str, own: Sequence[Path]) -> str | None:
    """Return why a folder is not entered: a kind of `SKIPPED_KINDS`, or None if it is.

    Args:
        own: see `find_own_folders`.
    """
    path, known = os.path.join(parent, name), name.casefold()  # noqa: PTH118
    if known in _OTHER_PROGRAMS or known.endswith(_OTHER_PROGRAMS_SUFFIX) or _is_derivative(parent, known):
        return "other_programs"
    if any(_is_same(Path(path), folder) for folder in own):
        return "own_files"
    if name.startswith("."):
        return "hidden"
    return "linked_folders" if os.path.islink(path) else None  # noqa: PTH114


def find_own_folders(top: Path, data_path: Path) -> Sequence[Path]:
    """Return the project's own folders that are not entered from `top`."""
    if _is_same(top, data_path):
        return data_path / RANKING_FOLDER, data_path / "cache"  # no other has photos
    return () if top.resolve().is_relative_to(data_path.resolve()) else (data_path,)


def _list_companions(folder: str) -> list[str]:
    """Return the files in a folder with the suffix of a companion; none if it cannot be listed."""
    with suppress(OSError), os.scandir(folder) as entries:
        return [entry.path for entry in entries if _suffix(entry.name) in COMPANION_KINDS and entry.is_file()]
    return []


@dataclass(slots=True)
class _Scanner:
    """Collects paths as text, since many `Path` objects are slow."""

    data_path: Path
    files: list[str] = field(default_factory=list)
    left_out: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    unreadable: dict[str, str] = field(default_factory=dict)

    def add(self, path: Path) -> None:
        if is_pattern(path):
            self._expand(path)
            return
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except OSError as error:
            if not path.is_symlink():
                raise _explain(path, error) from error
            is_folder = False
        if is_folder:
            self._walk(str(path))
        else:
            self.files.append(str(path))

    def _expand(self, pattern: Path) -> None:
        fixed = fixed_part(pattern)
        try:
            fixed.stat()
        except OSError as error:
            raise _explain(fixed, error) from error
        own = find_own_folders(fixed, self.data_path)
        expansion = Expansion(lambda parent, name: self._is_entered(parent, name, own), self._collect_error)
        count = 0
        for count, path in enumerate(expansion.paths(pattern), 1):  # noqa: B007
            if os.path.isdir(path):  # noqa: PTH112
                self._walk(path, is_given=False)
            else:
                self.files.append(path)
        if not count:
            problem = f"{_printable(pattern)}: matches no file or folder{_in_cwd(pattern)}; correct the path"
            raise InputError("; ".join([problem, *self.result().messages()]))

    def _collect_error(self, error: OSError) -> None:
        self.unreadable[str(error.filename)] = str(error.strerror)

    def _walk(self, top: str, *, is_given: bool = True) -> None:
        own = find_own_folders(Path(top), self.data_path)

        def collect_error(error: OSError) -> None:
            if is_given and error.filename == top:
                raise _explain(Path(top), error) from error
            self._collect_error(error)

        for parent, folders, names in os.walk(top, onerror=collect_error):
            folders[:] = [name for name in folders if self._is_entered(parent, name, own)]
            for name in names:
                if _suffix(name) in _NAMED_SUFFIXES:
                    hidden = "other_programs" if name.startswith(_APPLE_DOUBLE) else "hidden"
                    group = self.left_out[hidden] if name.startswith(".") else self.files
                    group.append(os.path.join(parent, name))  # noqa: PTH118

    def _is_entered(self, parent: str, name: str, own: Sequence[Path]) -> bool:
        kind = skipped_kind(parent, name, own)
        if kind is not None:
            self.left_out[kind].append(os.path.join(parent, name))  # noqa: PTH118
        return kind is None

    def result(self) -> Found:
        files = _deduplicate(self.files)
        photos = photos_among(files)
        others = [path for path in files if path not in photos]
        companions = pair(photos, [path for path in others if _suffix(path) in COMPANION_KINDS], COMPANION_KINDS)
        unread: defaultdict[str, list[str]] = defaultdict(list)
        for path in others:
            if path not in companions:
                suffix = _suffix(path)
                is_unpaired = COMPANION_KINDS.get(suffix, "raw") != "raw"
                (self.left_out["unpaired"] if is_unpaired else unread[suffix]).append(files[path])
        skipped = [Skipped(suffix, _OTHER_SUFFIXES.get(suffix, ""), *_count(paths)) for suffix, paths in unread.items()]
        return Found(
            tuple(Path(given) for path, given in files.items() if path in photos),
            tuple(sorted(skipped, key=lambda group: (-group.files, group.suffix))),
            tuple(LeftOut(kind, *_count(self.left_out[kind])) for kind in SKIPPED_KINDS if kind in self.left_out),
            tuple((Path(path), reason) for path, reason in sorted(self.unreadable.items())),
        )


def _explain(path: Path, error: OSError) -> InputError:
    """Return the `InputError` for a path that cannot be searched."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return InputError(f"{_printable(path)}: no such file or folder{_in_cwd(path)}; correct the path")
    remedy = "; allow this user to read it" if isinstance(error, PermissionError) else ""
    return InputError(f"{_printable(path)}: cannot be read: {error.strerror}{remedy}")


def _in_cwd(path: Path) -> str:
    return "" if path.is_absolute() else f" in {_printable(Path.cwd())}"


def _is_same(path: Path, other: Path) -> bool:
    with suppress(OSError):  # one of them does not exist
        return path.samefile(other)
    return False


def _deduplicate(paths: Sequence[str]) -> dict[str, str]:
    """Return absolute path -> first spelling of each file, sorted by folder and name."""
    spellings = {os.path.abspath(path): path for path in reversed(paths)}  # noqa: PTH100 (a link keeps its own name)
    return {path: spellings[path] for path in sorted(spellings, key=lambda path: path.split(os.sep))}  # noqa: PTH206 (Path is slow)


def _suffix(path: str) -> str:
    """Return the suffix in lower case, like `Path.suffix`."""
    return os.path.splitext(path)[1].lower()  # noqa: PTH122 (a Path for each file takes long)


def _is_derivative(parent: str, name: str) -> bool:
    """Whether a folder of a library of Apple Photos has previews, not originals."""
    return parent.lower().endswith(_LIBRARY_SUFFIX) and name not in _ORIGINALS


def _count(paths: Sequence[str]) -> tuple[int, tuple[Path, ...]]:
    """Return the number of distinct paths, and some examples."""
    distinct = sorted(set(paths))
    return len(distinct), tuple(map(Path, distinct[:_MAX_EXAMPLES]))


def _printable(path: Path | str) -> str:
    return escape_unprintable(str(path))
