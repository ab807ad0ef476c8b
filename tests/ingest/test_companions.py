"""Pairs of photos and their raw files, sidecars and videos, by the names that cameras, phones and programs write."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from curation_features.ingest.companions import pair
from curation_features.ingest.discovery import COMPANION_KINDS


def paired(photos: str, others: str, folder: str = "/trip") -> dict[str, str]:
    """Pair names, separated by spaces; each companion -> its photo."""
    found = pair(in_folder(folder, photos), in_folder(folder, others), COMPANION_KINDS)
    return {companion.rpartition("/")[2]: photo.rpartition("/")[2] for companion, photo in found.items()}


def in_folder(folder: str, names: str) -> list[str]:
    return [f"{folder}/{name}" for name in names.split()]


@pytest.mark.parametrize(
    ("photo", "companions"),
    [
        ("IMG_0001.JPG", "IMG_0001.CR3 IMG_0001.xmp IMG_0001.JPG.xmp"),  # Canon, Adobe, darktable
        ("IMG_0001.HIF", "IMG_0001.CR3"),  # Canon in HDR PQ
        ("_DSC0001.JPG", "_DSC0001.NEF"),  # Nikon in Adobe RGB
        ("DSC00001.JPG", "DSC00001.ARW DSC00001.xmp"),  # Sony
        ("DSCF0001.JPG", "DSCF0001.RAF"),  # Fujifilm
        ("P1010001.JPG", "P1010001.ORF"),  # Olympus
        ("20240501_101112.jpg", "20240501_101112.dng"),  # Samsung
        ("IMG_0001.HEIC", "IMG_0001.MOV IMG_0001.AAE IMG_O0001.AAE IMG_0001.DNG"),  # iPhone
        ("IMG_E0001.HEIC", "IMG_E0001.MOV IMG_E0001.AAE"),  # iPhone, edited
        ("IMG_0001.HEIC", "IMG_0001.HEIC.MOV"),
        ("PXL_20240501_101112345.RAW-01.COVER.jpg", "PXL_20240501_101112345.RAW-02.ORIGINAL.dng"),
        ("PXL_20240501_101112345.RAW-01.MP.COVER.jpg", "PXL_20240501_101112345.RAW-02.ORIGINAL.dng"),
        ("PXL_20240501_101112345.MP.jpg", "PXL_20240501_101112345.MP PXL_20240501_101112345.MP.mp4"),
        ("PXL_20240501_101112345.MP.jpg", "PXL_20240501_101112345.mp4 PXL_20240501_101112345.dng"),
        ("img_1.jpg", "IMG_1.CR2 Img_1.XMP"),  # renamed by a program
        ("DSC_1.NEF.jpg", "DSC_1.NEF DSC_1.NEF.xmp"),  # rendered by a program
        ("IMG_1.CR2", "IMG_1.xmp IMG_1.CR2.xmp"),  # without a rendered file
        ("caf\udce9.jpg", "caf\udce9.dng caf\udce9.jpg.xmp"),
    ],
)
def test_files_of_one_shot_belong_together(photo: str, companions: str) -> None:
    assert paired(photo, companions) == dict.fromkeys(companions.split(), photo)


@pytest.mark.parametrize(
    ("photos", "companions"),
    [
        ("IMG_1.JPG", "IMG_2.CR3 IMG_2.xmp IMG_10.MOV IMG_1-2.CR3 IMG_E1.AAE"),
        ("IMG_E0001.HEIC", "IMG_0001.AAE IMG_0001.MOV"),
        ("IMG_1-edited.jpg IMG_1(1).jpg", "IMG_1.CR3 IMG_1.xmp"),
        ("IMG_1.DNG", "IMG_1.CR2"),
        ("IMG_1.JPG", "IMG_1.CR3.xmp"),  # of a raw file that does not exist
    ],
)
def test_files_of_other_shots_stay_apart(photos: str, companions: str) -> None:
    assert paired(photos, companions) == {}


@pytest.mark.parametrize(
    ("companion", "photo"),
    [
        ("a.cr3", "a.jpg"),
        ("a.xmp", "a.jpg"),
        ("a.aae", "a.heic"),
        ("a.mov", "a.heic"),
        ("a.heic.xmp", "a.heic"),
        ("a.tif.xmp", "a.tif"),
        ("A.CR3.xmp", "a.jpg"),
    ],
)
def test_of_several_photos_the_same_devices_is_the_owner(companion: str, photo: str) -> None:
    for photos in ("a.jpg a.heic a.tif", "a.tif a.heic a.jpg"):
        assert paired(photos, f"{companion} a.cr3")[companion] == photo


def test_other_formats_and_raw_photos_follow() -> None:
    assert paired("a.tif a.png a.heif", "a.nef")["a.nef"] == "a.heif"
    assert paired("a.dng a.tif", "a.xmp a.nef") == {"a.xmp": "a.tif", "a.nef": "a.tif"}
    assert paired("a.jpg a.nef.jpg", "a.nef a.nef.jpg.xmp") == {"a.nef": "a.jpg", "a.nef.jpg.xmp": "a.nef.jpg"}
    assert paired("PXL_1.MP.jpg PXL_1.jpg", "PXL_1.dng") == {"PXL_1.dng": "PXL_1.jpg"}
    assert paired("img_1.jpg IMG_1.JPG", "IMG_1.CR2 img_1.dng") == {"IMG_1.CR2": "IMG_1.JPG", "img_1.dng": "img_1.jpg"}


def test_folders_are_apart() -> None:
    def paths(*names: str) -> Iterable[str]:
        return [f"/trip/{name}" for name in names]

    photos, others = paths("1/a.jpg", "2/a.jpg", "A/b.jpg"), paths("1/a.dng", "a.dng", "2/a.xmp", "a/b.dng")
    assert pair(photos, others, COMPANION_KINDS) == {
        "/trip/1/a.dng": "/trip/1/a.jpg",
        "/trip/2/a.xmp": "/trip/2/a.jpg",
    }
