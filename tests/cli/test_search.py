"""`search` from the command line: a real checkpoint of a small text tower, read without torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from finished_batches import unit, write_batch

from curation_features.cli import main
from curation_features.cli.searches import _print_paths
from curation_features.settings import Settings
from curation_features.versions import part_version
from curation_features.weights import locate

pytest.importorskip("duckdb")
safetensors = pytest.importorskip("safetensors.numpy")

WIDTH, DIMENSION = 16, 8
COUNT = 60


def write_model(folder: Path) -> None:
    """A CLIP whose text tower is random, and whose image tower has one tensor."""
    rng = np.random.default_rng(0)
    shapes = {
        "token_embedding.weight": (49408, WIDTH), "positional_embedding": (77, WIDTH), "ln_final.weight": (WIDTH,),
        "ln_final.bias": (WIDTH,), "text_projection": (WIDTH, DIMENSION), "visual.proj": (4, DIMENSION),
        "logit_scale": (),
    }  # fmt: skip
    block = {
        "ln_1.weight": (WIDTH,), "ln_1.bias": (WIDTH,), "attn.in_proj_weight": (3 * WIDTH, WIDTH),
        "attn.in_proj_bias": (3 * WIDTH,), "attn.out_proj.weight": (WIDTH, WIDTH), "attn.out_proj.bias": (WIDTH,),
        "ln_2.weight": (WIDTH,), "ln_2.bias": (WIDTH,), "mlp.c_fc.weight": (4 * WIDTH, WIDTH),
        "mlp.c_fc.bias": (4 * WIDTH,), "mlp.c_proj.weight": (WIDTH, 4 * WIDTH), "mlp.c_proj.bias": (WIDTH,),
    }  # fmt: skip
    shapes |= {f"transformer.resblocks.0.{name}": shape for name, shape in block.items()}
    folder.mkdir()
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    safetensors.save_file(tensors, folder / "open_clip_model.safetensors")
    text = {"context_length": 77, "vocab_size": 49408, "width": WIDTH, "heads": 2, "layers": 1}
    config = {"model_cfg": {"embed_dim": DIMENSION, "vision_cfg": {}, "text_cfg": text}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))


Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs commands in a project with two batches of such a model."""
    monkeypatch.setenv("COLUMNS", "100")
    write_model(tmp_path / "model")
    settings = Settings(root=tmp_path, model=f"local-dir:{tmp_path / 'model'}")
    monkeypatch.setenv("CURATION_FEATURES_MODEL", settings.model)
    version = part_version("embedding", settings, locate("clip", settings).identity)
    for seed, batch_id in enumerate(("one", "two")):
        vectors = unit(np.random.default_rng(seed).standard_normal((COUNT, DIMENSION)))
        ids = [f"[red]{batch_id}\x1b[2J{number}" for number in range(COUNT)]
        rows = [{"photo_id": name, "height": number} for number, name in enumerate(ids)]
        write_batch(settings, batch_id, dict(zip(ids, vectors, strict=True)), rows, of=version)

    def run(*arguments: str) -> tuple[int, str]:
        with redirect_stdout(StringIO()) as output, redirect_stderr(output):
            return main(["--root", str(tmp_path), *arguments]), output.getvalue()

    return run


def test_a_search_lists_photos_and_the_line(command: Command) -> None:
    code, output = command("search", "two parrots", "--top", "100", "--json")
    found = json.loads(output)
    assert code == 0
    assert (found["searched"], found["likely"]) == (2 * COUNT, len(found["hits"]))
    code, output = command("search", "two parrots", "--all", "--top", "3")
    assert code == 0
    head, first, *_ = output.splitlines()
    assert head.split() == ["standard", "cosine", "copies", "batch", "photo"]
    assert "[red]" in first
    assert "\x1b" not in output
    assert "120 photos searched" in output


def test_a_filter_a_batch_and_a_page(command: Command, tmp_path: Path) -> None:
    options = ("--where", "height < 5", "--batch", "two", "--all", "--not", "cage")
    code, output = command("search", "2:dog", *options, "--json", "--output", str(tmp_path / "page.html"))
    hits = json.loads(output)["hits"]
    assert (code, len(hits), {hit["batch_id"] for hit in hits}) == (0, 5, {"two"})
    page = (tmp_path / "page.html").read_text()
    assert "<h1>" in page
    assert "2 x dog, not cage" in page
    places = [page.index(json.dumps(hit["path"]).strip('"').removeprefix("photos/")) for hit in hits]
    assert places == sorted(places)


def test_a_line_of_paths_is_one_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    _print_paths(["a b.jpg", "a\n/etc/passwd", "s3://bucket/c.jpg"], Settings(root=tmp_path))
    output, errors = capsysbinary.readouterr()
    assert output == b"a b.jpg\ns3://bucket/c.jpg\n"
    assert errors.count(b"line break") == errors.count(b"\n") == 1


def test_a_filter_alone_lists_all_that_meet_it(command: Command) -> None:
    code, output = command("search", "--where", "height < 5", "--top", "6", "--json")
    found = json.loads(output)
    assert (code, len(found["hits"]), found["searched"], found["hits"][0]["cosine"]) == (0, 6, 2 * COUNT, None)
    code, output = command("search", "--where", "height < 5", "--batch", "two")
    assert code == 0
    assert "5 photos of 60" in output
    assert "\x1b" not in output


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ([], "a search needs words or a picture"),
        (["dog", "--where", "heigth > 3"], "did you mean 'height'"),
        (["dog", "--batch", "ones"], "did you mean 'one'"),
        (["dog", "--top", "0"], "must be a number from 1"),
        (["dog", "--paths", "--open"], "not allowed with"),
        (["--where", "height < 5", "--open"], "a contact sheet needs words"),
        (["--like", "nowhere.jpg"], "neither a file nor the id"),
    ],
)
def test_a_wrong_search_is_refused(command: Command, arguments: list[str], cause: str) -> None:
    code, output = command("search", *arguments)
    assert code in (1, 2)
    assert cause in output
