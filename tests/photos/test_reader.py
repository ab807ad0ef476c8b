"""Reading of photos: allowed files are read, others refused with a reason."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from pictures import refusal

from curation_features.errors import PhotoError
from curation_features.photos.reader import PhotoReader
from curation_features.settings import Settings


@pytest.fixture
def reader(settings: Settings) -> PhotoReader:
    (settings.root / "a.jpg").write_bytes(b"pixels")
    return PhotoReader(settings)


@pytest.mark.parametrize("form", ["a.jpg", "./a.jpg", "x/../a.jpg", "{root}/a.jpg", "file://{root}/a.jpg"])
def test_a_photo_is_read_by_any_local_uri(reader: PhotoReader, settings: Settings, form: str) -> None:
    (settings.root / "x").mkdir()
    file = reader.read(form.format(root=settings.root))
    assert (file.data, file.sha256) == (b"pixels", hashlib.sha256(b"pixels").hexdigest())


def test_only_file_uris_are_percent_decoded(reader: PhotoReader, settings: Settings) -> None:
    (settings.root / "ä #1?.jpg").write_bytes(b"umlaut")
    assert reader.read((settings.root / "ä #1?.jpg").as_uri()).data == b"umlaut"
    assert reader.read(f"file://LOCALHOST{settings.root}/%C3%A4 #1?.jpg").data == b"umlaut"
    for name in ("100%25.jpg", "S605%14-145315.jpg", "zoom100%0001.jpg"):
        (settings.root / name).write_bytes(b"percent")
        assert reader.read(name).data == b"percent"


def test_keys_of_object_stores_are_not_percent_decoded(settings: Settings) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe_file("/bucket/S605%14-145315.jpg", b"pixels")
    reader = PhotoReader(settings.replace(photo_roots=("memory://bucket", "https://host")))
    try:
        assert reader.read("memory://bucket/S605%14-145315.jpg").data == b"pixels"
        for uri in ("memory://bucket/a\x14.jpg", "https://host/a%14.jpg"):
            assert refusal(lambda uri=uri: reader.read(uri)).reason == "forbidden_path"
    finally:
        memory.rm("/bucket", recursive=True)


def test_a_name_with_a_control_character_is_refused(reader: PhotoReader, settings: Settings) -> None:
    photo = settings.root / "a\n.jpg"
    photo.write_bytes(b"pixels")
    for uri in ("a\n.jpg", str(photo), photo.as_uri()):
        assert refusal(lambda uri=uri: reader.read(uri)).reason == "forbidden_path"


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("nothing.jpg", "missing"),
        ("a.jpg/b.jpg", "missing"),
        (".", "not_a_file"),
        ("", "not_a_file"),
        ("../a.jpg", "forbidden_path"),
        ("x/../../nothing.jpg", "forbidden_path"),
        ("/etc/hostname", "forbidden_path"),
        ("/dev/zero", "forbidden_path"),
        ("file:///etc/hostname", "forbidden_path"),
        ("local:///etc/hostname", "forbidden_path"),
        ("a.jpg\0", "forbidden_path"),
        ("a\n.jpg", "forbidden_path"),
        ("file:///a%00.jpg", "forbidden_path"),
        ("\ud800.jpg", "forbidden_path"),
        ("a" * 5000, "forbidden_path"),
        ("file://elsewhere/a.jpg", "unsupported_uri"),
        ("gopher://host/a.jpg", "unsupported_uri"),
        ("s3://bucket/a.jpg", "forbidden_path"),
        ("https://example.org/a.jpg", "forbidden_path"),
    ],
)
def test_forbidden_and_unreadable_files_have_a_reason(reader: PhotoReader, uri: str, reason: str) -> None:
    assert refusal(lambda: reader.read(uri)).reason == reason


@pytest.mark.timeout(120)
def test_special_files_are_refused_without_blocking(reader: PhotoReader, settings: Settings) -> None:
    os.mkfifo(settings.root / "fifo.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(settings.root / "socket.jpg"))
        for name in ("fifo.jpg", "socket.jpg"):
            assert refusal(lambda name=name: reader.read(name)).reason == "not_a_file"
    devices = PhotoReader(settings.replace(photo_roots=("/dev",)))
    assert refusal(lambda: devices.read("/dev/zero")).reason == "not_a_file"


def test_symbolic_links_are_followed_inside_the_roots_only(
    reader: PhotoReader, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "b.jpg").write_bytes(b"secret")
    for name, target in {"in.jpg": "a.jpg", "out.jpg": outside / "b.jpg", "loop.jpg": "loop.jpg"}.items():
        (settings.root / name).symlink_to(target)
    (settings.root / "folder").symlink_to(outside)
    assert reader.read("in.jpg").data == b"pixels"
    for uri in ("out.jpg", "folder/b.jpg", "loop.jpg"):
        assert refusal(lambda uri=uri: reader.read(uri)).reason == "forbidden_path"


def test_roots_are_folders_not_prefixes(settings: Settings) -> None:
    for name in ("photos", "photos2", settings.data_path / "rankingInput"):
        (settings.root / name).mkdir(parents=True)
        (settings.root / name / "a.jpg").write_bytes(b"pixels")
    for root in ("photos", str(settings.root / "photos"), f"file://{settings.root}/photos/"):
        reader = PhotoReader(settings.replace(photo_roots=(root,)))
        assert reader.read("photos/a.jpg").data == b"pixels"
        assert reader.read("data/rankingInput/a.jpg").data == b"pixels"  # written by the pipeline
        assert refusal(lambda reader=reader: reader.read("photos2/a.jpg")).reason == "forbidden_path"


AS_NOBODY = """
import os, sys
from pathlib import Path
from curation_features.errors import PhotoError
from curation_features.photos.reader import PhotoReader
from curation_features.settings import Settings

if os.getuid() == 0:
    os.setuid(65534)  # root ignores permissions
try:
    PhotoReader(Settings(root=Path(sys.argv[1]))).read("a.jpg")
except PhotoError as error:
    print(error.reason)
"""


def test_a_file_without_permission() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's folders are closed to other users
        root = Path(folder)
        root.chmod(0o755)
        (root / "a.jpg").write_bytes(b"pixels")
        (root / "a.jpg").chmod(0)
        command = [sys.executable, "-c", AS_NOBODY, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "permission_denied"


def test_file_size_is_limited(settings: Settings) -> None:
    (settings.root / "a.jpg").write_bytes(b"12345")
    (settings.root / "empty.jpg").touch()
    assert PhotoReader(settings.replace(max_file_bytes=5)).read("a.jpg").data == b"12345"
    assert refusal(lambda: PhotoReader(settings.replace(max_file_bytes=4)).read("a.jpg")).reason == "too_large"
    assert refusal(lambda: PhotoReader(settings).read("empty.jpg")).reason == "unreadable"


def test_remote_photos_need_a_root_that_contains_them(settings: Settings) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in ("/bucket/photos/a.jpg", "/bucket/photos2/a.jpg"):
        memory.pipe_file(path, b"pixels")
    reader = PhotoReader(settings.replace(photo_roots=("memory://bucket/photos", "s3://bucket"), max_file_bytes=6))
    small = PhotoReader(settings.replace(photo_roots=("memory://",), max_file_bytes=5))
    try:
        assert reader.read("memory://bucket/photos/a.jpg").data == b"pixels"
        chained = "photos/a.jpg::file:///etc/hostname"
        for path in ("photos2/a.jpg", "photos/../photos2/a.jpg", "photos/%2e%2e/photos2/a.jpg", chained):
            assert refusal(lambda path=path: reader.read(f"memory://bucket/{path}")).reason == "forbidden_path"
        assert (
            refusal(lambda: reader.read("memory://bucket/photos/a.jpg::file:///etc/hostname")).reason
            == "forbidden_path"
        )
        assert refusal(lambda: reader.read("memory://bucket/photos/nothing.jpg")).reason == "missing"
        assert refusal(lambda: small.read("memory://bucket/photos2/a.jpg")).reason == "too_large"
    finally:
        memory.rm("/bucket", recursive=True)


def test_a_missing_backend_is_named_with_its_extra(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)  # simulates a missing package
    reader = PhotoReader(settings.replace(photo_roots=("s3://bucket",)))
    with pytest.raises(PhotoError, match=r'pip install "curation-features\[s3\]"') as caught:
        reader.read("s3://bucket/a.jpg")
    assert caught.value.reason == "unsupported_uri"
