"""Check and measure decoding to complete records on a machine with a GPU, without a network, in under five minutes.

    python benchmarks/gpu.py pack wheels --torch 2.11 --python 3.12     # here: wheels for that machine
    python benchmarks/gpu.py run --wheels wheels --json gpu.json        # there, in a copy of the repository

`run` installs the wheels that the machine lacks into a temporary folder, writes seeded models of the real size and
photos, runs `tests/gpu`, and measures each stage alone and all of them together. Every part runs in a separate process
with a time limit, and prints its figures as they come; what fails or has no time left says so, and the rest continues.
This file needs Python 3.11 alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import wheels
from measure import Report

BENCHMARKS = Path(__file__).resolve().parent
REPOSITORY = BENCHMARKS.parent

LIMITS: Mapping[str, float] = {"prepare": 100, "machine": 30, "device": 80, "whole": 80, "host": 70}
"""Seconds that a part may take, in the order of the parts: the comparison with the bare passes before the details."""

TESTS_LIMIT = 90
"""Seconds for `tests/gpu`, which run next to `prepare`."""

MODELS = ("model", "clip_iqa_weights", "brisque_weights")

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "cuda": {"photos": 8192, "threads": [1, 4, 8, 16], "batch_sizes": [32, 64, 128]},
    "cpu": {"photos": 8, "threads": [1, 2], "batch_sizes": [1, 2]},
}


class Measurement:
    """The figures of a run by part, and the processes that measure them.

    Args:
        folder: for models, photos and caches.
        packages: folder of installed wheels.
        ends: time (`time.monotonic`) at which everything ends.
    """

    def __init__(self, folder: Path, packages: Path, ends: float) -> None:
        self.figures: dict[str, list[dict[str, Any]]] = {}
        self._folder, self._packages, self._ends = folder, packages, ends

    def run(self, part: str, options: Mapping[str, Any]) -> None:
        """Run a part within its limit."""
        limit = min(LIMITS[part], self._ends - time.monotonic())
        if limit < 1:
            self.keep(part, {"name": part, "error": "no time left"})
            return
        (self._folder / "options.json").write_text(json.dumps({**options, "limit": limit}))
        command = [sys.executable, str(BENCHMARKS / "gpu_parts.py"), part, str(self._folder)]
        for line in self._lines(part, command, limit, BENCHMARKS):
            if line.startswith("{"):
                self.keep(part, json.loads(line))
            else:
                print(line, flush=True)

    def test(self) -> None:
        """Run `tests/gpu` without the fixtures of the other tests, which need more packages."""
        limit = min(TESTS_LIMIT, self._ends - time.monotonic())
        command = [sys.executable, "-m", "pytest", "tests/gpu", "-q", "-rs", "-p", "checkpoints"]
        command += ["-p", "no:cacheprovider", "--confcutdir=tests/gpu", "-o", "addopts=--import-mode=importlib"]
        command += ["-o", "filterwarnings=default", "-W", "ignore::pytest.PytestConfigWarning"]
        lines = list(self._lines("tests/gpu", command, limit, REPOSITORY / "tests"))
        failed = any(figure["name"] == "tests/gpu" for figure in self.figures.get("tests/gpu", []))
        if failed:
            print("\n".join(lines[-60:]), flush=True)
        summary = next((line for line in reversed(lines) if " in " in line), "no summary")
        self.keep("tests/gpu", {"name": "summary", "result": summary.strip("= ")})

    def keep(self, part: str, figure: dict[str, Any]) -> None:
        """Print a figure and keep it."""
        self.figures.setdefault(part, []).append(figure)
        details = " ".join(f"{key}={shown(value)}" for key, value in figure.items() if key != "name")
        print(f"{time.strftime('%H:%M:%S')} {part}: {figure['name']}: {details}", flush=True)

    def _lines(self, part: str, command: Sequence[str], limit: float, modules: Path) -> Iterator[str]:
        """Yield the lines of a process; a failure, or the end of its limit, becomes a figure.

        Args:
            modules: folder of modules beside the package and the installed ones.
        """
        inherited = filter(None, [os.environ.get("PYTHONPATH")])
        path = os.pathsep.join([*map(str, (self._packages, REPOSITORY, modules)), *inherited])
        environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, text=True, stdout=subprocess.PIPE, start_new_session=True
        )
        timer = threading.Timer(limit, lambda: os.killpg(process.pid, 9))
        timer.start()
        try:
            assert process.stdout is not None
            with process.stdout:
                for line in process.stdout:
                    yield line.rstrip("\n")
            code = process.wait()
        finally:
            timer.cancel()
        if code == -9:
            self.keep(part, {"name": part, "error": f"stopped after {limit:.0f} s"})
        elif code:
            self.keep(part, {"name": part, "error": f"ended with exit code {code}"})

    def show(self, title: str, json_path: Path | None) -> None:
        """Print a table for each part; with a path, write everything as JSON."""
        for part in ("device", "whole", "host"):
            report = Report(part)
            for figure in self.figures.get(part, []):
                report.add(figure["name"], **{key: cell(value) for key, value in figure.items() if key != "name"})
            if report.rows:
                report.show()
        text = json.dumps({"title": title, "parts": self.figures}, indent=2)
        if json_path:
            json_path.write_text(text + "\n")


def cell(value: Any) -> float | str:
    """Return a value as a cell of a table."""
    return float(value) if isinstance(value, (int, float)) else str(value)


def shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def run(options: argparse.Namespace) -> int:
    """Measure; returns 1 if a part failed."""
    begin = time.monotonic()
    defaults = DEFAULTS[options.device]
    details = {name: getattr(options, name) or default for name, default in defaults.items()}
    models = {name: getattr(options, name) for name in MODELS if getattr(options, name)}
    details |= {"device": options.device, "seconds": options.seconds, "models": models}
    with tempfile.TemporaryDirectory() as temporary:
        packages = Path(temporary) / "packages"
        if options.wheels:
            names = ", ".join(wheels.install(options.wheels, packages)) or "nothing is missing"
            print(f"installed in {time.monotonic() - begin:.0f} s: {names}", flush=True)
        measurement = Measurement(Path(temporary), packages, begin + 60 * options.minutes - 5)
        tests = threading.Thread(target=measurement.test)
        tests.start()
        measurement.run("prepare", details)
        tests.join()
        for part in list(LIMITS)[1:]:
            measurement.run(part, details)
        measurement.keep("total", {"name": "seconds", "seconds": time.monotonic() - begin})
        measurement.show(f"JPEG files to records on {options.device}", options.json)
    failed = [figure for figures in measurement.figures.values() for figure in figures if "error" in figure]
    return int(bool(failed))


def pack(options: argparse.Namespace) -> int:
    """Download the wheels; returns 1 if they are too large to carry."""
    found = wheels.pack(
        options.folder, have=options.have, torch=options.torch, pythons=options.python, machine=options.machine
    )
    if options.compress:
        for wheel in found:
            wheels.compress(wheel)
    sizes = {wheel.name: wheel.stat().st_size for wheel in found}
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        print(f"{size / 2**20:7.2f} MiB  {name}")
    print(f"{sum(sizes.values()) / 2**20:7.2f} MiB  in all")
    refusal = wheels.refusal(sizes, options.limit)
    if refusal:
        print(refusal, file=sys.stderr)
    return int(refusal is not None)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    packing = commands.add_parser("pack", help="download the wheels to carry along")
    packing.add_argument("folder", type=Path)
    packing.add_argument("--torch", default="2.11", help="the machine's, which torchvision must match (%(default)s)")
    packing.add_argument("--python", nargs="+", default=["3.12"], help="versions of Python (default: 3.12)")
    packing.add_argument("--machine", default="x86_64", help="its processor (%(default)s)")
    packing.add_argument("--have", nargs="+", default=[], metavar="NAME", help="packages that the machine has")
    packing.add_argument("--compress", action="store_true", help="store large wheels with LZMA: a third less, minutes")
    packing.add_argument("--limit", type=float, default=60, help="MiB in all (%(default)s)")
    packing.set_defaults(action=pack)
    running = commands.add_parser("run", help="check and measure on this machine")
    running.add_argument("--wheels", type=Path, help="folder of `pack` (default: this Python has all packages)")
    running.add_argument("--device", choices=DEFAULTS, default="cuda")
    running.add_argument("--photos", type=int, help="at most, in a batch (8192; 8 on a CPU)")
    running.add_argument("--threads", type=int, nargs="+", help="numbers of threads (1 4 8 16; 1 2 on a CPU)")
    running.add_argument("--batch-sizes", type=int, nargs="+", help="photos per forward pass (32 64 128; 1 2 on a CPU)")
    running.add_argument("--seconds", type=float, default=0.6, help="at least, for a figure (%(default)s)")
    running.add_argument("--minutes", type=float, default=5, help="for everything (%(default)s)")
    running.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as well")
    for name in MODELS:
        option = "--" + name.replace("_", "-")
        running.add_argument(option, help="as in the settings (default: seeded weights of the real size)")
    running.set_defaults(action=run)
    return parser


def main() -> int:
    options = arguments().parse_args()
    return int(options.action(options))


if __name__ == "__main__":
    sys.exit(main())
