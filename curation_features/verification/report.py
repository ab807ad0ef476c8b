"""What is checked of a finished batch, and what was found wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from curation_features.errors import StoreError

PROBLEMS_SHOWN = 20  # of each check


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that is checked of every batch.

    Attributes:
        blocking: whether a batch that fails it must go no further; otherwise it is worth a warning.
    """

    name: str
    description: str
    blocking: bool


COMPLETE = Check(
    "artifacts_complete",
    "Every photo of the manifest is in the JSON, the table and the vectors' file, once, in the manifest's order.",
    blocking=True,
)
UNCHANGED = Check(
    "metadata_unchanged",
    "Every field of the manifest came out with the same value, type and place; nothing but `features` was added.",
    blocking=True,
)
IN_RANGE = Check(
    "schema_and_ranges",
    "Features have their fields and columns, values lie in their ranges, defaults are marked, and the files agree.",
    blocking=True,
)
FINITE = Check("values_finite", "No number in the JSON, the table or a vector is NaN or infinite.", blocking=True)

CHECKS: tuple[Check, ...] = (
    COMPLETE,
    UNCHANGED,
    IN_RANGE,
    FINITE,
    Check("few_degraded", "Few photos of the batch are degraded or failed (`warn_degraded_share`).", blocking=False),
    Check("labels_as_usual", "Labels are shared out as in the last batches (`warn_label_shift`).", blocking=False),
    Check("cache_effective", "Photos that were measured before came out of the cache (`warn_cached_share`).", False),
)


class Report:
    """What is wrong, by check: the first problems as texts, the others as a number."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {check.name: [] for check in CHECKS if check.blocking}
        self._more: Counter[str] = Counter()

    def add(self, check: Check, place: str, problem: str) -> None:
        """Note a problem, and where it is."""
        texts = self._texts[check.name]
        if len(texts) < PROBLEMS_SHOWN:
            texts.append(f"{place}: {problem}")
        else:
            self._more[check.name] += 1

    @contextmanager
    def reading(self) -> Iterator[None]:
        """A file that cannot be read in the block is a problem of every check: none of them could look."""
        try:
            yield
        except StoreError as error:
            for name, texts in self._texts.items():
                texts.insert(0, str(error) if name == COMPLETE.name else f"could not look: {error}")

    def texts(self) -> dict[str, list[str]]:
        """Every check by name, with what it has found."""
        return {
            name: [*texts[:PROBLEMS_SHOWN], *([f"... and {more} more"] if more > 0 else [])]
            for name, texts in self._texts.items()
            for more in [self._more[name] + len(texts) - PROBLEMS_SHOWN]
        }
