"""Interleaved rounds, medians, and a report as a table and as JSON, for all benchmarks."""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from processor import cores, load, this_processor

LIBRARIES = ("numpy", "opencv-python", "opencv-python-headless", "Pillow", "scikit-image", "piq", "torch", "dagster")
PEERS = ("onnxruntime", "openvino", "nncf")

LOAD_AT_START = load()
"""Load averages before anything is measured, which is load itself."""

T = TypeVar("T")


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
        found = machine()
        torch = f"torch {found['libraries'].get('torch', 'is not installed')}"
        print(f"\n{self.title}\n{found['processor']}; {found['cores']} cores, load before {found['load']}, {torch}\n")
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
    return in_rounds({name: partial(elapsed, action) for name, action in actions.items()}, rounds)


def in_rounds(actions: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Results of each action in each of `rounds`, after one warm-up round; see `interleaved`."""
    results: dict[str, list[T]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        for name in list(actions)[:: -1 if number % 2 else 1]:
            result = actions[name]()
            if number:
                results[name].append(result)
    return results


def elapsed(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def cpu_of_children(action: Callable[[], object]) -> float:
    """CPU seconds, user and system, of the processes that an action starts and waits for, with their children.

    Unlike elapsed seconds, they hardly depend on what else runs on the machine.
    """

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    start = used()
    action()
    return used() - start


def process_peak_mib() -> float:
    """Peak memory (MiB) of this process since its start."""
    status = Path("/proc/self/status")
    if status.exists():  # in Linux, `getrusage` inherits the peak of the parent process
        return int(next(line for line in status.read_text().splitlines() if "VmHWM" in line).split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def arguments(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """Return a parser with the options of every benchmark."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds, help="rounds of which the median is taken")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as well")
    return parser


def machine() -> dict[str, Any]:
    """Describe the machine and the libraries."""
    return {
        "cores": cores(),
        "processor": str(this_processor()),
        "load": LOAD_AT_START,
        "system": platform.system(),
        "python": platform.python_version(),
        "libraries": _versions(),
    }


def _versions() -> dict[str, str]:
    versions = {}
    for name in (*LIBRARIES, *PEERS):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _cell(value: float | str) -> str:
    if isinstance(value, str):
        return value
    if 0.99 <= value < 1:  # a cosine
        return f"{value:.6g}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
