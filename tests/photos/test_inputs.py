"""Images that a caller passes: accepted types, and errors for others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from pictures import encoded
from PIL import Image, ImageCms, ImageOps
from skimage import data as bundled

from curation_features.errors import PhotoError
from curation_features.photos.inputs import is_image, read_pixels
from curation_features.settings import Settings
from curation_features.technical.analyzer import TechnicalQualityAnalyzer

CAT = np.ascontiguousarray(bundled.chelsea()[60:156, 100:164])
PLANES = CAT.transpose(2, 0, 1).copy()


@pytest.fixture
def path(settings: Settings) -> Path:
    Image.fromarray(CAT).save(settings.root / "cat.png")
    return settings.root / "cat.png"


@pytest.mark.parametrize(
    "image",
    [
        CAT,
        Image.fromarray(CAT),
        torch.from_numpy(CAT),
        torch.from_numpy(PLANES).permute(1, 2, 0),
        torch.nn.Parameter(torch.from_numpy(CAT.copy()), requires_grad=False),
        "cat.png",
        Path("cat.png"),
    ],
    ids=["array", "PIL", "tensor", "permuted tensor", "parameter", "text", "path"],
)
def test_every_accepted_type_gives_the_same_pixels(settings: Settings, path: Path, image: Any) -> None:
    assert is_image(image)
    rgb = read_pixels(image, settings)
    assert (rgb.dtype, rgb.flags.c_contiguous) == (np.uint8, True)
    np.testing.assert_array_equal(rgb, CAT)


@pytest.mark.parametrize(
    "image",
    [
        torch.rand(96, 64, 3),
        torch.from_numpy(PLANES),
        torch.zeros(2, 96, 64, 3, dtype=torch.uint8),
        torch.zeros(0, 64, 3, dtype=torch.uint8),
        torch.zeros(96, 64, 3, dtype=torch.bfloat16),
        CAT / 255,
        CAT[..., 0],
        CAT[None],
        CAT.tobytes(),
        bytearray(CAT.tobytes()),
        7,
        None,
    ],
    ids=lambda image: f"{type(image).__name__}{[*getattr(image, 'shape', ())]}",
)
def test_other_types_shapes_and_dtypes_are_a_type_error(settings: Settings, image: Any) -> None:
    assert is_image(image)
    with pytest.raises(TypeError, match=r"\(H, W, 3\) of uint8 as a NumPy array or torch tensor, not "):
        read_pixels(image, settings)
    with pytest.raises(TypeError, match="path"):
        TechnicalQualityAnalyzer(settings).analyze(image)


@pytest.mark.parametrize("images", [[CAT], (CAT, "cat.png"), iter([CAT])], ids=["list", "tuple", "iterator"])
def test_several_images_are_not_one(images: Any) -> None:
    assert not is_image(images)


def test_a_damaged_file_is_named_with_a_remedy(settings: Settings) -> None:
    (settings.root / "text.jpg").write_text("no photo")
    with pytest.raises(
        PhotoError, match=r"^'text\.jpg': not a JPEG, .*; copy it again, or export it as JPEG$"
    ) as raised:
        read_pixels("text.jpg", settings)
    assert raised.value.reason == "unreadable"


def test_a_tensor_scores_like_its_array(settings: Settings) -> None:
    analyzer = TechnicalQualityAnalyzer(settings.replace(on_missing_weights="degrade"))
    assert analyzer.analyze(torch.from_numpy(CAT)) == analyzer.analyze(CAT)


@pytest.mark.long
def test_torch_is_not_imported() -> None:
    code = """
import sys
import numpy as np
from curation_features.photos.inputs import is_image, read_pixels
from curation_features.settings import Settings
assert is_image(b"") and read_pixels(np.zeros((2, 2, 3), np.uint8), Settings()).size == 12
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# --- PIL images -----------------------------------------------------------------------------------------------------


def opened(image: Image.Image, kind: str, **options: Any) -> Image.Image:
    return Image.open(BytesIO(encoded(image, kind, **options)))


UPRIGHT = Image.fromarray(CAT)
STEPS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "not loaded": lambda image: image,
    "loaded": lambda image: [image, image.load()][0],
    "tags read before": lambda image: [image, image.getexif(), image.load()][0],
    "transposed": ImageOps.exif_transpose,
    "copied": lambda image: image.copy(),
    "converted": lambda image: image.convert("RGBA"),
    "converted and transposed": lambda image: ImageOps.exif_transpose(image.convert("RGBA")),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("kind", ["TIFF", "TIFF 16", "TIFF lzw", "JPEG", "PNG", "WEBP", "AVIF"])
def test_a_pil_image_is_turned_once(settings: Settings, kind: str, step: str) -> None:
    options: dict[str, Any] = {"AVIF": {"quality": 100, "subsampling": "4:4:4"}, "WEBP": {"lossless": True}}.get(
        kind, {}
    )
    if kind == "JPEG":
        options = {"quality": 100, "subsampling": 0}
    if kind == "TIFF lzw":
        options = {"compression": "tiff_lzw"}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        if kind == "TIFF 16":
            buffer = BytesIO()
            extra = [(274, 3, 1, orientation, True)]
            tifffile.imwrite(buffer, CAT.astype(np.uint16) * 257, photometric="rgb", metadata=None, extratags=extra)
            image = Image.open(buffer)
        else:
            image = opened(UPRIGHT, kind.split()[0], exif=exif, **options)
        turn = TURNS[orientation]
        expected = np.asarray(UPRIGHT if turn is None else UPRIGHT.transpose(turn)).astype(int)
        rgb = read_pixels(STEPS[step](image), settings)
        assert rgb.shape == expected.shape
        assert np.abs(rgb - expected).mean() < 3


TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How a stored image becomes upright (EXIF 2.32, table 6; Pillow's names)."""


TO_LAB = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")


def test_every_mode_of_a_pil_image_is_read(settings: Settings) -> None:
    alpha = np.linspace(0, 255, 96 * 64).reshape(96, 64, 1).round()
    rgba = Image.fromarray(np.concatenate([CAT, alpha.astype(np.uint8)], axis=2))
    on_white = CAT * (alpha / 255) + 255 * (1 - alpha / 255)
    gray = np.asarray(UPRIGHT.convert("L")).astype(float)[..., None]
    gray_on_white = np.repeat(gray * (alpha / 255) + 255 * (1 - alpha / 255), 3, axis=2)
    palette = UPRIGHT.quantize(32)
    colours = np.asarray(palette.convert("RGB")).astype(float)
    faded = palette.copy()
    faded.putalpha(Image.fromarray(alpha[..., 0].astype(np.uint8)))
    clear = palette.copy()
    clear.info["transparency"] = 3
    shown = np.where(np.asarray(palette)[..., None] == 3, 255, colours)
    cmyk = Image.merge("CMYK", [*UPRIGHT.convert("CMYK").split()[:3], Image.new("L", UPRIGHT.size)])
    cases = {
        "RGBA": (rgba, on_white, 1),
        "RGBa": (rgba.convert("RGBa"), on_white, 2),
        "La": (rgba.convert("LA").convert("La"), gray_on_white, 2),
        "LA": (rgba.convert("LA"), gray_on_white, 1),
        "P": (palette, colours, 0),
        "P clear": (clear, shown, 0),
        "PA": (faded, colours * (alpha / 255) + 255 * (1 - alpha / 255), 1),
        "HSV": (UPRIGHT.convert("HSV"), CAT, 9),
        "LAB": (ImageCms.applyTransform(UPRIGHT, TO_LAB), CAT, 9),
        "YCbCr": (UPRIGHT.convert("YCbCr"), CAT, 3),
        "CMYK": (cmyk, CAT, 1),
        "1": (UPRIGHT.convert("1"), np.asarray(UPRIGHT.convert("1").convert("RGB")), 0),
        "I;16": (Image.fromarray((gray[..., 0] * 257).astype(np.uint16)), np.repeat(gray, 3, axis=2), 0),
        "F": (Image.fromarray((gray[..., 0] / 255).astype(np.float32)), np.repeat(gray, 3, axis=2), 0),
    }
    assert faded.mode == "PA"
    for name, (image, expected, off_by) in cases.items():
        assert image.mode == name.split()[0]
        assert np.abs(read_pixels(image, settings).astype(float) - expected).max() <= off_by + 0.51, name


def test_the_palette_with_alpha_is_like_its_file(settings: Settings, shared_data: Path) -> None:
    path = shared_data / "inputs/palette-alpha/palette-alpha.png"
    image = Image.open(path)
    np.testing.assert_array_equal(read_pixels(image, settings), read_pixels(path, settings))
    np.testing.assert_array_equal(read_pixels(image.copy(), settings), read_pixels(path, settings))
    white = Image.new("RGBA", image.size, "white")
    expected = Image.alpha_composite(white, Image.open(path).convert("RGBA")).convert("RGB")
    assert np.abs(read_pixels(path, settings).astype(int) - np.asarray(expected)).max() <= 1


def test_a_tiff_that_pillow_loads_wrong_is_read_or_refused(settings: Settings, shared_data: Path) -> None:
    path = shared_data / "inputs/tiff-planar16/planar16.tif"
    with Image.open(path) as image:
        np.testing.assert_array_equal(read_pixels(image, settings), read_pixels(path, settings))
        image.load()
        with pytest.raises(PhotoError, match="pass its path") as raised:
            read_pixels(image, settings)
    assert raised.value.reason == "unsupported_format"


def test_pil_images_have_limits_and_reasons(settings: Settings) -> None:
    with pytest.raises(PhotoError, match="max_pixels") as raised:
        read_pixels(UPRIGHT, settings.replace(max_pixels=6000))
    assert raised.value.reason == "too_large"
    with pytest.raises(TypeError):
        read_pixels(Image.new("RGB", (0, 5)), settings)
    data = encoded(CAT, "PNG")
    with pytest.raises(PhotoError) as raised:
        read_pixels(Image.open(BytesIO(data[: len(data) // 2])), settings)
    assert raised.value.reason in ("truncated", "unreadable")
