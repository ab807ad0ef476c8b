"""Batches with a vocabulary: their labels, stored label embeddings, and the work saved."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from curation_features.cli import main
from curation_features.clip import label_embeddings
from curation_features.clip.classifier import CLIPClassifier
from curation_features.clip.vocabulary import chosen_vocabulary, load_vocabulary
from curation_features.errors import ManifestError, SettingsError
from curation_features.ingest.folder import ingest
from curation_features.manifest import batch_from
from curation_features.pipeline import FeatureStages, Models
from curation_features.service import FeaturesService
from curation_features.storage.artifacts import ArtifactStore
from curation_features.storage.tables import read_metadata
from curation_features.testing import FakeClipEngine
from curation_features.weights import LazyModel

WEDDINGS = ["bride", "groom", "rings", "cake", "dance floor", "speech"]
SPORTS = ["goal", "race", "swimmer", "referee", "stadium", "medal", "crowd"]


@pytest.fixture
def vocabularies(world) -> Path:
    """Two named vocabularies, one of them with templates."""
    folder = world.root / "config" / "vocabularies"
    folder.mkdir(parents=True)
    (folder / "weddings.json").write_text(json.dumps({"labels": WEDDINGS, "templates": ["a wedding photo of {}"]}))
    (folder / "sports.json").write_text(json.dumps({"labels": SPORTS}))
    return folder


@pytest.fixture
def service(world, vocabularies) -> FeaturesService:
    return FeaturesService(stages=world.stages())


@pytest.fixture
def artifacts(world) -> list[dict]:
    return [world.photo(f"{n}.png", n) for n in range(3)]


def batch(artifacts: list[dict], vocabulary: object = None) -> dict:
    return {"batch_id": "b", **({} if vocabulary is None else {"vocabulary": vocabulary}), "artifacts": artifacts}


def labels_of(document: dict) -> set[str]:
    return {label["label"] for artifact in document["artifacts"] for label in artifact["features"]["clip_labels"]}


def test_a_batch_is_labelled_with_its_vocabulary(world, service, vocabularies, artifacts):
    weddings, sports, plain = (service.process(batch(artifacts, name)) for name in ("weddings", "sports", None))
    assert labels_of(weddings) <= set(WEDDINGS)
    assert labels_of(sports) <= set(SPORTS)
    assert not labels_of(plain) & {*WEDDINGS, *SPORTS}
    assert list(weddings) == ["batch_id", "vocabulary", "artifacts"]
    assert weddings["vocabulary"] == "weddings"
    versions = [document["artifacts"][0]["features"]["version"] for document in (weddings, sports, plain)]
    assert len({version["clip"] for version in versions}) == 3
    assert len({version["technical"] for version in versions}) == 1
    expected = CLIPClassifier(
        world.settings, labels=WEDDINGS, templates=["a wedding photo of {}"], engine=LazyModel.ready(world.clip, "x")
    ).classify([artifact["original_uri"] for artifact in artifacts])
    assert [artifact["features"]["clip_labels"] for artifact in weddings["artifacts"]] == expected


def test_two_vocabularies_share_image_embeddings(world, service, vocabularies, artifacts):
    first = service.process(batch(artifacts, "weddings"))
    done = world.done_by(lambda: service.process(batch(artifacts, "sports")))
    assert done == {"clip_texts": 6 * len(SPORTS)}
    service.process(batch(artifacts))
    again = FeaturesService(stages=world.stages())  # a new process, with label embeddings on disk
    assert world.done_by(lambda: [again.process(batch(artifacts, name)) for name in ("weddings", "sports", None)]) == {}
    assert again.process(batch(artifacts, "weddings")) == first


def test_label_embeddings_are_stored_by_vocabulary(world, service, vocabularies, artifacts):
    for name in ("weddings", "sports", None):
        service.process(batch(artifacts, name))
    stages = world.stages()
    weddings = chosen_vocabulary(world.settings, "weddings").fingerprint[:12]
    names = {path.name for path in stages.cache.folder.glob("*.pt")}
    assert {"label_embeddings.pt", f"label_embeddings-{weddings}.pt"} < names
    assert stages.cache.stats().label_embeddings == len(names) == 3
    assert stages.cache.clear() == 3  # the photos
    assert stages.cache.stats().label_embeddings == 3
    assert stages.cache.clear(label_embeddings=True) == 3
    assert stages.cache.stats().label_embeddings == 0


def test_the_last_used_label_embeddings_are_kept(settings, monkeypatch):
    monkeypatch.setattr(label_embeddings, "FILES_KEPT", 3)
    engine = FakeClipEngine()
    classifiers = [
        CLIPClassifier(settings, labels=[f"{n} {letter}" for letter in "abcde"], engine=LazyModel.ready(engine, "fake"))
        for n in range(5)
    ]
    plain = CLIPClassifier(settings, engine=LazyModel.ready(engine, "fake"))
    for age, classifier in enumerate([plain, *classifiers[:3]]):
        classifier.label_embeddings()
        os.utime(classifier.label_file, (1000 + age, 1000 + age))
    label_embeddings.read(classifiers[0].label_file, classifiers[0].label_version)  # used again
    for classifier in classifiers[3:]:
        classifier.label_embeddings()
    kept = [classifier.label_file.exists() for classifier in classifiers]
    assert (kept, plain.label_file.exists()) == ([True, False, False, True, True], True)


def test_a_changed_vocabulary_applies_to_the_next_batch(world, service, vocabularies, artifacts):
    service.process(batch(artifacts, "weddings"))
    (vocabularies / "weddings.json").write_text(json.dumps({"labels": SPORTS, "templates": ["{}"]}))
    assert world.done_by(lambda: service.process(batch(artifacts, "weddings"))) == {"clip_texts": len(SPORTS)}
    assert labels_of(service.process(batch(artifacts, "weddings"))) <= set(SPORTS)


def test_an_invalid_vocabulary_fails_its_batch_only(world, service, vocabularies, artifacts):
    with pytest.raises(SettingsError, match=r"'wedding'; did you mean 'weddings'\?"):
        service.process(batch(artifacts, "wedding"))
    (vocabularies / "wedding.json").write_text(json.dumps({"labels": ["a", "a"]}))
    with pytest.raises(SettingsError, match=r"wedding\.json: labels\[1\] \('a'\) is a duplicate"):
        service.process(batch(artifacts, "wedding"))
    assert world.counts()["decoded"] == 0  # reported before any work
    assert labels_of(service.process(batch(artifacts, "weddings"))) <= set(WEDDINGS)
    (vocabularies / "wedding.json").write_text(json.dumps({"labels": SPORTS}))
    assert labels_of(service.process(batch(artifacts, "wedding"))) <= set(SPORTS)


@pytest.mark.parametrize("name", ["../labels", "a/b", "", "a.json", 7, ["weddings"], {"labels": []}, True, "x" * 65])
def test_an_illegal_vocabulary_name_is_a_manifest_error(name):
    with pytest.raises(ManifestError, match=r"^vocabulary: must be the name of a vocabulary") as caught:
        batch_from(batch([], name))
    assert caught.value.field == "vocabulary"
    default = batch_from({"batch_id": "b", "vocabulary": None, "artifacts": []})
    assert default.vocabulary is None
    assert "vocabulary" in default.document


def test_the_vocabulary_of_a_run_overrides_the_batch(world, service, vocabularies, artifacts):
    chosen = load_vocabulary(world.settings, SPORTS)
    stages = FeatureStages(world.settings, vocabulary=chosen, models=world.models())
    assert labels_of(FeaturesService(stages=stages).process(batch(artifacts, "weddings"))) <= set(SPORTS)
    assert not (world.settings.cache_path / "label_embeddings.pt").exists()


def test_fallback_labels_are_those_of_the_batchs_vocabulary(service):
    [artifact] = service.process(batch([{"photo_id": "x", "original_uri": "none.png"}], "weddings"))["artifacts"]
    assert [label["label"] for label in artifact["features"]["clip_labels"]] == WEDDINGS[:5]


@pytest.fixture
def command(world, vocabularies, monkeypatch):
    monkeypatch.setattr(Models, "from_settings", lambda *_: world.models())
    return lambda *arguments: main(["--root", str(world.root), *map(str, arguments)])


@pytest.fixture
def mine(tmp_path) -> Callable[..., Path]:
    """Writes a vocabulary file."""

    def write(labels: list[str], *templates: str) -> Path:
        (tmp_path / "mine.json").write_text(json.dumps({"labels": labels, "templates": templates or ["{}"]}))
        return tmp_path / "mine.json"

    return write


def table_labels(world) -> list[str]:
    return read_metadata(ArtifactStore(world.settings.data_path).feature_paths("b")[1])["labels"]


@pytest.mark.long
def test_the_commands_take_a_vocabulary_by_name_or_file(world, command, artifacts, mine, tmp_path, capsys):
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps(batch(artifacts, "weddings")))
    for arguments, labels in (
        ([], WEDDINGS),
        (["--vocabulary", "sports"], SPORTS),
        (["--vocabulary", mine([*SPORTS, "flag"])], [*SPORTS, "flag"]),
    ):
        assert command("process", manifest, *arguments) == 0
        assert table_labels(world) == labels
    assert command("process", manifest, "--vocabulary", "sport") == 2
    assert "did you mean 'sports'?" in capsys.readouterr().err
    manifest.write_text(json.dumps(batch(artifacts, "nuptials")))
    assert command("process", manifest) == 2
    assert command("materialize", manifest) == 2
    assert "no vocabulary has the name 'nuptials'; known: sports, weddings" in capsys.readouterr().err


def test_ingest_writes_the_vocabulary_if_it_exists(world, command, artifacts, capsys):
    assert command("ingest", world.root / "photos", "--batch-id", "b", "--vocabulary", "weddings") == 0
    manifest = json.loads((world.settings.data_path / "batches" / "b.json").read_bytes())
    assert list(manifest) == ["batch_id", "vocabulary", "artifacts"]
    assert batch_from(manifest).vocabulary == "weddings"
    assert command("ingest", world.root / "photos", "--vocabulary", "wedding") == 2
    assert "did you mean 'weddings'?" in capsys.readouterr().err
    with pytest.raises(ManifestError, match="vocabulary"):
        ingest([], world.settings, batch_id="b", vocabulary="../x")


def test_labels_check_shows_separability(world, command, mine, capsys):
    prompts = []

    class Engine(FakeClipEngine):
        def encode_texts(self, texts):
            prompts.extend(texts)
            return super().encode_texts([text.replace("groom", "bride") for text in texts])

    world.clip = Engine()
    assert command("labels", "check", path := mine(WEDDINGS, "a {}", "one {}")) == 0
    told = capsys.readouterr().out
    assert "mine.json: 6 labels, 2 templates: valid\n" in told
    assert "\n 1.000    1.0  bride / groom: " in told
    assert "confidence of the right label\n" in told
    assert len(prompts) == 2 * len(WEDDINGS)
    assert command("labels", "check", path, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert {"first": "bride", "second": "groom"}.items() <= found["nearest_pairs"][0].items()
    assert found["nearest_pairs"][0]["verdict"] == "inseparable"
    assert [label["label"] for label in found["labels"]] == WEDDINGS
    assert [template["template"] for template in found["templates"]] == ["a {}", "one {}"]
    assert found["scale"] == 100.0


def test_labels_check_names_truncated_prompts(command, mine, capsys):
    long = [f"{' '.join(['rose'] * 77)} {colour}" for colour in ("red", "white")]
    assert command("labels", "check", path := mine([*WEDDINGS, *long], "{}", "a {}")) == 0
    told = capsys.readouterr().out
    assert "Not read completely\n" in told
    assert told.count("labels[6] 'rose rose") >= 2
    assert command("labels", "check", path, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["context_length"] == 77
    assert found["cut"] == [{"label": label, "templates": 2} for label in long]
    assert found["same"] == [{"first": long[0], "second": long[1]}]
    assert command("labels", "check", "weddings") == 0
    assert "Not read completely" not in capsys.readouterr().out


def test_labels_check_validates_before_loading_a_model(world, command, vocabularies, capsys):
    world.clip = None
    (vocabularies / "twice.json").write_text(json.dumps({"labels": [*WEDDINGS, "cake"]}))
    assert command("labels", "check", "twice") == 2
    assert "twice.json: labels[6] ('cake') is a duplicate of [3]" in capsys.readouterr().err


def test_labels_list_names_valid_and_invalid_vocabularies(world, command, vocabularies, capsys):
    (vocabularies / "broken.json").write_text('{"labels": ["\\u001b[31m"]}')
    assert command("labels", "list") == 0
    own, broken, *others = capsys.readouterr().out.splitlines()
    assert own == "the project's own (config/labels.json): 50 labels, 6 templates"
    assert broken.startswith("broken: cannot be used: ")
    assert "\x1b" not in broken
    assert others == ["sports: 7 labels, 6 templates", "weddings: 6 labels, 1 templates"]


def test_hostile_labels_cannot_drive_the_terminal(command, mine, capsys):
    hostile = ["\x1b[2Jred", "\u202ereversed", "a\nb", "<script>", "[bold]x[/bold]"]
    assert command("labels", "check", mine(hostile, "\x1b]0;{}\x07")) == 0
    told = capsys.readouterr().out
    assert "[bold]x[/bold]" in told
    assert not {"\x1b", "\u202e", "\x07"} & set(told)
    assert "a?b" in told
