"""Flags and hints from signals, each with its reason in words.

A flag is a verdict, which about 1 of 100 clean photos has, too; a hint only helps to sort. Neither names a cause or a
fault: panning, low key and white grounds are intended. None comes from BRISQUE or from a single quality number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from curation_features.settings import Settings

Kind = Literal["flag", "hint"]


@dataclass(frozen=True, slots=True)
class Limits:
    """Values over which a photo has a flag or a hint; each is the setting `limit_` and its name.

    Attributes:
        blurred: `blur_px`.
        shaken_blur: `blur_px` of a photo that is blurred in one direction.
        shaken_streak: `streak` of such a photo.
        noisy_luma: `noise_luma`.
        noisy_chroma: `noise_chroma`.
        dark: `headroom_ev`.
        soft: `blur_px`.
        bright: `clipped_centre`.
        blocky: `blocks`.
    """

    blurred: float
    shaken_blur: float
    shaken_streak: float
    noisy_luma: float
    noisy_chroma: float
    dark: float
    soft: float
    bright: float
    blocky: float


def limits_of(settings: Settings) -> Limits:
    """Return the limits that settings have."""
    return Limits(**{limit.name: getattr(settings, f"limit_{limit.name}") for limit in fields(Limits)})


DEFAULT_LIMITS = limits_of(Settings(root=Path()))
"""The calibrated limits: each flag holds for about 1 % of 520 clean photos."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A flag's condition: each signal over its limit.

    Attributes:
        flag: name of the flag.
        kind: flag or hint.
        over: pairs of a signal and a field of `Limits`.
        reason: a text with the names of signals and limits in braces.
        unless: a flag that makes this hint superfluous.
    """

    flag: str
    kind: Kind
    over: tuple[tuple[str, str], ...]
    reason: str
    unless: str = ""


_EDGES = "edges {blur_px} px wide at 512 px, limit {blurred}"
_STREAK = (
    "edges {blur_px} px wide at 512 px, limit {shaken_blur}, and {streak} times as wide in one direction as across it, "
    "limit {shaken_streak}"
)
_SHAKEN = (("blur_px", "shaken_blur"), ("streak", "shaken_streak"))

RULES: tuple[Rule, ...] = (
    Rule("blurred", "flag", (("blur_px", "blurred"),), _EDGES),
    Rule("blurred", "flag", _SHAKEN, _STREAK),
    Rule("noisy", "flag", (("noise_luma", "noisy_luma"),), "noise of {noise_luma} gray levels, limit {noisy_luma}"),
    Rule(
        "noisy",
        "flag",
        (("noise_chroma", "noisy_chroma"),),
        "blotches of colour of {noise_chroma} levels, limit {noisy_chroma}",
    ),
    Rule(
        "dark",
        "flag",
        (("headroom_ev", "dark"),),
        "could be {headroom_ev} EV brighter before highlights clip, limit {dark}",
    ),
    Rule("shaken", "hint", _SHAKEN, _STREAK),
    Rule("soft", "hint", (("blur_px", "soft"),), "edges {blur_px} px wide at 512 px, limit {soft}", unless="blurred"),
    Rule(
        "bright",
        "hint",
        (("clipped_centre", "bright"),),
        "{clipped_centre} of the middle is clipped to white, limit {bright}",
    ),
    Rule(
        "blocky", "hint", (("blocks", "blocky"),), "steps at JPEG blocks {blocks} times those elsewhere, limit {blocky}"
    ),
)
"""In the order in which flags are shown; a flag takes its reason from the first rule that holds."""

FLAGS = tuple(dict.fromkeys(rule.flag for rule in RULES if rule.kind == "flag"))
HINTS = tuple(dict.fromkeys(rule.flag for rule in RULES if rule.kind == "hint"))

SHARES = ("clipped_centre", "bright")
"""Shown in per cent."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag or hint of a photo, with its reason in words."""

    name: str
    kind: Kind
    reason: str


@dataclass(frozen=True, slots=True)
class FlagCount:
    """Number of artifacts with a flag or hint."""

    name: str
    kind: Kind
    artifacts: int


def flags(signals: Mapping[str, float | None], limits: Limits = DEFAULT_LIMITS) -> list[Flag]:
    """Return the flags and hints of a photo, in the order of `RULES`.

    Args:
        signals: values by name; a missing or undefined (None) value raises no flag.
        limits: by default the calibrated ones.
    """
    values = asdict(limits)
    found: dict[str, Flag] = {}
    for rule in RULES:
        if rule.flag in found or rule.unless in found:
            continue
        if all(_is_over(signals.get(signal), values[limit]) for signal, limit in rule.over):
            found[rule.flag] = Flag(rule.flag, rule.kind, _reason(rule, signals, values))
    return list(found.values())


def count_flags(found: Iterable[tuple[str, Kind]]) -> list[FlagCount]:
    """Count the flags and hints of a batch, given as pairs of name and kind: flags first, in the order of `RULES`."""
    order = [*FLAGS, *HINTS]

    def place(flag: tuple[str, Kind]) -> tuple[bool, int, str]:
        name, kind = flag
        return kind == "hint", order.index(name) if name in order else len(order), name

    counts = Counter(found)
    return [FlagCount(*flag, counts[flag]) for flag in sorted(counts, key=place)]


def _is_over(value: float | None, limit: float) -> bool:
    return value is not None and value > limit


def _reason(rule: Rule, signals: Mapping[str, float | None], limits: Mapping[str, float]) -> str:
    words: dict[str, str] = {}
    for signal, limit in rule.over:
        words[signal], words[limit] = _numbers(signal, float(signals[signal] or 0), limits[limit])
    return rule.reason.format_map(words)


def _numbers(signal: str, value: float, limit: float) -> tuple[str, str]:
    """Both as text, with as many digits as tell them apart: at least two, at most six."""
    scale, unit = (100, " %") if signal in SHARES else (1, "")
    shown = f"{limit * scale:.6g}{unit}"
    for digits in range(2, 7):
        number = f"{value * scale:.{digits}f}"
        if float(number) > limit * scale:
            break
    return f"{number}{unit}", shown
