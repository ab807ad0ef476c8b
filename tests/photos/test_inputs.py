"""Images that a caller passes: accepted types, and errors for others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
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
