"""A folder of every format becomes a batch with scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from other_formats import dng, heic, jxl
from pictures import encoded
from PIL import Image
from skimage import data as bundled
from worlds import World

from curation_features.ingest.folder import find_photos, ingest
from curation_features.photos.formats import SUFFIXES
from curation_features.service import FeaturesService

PIXELS = np.ascontiguousarray(bundled.chelsea()[:300, :400])
FILES = {
    **{kind: encoded(PIXELS, kind) for kind in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "AVIF")},
    "GIF": encoded(Image.fromarray(PIXELS).quantize(256), "GIF"),
    "HEIC": heic(PIXELS),
    "JXL": jxl(PIXELS),
    "DNG": dng(PIXELS),
}


@pytest.mark.long
def test_a_folder_of_every_format_becomes_a_batch_with_scores(world: World) -> None:
    folder = world.root / "photos"
    folder.mkdir()
    for kind, data in FILES.items():
        (folder / f"{kind}{SUFFIXES[kind][0]}").write_bytes(data)
    result = ingest(find_photos(folder, world.settings), world.settings, batch_id="all")
    assert result.rejected == ()
    processing = {Path(a["original_uri"]).stem: a["processing_metadata"] for a in result.manifest["artifacts"]}
    assert processing.keys() == FILES.keys()
    assert {kind: found.get("decoded_from") for kind, found in processing.items() if "decoded_from" in found} == {
        "DNG": "demosaic"
    }
    copies = FeaturesService(stages=world.stages()).process(json.loads(result.path.read_text()))["artifacts"]
    originals = [{"photo_id": str(n), "original_uri": str(folder / p.name)} for n, p in enumerate(folder.iterdir())]
    decoded = FeaturesService(stages=world.stages()).process({"batch_id": "originals", "artifacts": originals})
    for features in (artifact["features"] for artifact in (*copies, *decoded["artifacts"])):
        assert (features["status"], features["errors"]) == ("ok", [])
    sharpness = {Path(a["original_uri"]).stem: a["features"]["tech"]["sharpness"] for a in copies}
    assert all(abs(sharpness[kind] - sharpness["PNG"]) < 0.1 for kind in FILES.keys() - {"DNG"})
