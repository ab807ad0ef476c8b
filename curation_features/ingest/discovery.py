"""Search for photos in folders, with counts of skipped files and folders."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from curation_features.errors import InputError
from curation_features.photos.limits import SUFFIXES
from curation_features.photos.reader import RANKING_FOLDER

PHOTO_SUFFIXES = frozenset(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)

OTHER_FORMATS = {
    "HEIC": ".heic .heif .hif .heics .heifs .avci",
    "JPEG XL": ".jxl",
    "JPEG 2000": ".jp2 .j2k .j2c .jpc .jpf .jpx .jpm",
    "JPEG XR": ".jxr .wdp .hdp",
    "Photoshop": ".psd .psb",
    "GIMP": ".xcf",
    "OpenEXR": ".exr",
    "Radiance HDR": ".hdr",
    "camera raw": ".3fr .arw .bay .cap .cr2 .cr3 .crw .dcr .dcs .dng .drf .eip .erf .fff .gpr .iiq .k25 .kdc .mdc .mef "
    ".mos .mrw .nef .nrw .orf .ori .pef .ptx .pxn .raf .raw .rw2 .rwl .rwz .sr2 .srf .srw .sti .x3f",
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
        raise InputError("; ".join([f"{names}: {_explain_no_photos(found)}", *found.messages()]))
    return found


def _explain_no_photos(found: Found) -> str:
    if any(skipped.format for skipped in found.skipped):
        return "no photos in a format that is read"
    return f"no photos; a photo has one of the suffixes {', '.join(sorted(PHOTO_SUFFIXES))}"


@dataclass(slots=True)
class _Scanner:
    """Collects paths as text, since many `Path` objects are slow."""

    data_path: Path
    photos: list[str] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)

    def add(self, path: Path) -> None:
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except OSError as error:
            if not path.is_symlink():
                raise InputError(f"{_printable(path)}: cannot be read: {error.strerror}") from error
            is_folder = False
        if is_folder:
            self._walk(str(path))
        else:
            suffix = path.suffix.lower()
            (self.photos if suffix in PHOTO_SUFFIXES else self.skipped.setdefault(suffix, [])).append(str(path))

    def _walk(self, top: str) -> None:
        own = _find_own_folders(top, self.data_path)

        def collect_error(error: OSError) -> None:
            if error.filename == top:
                raise InputError(f"{_printable(top)}: cannot be listed: {error.strerror}") from error
            self.unreadable[str(error.filename)] = str(error.strerror)

        for parent, folders, names in os.walk(top, onerror=collect_error):
            folders[:] = [name for name in folders if self._is_entered(parent, name, own)]
            for name in names:
                suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 (a Path for each file takes long)
                if suffix in PHOTO_SUFFIXES or suffix in _OTHER_SUFFIXES:
                    self._add_file(os.path.join(parent, name), name, suffix)  # noqa: PTH118

    def _add_file(self, path: str, name: str, suffix: str) -> None:
        """Add a file with the suffix of a photo format."""
        if name.startswith("."):
            self.left_out.setdefault("other_programs" if name.startswith(_APPLE_DOUBLE) else "hidden", []).append(path)
        elif suffix in PHOTO_SUFFIXES:
            self.photos.append(path)
        else:
            self.skipped.setdefault(suffix, []).append(path)

    def _is_entered(self, parent: str, name: str, own: Mapping[str, str]) -> bool:
        path, known = os.path.join(parent, name), name.casefold()  # noqa: PTH118
        if known in _OTHER_PROGRAMS or known.endswith(_OTHER_PROGRAMS_SUFFIX):
            kind = "other_programs"
        elif known in own and _is_same(path, own[known]):
            kind = "own_files"
        elif name.startswith("."):
            kind = "hidden"
        elif os.path.islink(path):  # noqa: PTH114
            kind = "linked_folders"
        else:
            return True
        self.left_out.setdefault(kind, []).append(path)
        return False

    def result(self) -> Found:
        skipped = [
            Skipped(suffix, _OTHER_SUFFIXES.get(suffix, ""), len(set(paths)), _select_examples(paths))
            for suffix, paths in self.skipped.items()
        ]
        return Found(
            tuple(map(Path, _deduplicate(self.photos))),
            tuple(sorted(skipped, key=lambda group: (-group.files, group.suffix))),
            tuple(
                LeftOut(kind, len(set(self.left_out[kind])), _select_examples(self.left_out[kind]))
                for kind in SKIPPED_KINDS
                if kind in self.left_out
            ),
            tuple((Path(path), reason) for path, reason in sorted(self.unreadable.items())),
        )


def _find_own_folders(top: str, data_path: Path) -> dict[str, str]:
    """Return the project's own folders: name in lower case -> path."""
    data, folder = os.path.realpath(data_path), os.path.realpath(top)
    if _is_same(folder, data):
        own = [os.path.join(data, name) for name in (RANKING_FOLDER, "cache")]  # noqa: PTH118 (no other has photos)
    else:
        own = [] if Path(folder).is_relative_to(data) else [data]
    return {Path(path).name.casefold(): path for path in own}


def _is_same(path: str, other: str) -> bool:
    with suppress(OSError):  # one of them does not exist
        return Path(path).samefile(other)
    return False


def _deduplicate(paths: Sequence[str]) -> list[str]:
    """Return each file once, in its first spelling, sorted by absolute path."""
    spellings = {os.path.abspath(path): path for path in reversed(paths)}  # noqa: PTH100 (a link keeps its own name)
    return [spellings[path] for path in sorted(spellings, key=lambda path: path.split(os.sep))]  # noqa: PTH206 (Path is slow)


def _select_examples(paths: Sequence[str]) -> tuple[Path, ...]:
    return tuple(map(Path, sorted(set(paths))[:_MAX_EXAMPLES]))


def _printable(path: Path | str) -> str:
    return str(path) if str(path).isprintable() else ascii(str(path))
