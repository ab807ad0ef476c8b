"""Measure the seconds of imports, each in a fresh process in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from statistics import median

from measure import Report, arguments

MODULES = ("curation_features", "curation_features.service", "dagster", "curation_features.definitions")

TIMED = """
import sys, time
start = time.perf_counter()
import {module}
print(time.perf_counter() - start, "torch" in sys.modules)
"""


def import_seconds(module: str, folder: str) -> tuple[float, bool]:
    """Import in a new process; returns seconds, and whether it loaded torch."""
    command = [sys.executable, "-c", TIMED.format(module=module)]
    with_bytecode = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    seconds, with_torch = subprocess.check_output(command, cwd=folder, env=with_bytecode, text=True).split()
    return float(seconds), with_torch == "True"


def main() -> None:
    options = arguments(__doc__, rounds=9).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for module in MODULES:  # warm up the bytecode and the disk's cache
            import_seconds(module, folder)
        rounds = [{module: import_seconds(module, folder) for module in MODULES} for _ in range(options.rounds)]
    found = {module: median(round_[module][0] for round_ in rounds) for module in MODULES}
    report = Report(f"Imports in fresh processes ({options.rounds} rounds)")
    for module in MODULES:
        ratio = found[module] / found["dagster"]
        loads = "yes" if rounds[0][module][1] else "no"
        report.add(f"import {module}", **{"seconds": found[module], "of dagster's": ratio, "loads torch": loads})
    report.show(options.json)


if __name__ == "__main__":
    main()
