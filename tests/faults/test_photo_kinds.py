"""Photos of every kind, orientation and size, and other files, through the whole service."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from skimage import data as bundled

from curation_features.service import FeaturesService
from curation_features.storage.artifacts import ArtifactStore

PHOTO = np.ascontiguousarray(bundled.chelsea()[60:156, 100:228])  # (96, 128, 3): eyes, whiskers, no symmetry
GRAY = np.ascontiguousarray(PHOTO[..., 1])
SIXTEEN = (GRAY.astype(np.uint32) * 257 + np.random.default_rng(0).integers(-128, 128, GRAY.shape)).clip(0, 65535)
ALPHA = np.linspace(0, 255, PHOTO.shape[1]).round().astype(np.uint8)[None, :].repeat(PHOTO.shape[0], axis=0)


def encoded(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def measured(world, files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """The features of each file, from one batch, which also writes the table."""
    return dict(zip(files, features_of(world, files), strict=True))


def features_of(world, files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    for name, data in files.items():
        (world.root / name).write_bytes(data)
    batch = world.batch([{"photo_id": name, "original_uri": name} for name in files])
    stages = world.stages(world.settings.replace(batch_size=8))
    merged = FeaturesService(stages=stages).run(batch)
    labels = stages.classifier.vocabulary.labels
    ArtifactStore(world.settings.data_path).write_features(merged.document, merged.rows(), merged.version, labels)
    return [artifact["features"] for artifact in merged.document["artifacts"]]


def table(world) -> list[dict[str, Any]]:
    return pq.read_table(world.settings.data_path / "features" / "batch_1.parquet").to_pylist()


# Kinds of pixels


def palette_image() -> tuple[Image.Image, np.ndarray]:
    """A paletted image, and its colours, looked up by numpy."""
    colours = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
    image = Image.frombytes("P", GRAY.shape[::-1], GRAY.tobytes())
    image.putpalette(colours.tobytes())
    return image, colours[GRAY]


def on_white(rgb: np.ndarray) -> np.ndarray:
    share = ALPHA[..., None].astype(np.float64) / 255
    return np.rint(rgb * share + 255 * (1 - share)).astype(np.uint8)


def gray_rgb(gray: np.ndarray) -> np.ndarray:
    return np.repeat(gray[..., None], 3, axis=2).astype(np.uint8)


def kinds() -> dict[str, tuple[bytes, str, np.ndarray]]:
    """File name -> bytes, real format, and the displayed pixels, computed by numpy alone."""
    palette, colours = palette_image()
    inverted = np.concatenate([255 - PHOTO, np.zeros((*GRAY.shape, 1), np.uint8)], axis=2)
    cmyk = Image.frombytes("CMYK", GRAY.shape[::-1], inverted.tobytes())
    rgba = np.dstack([PHOTO, ALPHA])
    others = [Image.fromarray(np.ascontiguousarray(PHOTO[::-1])), Image.fromarray(np.ascontiguousarray(PHOTO[:, ::-1]))]
    frames = {"save_all": True, "append_images": others}
    exact = {"lossless": True, "exact": True}
    return {
        "16-bit.png": (encoded(SIXTEEN.astype(np.uint16), "PNG"), "PNG", gray_rgb(np.rint(SIXTEEN / 257))),
        "16-bit.tif": (encoded(SIXTEEN.astype(np.uint16), "TIFF"), "TIFF", gray_rgb(np.rint(SIXTEEN / 257))),
        "gray.png": (encoded(GRAY, "PNG"), "PNG", gray_rgb(GRAY)),
        "gray.bmp": (encoded(GRAY, "BMP"), "BMP", gray_rgb(GRAY)),
        "palette.png": (encoded(palette, "PNG"), "PNG", colours),
        "palette.gif": (encoded(palette, "GIF"), "GIF", colours),
        "cmyk.tif": (encoded(cmyk, "TIFF"), "TIFF", PHOTO),
        "alpha.png": (encoded(rgba, "PNG"), "PNG", on_white(PHOTO)),
        "alpha.webp": (encoded(rgba, "WEBP", **exact), "WEBP", on_white(PHOTO)),
        "gray-alpha.png": (encoded(np.dstack([GRAY, ALPHA]), "PNG"), "PNG", on_white(gray_rgb(GRAY))),
        "animated.png": (encoded(PHOTO, "PNG", **frames), "PNG", PHOTO),
        "animated.webp": (encoded(PHOTO, "WEBP", **frames, **exact), "WEBP", PHOTO),
        "pages.tif": (encoded(PHOTO, "TIFF", **frames), "TIFF", PHOTO),
        "a-png.jpg": (encoded(PHOTO, "PNG"), "PNG", PHOTO),
        "a-webp.tiff": (encoded(PHOTO, "WEBP", **exact), "WEBP", PHOTO),
        "a-tiff": (encoded(PHOTO, "TIFF"), "TIFF", PHOTO),
    }


def test_every_kind_of_pixels_is_measured_as_displayed(world) -> None:
    """Compared with a plain PNG of the pixels that numpy computes from the definition of each kind."""
    files = kinds()
    plain = {f"plain of {name}": encoded(pixels, "PNG") for name, (_, _, pixels) in files.items()}
    found = measured(world, {name: data for name, (data, _, _) in files.items()} | plain)
    formats = {row["photo_id"]: row["format"] for row in table(world)}
    for name, (_, real, _) in files.items():
        assert found[name]["status"] == "ok", name
        if "alpha" not in name:
            assert found[name] == found[f"plain of {name}"], name
        else:  # Pillow composites in integers, off by at most one level
            near = pytest.approx(found[f"plain of {name}"]["tech"], abs=0.005)
            assert found[name]["tech"] == near, name
        assert formats[name] == real


def test_cmyk_out_of_a_jpeg_is_measured_as_its_colours(world) -> None:
    """JPEG stores CMYK inverted (Adobe); the expected pixels invert the colour conversion by hand."""
    ink = np.concatenate([255 - PHOTO, np.full((*GRAY.shape, 1), 40, np.uint8)], axis=2)
    data = encoded(Image.frombytes("CMYK", GRAY.shape[::-1], ink.tobytes()), "JPEG", quality=100)
    expected = np.rint(PHOTO * ((255 - 40) / 255)).astype(np.uint8)
    found = measured(world, {"cmyk.jpg": data, "rgb.png": encoded(expected, "PNG")})
    assert found["cmyk.jpg"]["tech"] == pytest.approx(found["rgb.png"]["tech"], abs=0.02)


# Orientation

STORED = {  # EXIF 2.32, table 6: the sides of the picture at row 0 and column 0 of the stored pixels
    1: lambda a: a,  # top, left
    2: lambda a: a[:, ::-1],  # top, right
    3: lambda a: a[::-1, ::-1],  # bottom, right
    4: lambda a: a[::-1],  # bottom, left
    5: lambda a: a.swapaxes(0, 1),  # left, top
    6: lambda a: a[:, ::-1].swapaxes(0, 1),  # right, top
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),  # right, bottom
    8: lambda a: a[::-1].swapaxes(0, 1),  # left, bottom
}
UPRIGHT = {**STORED, 6: lambda a: a[::-1].swapaxes(0, 1), 8: lambda a: a[:, ::-1].swapaxes(0, 1)}


@pytest.mark.parametrize(
    ("kind", "options"), [("JPEG", {"quality": 92}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})]
)
def test_every_orientation_scores_like_the_upright_photo(world, kind, options) -> None:
    """Compared bit by bit with an upright PNG of the pixels in the file itself."""
    files: dict[str, bytes] = {}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        data = encoded(np.ascontiguousarray(STORED[orientation](PHOTO)), kind, exif=exif, **options)
        held = np.asarray(
            Image.open(BytesIO(encoded(np.ascontiguousarray(STORED[orientation](PHOTO)), kind, **options)))
        )
        upright = np.ascontiguousarray(UPRIGHT[orientation](held))
        assert np.abs(upright.astype(int) - PHOTO).mean() < 4  # the rotations are inverse
        files |= {f"{orientation}": data, f"{orientation} upright": encoded(upright, "PNG")}
    found = measured(world, files)
    for orientation in range(1, 9):
        assert found[f"{orientation}"] == found[f"{orientation} upright"], orientation
        assert found[f"{orientation}"]["status"] == "ok"
    assert {(row["width"], row["height"]) for row in table(world)} == {(128, 96)}


# Small, flat and stepped


def odd_photos() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    step = np.zeros((64, 64, 3), np.uint8)
    step[:, 32:] = 200
    return {
        **{
            f"{side}.png": encoded(rng.integers(0, 256, (side, side, 3), dtype=np.uint8), "PNG")
            for side in range(1, 12)
        },
        **{f"flat {level}.png": encoded(np.full((48, 64, 3), level, np.uint8), "PNG") for level in (0, 127, 255)},
        "step.png": encoded(step, "PNG"),
        "row.png": encoded(rng.integers(0, 256, (1, 900, 3), dtype=np.uint8), "PNG"),
    }


def numbers(value: Any) -> list[float]:
    if isinstance(value, float):
        return [value]
    if isinstance(value, Mapping):
        return [number for item in value.values() for number in numbers(item)]
    return [number for item in value for number in numbers(item)] if isinstance(value, list) else []


@pytest.fixture
def real_brisque(world, brisque_regressor: Path) -> None:
    """The real BRISQUE statistics, with random weights."""
    from curation_features.technical.brisque.index import Brisque
    from curation_features.technical.brisque.loading import load_brisque
    from curation_features.weights import Weights

    regressor: Brisque = load_brisque(Weights("random", brisque_regressor, ""))
    world.brisque.score = regressor.score


def test_photos_without_statistics_get_defaults_with_a_reason(world, real_brisque) -> None:
    normal = {f"normal {n}.png": encoded(np.roll(PHOTO, n, axis=1), "PNG") for n in range(3)}
    alone = measured(world, normal)
    world.stages().cache.clear(label_embeddings=True)
    odd = odd_photos()
    first, *rest = normal
    mixed = {first: normal[first], **odd, **{name: normal[name] for name in rest}}
    found = measured(world, mixed)
    assert {name: found[name] for name in normal} == alone
    for name in odd:
        reasons = {error["stage"]: error["reason"] for error in found[name]["errors"]}
        assert set(reasons) <= {"noise", "brisque"}, name  # the others are defined for any image
        assert set(reasons.values()) <= {"flat_image", "too_small", "undefined_statistics"}
        assert found[name]["status"] == ("degraded" if reasons else "ok")
        assert found[name]["tech"]["noise"] == 1.0 or "noise" not in reasons
        assert found[name]["tech"]["brisque"] == 0.0 or "brisque" not in reasons
        assert all(0 <= score <= 1 for score in found[name]["tech"].values())
    assert all("noise" in {error["stage"] for error in found[f"flat {n}.png"]["errors"]} for n in (0, 127, 255))
    assert found["1.png"]["status"] == "degraded"
    json.dumps(found, allow_nan=False)
    assert all(math.isfinite(number) for row in table(world) for number in numbers(row))


# Files that are not photos

AS_NOBODY = """
import json, os, sys
from pathlib import Path
from curation_features.storage.cache import FeatureCache
from curation_features.weights import LazyModel
from curation_features.service import FeaturesService
from curation_features.settings import Settings
from curation_features.pipeline import FeatureStages, Models
from curation_features.testing import FakeBrisque, FakeClipEngine, FakeQualityModel

fakes = (FakeClipEngine(), FakeQualityModel(), FakeBrisque())
models = Models(*(LazyModel.ready(fake, type(fake).__name__) for fake in fakes))
settings = Settings(root=Path(sys.argv[1]), device="cpu", photo_roots=(sys.argv[1], "/dev"))
service, batch = FeaturesService(stages=FeatureStages(settings, models=models)), json.load(sys.stdin)
service.process({**batch, "artifacts": batch["artifacts"][:1]})  # import everything before the change of user
if os.getuid() == 0:
    os.setuid(65534)  # root ignores permissions
json.dump(service.process(batch), sys.stdout)
"""


def processed_as_nobody(root: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """The features of files, from a process without special rights; a blocked process times out."""
    batch = {"batch_id": "b", "artifacts": [{"photo_id": name, "original_uri": name} for name in names]}
    run = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, root], input=json.dumps(batch), capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    return [artifact["features"] for artifact in json.loads(run.stdout)["artifacts"]]


@pytest.mark.long
def test_unreadable_files_fail_alone_and_block_nothing() -> None:
    with tempfile.TemporaryDirectory() as folder:  # pytest's folders are closed to other users
        root = Path(folder)
        root.chmod(0o777)
        for name in ("before.png", "after.png", "secret.png"):
            (root / name).write_bytes(encoded(PHOTO, "PNG"))
        (root / "secret.png").chmod(0)
        (root / "folder.png").mkdir()
        os.mkfifo(root / "fifo.png")
        (root / "loop.png").symlink_to("loop.png")
        (root / "to-fifo.png").symlink_to("fifo.png")
        (root / "ring-a").symlink_to("ring-b")
        (root / "ring-b").symlink_to("ring-a")
        expected = {
            "nothing.png": "missing",
            "before.png/x.png": "missing",
            "folder.png": "not_a_file",
            "fifo.png": "not_a_file",
            "to-fifo.png": "not_a_file",
            "/dev/zero": "not_a_file",
            "/dev/null": "not_a_file",
            "loop.png": "forbidden_path",
            "ring-a/x.png": "forbidden_path",
            "secret.png": "permission_denied",
        }
        before, *bad, after = processed_as_nobody(root, ["before.png", *expected, "after.png"])
    assert [[error["reason"] for error in features["errors"]] for features in bad] == [[r] for r in expected.values()]
    assert {features["status"] for features in bad} == {"failed"}
    assert before["status"] == "ok"
    assert before == after
