"""Text from outside, as people may be shown it."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curation_features.report.text import display_paths


@pytest.mark.parametrize(
    ("uris", "paths"),
    [
        ([], []),
        (["./photos/trip/IMG_0001.JPG"], ["IMG_0001.JPG"]),
        (["./a/IMG_0001.JPG", "b/IMG_0001.JPG"], ["a/IMG_0001.JPG", "b/IMG_0001.JPG"]),
        (["/home/jane/p/1/x.jpg", "/home/jane/p/x.jpg"], ["1/x.jpg", "x.jpg"]),
        (["/p/ab/x.jpg", "/p/ac/x.jpg"], ["ab/x.jpg", "ac/x.jpg"]),  # folders, not letters, are shared
        (["p/x.jpg", "p/x.jpg"], ["x.jpg", "x.jpg"]),
        (["../p/x.jpg", "../q/x.jpg"], ["p/x.jpg", "q/x.jpg"]),
        (["file:///p/a%20b/x.jpg", "file://localhost/p/c/x%3F.jpg"], ["a b/x.jpg", "c/x?.jpg"]),
        (["p/what?.jpg", "p/q/100%.jpg"], ["what?.jpg", "q/100%.jpg"]),  # no URIs
        (["s3://bucket/2024/x.jpg?sig=secret", "s3://bucket/2025/x.jpg"], ["2024/x.jpg", "2025/x.jpg"]),
        (["s3://one/x.jpg", "s3://two/x.jpg"], ["one/x.jpg", "two/x.jpg"]),
        (["/home/jane/x.jpg", "photos/y.jpg", "s3://b/z.jpg"], ["x.jpg", "y.jpg", "z.jpg"]),
        (["a/", "/", ""], ["a", "", ""]),
    ],
)
def test_a_path_is_relative_to_the_folder_that_holds_all(uris, paths) -> None:
    assert display_paths(uris) == paths


_NAMES = st.text("abA. ", min_size=1, max_size=3).filter(lambda name: name not in (".", ".."))


@given(st.lists(st.lists(_NAMES, min_size=1, max_size=4), min_size=1, max_size=5))
def test_paths_are_those_of_the_standard_library(photos) -> None:
    given_paths = ["/" + "/".join(parts) for parts in photos]
    common = os.path.commonpath([os.path.dirname(path) for path in given_paths])  # noqa: PTH120
    assert display_paths(given_paths) == [os.path.relpath(path, common) for path in given_paths]


def test_different_photos_have_different_paths() -> None:
    uris = [f"photos/{folder}/IMG_{number:04}.JPG" for folder in ("DCIM/100", "DCIM/101", "phone") for number in (1, 2)]
    assert len(set(display_paths(uris))) == 6
