"""No code in files is executed: a run over hostile caches and weights under Python's audit hook."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints import PREPROCESS, TEXT, VIT

RUN = """
import pickle, sys
from hashlib import md5
from pathlib import Path

import torch

from curation_features.storage.cache import FeatureCache
from curation_features.weights import LazyModel
from curation_features.ingest.samples import write_samples
from curation_features.service import FeaturesService
from curation_features.settings import Settings
from curation_features.pipeline import FeatureStages, Models
from curation_features.testing import FakeBrisque, FakeClipEngine, FakeQualityModel


class Bomb:
    def __reduce__(self):
        return Path.touch, (root / "went off",)


root = Path(sys.argv[1])
found = []
sys.addaudithook(lambda event, details: found.append(details) if event == "pickle.find_class" else None)


def plant(path, torch_file):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"a": Bomb()}, path) if torch_file else path.write_bytes(pickle.dumps({"a": Bomb()}))
    return str(path)


(root / "config").mkdir()
names = [f"label {number}" for number in range(6)]
(root / "config/labels.json").write_text('{"labels": %s}' % str(names).replace("'", '"'))
(root / "config/templates.json").write_text('{"templates": ["a photo of {}"]}')
photo = write_samples(root / "photos")[1]
batch = {"batch_id": "b", "artifacts": [{"photo_id": "p", "original_uri": str(photo)}]}
model = root / "model"
for torch_file in (True, False):
    settings = Settings(
        root=root,
        device="cpu",
        on_missing_weights="degrade",
        model=f"local-dir:{model}",
        brisque_weights=plant(root / "brisque.pt", torch_file),
        clip_iqa_weights=plant(root / "rn50.pt", torch_file),
    )
    plant(model / "open_clip_pytorch_model.bin", torch_file)
    (model / "open_clip_config.json").write_text(sys.argv[2])
    degraded = FeaturesService(settings).process(batch)["artifacts"][0]["features"]
    assert degraded["status"] == "degraded", degraded
    assert {"brisque", "clip_iqa", "image_embedding"} <= {error["stage"] for error in degraded["errors"]}, degraded

    plant(settings.cache_path / f"{md5(b'p_features').hexdigest()}.json", torch_file)
    plant(settings.cache_path / "label_embeddings.pt", torch_file)
    fakes = Models(
        clip=LazyModel.ready(FakeClipEngine(), "clip"),
        clip_iqa=LazyModel.ready(FakeQualityModel(), "clip_iqa"),
        brisque=LazyModel.ready(FakeBrisque(), "brisque"),
    )
    stages = FeatureStages(settings, models=fakes, cache=FeatureCache(settings.cache_path))
    measured = FeaturesService(stages=stages).process(batch)["artifacts"][0]["features"]
    assert measured["status"] == "ok", measured
assert not (root / "went off").exists()
print("unpickled:", found)

pickle.loads(Path(settings.brisque_weights).read_bytes())  # the hook sees one, and the bomb is one
print("seen:", bool(found), (root / "went off").exists())
"""


@pytest.mark.long
def test_hostile_caches_and_weights_are_never_executed(tmp_path: Path) -> None:
    architecture = {"embed_dim": 32, "vision_cfg": VIT, "text_cfg": TEXT}
    config = json.dumps({"model_cfg": architecture, "preprocess_cfg": PREPROCESS})
    command = [sys.executable, "-c", RUN, str(tmp_path), config]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.stdout.splitlines() == ["unpickled: []", "seen: True True"], done.stdout + done.stderr
