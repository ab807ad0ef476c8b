"""Limits of flags that a collection offers: percentiles of the signals of its photos.

A percentile says which photos are unusual in a collection, not which are bad: the 99th one flags 1 of 100 photos of any
collection, and a collection with many blurred photos offers a limit that misses most of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from curation_features.schema import SIGNAL
from curation_features.signals.flags import DEFAULT_LIMITS, FLAGS, RULES, Limits, Rule

PERCENTILE = 99.0
"""The calibrated limits flag about 1 % of clean photos."""

PERCENTILES: Mapping[str, float] = MappingProxyType({"soft": 90.0, "shaken_blur": 90.0})
"""Limits with another percentile: `soft` sorts and flags about 10 % of clean photos, and so does the first condition of
`shaken`, which only flags together with the second."""

FEW = 200
"""Number of photos under which a 99th percentile is decided by one or two of them."""

SIGNALS = tuple(dict.fromkeys(signal for rule in RULES for signal, _ in rule.over))
"""The signals that have limits."""

Values: TypeAlias = Mapping[str, NDArray[np.float64]]
"""Signals by name, one number per photo, in one order; NaN where undefined."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A limit, what it flags, and the limit that a collection offers.

    Attributes:
        limit: field of `Limits`.
        flags: flags and hints that depend on it.
        signal: name of the signal.
        value: the present limit.
        measured: photos with all signals of a rule of this limit.
        flagged: of these, photos over the present limit and the other limits of the rule.
        percentile: of the collection, in per cent.
        offer: this percentile of the signal, rounded like the signal; None if nothing was measured, or if so many
            photos have the best possible value that the limit would flag every other one.
        would_flag: photos that the offer would flag, with all other limits as they are; None without an offer.
    """

    limit: str
    flags: tuple[str, ...]
    signal: str
    value: float
    measured: int
    flagged: int
    percentile: float
    offer: float | None
    would_flag: int | None

    @property
    def is_of_few(self) -> bool:
        """Whether fewer than `FEW` photos were measured."""
        return self.measured < FEW


def offers(values: Values, limits: Limits = DEFAULT_LIMITS) -> list[Offer]:
    """Return an offer for each limit, in the order of `Limits`.

    Args:
        values: the `SIGNALS` of distinct photos.
        limits: the present ones.
    """
    return [_offer(field.name, values, limits) for field in fields(Limits)]


def offered_limits(found: Sequence[Offer], limits: Limits = DEFAULT_LIMITS) -> Limits:
    """Return the limits with every offer in place of its present value."""
    return replace(limits, **{one.limit: one.offer for one in found if one.offer is not None})


def flagged_photos(values: Values, limits: Limits = DEFAULT_LIMITS) -> int:
    """Count the photos with at least one flag; hints do not count."""
    return _count(*(_has(flag, values, limits) for flag in FLAGS))


def _offer(limit: str, values: Values, limits: Limits) -> Offer:
    rules = [rule for rule in RULES if limit in dict(rule.over).values()]
    signal = next(name for rule in rules for name, bound in rule.over if bound == limit)
    percentile = PERCENTILES.get(limit, PERCENTILE)
    offer = _percentile(signal, values[signal], percentile)
    changed = None if offer is None else replace(limits, **{limit: offer})
    return Offer(
        limit=limit,
        flags=tuple(dict.fromkeys(rule.flag for rule in rules)),
        signal=signal,
        value=getattr(limits, limit),
        measured=_count(*(_is_measured(rule, values) for rule in rules)),
        flagged=_count(*(_holds(rule, values, limits) for rule in rules)),
        percentile=percentile,
        offer=offer,
        would_flag=None if changed is None else _count(*(_holds(rule, values, changed) for rule in rules)),
    )


def _percentile(signal: str, values: NDArray[np.float64], percentile: float) -> float | None:
    known = values[~np.isnan(values)]
    if not known.size:
        return None
    value = round(float(np.percentile(known, percentile)), SIGNAL[signal].digits)
    return value if value > SIGNAL[signal].low else None


def _is_measured(rule: Rule, values: Values) -> NDArray[np.bool_]:
    return np.asarray(np.all([~np.isnan(values[signal]) for signal, _ in rule.over], axis=0), np.bool_)


def _holds(rule: Rule, values: Values, limits: Limits) -> NDArray[np.bool_]:
    """Whether a rule flags each photo; NaN is over no limit."""
    bounds = asdict(limits)
    over = [values[signal] > bounds[limit] for signal, limit in rule.over]
    is_over = np.asarray(np.all(over, axis=0), np.bool_)
    return is_over & ~_has(rule.unless, values, limits) if rule.unless else is_over


def _has(flag: str, values: Values, limits: Limits) -> NDArray[np.bool_]:
    rules = [rule for rule in RULES if rule.flag == flag]
    return np.asarray(np.any([_holds(rule, values, limits) for rule in rules], axis=0), np.bool_)


def _count(*masks: NDArray[np.bool_]) -> int:
    """Count the photos that are in at least one mask."""
    return int(np.count_nonzero(np.any(masks, axis=0)))
