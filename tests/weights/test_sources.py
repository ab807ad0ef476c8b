from __future__ import annotations

import json
import subprocess
import sys

import open_clip
import pytest

from curation_features.errors import SettingsError
from curation_features.weights.sources import CHECKPOINT_FILES, FolderSource, HubSource, model_source


def source(settings, model):
    return model_source(settings.replace(model=model))


def test_a_repository_of_the_hub(settings):
    assert source(settings, "hf-hub:org/model") == HubSource("hf-hub:org/model", "org/model", "main")
    assert source(settings, "hf-hub:org/model@v1.0").revision == "v1.0"


def test_a_folder_is_relative_to_the_projects_root(settings, tmp_path):
    assert source(settings, "local-dir:model") == FolderSource("local-dir:model", settings.root / "model")
    assert source(settings, f"local-dir:{tmp_path}").folder == tmp_path


@pytest.mark.parametrize("model", ["ViT-L-14", "hf-hub:", "hf-hub:model", "hf-hub:a/b/c", "local-dir:", "s3://a/b"])
def test_an_error_names_the_three_legal_forms(settings, model):
    with pytest.raises(SettingsError, match=r"hf-hub:ORG/REPO.*local-dir:FOLDER.*NAME/TAG"):
        source(settings, model)


def test_a_name_and_tag_is_open_clips_repository(settings):
    tagged = source(settings, "ViT-L-14/laion2b_s32b_b82k")
    assert (tagged.repo, tagged.checkpoints) == ("laion/CLIP-ViT-L-14-laion2B-s32B-b82K", CHECKPOINT_FILES)
    assert tagged.config["model_cfg"]["embed_dim"] == 768
    assert tagged.config["preprocess_cfg"]["interpolation"] == "bicubic"


def test_the_tag_decides_preprocessing_and_activation(settings):
    """SigLIP squashes photos and scales them to [-1, 1]."""
    preprocess = source(settings, "ViT-B-16-SigLIP/webli").config["preprocess_cfg"]
    assert (preprocess["resize_mode"], tuple(preprocess["mean"])) == ("squash", (0.5, 0.5, 0.5))
    plain, quick = (
        source(settings, f"{name}/openai").config["model_cfg"] for name in ("ViT-B-32", "ViT-B-32-quickgelu")
    )
    assert plain == quick == open_clip.get_model_config("ViT-B-32-quickgelu")
    assert source(settings, "ViT-B-32/laion2b_s34b_b79k").config["model_cfg"]["quick_gelu"] is False
    tagged = source(settings, "ViTamin-S/datacomp1b")
    assert tagged.repo == "jienengchen/ViTamin-S"
    assert tagged.checkpoints == ("pytorch_model.safetensors", "pytorch_model.bin")


@pytest.mark.long
def test_every_model_of_open_clips_list_has_a_source(settings):
    for name, tag in open_clip.list_pretrained():
        tagged = source(settings, f"{name}/{tag}")
        assert isinstance(tagged, HubSource)
        assert {"embed_dim", "vision_cfg", "text_cfg"} <= tagged.config["model_cfg"].keys()


def test_an_unknown_name_or_tag_is_an_error(settings):
    with pytest.raises(SettingsError, match="open_clip has no model 'ViT-X-1'"):
        source(settings, "ViT-X-1/openai")
    with pytest.raises(SettingsError, match=r"'laion9b' for ViT-B-32; it has openai, .*laion2b_s34b_b79k"):
        source(settings, "ViT-B-32/laion9b")


def test_a_remembered_name_needs_no_torch(settings):
    first = source(settings, "ViT-B-32/laion2b_s34b_b79k")
    code = (
        "import sys; from pathlib import Path; from curation_features.settings import Settings;"
        "from curation_features.weights.sources import model_source;"
        "found = model_source(Settings(root=Path(sys.argv[1]), model='ViT-B-32/laion2b_s34b_b79k'));"
        "print(found.repo, 'torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code, settings.root], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [first.repo, "False"]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"x": 1}', '{"ViT-B-32/openai": {"hub": ""}}'])
def test_a_damaged_memo_is_replaced(settings, damage):
    memo = settings.data_path / "cache" / "model_names.json"
    first = source(settings, "ViT-B-32/openai")
    memo.write_text(damage)
    assert source(settings, "ViT-B-32/openai") == first
    assert json.loads(memo.read_text())
