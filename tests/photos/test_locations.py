"""Locations: one for all spellings of a file, different ones for different files."""

from __future__ import annotations

from pathlib import Path

import pytest

from curation_features.photos.locations import Locations


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project `home/trip`, which `link` leads to, with a photo, a link to it, and a link to its folder."""
    photos = tmp_path / "home" / "trip" / "photos"
    photos.mkdir(parents=True)
    (photos / "a b.jpg").write_bytes(b"")
    (photos / "chosen.jpg").symlink_to("a b.jpg")
    (photos.parent / "album").symlink_to("photos")
    (tmp_path / "link").symlink_to("home/trip")
    return photos.parent


def test_spellings_of_one_file_have_one_location(root: Path) -> None:
    photo = root / "photos" / "a b.jpg"
    relative = ("photos/a b.jpg", "./photos//a b.jpg", "x/../photos/a b.jpg", "photos/chosen.jpg", "album/a b.jpg")
    for uri in (*relative, "album/chosen.jpg", str(photo), photo.as_uri(), photo.as_uri().replace("//", "//localhost")):
        assert Locations(root).of(uri) == "photos/a b.jpg", uri
    through = root.parents[1] / "link"
    assert Locations(through).of(str(through / "photos" / "a b.jpg")) == "photos/a b.jpg"


def test_other_files_have_other_locations(root: Path) -> None:
    locations = Locations(root)
    outside = root.parent / "a.jpg"  # exists as little as the others
    uris = ["gone.jpg", "photos/gone.jpg", "photos/a%20b.jpg", str(outside), "../a.JPG", "photos", "."]
    uris += [
        "s3://bucket/a.jpg",
        "s3://bucket/./a.jpg",
        "file://host/a.jpg",
        "nul\0.jpg",
        "nul\0/a.jpg",
        "lone \ud800.jpg",
    ]
    found = [locations.of(uri) for uri in uris]
    assert len({*found}) == len(uris)
    assert found[3] == str(outside)
    assert found[7:] == uris[7:]
