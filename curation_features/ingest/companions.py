"""Companions of photos: raw files, sidecars and Live Photo videos of the same shot.

Cameras and phones give the files of one shot one stem in one folder; upper and lower case do not differ:

    IMG_0001.JPG        the photo: the rendered file
    IMG_0001.CR3        raw: what the same exposure recorded
    IMG_0001.xmp        sidecar of this stem (Adobe)
    IMG_0001.JPG.xmp    sidecar of this file (darktable, digiKam)
    IMG_0001.MOV        video: the moving part of a Live Photo

More names of phones and programs:

    IMG_O0001.AAE                   iPhone: adjustments at capture of IMG_0001
    IMG_E0001.HEIC                  iPhone: the edited still, a photo with its own stem and companions
    PXL_1.RAW-01.COVER.jpg          Pixel: the photo of PXL_1.RAW-02.ORIGINAL.dng
    PXL_1.MP.jpg                    Pixel: the photo of PXL_1.MP, PXL_1.MP.mp4 or PXL_1.mp4
    IMG_0001.CR3.jpg                rendered from IMG_0001.CR3, unless IMG_0001.jpg exists

Two rendered files of one stem are two photos: a program made one of them, maybe with other pixels. A name with an
addition (`IMG_0001-2.jpg`, `IMG_0001 (1).jpg`) is another stem, since cameras add none.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from curation_features.photos.formats import SUFFIXES

SIDECAR_SUFFIXES = (".aae", ".xmp")
VIDEO_SUFFIXES = (".mov", ".mp4", ".mp")
"""Suffixes of Live Photos and motion photos; `.mp` is Google Takeout's."""

_JPEG, _HEIC = SUFFIXES["JPEG"], (".heic", ".heif", ".hif")
_OF_CAMERAS, _OF_PHONES = (_JPEG, _HEIC), (_HEIC, _JPEG)
_MADE_BY_PHONES = (".aae", *VIDEO_SUFFIXES)
_PIXEL = re.compile(r"\.raw-\d+(\.mp)?\.(cover|original)$|\.mp$")
_IPHONE_CAPTURE = re.compile(r"^img_o(?=\d)")


def pair(photos: Iterable[str], others: Iterable[str], kinds: Mapping[str, str]) -> dict[str, str]:
    """Find the photo of each companion.

    If several photos have the stem of a companion, it belongs to the one of the same device. For raw files and `.xmp`
    JPEG precedes HEIC: cameras write a JPEG next to a raw file unless set to HEIF. For videos and `.aae` HEIC precedes
    JPEG, since a JPEG next to an iPhone's HEIC is an export. Other formats follow; raw files are last.

    Args:
        photos: absolute paths. A raw file among them is a photo without a rendered file, and gets no other raw file.
        others: absolute paths of possible companions.
        kinds: suffix in lower case -> kind of companion: `raw`, `sidecar` or `video`.

    Returns:
        Path of the companion -> path of its photo, without companions that have no photo.
    """
    files = [_File.at(path) for path in photos]
    rendered, raws = _Shots(), _Shots()
    for file in files:
        (raws if kinds.get(file.suffix) == "raw" else rendered).add(file)
    owners: dict[str, str] = {}
    by_name = {file.name: file.path for file in files}
    candidates = [_File.at(path) for path in others]
    for raw in (file for file in candidates if kinds[file.suffix] == "raw"):
        if owner := rendered.find(raw) or rendered.by_stem.get(raw.name):
            owners[raw.path] = by_name[raw.name] = owner  # its sidecars belong to the same photo
    for file in (file for file in candidates if kinds[file.suffix] != "raw"):
        if owner := by_name.get(file.stem) or rendered.find(file) or raws.find(file):
            owners[file.path] = owner
    return owners


_Key = tuple[str, str]  # folder, and a name without case


@dataclass(frozen=True, slots=True)
class _File:
    """The parts of a path; `name` and `stem` include the folder, `shot` is common to the files of one shot."""

    path: str
    name: _Key
    stem: _Key
    shot: _Key
    suffix: str

    @classmethod
    def at(cls, path: str) -> _File:
        folder, name = os.path.split(path)
        stem, suffix = os.path.splitext(name.casefold())  # noqa: PTH122 (a Path for each file takes long)
        shot = _IPHONE_CAPTURE.sub("img_", stem) if suffix == ".aae" else _PIXEL.sub("", stem)
        return cls(path, (folder, name.casefold()), (folder, stem), (folder, shot), suffix)


class _Shots:
    """Photos by shot, and by stem."""

    def __init__(self) -> None:
        self.by_stem: dict[_Key, str] = {}
        self._by_shot: defaultdict[_Key, list[_File]] = defaultdict(list)

    def add(self, file: _File) -> None:
        self.by_stem[file.stem] = file.path
        self._by_shot[file.shot].append(file)

    def find(self, companion: _File) -> str | None:
        """Return the photo of the companion's shot, if any: that of the same stem, device and spelling first."""
        formats = _OF_PHONES if companion.suffix in _MADE_BY_PHONES else _OF_CAMERAS
        spelling = os.path.splitext(companion.path)[0]  # noqa: PTH122

        def rank(photo: _File) -> tuple[bool, int, bool, str]:
            order = next((index for index, suffixes in enumerate(formats) if photo.suffix in suffixes), len(formats))
            return photo.stem != companion.stem, order, not photo.path.startswith(f"{spelling}."), photo.path

        photos = self._by_shot.get(companion.shot)
        return min(photos, key=rank).path if photos else None
