"""Search for photos in folders, and the report of skipped files."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from permissions import as_nobody

from curation_features.errors import InputError
from curation_features.ingest import discovery
from curation_features.ingest.discovery import Found, find_companions, scan


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
    files(folder, "notes.txt", "jpg", "a.xmp", "x/y/Thumbs.db")
    assert scanned(folder) == Found(tuple(sorted(photos)))


def test_formats_that_are_not_read_are_counted_by_suffix(folder: Path) -> None:
    [photo, *_] = files(folder, "a.jpg", "1.psd", "x/2.PSD", "x/3.Psd", "0.psd", "b.JP2", "c.exr")
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


def test_thumbnails_of_a_nas_are_skipped(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "inputs" / "thumbnails-of-a-nas"
    for given in (folder, folder / "**" / "*.jpg", folder / "*"):
        found = scan([given], tmp_path)
        assert [path.name for path in found.photos] == ["IMG_1.jpg"]
        assert left_out(found) == {"other_programs": 1}


def test_only_originals_of_an_apple_library_are_photos(folder: Path) -> None:
    library = "Photos Library.photoslibrary"
    inside = ("resources/derivatives/1/a_105_c.jpeg", "resources/renders/1/b.jpeg", "scopes/cloudsharing/data/c.jpg")
    photo, *_ = files(folder, f"{library}/originals/1/a.png", *(f"{library}/{name}" for name in inside))
    found = scanned(folder)
    assert found.photos == (photo,)
    assert left_out(found) == {"other_programs": 2}
    assert scanned(folder / library).photos == (photo,)


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
            matched = scan([folder / "*" / "*.png", folder / "*.png", folder / "clo*"], folder.parent / "data")
            with pytest.raises(InputError) as caught:
                scanned(folder / "closed")
        (folder / "closed").chmod(0o755)
    assert found.photos == matched.photos == tuple(photos)
    for text in (*found.messages(), *matched.messages(), str(caught.value)):
        assert f"{folder}/closed" in text
        assert "Permission denied" in text


def test_only_some_of_many_unreadable_folders_are_named(folder: Path) -> None:
    found = Found((), unreadable=tuple((folder / str(n), "Permission denied") for n in range(25)))
    lines = [*found.messages()]
    assert len(lines) == 21
    assert "5 more" in lines[-1]


# Companions -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def raw_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raw files are in a format that is read."""
    photos = discovery.PHOTO_SUFFIXES | discovery.RAW_SUFFIXES
    monkeypatch.setattr(discovery, "PHOTO_SUFFIXES", photos)


def test_a_rendered_raw_file_is_no_photo_and_not_skipped(folder: Path, raw_is_read: None) -> None:
    photo, raw, alone, other, *_ = files(folder, "a.JPG", "a.CR3", "b.cr3", "x/a.cr3", "a.xmp", "b.xmp", "b.dng.xmp")
    found = scanned(folder)
    assert found.photos == (photo, alone, other)
    assert found.skipped == ()
    assert left_out(found) == {"unpaired": 1}
    assert scanned(raw).photos == (raw,)
    assert scanned(folder / "*.[cC][rR]3", photo).photos == (photo, alone)


def test_a_raw_file_that_is_not_read_is_skipped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "PHOTO_SUFFIXES", discovery.PHOTO_SUFFIXES - discovery.RAW_SUFFIXES)
    photo, *_ = files(folder, "a.jpg", "a.cr3", "b.cr3", "b.xmp")
    found = scanned(folder)
    assert found.photos == (photo,)
    assert [(group.suffix, group.files) for group in found.skipped] == [(".cr3", 1)]
    assert left_out(found) == {"unpaired": 1}


def test_sidecars_and_videos_without_a_photo_are_one_line(folder: Path) -> None:
    files(folder, "a.jpg", "a.mov", "a.jpg.xmp", "film.MOV", "x/clip.mp4", "x/a.aae", "._film.mov")
    found = scanned(folder)
    assert left_out(found) == {"other_programs": 1, "unpaired": 3}
    assert [line for line in found.messages() if "film.MOV" in line] == [
        f"skipped: {folder}/film.MOV, {folder}/x/a.aae, {folder}/x/clip.mp4 (sidecars and videos without a photo)"
    ]


def test_companions_are_files_next_to_the_photo(folder: Path) -> None:
    photo, alone, *_ = files(folder, "a.jpg", "b.jpg", "a.CR3", "a.xmp", ".a.xmp", "._a.xmp", "a.txt", "x/a.mov")
    (folder / "a.mov").mkdir()
    found = find_companions([str(photo), str(alone), str(folder / "missing" / "a.jpg")])
    assert {path: sorted(group) for path, group in found.items()} == {
        str(photo): [("raw", f"{folder}/a.CR3"), ("sidecar", f"{folder}/a.xmp")]
    }
    raw = str(folder / "a.CR3")
    assert find_companions([raw]) == {raw: [("sidecar", f"{folder}/a.xmp")]}


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


def test_a_pattern_is_expanded_like_by_a_shell(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(folder, "trip/1.jpg", "trip/2.JPG", "trip/a/3.jpg", "trip/a/@eaDir/3.jpg", "trip/[1].jpg", "trip/.h.jpg")
    files(folder, "data/rankingInput/x.jpg", "closed/c.jpg", "trip/notes.txt")
    (folder / "trip" / "a" / "loop").symlink_to(folder)
    (folder / "trip" / "link").symlink_to(folder)
    monkeypatch.chdir(folder)

    def found(*patterns: str) -> list[str]:
        return [str(path) for path in scan([*map(Path, patterns)], folder / "data").photos]

    assert found("trip/*.jpg") == ["trip/1.jpg", "trip/[1].jpg"]
    assert found("trip/*") == ["trip/1.jpg", "trip/2.JPG", "trip/[1].jpg", "trip/a/3.jpg"]
    assert found("tr*/[a]/*.jpg", "trip/?.JPG") == ["trip/2.JPG", "trip/a/3.jpg"]
    assert found("trip/[1].jpg") == ["trip/[1].jpg"]
    assert found("**/[0-9].jpg") == ["trip/1.jpg", "trip/a/3.jpg"]
    for pattern in ("*/*/x.jpg", "data/rank*/x.jpg"):
        with pytest.raises(InputError, match=r"matches no file .*; skipped: data.*this project's own files"):
            found(pattern)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("trip/*.jpg", "^trip/\\*.jpg: matches no file or folder in .*; correct the path$"),
        ("tirp/*.jpg", "^tirp: no such file or folder in .*; correct the path$"),
        ("trip/a.png/*.jpg", "^trip/a.png/\\*.jpg: matches no file or folder"),
        ("trip/*.txt", "^trip/\\*.txt: no photos; .*1 .txt file"),
    ],
)
def test_a_pattern_without_photos_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, message: str
) -> None:
    files(folder, "trip/a.png", "trip/b.txt")
    monkeypatch.chdir(folder)
    with pytest.raises(InputError, match=message):
        scan([Path(pattern)], folder / "data")


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
