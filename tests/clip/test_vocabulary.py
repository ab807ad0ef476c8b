from __future__ import annotations

import json
from pathlib import Path

import pytest

from curation_features.clip.vocabulary import Vocabulary, load_vocabulary
from curation_features.errors import SettingsError

LABELS = ["sea", "hill", "cat", "night", "food"]


def write(folder: Path, labels: object = None, templates: object = None) -> None:
    (folder / "config").mkdir(exist_ok=True)
    (folder / "config" / "labels.json").write_text(json.dumps({"labels": LABELS if labels is None else labels}))
    content = {"templates": ["a photo of {}"] if templates is None else templates}
    text = json.dumps(content, ensure_ascii=False)
    (folder / "config" / "templates.json").write_text(text, encoding="utf-8")


def test_prompts_are_every_label_in_every_template_label_by_label():
    assert Vocabulary(("sea", "a {b}"), ("x {}", "{} y")).prompts() == ("x sea", "sea y", "x a {b}", "a {b} y")


def test_the_fingerprint_tells_labels_templates_and_their_order_apart():
    vocabularies = [
        Vocabulary(("a", "b"), ("{}",)),
        Vocabulary(("b", "a"), ("{}",)),
        Vocabulary(("a",), ("{}", "b{}")),
        Vocabulary(("a", "b", "c"), ("{}",)),
        Vocabulary(("ab",), ("{}",)),
    ]
    assert len({vocabulary.fingerprint for vocabulary in vocabularies}) == len(vocabularies)
    assert Vocabulary(("a", "b"), ("{}",)).fingerprint == vocabularies[0].fingerprint


def test_a_project_without_files_gets_the_specifications_vocabulary(settings):
    vocabulary = load_vocabulary(settings)
    assert (len(vocabulary.labels), len(vocabulary.templates)) == (50, 6)
    assert vocabulary.labels[0] == "photography"
    assert vocabulary.templates[-1] == "a {} photograph"


def test_a_projects_own_files_are_read_in_their_order(settings):
    write(settings.root, ["Zürich", *LABELS], ["{} 写真", "a photo of {}"])
    assert load_vocabulary(settings) == Vocabulary(("Zürich", *LABELS), ("{} 写真", "a photo of {}"))


def test_a_byte_order_mark_is_no_error(settings):
    write(settings.root)
    path = settings.root / "config" / "labels.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_vocabulary(settings).labels == tuple(LABELS)


def test_a_file_named_by_a_setting_must_exist(settings):
    with pytest.raises(SettingsError, match=r"labels_file: .*mine\.json cannot be read"):
        load_vocabulary(settings.replace(labels_file="mine.json"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], r"labels\.json: 0 labels; a photo gets 5"),
        (LABELS[:4], r"labels\.json: 4 labels; a photo gets 5"),
        ([*LABELS, "cat"], r"labels\.json: labels\[5\] \('cat'\) is there twice, first as \[2\]"),
        ([*LABELS, 7], r"labels\.json: labels\[5\] \(7\) is not a string"),
        ([*LABELS, None], r"labels\[5\] \(None\) is not a string"),
        ([*LABELS, " \t"], r"labels\[5\] .* is blank"),
        ([*LABELS, " dog"], r"labels\[5\] \(' dog'\) has white space around it"),
        ([*LABELS, "\ud800"], r"labels\[5\] .* is not Unicode"),
        ("sea", r"labels\.json: expected an object with a list"),
    ],
)
def test_labels_that_cannot_be_used_are_named_by_file_and_position(settings, labels, message):
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
        (["{}", "{}"], r"templates\[1\] .*is there twice"),
    ],
)
def test_templates_that_cannot_be_used_are_named_by_file_and_position(settings, templates, message):
    write(settings.root, templates=templates)
    with pytest.raises(SettingsError, match=message):
        load_vocabulary(settings)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"[]", b'{"label": []}'])
def test_a_file_that_is_not_the_expected_json_is_named(settings, content):
    write(settings.root)
    (settings.root / "config" / "labels.json").write_bytes(content)
    with pytest.raises(SettingsError, match=r"labels\.json"):
        load_vocabulary(settings)


def test_thousands_of_labels_are_fine(settings):
    labels = [f"label {number}" for number in range(3000)]
    write(settings.root, labels=labels)
    assert load_vocabulary(settings).labels == tuple(labels)
