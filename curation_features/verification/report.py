"""The checks of a finished batch, and the problems that they find."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from curation_features.errors import StoreError
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
    Check("cache_effective", "Photos measured before came from the cache (`warn_cached_share`).", blocking=False),
)


class Report:
    """Problems by check: the first ones as texts, the others as a number."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {check.name: [] for check in CHECKS if check.blocking}
        self._counts: Counter[str] = Counter()

    def add(self, check: Check, place: str, problem: str) -> None:
        """Add a problem and its place."""
        self._counts[check.name] += 1
        if len(self._texts[check.name]) < PROBLEMS_SHOWN:
            self._texts[check.name].append(f"{place}: {problem}")

    @contextmanager
    def unreadable_files(self) -> Iterator[None]:
        """Turn a `StoreError` of the block into a problem of every check."""
        try:
            yield
        except StoreError as error:
            for name, texts in self._texts.items():
                self._counts[name] += 1
                texts.insert(0, str(error) if name == COMPLETE.name else f"could not check: {error}")

    def problems(self) -> dict[str, list[str]]:
        """Problems by the name of their check."""
        shown = {name: texts[:PROBLEMS_SHOWN] for name, texts in self._texts.items()}
        hidden = {name: self._counts[name] - len(texts) for name, texts in shown.items()}
        return {name: texts + [f"... and {hidden[name]} more"] * (hidden[name] > 0) for name, texts in shown.items()}


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn every error of reading a file into a `StoreError` with its name."""
    try:
        if path.exists() and not path.is_file():  # opening a FIFO would block
            raise ValueError("is not a regular file")
        yield
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: nested too deeply, or unknown to pyarrow
        cause = getattr(error, "strerror", None) or error
        file = f"{inert(path.parent.name)}/{inert(path.name)}"
        raise StoreError(f"{file}: cannot be read ({inert(cause)}); materialize features again") from error
