"""Compare every measure of speed and memory with its target, in one table (`make bench`).

Each figure is measured by one of the other benchmarks, which print their tables as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from measure import Report, arguments

Rows = Mapping[str, Mapping[str, Any]]
"""The rows of a benchmark by name."""

BENCHMARKS = ("throughput", "cpu_metrics", "cached", "contact_sheet", "start_up", "materialize")


@dataclass(frozen=True)
class Measure:
    """One figure and its target.

    Attributes:
        name: what is measured.
        benchmark: the script that measures it.
        figure: finds it in the rows of that benchmark.
        bound: `at least` or `at most`.
        target: the bound's number.
    """

    name: str
    benchmark: str
    figure: Callable[[Rows], float]
    bound: Literal["at least", "at most"]
    target: float

    def is_met(self, value: float) -> bool:
        """Whether a value keeps the bound."""
        return value >= self.target if self.bound == "at least" else value <= self.target


def cell(row: str, column: str) -> Callable[[Rows], float]:
    """Select the cell in `column` of the row whose name begins with `row`."""
    return lambda rows: float(next(cells for name, cells in rows.items() if name.startswith(row))[column])


MEASURES = (
    Measure("pass on a CPU : bare forward passes", "throughput", cell("ours", "of the limit"), "at most", 1.10),
    Measure("the same, 4 photos at once", "throughput", cell("ours, 4", "of the limit"), "at most", 1.10),
    Measure("straightforward : ours", "throughput", cell("ours", "times as fast"), "at least", 1.1),
    Measure("the same, 4 photos at once", "throughput", cell("ours, 4", "times as fast"), "at least", 1.1),
    Measure("the same, int8", "throughput", cell("ours, int8", "times as fast"), "at least", 1.35),
    Measure("cosine of int8 and fp32 vectors", "throughput", cell("ours, int8", "cosine"), "at least", 0.99),
    Measure(
        "CPU metrics, straightforward : ours", "cpu_metrics", cell("together, from", "times as fast"), "at least", 4
    ),
    Measure("cached photos/s, one core", "cached", cell("second run", "photos/s"), "at least", 1000),
    Measure("relabelled photos/s, one core", "cached", cell("new labels from", "photos/s"), "at least", 50_000),
    Measure(
        "a contact sheet of 2,000 adds, CPU s", "contact_sheet", cell("a contact sheet adds", "median"), "at most", 3
    ),
    Measure("import curation_features, s", "start_up", cell("import curation_features", "seconds"), "at most", 0.2),
    Measure(
        "import definitions beyond dagster, s",
        "start_up",
        lambda rows: cell("import curation_features.def", "seconds")(rows) - cell("import dagster", "seconds")(rows),
        "at most",
        0.5,
    ),
    Measure(
        "cached batch of 1,000 through Dagster : the least",
        "materialize",
        cell("materialize, 1,000", "of the least"),
        "at most",
        3,
    ),
    Measure(
        "peak memory, 2,000 : 200 photos",
        "cached",
        lambda rows: cell("peak memory, 2,000", "MiB")(rows) / cell("peak memory, 200", "MiB")(rows),
        "at most",
        1.05,
    ),
)


def rows_of(benchmark: str, options: Sequence[str]) -> Rows:
    """Run a benchmark in a separate process, and return its rows."""
    # NumPy's BLAS reads the number of cores when it is loaded; cached work is measured on one.
    one_core = {"OPENBLAS_NUM_THREADS": "1"} if benchmark == "cached" else {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        command = [sys.executable, str(Path(__file__).with_name(f"{benchmark}.py")), "--json", str(path), *options]
        subprocess.run(command, check=True, env={**os.environ, **one_core})
        return {row["name"]: row for row in json.loads(path.read_text())["rows"]}


def main() -> None:
    parser = arguments(__doc__, rounds=3)  # four times as many if rounds are short
    parser.add_argument("--photos", default="4", help="photos of the pass on a CPU, a multiple of 4 (%(default)s)")
    parser.add_argument("--only", choices=BENCHMARKS, nargs="+", default=BENCHMARKS)
    options = parser.parse_args()
    few, many = (["--rounds", str(factor * options.rounds)] for factor in (1, 4))
    # Many short rounds: within a long one the machine's speed drifts more than the ways differ.
    special = {
        "throughput": [*many, "--photos", options.photos],
        "materialize": many,
        "contact_sheet": [*few, "--only", "pass"],
    }
    rows = {name: rows_of(name, special.get(name, few)) for name in options.only}
    report = Report("Targets, and the figures of this machine")
    for measure in MEASURES:
        if measure.benchmark in rows:
            value = measure.figure(rows[measure.benchmark])
            verdict = "yes" if measure.is_met(value) else "NO"
            report.add(measure.name, **{"here": value, measure.bound: measure.target, "met": verdict})
    report.show(options.json)


if __name__ == "__main__":
    main()
