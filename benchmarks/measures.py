"""Compare every measure of speed and memory with its target, in one table (`make bench`).

Each figure is measured by one of the other benchmarks, which print their tables as well. A target may hold for some
processors only; then the table says for which, and has no figure on others.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from measure import PEERS, Report, arguments
from processor import Processor, this_processor

Rows = Mapping[str, Mapping[str, Any]]
"""The rows of a benchmark by name."""

BENCHMARKS = (
    "throughput",
    "peers",
    "loading",
    "cpu_metrics",
    "cached",
    "contact_sheet",
    "start_up",
    "materialize",
    "gather",
)


@dataclass(frozen=True)
class Processors:
    """The processors for which a target holds."""

    name: str
    includes: Callable[[Processor], bool]


EVERY = Processors("every", lambda _: True)
AVX512_AMD = Processors("AVX-512, AMD", lambda processor: processor.is_avx512_amd)
OTHERS = Processors("others", lambda processor: not processor.is_avx512_amd)
BF16 = Processors("AVX512_BF16 or AMX", lambda processor: "bf16" in processor.instructions)
WITHOUT_BF16 = Processors("without bf16", lambda processor: "bf16" not in processor.instructions)


@dataclass(frozen=True)
class Measure:
    """One figure and its target.

    Attributes:
        name: what is measured.
        benchmark: the script that measures it.
        figure: finds it in the rows of that benchmark.
        bound: `at least` or `at most`.
        target: the bound's number.
        on: the processors for which it holds.
    """

    name: str
    benchmark: str
    figure: Callable[[Rows], float]
    bound: Literal["at least", "at most"]
    target: float
    on: Processors = EVERY

    def is_met(self, value: float) -> bool:
        """Whether a value keeps the bound."""
        return value >= self.target if self.bound == "at least" else value <= self.target


def cell(row: str, column: str) -> Callable[[Rows], float]:
    """Select the cell in `column` of the row whose name begins with `row`."""
    return lambda rows: float(next(cells for name, cells in rows.items() if name.startswith(row))[column])


MEASURES = (
    Measure("pass on a CPU : fastest bare passes", "throughput", cell("ours", "of the limit"), "at most", 1.10),
    Measure("the same, 4 at once", "throughput", cell("ours, 4", "of the limit"), "at most", 1.10),
    Measure("pass : bare passes by F.linear", "throughput", cell("ours", "of F.linear"), "at most", 1.10),
    Measure("straightforward : ours", "throughput", cell("ours", "times as fast"), "at least", 2.0, AVX512_AMD),
    Measure("straightforward : ours", "throughput", cell("ours", "times as fast"), "at least", 1.1, OTHERS),
    Measure("straightforward : ours, 4 at once", "throughput", cell("ours, 4", "times as fast"), "at least", 1.1),
    Measure("straightforward : ours, bf16", "throughput", cell("ours, bf16", "times as fast"), "at least", 3.2, BF16),
    Measure(
        "straightforward : ours, int8 + bf16", "throughput", cell("ours, int8", "times as fast"), "at least", 4.5, BF16
    ),
    Measure(
        "straightforward : ours, int8",
        "throughput",
        cell("ours, int8", "times as fast"),
        "at least",
        1.35,
        WITHOUT_BF16,
    ),
    Measure("fp32 vectors differ from open_clip's by", "throughput", cell("ours", "differs by"), "at most", 2e-6),
    Measure("cosine of bf16 and fp32 vectors", "throughput", cell("ours, bf16", "cosine"), "at least", 0.9999, BF16),
    Measure("cosine of int8 and fp32 vectors", "throughput", cell("ours, int8", "cosine"), "at least", 0.999),
    *(
        Measure(
            f"ViT-L/14, {precision}, one thread: ours : fastest peer",
            "peers",
            cell(f"ViT-L-14, 1 thread: ours, {precision}", "of the fastest peer"),
            "at most",
            1.3,
            BF16 if precision == "bf16" else EVERY,
        )
        for precision in ("fp32", "bf16", "int8")
    ),
    *(
        Measure(
            f"peak memory with a photo, {precision} : fp32 weights",
            "loading",
            cell(f"ours, with a photo in {precision}", "of the weights used"),
            "at most",
            1.1,
            BF16 if precision == "bf16" else EVERY,
        )
        for precision in ("fp32", "bf16")
    ),
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
    Measure("one dataset of 200,000 rows, peak MiB", "gather", cell("gather --distinct", "peak MiB"), "at most", 1000),
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
        "peers": ["--rounds", str(2 * options.rounds)],
        "loading": ["--rounds", "1", "--memory"],
        "materialize": many,
        "contact_sheet": [*few, "--only", "pass"],
    }
    left_out = set() if all(map(find_spec, PEERS)) else {"peers"}
    rows = {name: {} if name in left_out else rows_of(name, special.get(name, few)) for name in options.only}
    report = Report("Targets, and the figures of this machine")
    for measure in MEASURES:
        if measure.benchmark in rows:
            report.add(measure.name, **verdict(measure, rows[measure.benchmark]))
    report.show(options.json)


def verdict(measure: Measure, rows: Rows) -> dict[str, float | str]:
    """Return the cells of a measure: its value here, its target, and whether it is met."""
    cells = {"target": f"{measure.bound} {measure.target:,g}", "on": measure.on.name}
    if not measure.on.includes(this_processor()):
        return {"here": "not on this processor", **cells}
    if measure.benchmark == "peers" and not rows:
        return {"here": "needs `make peers`", **cells}
    try:
        value = measure.figure(rows)
    except (StopIteration, KeyError):  # the benchmark has no such row: a peer is missing, or ours refused
        return {"here": "not measured", **cells, "met": "NO"}
    return {"here": value, **cells, "met": "yes" if measure.is_met(value) else "NO"}


if __name__ == "__main__":
    main()
