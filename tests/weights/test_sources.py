from __future__ import annotations

import json
import subprocess
import sys

import pytest

from curation_features.errors import SettingsError
from curation_features.settings import DEFAULT_MODEL
from curation_features.weights.sources import CHECKPOINT_FILES, FolderSource, HubSource, model_source


def source(settings, model):
    return model_source(settings.replace(model=model))


def test_a_repository_of_the_hub(settings):
    assert source(settings, "hf-hub:org/model") == HubSource("hf-hub:org/model", "org/model", "main")
    assert source(settings, "hf-hub:org/model@v1.0").revision == "v1.0"
    assert model_source(settings).repo == DEFAULT_MODEL.removeprefix("hf-hub:")


def test_a_folder_is_relative_to_the_projects_root(settings, tmp_path):
    assert source(settings, "local-dir:model") == FolderSource("local-dir:model", settings.root / "model")
    assert source(settings, f"local-dir:{tmp_path}").folder == tmp_path


@pytest.mark.parametrize("model", ["ViT-L-14", "hf-hub:", "hf-hub:model", "hf-hub:a/b/c", "local-dir:", "s3://a/b"])
def test_any_other_spelling_is_an_error_that_names_the_three_that_are_legal(settings, model):
    with pytest.raises(SettingsError, match=r"neither hf-hub:ORG/REPO.*nor local-dir:FOLDER.*nor NAME/TAG"):
        source(settings, model)


def test_a_name_and_tag_is_what_open_clip_publishes_under_it(settings):
    found = source(settings, "ViT-L-14/laion2b_s32b_b82k")
    assert (found.repo, found.checkpoints) == ("laion/CLIP-ViT-L-14-laion2B-s32B-b82K", CHECKPOINT_FILES)
    assert found.config["model_cfg"]["embed_dim"] == 768
    assert found.config["preprocess_cfg"]["interpolation"] == "bicubic"


def test_the_preprocessing_is_the_tags(settings):
    """SigLIP squashes photos and scales them to [-1, 1]."""
    preprocess = source(settings, "ViT-B-16-SigLIP/webli").config["preprocess_cfg"]
    assert (preprocess["resize_mode"], tuple(preprocess["mean"])) == ("squash", (0.5, 0.5, 0.5))


def test_the_weights_decide_the_activation_and_not_the_models_name(settings):
    import open_clip

    plain, quick = (
        source(settings, f"{name}/openai").config["model_cfg"] for name in ("ViT-B-32", "ViT-B-32-quickgelu")
    )
    assert plain == quick
    assert quick == open_clip.get_model_config("ViT-B-32-quickgelu")
    assert source(settings, "ViT-B-32/laion2b_s34b_b79k").config["model_cfg"]["quick_gelu"] is False


def test_a_tag_with_a_file_of_its_own_prefers_safetensors(settings):
    found = source(settings, "ViTamin-S/datacomp1b")
    assert (found.repo, found.checkpoints) == (
        "jienengchen/ViTamin-S",
        ("pytorch_model.safetensors", "pytorch_model.bin"),
    )


def test_every_model_of_open_clips_list_has_a_source(settings):
    import open_clip

    for name, tag in open_clip.list_pretrained():
        found = source(settings, f"{name}/{tag}")
        assert isinstance(found, HubSource)
        assert {"embed_dim", "vision_cfg", "text_cfg"} <= found.config["model_cfg"].keys()


def test_unknown_names_and_tags_are_errors_that_name_the_known_ones(settings):
    with pytest.raises(SettingsError, match="open_clip has no model 'ViT-X-1'"):
        source(settings, "ViT-X-1/openai")
    with pytest.raises(SettingsError, match=r"no weights 'laion9b' for ViT-B-32; it has openai, .*laion2b_s34b_b79k"):
        source(settings, "ViT-B-32/laion9b")


def test_a_name_that_was_asked_for_before_needs_no_torch(settings):
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
def test_a_damaged_memory_is_asked_anew(settings, damage):
    path = settings.data_path / "cache" / "model_names.json"
    first = source(settings, "ViT-B-32/openai")
    path.write_text(damage)
    assert source(settings, "ViT-B-32/openai") == first
    assert json.loads(path.read_text())
