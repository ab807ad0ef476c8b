"""Checks and lists vocabularies: `labels check`, `labels list`."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from curation_features.cli.batches import RunObserver
from curation_features.cli.command import Outcome, add_group, declare
from curation_features.cli.terminal import doing, downloads, say
from curation_features.errors import SettingsError
from curation_features.settings import Settings, expand_home

if TYPE_CHECKING:
    from curation_features.clip.separability import ExpectedConfidence, LabelPair, TemplateEffect
    from curation_features.clip.vocabulary import Vocabulary

_SHOWN = 5  # labels of one kind
_ADVICE = {
    "inseparable": "not distinguishable: drop or rename one",
    "close": "close: they share the confidence; keep both only if you need both",
    "apart": "apart",
}

CHECK_FIELDS = {
    "context_length": "tokens of a prompt that the model reads",
    "cut": "a list of {label, templates}: longer labels, and in how many templates they are cut",
    "same": "a list of {first, second}: labels that are identical to the model",
    "scale": "of cosines before the softmax",
    "nearest_pairs": "a list of {first, second, cosine, odds, verdict}",
    "labels": "a list of {label, confidence, close}",
    "templates": "a list of {template, shift, confused, idle}",
}
LIST_FIELDS = {"vocabularies": "a list of {name, labels, templates, problem}; the project's own has no name"}


def register(commands: Any) -> None:
    """Declare the commands of this module."""
    labels = add_group(commands, "labels", "the vocabularies")
    command = declare(labels, "check", labels_check, "curation-features labels check weddings", CHECK_FIELDS)
    vocabulary = "a named vocabulary or a file (default: the project's own)"
    command.add_argument("vocabulary", nargs="?", type=expand_home, metavar="NAME_OR_FILE", help=vocabulary)
    declare(labels, "list", labels_list, "curation-features labels list", LIST_FIELDS)


def labels_list(args: argparse.Namespace, settings: Settings) -> Outcome:
    """List the vocabularies of the project."""
    from curation_features.clip.vocabulary import load_vocabulary, named_vocabulary, vocabulary_names

    own = load_vocabulary(settings)
    lines, listed = [f"the project's own ({settings.labels_file}): {_size(own)}"], [_list_fields("", own)]
    for name in vocabulary_names(settings):
        try:
            vocabulary = named_vocabulary(settings, name)
        except SettingsError as error:
            lines.append(f"{name}: cannot be used: {error}")
            listed.append({"name": name, "labels": None, "templates": None, "problem": str(error)})
        else:
            lines.append(f"{name}: {_size(vocabulary)}")
            listed.append(_list_fields(name, vocabulary))
    return Outcome({"vocabularies": listed}, partial(_say_lines, lines))


def _list_fields(name: str, vocabulary: Vocabulary) -> dict[str, Any]:
    sizes = {"labels": len(vocabulary.labels), "templates": len(vocabulary.templates)}
    return {"name": name, **sizes, "problem": None}


def labels_check(args: argparse.Namespace, settings: Settings) -> Outcome:
    """Check a vocabulary, and show how well its labels can be distinguished; needs the CLIP model, no photo."""
    from curation_features.clip.label_embeddings import directions, embed_prompts
    from curation_features.clip.prompts import find_truncated_prompts
    from curation_features.clip.separability import CLOSE_ODDS, expected_confidences, nearest_pairs, template_effects
    from curation_features.clip.vocabulary import chosen_vocabulary, load_vocabulary
    from curation_features.pipeline import Models

    vocabulary = chosen_vocabulary(settings, args.vocabulary) if args.vocabulary else load_vocabulary(settings)
    if not args.json:
        say(f"{args.vocabulary or 'the project'}: {_size(vocabulary)}: valid")
    with downloads() as download:
        engine = Models.from_settings(settings, RunObserver(download)).clip.get()
    with doing("embedding labels"):
        missed, prompts = find_truncated_prompts(engine, vocabulary), embed_prompts(engine, vocabulary)
    vectors, scale = directions(prompts, vocabulary), settings.temperature or engine.logit_scale
    pairs = nearest_pairs(vectors, vocabulary.labels, scale)
    labels = expected_confidences(vectors, vocabulary.labels, scale)
    templates = template_effects(prompts, vocabulary.labels, vocabulary.templates, scale)
    crowds = f"Near many others (odds under {CLOSE_ODDS:g}): drop them, or make them more specific"
    sections: dict[str, Iterable[str]] = {
        "Not read completely": missed.warnings(vocabulary),
        "Nearest pairs": _pair_lines(pairs, scale),
        crowds: _crowd_lines(labels),
        "Expected confidence of the right label": _confidence_lines(labels),
        "Templates": map(_describe_template, templates),
    }
    fields = {
        "context_length": missed.length,
        "cut": [{"label": label, "templates": count} for label, count in missed.cut.items()],
        "same": [{"first": first, "second": second} for first, second in missed.same],
        "scale": scale,
        "nearest_pairs": [{**asdict(pair), "verdict": pair.verdict} for pair in pairs],
        "labels": [asdict(label) for label in labels],
        "templates": [{**asdict(template), "idle": template.is_idle} for template in templates],
    }
    lines = [line for title, content in sections.items() if (found := [*content]) for line in ("", title, *found)]
    return Outcome(fields, partial(_say_lines, lines))


def _say_lines(lines: Iterable[str]) -> None:
    for line in lines:
        say(line)


def _size(vocabulary: Vocabulary) -> str:
    return f"{len(vocabulary.labels)} labels, {len(vocabulary.templates)} templates"


def _pair_lines(pairs: Sequence[LabelPair], scale: float) -> Iterator[str]:
    from curation_features.clip.separability import TYPICAL_ALIGNMENT

    yield "cosine  odds"
    for pair in pairs:
        yield f"{pair.cosine:6.3f}  {_odds(pair.odds):>5}  {pair.first} / {pair.second}: {_ADVICE[pair.verdict]}"
    yield (
        f"Odds: typical ratio of the right label's confidence to the other's, exp({scale:.4g} x "
        f"{TYPICAL_ALIGNMENT} x distance); {scale:.4g} is the scale, {TYPICAL_ALIGNMENT} was measured with ViT-B/32."
    )


def _crowd_lines(labels: Sequence[ExpectedConfidence]) -> Iterator[str]:
    from curation_features.clip.separability import CROWD

    crowded = sorted((label for label in labels if len(label.close) >= CROWD), key=lambda label: -len(label.close))
    for label in crowded[:_SHOWN]:
        yield f"{label.label}: {_some(label.close)}"
    if crowded[_SHOWN:]:
        yield f"and {len(crowded) - _SHOWN} more labels"


def _confidence_lines(labels: Sequence[ExpectedConfidence]) -> Iterator[str]:
    rising = sorted(labels, key=lambda label: label.confidence)
    for what, label in (("lowest", rising[0]), ("middle", rising[len(rising) // 2]), ("highest", rising[-1])):
        yield f"{what:7}  {label.confidence:.2f}  {label.label}"
    yield "A higher threshold excludes most photos of a label. How to choose one: docs/labels.md"


def _describe_template(template: TemplateEffect) -> str:
    remarks = [f"changes odds by a factor of {template.shift:.2f} at most"]
    if template.is_idle:
        remarks.append("has little effect, and may be dropped")
    if template.confused:
        remarks.append(f"disagrees with the others on {len(template.confused)} labels: {_some(template.confused)}")
    return f"{template.template}: {'; '.join(remarks)}"


def _odds(odds: float) -> str:
    return f"{odds:.1f}" if odds < 10 else f"{odds:.0f}" if odds < 1000 else ">999"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
