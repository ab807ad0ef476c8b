"""The checks of a finished batch, and the problems that they find."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from curation_features.text import inert

PROBLEMS_SHOWN = 20  # of each check


@dataclass(frozen=True, slots=True)
class Check:
    """A check of every batch.

    Attributes:
        blocking: whether a batch that fails is not announced; otherwise failing causes a warning.
    """

    name: str
    description: str
    blocking: bool


COMPLETE = Check(
    "artifacts_complete",
    "Every photo of the manifest is in the JSON, the table and the embeddings file, once, in the manifest's order.",
    blocking=True,
)
UNCHANGED = Check(
    "metadata_unchanged",
    "Every field of the manifest has the same value, type and position; only `features` was added.",
    blocking=True,
)
IN_RANGE = Check(
    "schema_and_ranges",
    "Features have their fields and columns, values are in range, defaults are marked, and the files agree.",
    blocking=True,
)
FINITE = Check("values_finite", "No number in the JSON, the table or an embedding is NaN or infinite.", blocking=True)

CHECKS: tuple[Check, ...] = (
    COMPLETE,
    UNCHANGED,
    IN_RANGE,
    FINITE,
    Check("few_degraded", "Few photos of the batch are degraded or failed (`warn_degraded_share`).", blocking=False),
    Check("labels_as_usual", "Labels are distributed as in the last batches (`warn_label_shift`).", blocking=False),
    Check("flags_as_usual", "As many photos are flagged as in the last batches (`warn_flag_shift`).", blocking=False),
    Check("cache_effective", "Photos measured before came from the cache (`warn_cached_share`).", blocking=False),
)


class Report:
    """The problems of each blocking check."""

    def __init__(self) -> None:
        self._texts: dict[Check, list[str]] = {check: [] for check in CHECKS if check.blocking}

    def add(self, check: Check, place: str, problem: str) -> None:
        """Add a problem and its place."""
        self._texts[check].append(f"{place}: {problem}")

    @contextmanager
    def reading(self, path: Path) -> Iterator[None]:
        """Turn every error of reading a file into a problem of every check."""
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: nested too deeply, or unknown to pyarrow
            cause = getattr(error, "strerror", None) or error
            file = f"{inert(path.parent.name)}/{inert(path.name)}"
            problem = f"{file}: cannot be read ({inert(cause)}); materialize features again"
            for check, texts in self._texts.items():
                texts.insert(0, problem if check is COMPLETE else f"could not check: {problem}")

    def problems(self) -> dict[str, list[str]]:
        """Return the first problems of each check by its name, and how many there are more."""
        shown = {}
        for check, texts in self._texts.items():
            hidden = len(texts) - PROBLEMS_SHOWN
            shown[check.name] = texts[:PROBLEMS_SHOWN] + [f"... and {hidden} more"] * (hidden > 0)
        return shown
