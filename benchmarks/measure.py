"""Interleaved rounds, medians, and a report as a table and as JSON, for all benchmarks."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

LIBRARIES = ("numpy", "opencv-python", "opencv-python-headless", "Pillow", "scikit-image", "piq", "torch", "dagster")


@dataclass
class Report:
    """Rows of one benchmark, in order of addition.

    Attributes:
        title: what was measured, and on what.
        rows: numbers by column; rows may have different columns.
    """

    title: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, **numbers: float | str) -> None:
        """Add a row."""
        self.rows.append({"": name, **numbers})

    def show(self, json_path: Path | None = None) -> None:
        """Print the table; with a path, also write title, machine and rows to it as JSON."""
        print(f"\n{self.title}\n")
        columns = list(dict.fromkeys(column for row in self.rows for column in row))
        table = [columns, *([_cell(row.get(column, "")) for column in columns] for row in self.rows)]
        widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
        for name, *cells in table:
            numbers = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
            print("  ".join([name.ljust(widths[0]), *numbers]))
        if json_path:
            rows = [{"name" if column == "" else column: value for column, value in row.items()} for row in self.rows]
            json_path.write_text(json.dumps({"title": self.title, "machine": machine(), "rows": rows}, indent=2) + "\n")


def medians(actions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each action over `rounds` (see `interleaved`)."""
    return {name: median(seconds) for name, seconds in interleaved(actions, rounds).items()}


def median_ratio(taken: Sequence[float], other: Sequence[float]) -> float:
    """Median of the ratio of two actions within each round, which a drift of the machine's speed does not affect."""
    return median(mine / theirs for mine, theirs in zip(taken, other, strict=True))


def interleaved(actions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each action in each of `rounds`, after one warm-up round.

    A round runs every action once. The order is reversed each time, so that other load affects all actions alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        for name in list(actions)[:: -1 if number % 2 else 1]:
            taken = elapsed(actions[name])
            if number:
                seconds[name].append(taken)
    return seconds


def elapsed(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def arguments(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds, help="rounds of which the median is taken")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as well")
    return parser


def machine() -> dict[str, Any]:
    """Describe the machine and the libraries."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "libraries": _versions(),
    }


def _versions() -> dict[str, str]:
    versions = {}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _cell(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
