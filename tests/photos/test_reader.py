"""What is read, what is refused and why, and which pixels come out."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from PIL import Image
from skimage import data as bundled

from curation_features.errors import PhotoError
from curation_features.photos.reader import Photo, PhotoFile, PhotoReader, decode, quiet_pillow
from curation_features.schema import PHOTO_REASONS
from curation_features.settings import Settings

CHELSEA = np.ascontiguousarray(bundled.chelsea()[60:156, 100:164])  # (96, 64, 3): eyes, whiskers, no symmetry


def encoded(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes, max_pixels: int = 10_000_000) -> Photo:
    return decode(PhotoFile(data, hashlib.sha256(data).hexdigest()), max_pixels=max_pixels)


def reason_of(action: Callable[[], object]) -> str:
    with pytest.raises(PhotoError) as caught:
        action()
    assert caught.value.reason in PHOTO_REASONS
    return caught.value.reason


# Reading


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


def test_a_name_with_a_control_character_is_refused(reader: PhotoReader, settings: Settings) -> None:
    photo = settings.root / "a\n.jpg"
    photo.write_bytes(b"pixels")
    for uri in ("a\n.jpg", str(photo), photo.as_uri()):
        assert reason_of(lambda uri=uri: reader.read(uri)) == "forbidden_path"


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
def test_what_may_not_or_cannot_be_read_says_why(reader: PhotoReader, uri: str, reason: str) -> None:
    assert reason_of(lambda: reader.read(uri)) == reason


@pytest.mark.timeout(120)
def test_special_files_are_refused_without_blocking(reader: PhotoReader, settings: Settings) -> None:
    os.mkfifo(settings.root / "fifo.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(settings.root / "socket.jpg"))
        for name in ("fifo.jpg", "socket.jpg"):
            assert reason_of(lambda name=name: reader.read(name)) == "not_a_file"
    devices = PhotoReader(settings.replace(photo_roots=("/dev",)))
    assert reason_of(lambda: devices.read("/dev/zero")) == "not_a_file"


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
        assert reason_of(lambda uri=uri: reader.read(uri)) == "forbidden_path"


def test_roots_are_folders_not_prefixes(settings: Settings) -> None:
    for name in ("photos", "photos2", settings.data_path / "rankingInput"):
        (settings.root / name).mkdir(parents=True)
        (settings.root / name / "a.jpg").write_bytes(b"pixels")
    for root in ("photos", str(settings.root / "photos"), f"file://{settings.root}/photos/"):
        reader = PhotoReader(settings.replace(photo_roots=(root,)))
        assert reader.read("photos/a.jpg").data == b"pixels"
        assert reader.read("data/rankingInput/a.jpg").data == b"pixels"  # what the pipeline wrote itself
        assert reason_of(lambda reader=reader: reader.read("photos2/a.jpg")) == "forbidden_path"


AS_NOBODY = """
import os, sys
from pathlib import Path
from curation_features.photos.reader import PhotoError, PhotoReader
from curation_features.settings import Settings

if os.getuid() == 0:
    os.setuid(65534)  # permissions do not bind root
try:
    PhotoReader(Settings(root=Path(sys.argv[1]))).read("a.jpg")
except PhotoError as error:
    print(error.reason)
"""


def test_a_file_without_permission() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to the other user
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
    assert reason_of(lambda: PhotoReader(settings.replace(max_file_bytes=4)).read("a.jpg")) == "too_large"
    assert reason_of(lambda: PhotoReader(settings).read("empty.jpg")) == "unreadable"


def test_remote_photos_need_a_root_that_contains_them(settings: Settings) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in ("/bucket/photos/a.jpg", "/bucket/photos2/a.jpg"):
        memory.pipe_file(path, b"pixels")
    reader = PhotoReader(settings.replace(photo_roots=("memory://bucket/photos", "s3://bucket"), max_file_bytes=6))
    small = PhotoReader(settings.replace(photo_roots=("memory://",), max_file_bytes=5))
    try:
        assert reader.read("memory://bucket/photos/a.jpg").data == b"pixels"
        for path in ("photos2/a.jpg", "photos/../photos2/a.jpg", "photos/%2e%2e/photos2/a.jpg"):
            assert reason_of(lambda path=path: reader.read(f"memory://bucket/{path}")) == "forbidden_path"
        assert reason_of(lambda: reader.read("memory://bucket/photos/a.jpg::file:///etc/hostname")) == "forbidden_path"
        assert reason_of(lambda: reader.read("memory://bucket/photos/nothing.jpg")) == "missing"
        assert reason_of(lambda: small.read("memory://bucket/photos2/a.jpg")) == "too_large"
    finally:
        memory.rm("/bucket", recursive=True)


def test_a_missing_backend_is_named_with_its_extra(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)  # as if it were not installed
    reader = PhotoReader(settings.replace(photo_roots=("s3://bucket",)))
    with pytest.raises(PhotoError, match=r'pip install "curation-features\[s3\]"') as caught:
        reader.read("s3://bucket/a.jpg")
    assert caught.value.reason == "unsupported_uri"


# Upright


def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as a camera stores them: row 0 and column 0 lie where EXIF 2.32 (table 6) says."""
    flips: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,  # row 0 top, column 0 left
        2: lambda a: a[:, ::-1],  # top, right
        3: lambda a: a[::-1, ::-1],  # bottom, right
        4: lambda a: a[::-1],  # bottom, left
        5: lambda a: a.transpose(1, 0, 2),  # row 0 left, column 0 top
        6: lambda a: a[:, ::-1].transpose(1, 0, 2),  # right, top
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),  # right, bottom
        8: lambda a: a[::-1].transpose(1, 0, 2),  # left, bottom
    }
    return np.ascontiguousarray(flips[orientation](upright))


def with_orientation(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    return encoded(stored(CHELSEA, orientation), kind, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_gives_the_upright_photo(kind: str, orientation: int) -> None:
    photo = decoded(with_orientation(kind, orientation))
    assert (photo.info.width, photo.info.height, photo.info.format) == (64, 96, kind)
    assert photo.rgb.flags.c_contiguous
    off_by = 0 if kind != "JPEG" else 6
    assert np.abs(photo.rgb.astype(int) - CHELSEA).max() <= off_by


def test_compressed_tiff_is_turned_once() -> None:
    for compression in ("tiff_lzw", "tiff_adobe_deflate"):
        data = encoded(stored(CHELSEA, 6), "TIFF", compression=compression, tiffinfo={274: 6})
        np.testing.assert_array_equal(decoded(data).rgb, CHELSEA)


def test_real_oriented_photos_match_their_upright_twins(shared_data: Path) -> None:
    upright = decoded((shared_data / "photos/portrait.jpg").read_bytes()).rgb.mean(axis=2)
    turned = decoded((shared_data / "photos/portrait-orientation-6.jpg").read_bytes()).rgb.mean(axis=2)
    assert np.corrcoef(upright.ravel(), turned.ravel())[0, 1] > 0.95  # the same photo in gray, stored turned
    hopper = decoded((shared_data / "corrupt/hopper.png").read_bytes()).rgb.astype(int)
    for orientation in range(2, 9):
        data = (shared_data / f"corrupt/hopper_orientation_{orientation}.jpg").read_bytes()
        assert np.abs(decoded(data).rgb - hopper).mean() < 8


def test_orientation_is_read_from_xmp_and_broken_exif_is_ignored(shared_data: Path) -> None:
    assert decoded((shared_data / "corrupt/xmp_tags_orientation.png").read_bytes()).rgb.shape == (268, 326, 3)
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    np.testing.assert_array_equal(decoded(encoded(stored(CHELSEA, 6), "WEBP", xmp=xmp, lossless=True)).rgb, CHELSEA)
    for broken in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0junk" * 9):
        assert decoded(encoded(CHELSEA, "JPEG", exif=broken)).rgb.shape == CHELSEA.shape


# Pixel types


def test_sixteen_bit_gray_is_scaled() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.round(values.astype(np.float64) * 255 / 65535).astype(np.uint8)
    for kind in ("PNG", "TIFF"):
        photo = decoded(encoded(values, kind))
        for channel in range(3):
            np.testing.assert_array_equal(photo.rgb[..., channel], expected)
    big_endian = Image.frombytes("I;16B", (256, 256), values.astype(">u2").tobytes())
    np.testing.assert_array_equal(decoded(encoded(big_endian, "TIFF")).rgb[..., 0], expected)
    np.testing.assert_array_equal(decoded(encoded(values.astype(np.int32), "TIFF")).rgb[..., 0], expected)


def test_float_gray_in_0_to_1_is_scaled_and_other_numbers_are_refused() -> None:
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    expected = np.round(values * 255)
    np.testing.assert_array_equal(decoded(encoded(values, "TIFF")).rgb[..., 1], expected)
    negative = np.full((4, 4), -1, np.int32)
    for bad in (values * 2, values - 1, values * np.nan, values + np.inf, negative, negative + 65537):
        assert reason_of(lambda bad=bad: decoded(encoded(bad, "TIFF"))) == "unsupported_format"


def test_transparency_is_composited_on_white() -> None:
    alpha = np.linspace(0, 255, 96 * 64).reshape(96, 64, 1).round()
    rgba = np.concatenate([CHELSEA, alpha.astype(np.uint8)], axis=2)
    expected = CHELSEA * (alpha / 255) + 255 * (1 - alpha / 255)
    for kind, options in {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True, "exact": True}}.items():
        assert np.abs(decoded(encoded(rgba, kind, **options)).rgb - expected).max() <= 0.51
    gray_alpha = np.ascontiguousarray(rgba[..., [1, 3]])
    gray = decoded(encoded(Image.fromarray(gray_alpha, mode=None), "PNG")).rgb
    assert np.abs(gray - expected[..., 1:2]).max() <= 0.51


def test_transparent_colours_and_palette_entries_become_white() -> None:
    palette = Image.new("P", (4, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 10, 20, 30])
    palette.putdata([0, 1, 2, 3])
    red, green, blue, dark, white = (255, 0, 0), (0, 255, 0), (0, 0, 255), (10, 20, 30), (255, 255, 255)
    half_green = (127, 255, 127)
    rows = {
        encoded(palette, "PNG"): [red, green, blue, dark],
        encoded(palette, "PNG", transparency=2): [red, green, white, dark],
        encoded(palette, "PNG", transparency=b"\0\x80"): [white, half_green, blue, dark],
        encoded(palette, "GIF", transparency=1): [red, white, blue, dark],
        encoded(palette.convert("RGB"), "PNG", transparency=dark): [red, green, blue, white],
        encoded(Image.fromarray(np.array([[0, 9, 200, 255]], np.uint8)), "PNG", transparency=9): [
            (0,) * 3,
            white,
            (200,) * 3,
            white,
        ],
        encoded(Image.fromarray(np.array([[0, 9, 257, 65535]], np.uint16)), "PNG", transparency=9): [
            (0,) * 3,
            white,
            (1,) * 3,
            white,
        ],
    }
    for data, expected in rows.items():
        np.testing.assert_array_equal(decoded(data).rgb[0], expected)


def test_other_pixel_types() -> None:
    gray = CHELSEA[..., 0]
    bilevel = decoded(encoded(Image.fromarray(gray > 128), "PNG")).rgb
    np.testing.assert_array_equal(bilevel, np.repeat(np.where(gray > 128, 255, 0)[..., None], 3, axis=2))
    np.testing.assert_array_equal(decoded(encoded(gray, "BMP")).rgb, np.repeat(gray[..., None], 3, axis=2))
    ink = np.stack([255 - CHELSEA[..., 0], 255 - CHELSEA[..., 1], 255 - CHELSEA[..., 2], 0 * gray], axis=2)
    cmyk = Image.frombytes("CMYK", (64, 96), ink.tobytes())
    np.testing.assert_array_equal(decoded(encoded(cmyk, "TIFF")).rgb, CHELSEA)
    assert np.abs(decoded(encoded(cmyk, "JPEG", quality=100)).rgb.astype(int) - CHELSEA).max() <= 6
    lab = Image.frombytes("LAB", (64, 96), CHELSEA.tobytes())
    assert reason_of(lambda: decoded(encoded(lab, "TIFF"))) == "unsupported_format"


def test_the_first_frame_of_animations_is_measured() -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF", "AVIF", "MPO"):
        lossless = {"lossless": True} if kind == "WEBP" else {}
        photo = decoded(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **lossless))
        assert photo.info.format == kind.replace("MPO", "JPEG")
        assert np.abs(photo.rgb.astype(int) - (255, 0, 0)).max() <= 12


def test_an_ultra_hdr_jpeg_is_a_jpeg() -> None:
    gain_map = Image.new("RGB", (8, 8))
    gain_map.encoderinfo = {}
    data = encoded(Image.fromarray(CHELSEA), "MPO", save_all=True, append_images=[gain_map], quality=95)
    xmp = b'http://ns.adobe.com/xap/1.0/\0<x hdrgm:Version="1.0"/>'
    ultra = data[:2] + b"\xff\xe1" + struct.pack(">H", len(xmp) + 2) + xmp + data[2:]
    photo = decoded(ultra)
    assert photo.info.format == "JPEG"
    np.testing.assert_array_equal(photo.rgb, np.asarray(Image.open(BytesIO(data)).convert("RGB")))


# Damage


def png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, body, b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize("size", [(4000, 4000), (12000, 12000), (60000, 60000), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_refused_by_their_header(size: tuple[int, int]) -> None:
    assert reason_of(lambda: decoded(png_header(*size))) == "too_large"


def test_a_large_photo_within_the_limit_makes_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5000)  # Pillow warns above this, and refuses above twice this
    for kind in ("PNG", "TIFF", "JPEG"):
        assert decoded(encoded(CHELSEA, kind)).rgb.shape == (96, 64, 3)
    with pytest.raises(PhotoError, match="MAX_IMAGE_PIXELS"):
        decoded(encoded(np.zeros((101, 101), np.uint8), "PNG"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"this is no photo\n" * 50, "unreadable"),
        (b"\0" * 5000, "unreadable"),
        (b"\xff\xd8\xff\xe0", "unreadable"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unreadable"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "unreadable"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64, "unsupported_format"),
        (b"8BPS\0\1" + b"\0" * 64, "unsupported_format"),
    ],
)
def test_what_is_no_photo(data: bytes, reason: str) -> None:
    assert reason_of(lambda: decoded(data)) == reason


def test_the_thumbnail_in_a_camera_raw_file_is_not_taken_for_the_photo() -> None:
    assert reason_of(lambda: decoded(encoded(CHELSEA, "TIFF", tiffinfo={254: 1}))) == "unsupported_format"


OPTIONS = {
    "PNG": {},
    "JPEG": {},
    "JPEG progressive": {"progressive": True},
    "WEBP": {},
    "BMP": {},
    "GIF": {},
    "TIFF": {},
    "TIFF lzw": {"compression": "tiff_lzw"},
    "TIFF deflate": {"compression": "tiff_adobe_deflate"},
    "TIFF jpeg": {"compression": "jpeg"},
    "AVIF": {},
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_half_a_file_is_never_a_photo(kind: str) -> None:
    data = encoded(CHELSEA, kind.split()[0], **OPTIONS[kind])
    half = reason_of(lambda: decoded(data[: len(data) // 2]))
    assert half in ("truncated", "unreadable")
    if kind in ("PNG", "JPEG", "JPEG progressive", "WEBP", "BMP"):
        assert half == "truncated"


WHOLE = {"JPEG": encoded(CHELSEA, "JPEG", quality=90), "PNG": encoded(CHELSEA, "PNG")}


@budget(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(WHOLE)), st.floats(0, 1))
def test_no_truncated_jpeg_or_png_is_a_photo(kind: str, share: float) -> None:
    data = WHOLE[kind]
    assert reason_of(lambda: decoded(data[: int(share * (len(data) - 5))])) in ("truncated", "unreadable")


@budget(max_examples=60, deadline=None)
@given(st.integers(0, len(WHOLE["PNG"]) - 13), st.integers(1, 255))
def test_no_damaged_png_is_a_photo(position: int, mask: int) -> None:  # up to its end chunk, which holds nothing
    damaged = bytearray(WHOLE["PNG"])
    damaged[position] ^= mask
    assert reason_of(lambda: decoded(bytes(damaged))) in PHOTO_REASONS


DAMAGEABLE = {
    **{kind: encoded(CHELSEA[:32, :32], kind.split()[0], **options) for kind, options in OPTIONS.items()},
    "TIFF turned": with_orientation("TIFF", 6),
    "JPEG turned": with_orientation("JPEG", 8),
}


@budget(max_examples=150, deadline=None)
@given(
    st.sampled_from(sorted(DAMAGEABLE)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1),
)
def test_damage_raises_nothing_but_photo_errors(kind: str, flips: list[tuple[float, int]]) -> None:
    damaged = bytearray(DAMAGEABLE[kind])
    for place, mask in flips:
        damaged[int(place * len(damaged))] ^= mask
    with suppress(PhotoError):
        photo = decoded(bytes(damaged))
        assert photo.rgb.size > 0
        assert photo.rgb.shape == (photo.info.height, photo.info.width, 3)


def test_real_damaged_files_are_photos_or_photo_errors(shared_data: Path) -> None:
    expected = {
        "truncated_image.png": "truncated",
        "truncated_end_chunk.png": "truncated",
        "ultrahdr.jpg": "truncated",
        "hopper_bad_exif.jpg": "unreadable",
        "broken.png": "unreadable",
        "decompression_bomb.ico": "unsupported_format",
        "LICENSE": "unreadable",
    }
    reasons = {}
    for path in sorted((shared_data / "corrupt").iterdir()):
        try:
            decoded(path.read_bytes())
        except PhotoError as error:
            reasons[path.name] = error.reason
    assert {name: reasons.get(name) for name in expected} == expected
    assert {name.rpartition(".")[2] for name in reasons.keys() - expected.keys()} == {"tif"}


def test_real_photos_have_pillows_own_pixels(shared_data: Path) -> None:
    for name in ("kodim05.png", "prairie_falcon.jpg", "denali.webp"):
        data = (shared_data / "photos" / name).read_bytes()
        photo = decoded(data)
        np.testing.assert_array_equal(photo.rgb, np.asarray(Image.open(BytesIO(data)).convert("RGB")))
        assert photo.info.sha256 == hashlib.sha256(data).hexdigest()


# Warnings


def test_pillow_is_quiet_in_threads_and_no_filter_stays_behind() -> None:
    before = list(warnings.filters)
    both_inside, first_left = threading.Barrier(2, timeout=60), threading.Event()
    noise: list[object] = []

    def second() -> None:
        with quiet_pillow():
            both_inside.wait()
            first_left.wait(60)
            try:
                warnings.warn_explicit("still quiet", UserWarning, "f.py", 1, module="PIL.TiffImagePlugin")
            except UserWarning as warning:
                noise.append(warning)

    thread = threading.Thread(target=second)
    thread.start()
    with quiet_pillow():
        both_inside.wait()
        with pytest.raises(UserWarning, match="ours"):
            warnings.warn("ours", UserWarning, stacklevel=1)
    first_left.set()
    thread.join()
    assert noise == []
    assert list(warnings.filters) == before
    with pytest.raises(UserWarning, match="loud again"):
        warnings.warn_explicit("loud again", UserWarning, "f.py", 1, module="PIL.TiffImagePlugin")
