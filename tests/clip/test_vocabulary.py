from __future__ import annotations

import json
from pathlib import Path

import pytest

from curation_features.clip.vocabulary import (
    Vocabulary,
    chosen_vocabulary,
    load_vocabulary,
    named_vocabulary,
    vocabulary_names,
)
from curation_features.errors import SettingsError
from curation_features.settings import Settings

LABELS = ["sea", "hill", "cat", "night", "food"]


def write(folder: Path, labels: object = None, templates: object = None) -> None:
    (folder / "config").mkdir(exist_ok=True)
    (folder / "config" / "labels.json").write_text(json.dumps({"labels": LABELS if labels is None else labels}))
    content = {"templates": ["a photo of {}"] if templates is None else templates}
    text = json.dumps(content, ensure_ascii=False)
    (folder / "config" / "templates.json").write_text(text, encoding="utf-8")


def test_prompts_are_ordered_label_by_label():
    assert Vocabulary(("sea", "a {b}"), ("x {}", "{} y")).prompts() == ("x sea", "sea y", "x a {b}", "a {b} y")


def test_the_fingerprint_depends_on_content_and_order():
    vocabularies = [
        Vocabulary(("a", "b"), ("{}",)),
        Vocabulary(("b", "a"), ("{}",)),
        Vocabulary(("a",), ("{}", "b{}")),
        Vocabulary(("a", "b", "c"), ("{}",)),
        Vocabulary(("ab",), ("{}",)),
    ]
    assert len({vocabulary.fingerprint for vocabulary in vocabularies}) == len(vocabularies)
    assert Vocabulary(("a", "b"), ("{}",)).fingerprint == vocabularies[0].fingerprint


def test_the_default_is_the_specifications_vocabulary(settings):
    vocabulary = load_vocabulary(settings)
    assert (len(vocabulary.labels), len(vocabulary.templates)) == (50, 6)
    assert vocabulary.labels[0] == "photography"
    assert vocabulary.templates[-1] == "a {} photograph"


def test_a_projects_own_files_are_read_in_their_order(settings):
    write(settings.root, ["Zürich", *LABELS], ["{} 写真", "a photo of {}"])
    path = settings.root / "config" / "labels.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # a byte order mark
    assert load_vocabulary(settings) == Vocabulary(("Zürich", *LABELS), ("{} 写真", "a photo of {}"))


def test_a_file_named_by_a_setting_must_exist(settings):
    with pytest.raises(SettingsError, match=r"labels_file: .*mine\.json cannot be read"):
        load_vocabulary(settings.replace(labels_file="mine.json"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], r"labels\.json: 0 labels; at least 5"),
        (LABELS[:4], r"labels\.json: 4 labels; at least 5"),
        ([*LABELS, "cat"], r"labels\.json: labels\[5\] \('cat'\) is a duplicate of \[2\]"),
        ([*LABELS, 7], r"labels\.json: labels\[5\] \(7\) is not a string"),
        ([*LABELS, " \t"], r"labels\[5\] .* is blank"),
        ([*LABELS, " dog"], r"labels\[5\] \(' dog'\) has white space around it"),
        ([*LABELS, "\ud800"], r"labels\[5\] .* is not valid Unicode"),
        ([*LABELS, "&nbsp;"], r"labels\[5\] \('&nbsp;'\) is blank"),
        ([*LABELS, "Cat"], r"labels\.json: labels\[2\] 'cat' and labels\[5\] 'Cat' are the same to the model"),
        ([*LABELS, "caf\u00e9", "x", "cafe\u0301"], r"labels\[5\] .* and labels\[7\] .* are the same to the model"),
        ("sea", r"labels\.json: expected an object with a list"),
    ],
)
def test_unusable_labels_are_named_by_file_and_position(settings, labels, message):
    write(settings.root, labels=labels)
    with pytest.raises(SettingsError, match=message):
        load_vocabulary(settings)


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ([], r"templates\.json: templates is empty"),
        (["a photo of {}", "a photo"], r"templates\[1\] is 'a photo'; it must have one {}"),
        (["{} of {}"], r"templates\[0\].*must have one {}"),
        (["{} }"], r"templates\[0\].*no other brace"),
        (["{{}}"], r"templates\[0\].*no other brace"),
        (["{0}"], r"templates\[0\].*must have one {}"),
        (["{label} {}"], r"templates\[0\].*no other brace"),
        (["{}", "{}"], r"templates\[1\] .*is a duplicate"),
        (["a  {}", "{}", "A {}"], r"templates\.json: templates\[0\] 'a  {}' and templates\[2\] 'A {}' are the same"),
        (["({})", "( {} )"], r"templates\[0\] '\({}\)' and templates\[1\] '\( {} \)' are the same"),
    ],
)
def test_unusable_templates_are_named_by_file_and_position(settings, templates, message):
    write(settings.root, templates=templates)
    with pytest.raises(SettingsError, match=message):
        load_vocabulary(settings)


def test_labels_and_templates_that_only_look_alike_are_kept(settings):
    labels, templates = [*LABELS, "cats", "hot dog", "hotdog", "hot-dog", "cafe", "café"], ["a {}", "a{}", "a {}."]
    write(settings.root, labels, templates)
    assert load_vocabulary(settings) == Vocabulary(tuple(labels), tuple(templates))


@pytest.mark.parametrize(
    ("name", "twins"),
    [
        ("casedup", "labels[0] 'cat' and labels[1] 'Cat'"),
        ("normalised", "labels[0] 'hot dog' and labels[1] 'hot  dog'"),
    ],
)
def test_a_file_with_labels_that_are_one_is_refused(settings, shared_data, name, twins):
    path = shared_data / "inputs" / "labels" / f"{name}.json"
    with pytest.raises(SettingsError) as caught:
        chosen_vocabulary(settings, str(path))
    assert str(caught.value).startswith(f"{path}: {twins} are the same to the model, which ignores case")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b'{"label": []}'])
def test_a_file_that_is_not_the_expected_json_is_named(settings, content):
    write(settings.root)
    (settings.root / "config" / "labels.json").write_bytes(content)
    with pytest.raises(SettingsError, match=r"labels\.json"):
        load_vocabulary(settings)


def keep(settings: Settings, name: str, content: object) -> Path:
    """Write a named vocabulary."""
    path = settings.root / settings.vocabularies_dir / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_named_vocabulary_may_use_the_projects_templates(settings):
    keep(settings, "weddings", {"labels": LABELS})
    keep(settings, "art", {"labels": LABELS, "templates": ["a painting of {}"]})
    assert named_vocabulary(settings, "weddings") == Vocabulary(tuple(LABELS), load_vocabulary(settings).templates)
    assert named_vocabulary(settings, "art") == Vocabulary(tuple(LABELS), ("a painting of {}",))
    assert vocabulary_names(settings) == ["art", "weddings"]


def test_the_folder_of_named_vocabularies_is_a_setting(settings):
    elsewhere = settings.replace(vocabularies_dir="words")
    keep(elsewhere, "art", {"labels": LABELS})
    assert (vocabulary_names(settings), vocabulary_names(elsewhere)) == ([], ["art"])


def test_an_unknown_name_is_an_error_with_the_nearest_one(settings):
    with pytest.raises(SettingsError, match=r"'weddings'; none is known: write .*weddings\.json"):
        named_vocabulary(settings, "weddings")
    keep(settings, "weddings", {"labels": LABELS})
    with pytest.raises(SettingsError, match=r"'wedings'; did you mean 'weddings'\?; known: weddings"):
        named_vocabulary(settings, "wedings")


@pytest.mark.parametrize("name", ["../labels", "/etc/passwd", "a/b", "a.b", "", "x" * 65, "a\n", "ä", "a\0"])
def test_a_name_is_never_a_path(settings, name):
    keep(settings, "other", {"labels": LABELS})
    (settings.root / settings.vocabularies_dir).joinpath("a.b.json").write_text(json.dumps({"labels": LABELS}))
    (settings.root / "config" / "labels.json").write_text(json.dumps({"labels": LABELS}))
    with pytest.raises(SettingsError, match="no vocabulary has the name"):
        named_vocabulary(settings, name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"art\.json cannot be read as JSON"),
        ({"templates": ["{}"]}, r"art\.json: expected an object with a list of strings, {'labels'"),
        ({"labels": LABELS, "template": ["{}"]}, r"art\.json: unknown key 'template'; did you mean 'templates'\?"),
        ({"labels": LABELS, "templates": ["a {}", "a"]}, r"art\.json: templates\[1\] is 'a'; it must have one {}"),
    ],
)
def test_an_unusable_named_vocabulary_is_named(settings, content, message):
    keep(settings, "art", content)
    with pytest.raises(SettingsError, match=message):
        named_vocabulary(settings, "art")


def test_a_name_is_preferred_to_a_file(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keep(settings, "art", {"labels": LABELS, "templates": ["named {}"]})
    Path("art").write_text(json.dumps({"labels": LABELS, "templates": ["a file {}"]}))
    Path("mine.json").write_text(json.dumps({"labels": LABELS, "templates": ["mine {}"]}))
    chosen = [chosen_vocabulary(settings, given).templates for given in ("art", "./art", "mine.json")]
    assert chosen == [("named {}",), ("a file {}",), ("mine {}",)]
    with pytest.raises(SettingsError, match=r"no vocabulary has the name 'arts'; did you mean 'art'"):
        chosen_vocabulary(settings, "arts")
    with pytest.raises(SettingsError, match=r"unknown vocabulary 'none\.json'"):
        chosen_vocabulary(settings, "none.json")


def test_labels_and_templates_can_be_given_in_code(settings):
    write(settings.root, templates=["project {}"])
    labels = ["bride", "groom", "rings", "cake", "dance"]
    assert load_vocabulary(settings, labels) == Vocabulary(tuple(labels), ("project {}",))
    assert load_vocabulary(settings, None, ["x {}"]) == Vocabulary(tuple(LABELS), ("x {}",))
    for wrong, message in ((["a"] * 5, r"labels\[1\] \('a'\) is a duplicate"), ("bride", "expected a list of strings")):
        with pytest.raises(SettingsError, match=message):
            load_vocabulary(settings, wrong)
