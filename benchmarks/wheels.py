"""Carry the packages of `gpu.py` to a machine without a network: which wheels, from the index, and into a folder there.

torch, CUDA and Triton are never carried: the machine has them. Versions are those of `constraints.txt`; torchvision
follows the machine's torch. Needs only Python itself.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

PACKAGES = (
    *("opencv-python-headless", "simplejpeg", "pillow", "numpy"),  # decoding, and the metrics of the CPU
    *("open-clip-torch", "torchvision", "ftfy", "wcwidth", "regex", "tqdm"),  # CLIP
    *("piq", "safetensors", "huggingface-hub"),  # CLIP-IQA and weights; the hub's client is only looked for
    *("filelock", "fsspec", "packaging"),
    *("pytest", "pluggy", "iniconfig", "pygments"),  # tests/gpu
)
"""All that measuring imports beyond torch and its own requirements. Tables, Dagster and timm are not imported."""

COMPRESS_FROM = 4 << 20
"""bytes; smaller wheels are not worth compressing again."""


def canonical(name: str) -> str:
    """Return the name of a package as an index spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def package_of(wheel: Path) -> str:
    """Return the package of a wheel."""
    return canonical(wheel.name.partition("-")[0])


def torchvision_for(torch: str) -> str:
    """Return the release of torchvision for a torch: 0.26 for 2.11.0+cu130."""
    major, minor = (int(number) for number in torch.split(".")[:2])
    if major != 2:
        raise ValueError(f"torch {torch}: the matching torchvision is known for torch 2 only")
    return f"0.{minor + 15}"


def pinned(constraints: str) -> dict[str, str]:
    """Return package -> version of `constraints.txt`."""
    lines = (line.partition("==") for line in constraints.splitlines() if "==" in line and not line.startswith("#"))
    return {canonical(name): version.strip() for name, _, version in lines}


def oldest(pyproject: str) -> dict[str, tuple[int, ...]]:
    """Return package -> oldest version that `pyproject.toml` accepts."""
    project = tomllib.loads(pyproject)["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["clip"]]
    found = (re.match(r"([\w.-]+)>=([\d.]+)", requirement) for requirement in wanted)
    return {canonical(match[1]): numbers(match[2]) for match in found if match}


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a release, for comparison."""
    return tuple(map(int, re.findall(r"\d+", version.partition("+")[0])[:3]))


def requirements(have: Collection[str], torch: str, constraints: Mapping[str, str]) -> list[str]:
    """Return what pip is asked for: every package that the machine does not have.

    Args:
        have: packages that the machine has.
        torch: its torch, such as 2.11.
        constraints: package -> version.
    """
    present = {canonical(name) for name in have}
    pins = {**constraints, "torchvision": f"{torchvision_for(torch)}.*"}
    return [f"{name}=={pins[name]}" for name in PACKAGES if name not in present]


def download_command(folder: Path, wanted: Sequence[str], python: str, machine: str) -> list[str]:
    """Return pip's command for the wheels of one Python on Linux, without their requirements."""
    tags = [f"manylinux_2_{minor}_{machine}" for minor in range(28, 11, -1)]
    tags += [f"manylinux2014_{machine}", f"manylinux2010_{machine}", f"manylinux1_{machine}"]
    platforms = [option for tag in tags for option in ("--platform", tag)]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    return [*pip, "--implementation", "cp", "--python-version", python, *platforms, "--dest", str(folder), *wanted]


def pack(folder: Path, *, have: Collection[str], torch: str, pythons: Iterable[str], machine: str) -> list[Path]:
    """Download the wheels for each Python; returns all wheels of the folder."""
    pins = pinned((REPOSITORY / "constraints.txt").read_text(encoding="utf-8"))
    for python in pythons:
        subprocess.check_call(download_command(folder, requirements(have, torch, pins), python, machine))
    return sorted(folder.glob("*.whl"))


def compress(wheel: Path) -> None:
    """Store a wheel again with LZMA, a third smaller; pip installs it as before."""
    smaller = wheel.with_suffix(".lzma")
    with zipfile.ZipFile(wheel) as source:
        if wheel.stat().st_size < COMPRESS_FROM or source.infolist()[0].compress_type == zipfile.ZIP_LZMA:
            return
        with zipfile.ZipFile(smaller, "w", zipfile.ZIP_LZMA) as copy:
            for entry in source.infolist():
                copy.writestr(entry.filename, source.read(entry))
    smaller.replace(wheel)


def refusal(sizes: Mapping[str, int], limit_mib: float) -> str | None:
    """Return why wheels of these sizes (bytes) are too much to carry, and the remedy; None if they are not."""
    total = sum(sizes.values()) / 2**20
    if total <= limit_mib:
        return None
    largest = sorted(sizes, key=lambda name: -sizes[name])[:4]
    details = ", ".join(f"{name} {sizes[name] / 2**20:.1f}" for name in largest)
    return (
        f"the wheels have {total:.1f} MiB, more than {limit_mib:g} (the largest: {details} MiB); "
        "use --compress, or name with --have what the machine has"
    )


def installed() -> dict[str, str]:
    """Return package -> version of this Python."""
    distributions = ((dist.metadata["Name"], dist.version) for dist in metadata.distributions())
    found = {canonical(name): version for name, version in distributions if name}
    for name in ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless"):  # the same module
        if name in found:
            found.setdefault("opencv-python-headless", found[name])
    return found


def missing(present: Mapping[str, str], minimum: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Return the packages that a machine lacks, or has in a version that is too old."""
    return [name for name in PACKAGES if name not in present or numbers(present[name]) < minimum.get(name, ())]


def install(folder: Path, target: Path) -> list[str]:
    """Install the missing packages from wheels into `target`; returns their names.

    Raises:
        SystemExit: a wheel is missing, or none fits this Python and its torch.
    """
    present = installed()
    if "torch" not in present:
        raise SystemExit(f"{sys.executable} has no torch, which is not carried along: use the Python that has it")
    names = missing(present, oldest((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")))
    carried = {package_of(wheel) for wheel in folder.glob("*.whl")}
    if absent := sorted({*names} - carried):
        raise SystemExit(f"{folder} has no wheel of {', '.join(absent)}, and this Python lacks them: pack them, too")
    if not names:
        return []
    fitting = {"torchvision": f"torchvision=={torchvision_for(present['torch'])}.*"}
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
    wanted = [fitting.get(name, name) for name in names]
    command = [*pip, "--no-cache-dir", "--find-links", str(folder), "--target", str(target), *wanted]
    if subprocess.call(command):
        raise SystemExit(
            f"{folder} has no wheels for Python {sys.version.split()[0]} and torch {present['torch']}: pack them again "
            "with --python and --torch"
        )
    return names
