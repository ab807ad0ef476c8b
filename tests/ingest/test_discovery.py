"""Search for photos in folders, and the report of skipped files."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from permissions import as_nobody

from curation_features.errors import InputError
from curation_features.ingest.discovery import Found, scan


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder next to the project's data."""
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


def files(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def scanned(*paths: Path) -> Found:
    return scan(paths, paths[0].parent / "data")


def left_out(found: Found) -> dict[str, int]:
    return {group.kind: group.entries for group in found.left_out}


def test_photos_are_known_by_their_suffix_and_sorted_by_path(folder: Path) -> None:
    names = ("b.JPG", "a.png", "a/c.Tiff", "a b/d.webp", "a-b.avif", "ä.gif", "x/y/z.jpeg", "x/y.bmp", "x/y.jpg/m.mpo")
    photos = files(folder, *names)
    files(folder, "notes.txt", "jpg", "film.mov", "a.xmp", "x/y/Thumbs.db")
    assert scanned(folder) == Found(tuple(sorted(photos)))


def test_formats_that_are_not_read_are_counted_by_suffix(folder: Path) -> None:
    [photo, *_] = files(folder, "a.jpg", "1.psd", "x/2.PSD", "x/3.Psd", "0.psd", "b.JP2", "c.exr", "film.mp4")
    found = scanned(folder)
    assert found.photos == (photo,)
    assert [(s.suffix, s.format, s.files) for s in found.skipped] == [
        (".psd", "Photoshop", 4),
        (".exr", "OpenEXR", 1),
        (".jp2", "JPEG 2000", 1),
    ]
    assert found.skipped[0].examples == (folder / "0.psd", folder / "1.psd", folder / "x" / "2.PSD")
    first, *others = found.messages()
    assert len(others) == 2
    for word in ("4 .psd files", "Photoshop", "JPEG", f"{folder}/0.psd"):
        assert word in first


OF_CAMERAS = ".3fr .arw .cr2 .cr3 .dng .erf .iiq .mef .mos .nef .nrw .orf .pef .raf .raw .rw2 .sr2 .srf .x3f"
OF_PHONES = ".heic .heif .hif .avif .jxl"
OF_EDITORS = ".jp2 .j2k .psd .xcf .exr"


def test_formats_of_cameras_and_phones_are_photos(folder: Path) -> None:
    names = [f"{i}{suffix.upper()}" for i, suffix in enumerate([*OF_CAMERAS.split(), *OF_PHONES.split()])]
    photos = files(folder, *names)
    assert {*scanned(folder).photos} == {*photos}


def test_formats_of_editors_are_counted(folder: Path) -> None:
    suffixes = OF_EDITORS.split()
    files(folder, "a.jpg", *(f"b{suffix.upper()}" for suffix in suffixes))
    assert {group.suffix: group.files for group in scanned(folder).skipped} == dict.fromkeys(suffixes, 1)


def test_a_path_that_cannot_be_used_is_named(folder: Path) -> None:
    [text] = files(folder, "file.txt")
    for path in (folder, folder / "missing", text):
        with pytest.raises(InputError, match=str(path)):
            scanned(path)


def test_a_wrong_path_has_its_folder_and_a_remedy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    [photo] = files(folder, "a.jpg")
    for path in (Path("trpi"), photo.relative_to(folder) / "b.jpg"):
        with pytest.raises(InputError, match=f"^{path}: no such file or folder in {folder}; correct the path$"):
            scan([path], folder / "data")
    with pytest.raises(InputError, match=f"^{folder}/trpi: no such file or folder; correct the path$"):
        scan([folder / "trpi"], folder / "data")


def test_thumbnails_of_other_programs_are_skipped(folder: Path) -> None:
    [photo, *_] = files(
        folder,
        "IMG_1.jpg",
        "@eaDir/IMG_1.jpg/SYNOPHOTO_THUMB_XL.jpg",
        "x/@eaDir/IMG_2.jpg/SYNOPHOTO_THUMB_XL.jpg",
        "#recycle/old.jpg",
        "__MACOSX/._IMG_1.jpg",
        ".thumbnails/a.png",
        "Catalog Previews.lrdata/a.jpg",
        "Catalog Smart Previews.lrdata/0/a.dng",
        "CaptureOne/Cache/Thumbnails/a.jpg",
        "._IMG_1.jpg",
    )
    found = scanned(folder)
    assert found.photos == (photo,)
    assert left_out(found) == {"other_programs": 9}
    assert found.skipped == ()
    [line] = found.messages()
    assert f"{folder}/#recycle, " in line
    assert "6 more" in line


def test_hidden_files_are_skipped_unless_they_are_given(folder: Path) -> None:
    photo, hidden, inside, _ = files(folder, "a.png", ".b.png", ".hidden/d.jpg", ".DS_Store")
    found = scanned(folder)
    assert found.photos == (photo,)
    assert left_out(found) == {"hidden": 2}
    assert scanned(hidden, inside.parent).photos == (hidden, inside)


def test_links_to_folders_are_followed_only_if_given(folder: Path) -> None:
    files(folder.parent / "elsewhere", "b.png")
    [photo] = files(folder, "a.png")
    link = folder / "link"
    link.symlink_to(folder.parent / "elsewhere")
    (folder / "circle").symlink_to(folder)
    found = scanned(folder)
    assert found.photos == (photo,)
    assert left_out(found) == {"linked_folders": 2}
    assert found.left_out[0].examples == (folder / "circle", link)
    assert scanned(link).photos == (link / "b.png",)


def test_links_to_files_are_photos_even_broken_ones(folder: Path) -> None:
    photo, link, broken = [*files(folder, "a.png"), folder / "b.png", folder / "c.png"]
    link.symlink_to(photo)
    broken.symlink_to(folder / "gone.png")
    assert scanned(folder).photos == (photo, link, broken)
    assert scanned(broken).photos == (broken,)


def test_an_unreadable_subfolder_is_skipped() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's folders are closed to other users
        folder = Path(name)
        folder.chmod(0o755)
        photos = files(folder, "a.png", "z/b.png")
        files(folder, "closed/c.png")
        (folder / "closed").chmod(0)
        with as_nobody():
            found = scanned(folder)
            with pytest.raises(InputError) as caught:
                scanned(folder / "closed")
        (folder / "closed").chmod(0o755)
    assert found.photos == tuple(photos)
    for text in (*found.messages(), str(caught.value)):
        assert f"{folder}/closed" in text
        assert "Permission denied" in text


def test_only_some_of_many_unreadable_folders_are_named(folder: Path) -> None:
    found = Found((), unreadable=tuple((folder / str(n), "Permission denied") for n in range(25)))
    lines = [*found.messages()]
    assert len(lines) == 21
    assert "5 more" in lines[-1]


# The project's own files ----------------------------------------------------------------------------------------------


def test_the_projects_own_files_are_never_entered(folder: Path) -> None:
    data = folder / "x" / "data"
    photo, other, *_ = files(folder, "a.png", "data/b.png", "x/data/rankingInput/c.jpg", "x/data/input/d.jpg")
    found = scan([folder], data)
    assert found.photos == (photo, other)  # another folder of that name is not special
    assert left_out(found) == {"own_files": 1}
    assert str(data) in "".join(found.messages())


def test_own_files_in_the_data_folder_are_skipped_unless_given(folder: Path) -> None:
    photos = files(folder, "input/a.jpg", "mine/rankingInput/b.jpg")
    ranking, _ = files(folder, "rankingInput/c.jpg", "cache/thumbnails/d.jpg")
    found = scan([folder], folder)
    assert found.photos == tuple(photos)
    assert left_out(found) == {"own_files": 2}
    assert scan([folder / "input"], folder).photos == (photos[0],)
    assert scan([ranking.parent], folder).photos == (ranking,)


def test_the_projects_own_files_are_known_behind_a_link(folder: Path) -> None:
    [photo, *_] = files(folder, "a.png", "really/rankingInput/b.jpg")
    data = folder.parent / "data"
    data.symlink_to(folder / "really")
    assert scan([folder], data).photos == (photo,)
    view = folder.parent / "view"
    view.symlink_to(folder)
    assert scan([view], data).photos == (view / "a.png",)


# Several paths --------------------------------------------------------------------------------------------------------


def test_files_and_folders_are_taken_together_each_photo_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(folder, "a/1.png", "b/2.png", "c/3.png", "c/4.png", "notes.txt")
    monkeypatch.chdir(folder)
    given = [Path(path) for path in ("b", "./b/2.png", "c/3.png", str(folder / "b"), "a", "b/../b/2.png")]
    found = scan(given, Path("data"))
    assert found.photos == (Path("a/1.png"), Path("b/2.png"), Path("c/3.png"))
    assert found.skipped == ()


def test_files_of_no_known_suffix_are_named_if_they_are_given(folder: Path) -> None:
    given = files(folder, "1.png", "notes.txt", "README", "x.psd")
    found = scan(given, folder / "data")
    assert found.photos == (given[0],)
    assert {(group.suffix, group.format, group.files) for group in found.skipped} == {
        (".txt", "", 1),
        ("", "", 1),
        (".psd", "Photoshop", 1),
    }
    assert any("1 other file" in line and f"{folder}/README" in line for line in found.messages())


def test_control_characters_in_names_are_escaped(folder: Path) -> None:
    files(folder, "a.png", "b\n\x1b[2J.psd", "@eaDir/x", ".c\n.png")
    for line in scanned(folder).messages():
        assert line.isprintable()
    with pytest.raises(InputError) as caught:
        scanned(folder / "x\ny")
    assert str(caught.value).isprintable()
