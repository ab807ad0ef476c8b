"""Name of a lens from EXIF, or from the maker notes that contain it as text or numbers.

Cameras before EXIF 2.3 (2010), and single-lens reflexes of Canon and Nikon for longer, name the lens only in the notes.
Notes with a number instead of a name are not read: lenses of several makers share such numbers.

Source: EXIF 3.0, 4.6.6.9; the tags of the notes as in ExifTool's documentation (Canon 0x0095, Nikon 0x0084).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from PIL.ExifTags import Base

from curation_features.photos.exif.tiff_tags import Directory, Value, find, open_directory, to_numbers, to_text

_DNG_LENS_INFO = 0xC630  # as LensSpecification, which DNG may lack
_CANON_LENS_MODEL = 0x0095
_NIKON_LENS = 0x0084  # as LensSpecification
_NIKON_HEAD = 10  # bytes before the TIFF in its notes
_MAX_NOTE = 1_000_000  # bytes of maker notes; longer ones are cut
_NO_NAME = re.compile(r"[-\s0./fm]*", re.IGNORECASE)  # "----", "0.0 mm f/0.0"


def lens_name(directories: Sequence[Directory]) -> str | None:
    """Return `LensModel`, otherwise focal lengths and f-numbers as ExifTool prints them: "18-55mm f/3.5-5.6"."""
    return next(filter(None, _names(directories)), None)


def _names(directories: Sequence[Directory]) -> Iterator[str | None]:
    yield _named(find(directories, Base.LensModel))
    yield _specified(find(directories, Base.LensSpecification))
    yield _specified(find(directories, _DNG_LENS_INFO))
    maker = (to_text(find(directories, Base.Make)) or "").lower()
    for directory in directories:
        note = directory.entries.get(Base.MakerNote)
        if note is None:
            continue
        if maker.startswith("canon"):
            notes = directory.at(note.start)
            name = notes.entries.get(_CANON_LENS_MODEL)
            if name and note.start <= name.start and name.end <= note.end:  # offsets are wrong if an editor moved them
                yield _named(notes.get(_CANON_LENS_MODEL))
        elif maker.startswith("nikon") and directory.data[note.start : note.start + 7] == b"Nikon\0\2":
            end = min(note.end, note.start + _MAX_NOTE)
            yield _specified(open_directory(directory.data[note.start + _NIKON_HEAD : end]).get(_NIKON_LENS))


def _named(value: Value | None) -> str | None:
    text = to_text(value)
    return None if text is None or _NO_NAME.fullmatch(text) else text


def _specified(value: Value | None) -> str | None:
    """Format shortest and longest focal length, and the smallest f-number at each; 0/0 is unknown."""
    if not isinstance(value, tuple) or len(value) != 4:
        return None
    shortest, longest, first, second = ((f"{number:.5g}" if number else "") for number in to_numbers(value))
    if not shortest:
        return None
    return f"{_range(shortest, longest)}mm" + (f" f/{_range(first, second)}" if first else "")


def _range(low: str, high: str) -> str:
    return low if high in ("", low) else f"{low}-{high}"
