"""The package works from a wheel, without a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the contents of a freshly built wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(REPOSITORY)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def python(installed: Path, cwd: Path, program: str) -> str:
    """Run a program that imports the installed package; return its output."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CURATION_FEATURES_")}
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=cwd,
        env={**environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_the_vocabulary_of_the_specification_is_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    program = """
        from pathlib import Path
        import curation_features
        from curation_features.clip.vocabulary import load_vocabulary
        from curation_features.settings import Settings
        vocabulary = load_vocabulary(Settings(root=Path.cwd()))
        print(curation_features.__file__, len(vocabulary.labels), len(vocabulary.templates), sep="\\n")
    """
    file, labels, templates = python(installed, tmp_path, program).splitlines()
    assert Path(file).is_relative_to(installed)
    assert (labels, templates) == ("50", "6")


def test_the_wheel_holds_the_package_and_nothing_else(installed: Path) -> None:
    top = {path.name for path in installed.iterdir()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"curation_features"}
    assert (installed / "curation_features" / "py.typed").is_file()
    report = installed / "curation_features" / "report"
    assert {path.suffix for path in report.glob("page.*")} == {".py", ".html", ".css", ".js"}


def test_the_command_is_declared(installed: Path) -> None:
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "curation-features = curation_features.cli:main" in entry_points.read_text()


def test_the_version_is_that_of_the_package(installed: Path, tmp_path: Path) -> None:
    (metadata,) = installed.glob("*.dist-info/METADATA")
    version = python(installed, tmp_path, "import curation_features; print(curation_features.__version__)")
    assert f"\nVersion: {version}\n" in metadata.read_text()
