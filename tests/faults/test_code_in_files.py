"""No code in files is executed: a run over hostile caches and weights under Python's audit hook."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from checkpoints import PREPROCESS, TEXT, VIT
from interpreters import run_python

RUN = """
import pickle, sys
from hashlib import md5
from pathlib import Path

import torch

from curation_features.service import FeaturesService
from worlds import World


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


world = World(root)
batch = {"batch_id": "b", "artifacts": [{**world.photo("a.png"), "photo_id": "p"}]}
model = root / "model"
for torch_file in (True, False):
    settings = world.settings.replace(
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
    measured = FeaturesService(stages=world.stages(settings)).process(batch)["artifacts"][0]["features"]
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
    assert run_python("-c", RUN, tmp_path, config).splitlines() == ["unpickled: []", "seen: True True"]
