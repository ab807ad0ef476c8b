"""Displayed paths distinguish photos, and show nothing above their common folder."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest

from curation_features.ingest.folder import find_photos, ingest
from curation_features.report.text import common_folders, display_paths, path_within


def paths(*uris: Any, length: int = 120) -> list[str]:
    return display_paths([{"photo_id": f"id-{n}", "original_uri": uri} for n, uri in enumerate(uris)], length)


@pytest.mark.parametrize(
    ("uris", "shown"),
    [
        (["./p/100CANON/IMG_1.JPG", "./p/101CANON/IMG_1.JPG"], ["100CANON/IMG_1.JPG", "101CANON/IMG_1.JPG"]),
        (["/home/ada/trip/a.jpg", "/home/ada/trip/day 1/b.jpg"], ["a.jpg", "day 1/b.jpg"]),
        (["/home/ada/trip/a.jpg"], ["a.jpg"]),
        (["./a.jpg", "b.jpg", "x/../c.jpg"], ["a.jpg", "b.jpg", "c.jpg"]),
        (["/t/ab/1.jpg", "/t/abc/1.jpg"], ["ab/1.jpg", "abc/1.jpg"]),  # folders, not letters
        (["/t/a", "/t/a/b.jpg"], ["a", "a/b.jpg"]),  # a file named like the folder of another
        (["/t/a.jpg", "/t/a.jpg"], ["a.jpg", "a.jpg"]),
        (["file:///t/x/50%25%20a.jpg", "/t/y/50%20a.jpg"], ["x/50% a.jpg", "y/50%20a.jpg"]),
        (["s3://bucket/t/x/1%20.jpg", "s3://bucket/t/y/1.jpg?sig=SECRET"], ["x/1 .jpg", "y/1.jpg"]),
        (["s3://one/t/1.jpg", "s3://two/t/1.jpg"], ["one/t/1.jpg", "two/t/1.jpg"]),
        (["https://ada:SECRET@a.example/1.jpg", "https://b.example/1.jpg"], ["a.example/1.jpg", "b.example/1.jpg"]),
        (["/home/ada/t/x/1.jpg", "/home/ada/t/2.jpg", "s3://b/k/3.jpg"], ["x/1.jpg", "2.jpg", "3.jpg"]),
        (["/home/ada/t/1.jpg", "./photos/2.jpg", "photos/x/3.jpg"], ["1.jpg", "2.jpg", "x/3.jpg"]),
        (["file://nas/t/1.jpg", "file://nas/t/u/2.jpg"], ["1.jpg", "u/2.jpg"]),
    ],
)
def test_paths_start_in_the_deepest_common_folder(uris, shown) -> None:
    assert paths(*uris) == shown


def test_paths_are_one_line_and_never_empty() -> None:
    hostile = "/t/a\x1b[2J\u202e\n/b\u2028c.jpg"
    assert paths(hostile, "/t/\u2028", "/t/x/\x00") == ["a [2J /b c.jpg", "id-1", "x/"]
    assert display_paths([{"photo_id": "\x00", "original_uri": "\n"}]) == ["(no name)"]
    assert display_paths([]) == []


def test_a_long_path_shows_its_end() -> None:
    assert paths("/t/a.jpg", f"/t/{'x' * 50}/IMG_1.JPG", length=20) == ["a.jpg", "…xxxxxxxxx/IMG_1.JPG"]


def test_without_an_original_the_analysed_image_is_named() -> None:
    artifacts = [{"photo_id": "a", "std_uri": "/t/x/a.jpg", "ranking_uri": "/r/a.jpg"}, {"ranking_uri": "/t/y/b.jpg"}]
    assert display_paths(artifacts) == ["x/a.jpg", "y/b.jpg"]


def test_a_path_within_the_folder_is_exact() -> None:
    uris = ["/t/a  b\n.jpg", "file:///t/x/%FF%0A'.jpg"]
    folders = common_folders(uris)
    assert [path_within(uri, folders) for uri in uris] == ["a  b\n.jpg", "x/\udcff\n'.jpg"]


def test_ingested_photos_of_one_name_differ(shared_data, settings) -> None:
    folder = shared_data / "inputs" / "same-names"
    artifacts = ingest(find_photos(folder), settings, batch_id="names").manifest["artifacts"]
    assert display_paths(artifacts) == ["100CANON/IMG_0001.JPG", "101CANON/IMG_0001.JPG"]


@pytest.mark.long
def test_the_common_folder_needs_constant_memory() -> None:
    tracemalloc.start()
    assert common_folders(f"/home/ada/{n % 7}/{n}.jpg" for n in range(20_000)) == {"absolute": ["home", "ada"]}
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()
