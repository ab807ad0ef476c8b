"""Words and truncation, compared with open_clip's tokenizer."""

from __future__ import annotations

import html
import json
import logging
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from checkpoints import weights_in
from hypothesis import given
from hypothesis import strategies as st

from curation_features.clip.classifier import CLIPClassifier
from curation_features.clip.engine import OpenClipEngine
from curation_features.clip.prompts import TruncatedPrompts, find_truncated_prompts
from curation_features.clip.vocabulary import Vocabulary, load_vocabulary
from curation_features.clip.words import words
from curation_features.devices.selection import Device
from curation_features.testing import FakeClipEngine
from curation_features.weights import LazyModel

SAME = [
    ("cat", "CAT"),
    ("hot dog", "hot  dog"),
    ("hot dog", "hot\u00a0dog"),
    ("hot dog", "hot\tdog"),
    ("t-shirt", "t - shirt"),
    ("number 12", "number 1 2"),
    ("cat_dog", "cat _ dog"),
    ("don't", "don 't"),
    ("café", "cafe\u0301"),
    ("Å", "\u212b"),
    ("&", "&amp;"),
    ("&", "&amp;amp;amp;"),
    ("<b> & c", "<b> &amp;amp; c"),  # ftfy leaves the entities of what may be HTML
    ("fish & chips", "fish &amp; chips"),
    ("cat", "&#99;at"),
    ("cat", "\uff43\uff41\uff54"),
    ("fire", "\ufb01re"),
    ("it's", "it\u2019s"),
    ('"cat"', "\u201ccat\u201d"),
    ("é", "Ã©"),  # UTF-8 read as Latin-1
    ("cat", "\x1b[31mcat"),
    ("", "&nbsp;"),
]
DIFFERENT = [
    ("hot dog", "hotdog"),
    ("hot dog", "hot-dog"),
    ("cat", "cats"),
    ("cat", "cat."),
    ("cafe", "café"),
    ("straße", "strasse"),
    ("a\u200bb", "ab"),
    ("…", "..."),
    ("½", "1/2"),
    ("'s top", "' stop"),
]


@pytest.fixture(scope="module")
def encode():
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer().encode


@pytest.mark.parametrize(("one", "other"), SAME + DIFFERENT)
def test_texts_that_are_one_to_the_tokenizer_are_one(encode, one, other):
    is_same = (one, other) in SAME
    assert (encode(one) == encode(other)) is is_same
    assert (words(one) == words(other)) is is_same


CHANGES = [
    str.upper,
    str.title,
    html.escape,
    lambda text: text.replace(" ", "  "),
    lambda text: text.replace(" ", ""),
    lambda text: " ".join(text),
    lambda text: unicodedata.normalize("NFD", text),
    lambda text: unicodedata.normalize("NFKC", text),
]
TEXTS = st.text(st.one_of(st.sampled_from("aéÅ İǆ12²'st-_&;.<\u2019 "), st.characters(exclude_categories=["Cs"])))


@given(TEXTS, st.sampled_from(CHANGES))
def test_texts_with_equal_words_have_equal_tokens(encode, text, change):
    if words(text) == words(change(text)):
        assert encode(text) == encode(change(text))


def test_reading_a_vocabulary_loads_no_model_library(tmp_path):
    script = (
        "import sys; from pathlib import Path; from curation_features.settings import Settings; "
        "from curation_features.clip.vocabulary import load_vocabulary; settings = Settings(root=Path(sys.argv[1])); "
        "heavy = lambda: {'torch', 'open_clip', 'ftfy'} & set(sys.modules); load_vocabulary(settings); "
        "print(heavy()); load_vocabulary(settings, ['café', *'abcd']); print(heavy())"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["set()", "{'ftfy'}"]


# --- what is cut off ---


@pytest.fixture
def engine(clip_checkpoint):
    return OpenClipEngine(weights_in(clip_checkpoint), Device("cpu", "fp32"))


def labels_of(*first):
    return (*first, "dog", "tree", "sea", "night", "food")


def test_labels_are_cut_from_the_77th_token_on(engine):
    """Two of the 77 tokens mark the start and the end of a text."""
    fits, over = " ".join(["cat"] * 74), " ".join(["cat"] * 75)
    found = find_truncated_prompts(engine, Vocabulary(labels_of(fits, over), ("{}", "a {}", "a photo of a {}")))
    assert found == TruncatedPrompts(77, {fits: 1, over: 2}, [])


def test_labels_equal_after_truncation_are_named(engine, shared_data):
    labels = json.loads((shared_data / "inputs" / "labels" / "over77tokens.json").read_bytes())["labels"]
    rain, sun = labels[:2]
    vocabulary = Vocabulary(tuple(labels), ("a photo of {}", "{} scene"))
    found = find_truncated_prompts(engine, vocabulary)
    assert found == TruncatedPrompts(77, {rain: 2, sun: 2}, [(rain, sun)])
    cut, same = found.warnings(vocabulary)
    start = f"'{rain[:60]}...'"
    assert f"first 77 tokens of labels[0] {start} (in 2 of 2 templates), labels[1] {start} (in 2" in cut
    assert f"labels[0] {start} and labels[1] {start}" in same


def test_the_projects_own_labels_are_read_whole(engine, settings):
    vocabulary = load_vocabulary(settings)
    found = find_truncated_prompts(engine, vocabulary)
    assert found == TruncatedPrompts(77, {}, [])
    assert list(found.warnings(vocabulary)) == []


def test_many_labels_that_are_cut_are_counted(settings):
    engine = FakeClipEngine()
    engine.context_length = 3
    labels = tuple(f"a label of {number} words" for number in range(200))
    found = find_truncated_prompts(engine, Vocabulary(labels, ("{}",)))
    assert (len(found.cut), len(found.same)) == (200, 199)
    told = list(found.warnings(Vocabulary(labels, ("{}",))))
    assert [line.count("labels[") for line in told] == [5, 10]
    assert "and 195 more: shorten them" in told[0]


def test_a_warning_is_logged_once_before_any_label_is_made(settings, caplog):
    labels = [*"abcd", " ".join(["long"] * 78)]
    engine = FakeClipEngine()
    with caplog.at_level(logging.WARNING):
        CLIPClassifier(settings, labels=labels, engine=LazyModel.ready(engine, "fake")).label_embeddings()
    [message] = caplog.messages
    assert "labels[4] 'long long" in message
    caplog.clear()
    CLIPClassifier(settings, labels=labels, engine=LazyModel.ready(engine, "fake")).label_embeddings()
    assert caplog.messages == []


def test_tokens_are_what_the_engine_encodes(engine):
    from open_clip.tokenizer import SimpleTokenizer

    prompts = ["a cat", "", " ".join(["word"] * 100)]
    tokens, is_cut = engine.tokenize(prompts)
    np.testing.assert_array_equal(tokens, SimpleTokenizer()(prompts).numpy())
    assert is_cut.tolist() == [False, False, True]
