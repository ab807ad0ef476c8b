"""The package works from a wheel, without a checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from collections.abc import Callable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

from curation_features.errors import EXTRAS, MissingWeightsError, SettingsError, require_extra
from curation_features.pipeline import Models
from curation_features.settings import Settings
from curation_features.technical.analyzer import TechnicalQualityAnalyzer

pytestmark = pytest.mark.long

REPOSITORY = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


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


def test_the_wheel_declares_the_command_and_the_version(installed: Path, tmp_path: Path) -> None:
    (metadata,) = installed.glob("*.dist-info")
    assert "curation-features = curation_features.cli:main" in (metadata / "entry_points.txt").read_text()
    version = python(installed, tmp_path, "import curation_features; print(curation_features.__version__)")
    assert f"\nVersion: {version}\n" in (metadata / "METADATA").read_text()


def test_the_wheel_holds_the_regressor_with_its_notice(installed: Path, tmp_path: Path) -> None:
    program = """
        from curation_features.technical.brisque.loading import brisque_model
        from curation_features.settings import Settings
        from curation_features.weights import brisque_file
        from pathlib import Path
        print(brisque_file().path)
        print(brisque_model(Settings(root=Path.cwd())).get().regress([0.0] * 36))
    """
    path, index = python(installed, tmp_path, program).splitlines()
    assert Path(path).is_relative_to(installed)
    assert float(index) == pytest.approx(69.481, abs=5e-4)  # of LIVE's `allmodel`, by its formula
    (metadata,) = installed.glob("*.dist-info")
    licence = "weights/bundled/LICENSE-LIVE.txt"
    notices = [installed / "curation_features" / licence, metadata / "licenses" / "curation_features" / licence]
    for notice in notices:
        assert "Permission is hereby granted, without written agreement" in notice.read_text()
    assert "\nLicense-Expression: MIT AND LicenseRef-LIVE-BRISQUE\n" in (metadata / "METADATA").read_text()
    assert (metadata / "licenses" / "LICENSE").is_file()


# --- Without extras: neither torch nor Dagster nor a web server ---

Run = Callable[..., subprocess.CompletedProcess[str]]


def installed_distribution(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError:
        return distribution(name.removesuffix("-headless"))  # OpenCV with windows serves as well


def required_distributions(required: list[str]) -> dict[str, Distribution]:
    """Installed distributions, by name, that fulfil some requirements and those of each of them, without extras."""
    found: dict[str, Distribution] = {}
    waiting = [Requirement(text) for text in required]
    while waiting:
        requirement = waiting.pop()
        holds = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if holds and requirement.name not in found:
            found[requirement.name] = installed_distribution(requirement.name)
            waiting += map(Requirement, found[requirement.name].requires or ())
    return found


def top_levels(found: Distribution) -> set[str]:
    return {path.parts[0] for path in found.files or ()} - {"..", "__pycache__"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty project with three photos."""
    root = tmp_path_factory.mktemp("project")
    (root / "photos").mkdir()
    for sigma in (10, 20, 30):
        Image.effect_noise((96, 64), sigma).convert("RGB").save(root / "photos" / f"{sigma}.png")
    return root


@pytest.fixture(scope="module")
def base(installed: Path, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run Python in the project with the wheel and its hard requirements, and no other package."""
    site = tmp_path_factory.mktemp("site")
    for found in required_distributions(PYPROJECT["dependencies"]).values():
        for top in top_levels(found):
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(found.locate_file(top))))
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("CURATION_FEATURES_")}
    environ = {**inherited, "PYTHONPATH": f"{installed}{os.pathsep}{site}"}

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-S", *arguments]  # -S: no package of this environment
        return subprocess.run(command, cwd=project, env=environ, capture_output=True, text=True)

    assert call("-m", "curation_features", "ingest", "photos", "--batch-id", "trip").returncode == 0
    return call


@pytest.mark.slow
def test_photos_are_measured_without_any_extra(base: Run, project: Path) -> None:
    done = base("-m", "curation_features", "process", "trip", "--allow-degraded")
    assert done.returncode == 0, done.stderr
    assert "pip install 'curation-features[clip]'" in done.stdout
    program = """
        import json, sys
        from curation_features import TechnicalQualityAnalyzer, load, load_settings
        row = load("trip").iloc[0]
        analyzer = TechnicalQualityAnalyzer(load_settings().replace(on_missing_weights="degrade"))
        scores = {name: found.score for name, found in analyzer.measure("photos/10.png").items()}
        print(json.dumps([row.status, row.errors[0]["reason"], scores, sorted({"torch", "dagster"} & {*sys.modules})]))
    """
    done = base("-c", textwrap.dedent(program))
    assert done.returncode == 0, done.stderr
    status, reason, scores, heavy = json.loads(done.stdout)
    assert (status, reason, heavy) == ("degraded", "missing_weights", [])
    with Image.open(project / "photos" / "10.png") as image:
        expected = TechnicalQualityAnalyzer(Settings(root=project)).measure_cpu(np.array(image), ("sharpness", "noise"))
    assert {name: scores[name] for name in expected} == {name: found.score for name, found in expected.items()}
    assert 0 < scores["exposure"] < 1
    assert (scores["clip_iqa"], scores["brisque"]) == (None, None)


NEEDS = {
    "process trip": ("clip", 3),
    "labels check": ("clip", 3),
    "models status": ("clip", 2),
    "models pull": ("clip", 2),
    "materialize trip": ("dagster", 2),
    "run photos": ("dagster", 2),
    "ingest --samples": ("samples", 2),
    "library": ("search", 2),
}


@pytest.mark.slow
def test_a_missing_extra_is_named_with_its_command(base: Run) -> None:
    program = """
        import contextlib, io, json, sys
        from curation_features.cli import main
        found = {}
        for command in sys.argv[1:]:
            with contextlib.redirect_stderr(io.StringIO()) as said:
                found[command] = [main(command.split()), said.getvalue()]
        print(json.dumps(found))
    """
    done = base("-c", textwrap.dedent(program), *NEEDS)
    assert done.returncode == 0, done.stderr
    for command, (code, said) in json.loads(done.stdout.splitlines()[-1]).items():
        extra, expected = NEEDS[command]
        assert code == expected, said
        assert f"pip install 'curation-features[{extra}]'" in said
        assert "Traceback" not in said


def test_without_torch_weights_count_as_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("curation_features.errors.find_spec", lambda name: None)
    models = Models.from_settings(Settings(root=tmp_path))
    for part in ("brisque", "clip_iqa", "embedding"):
        with pytest.raises(MissingWeightsError, match=r"pip install 'curation-features\[clip\]'"):
            models.identity(part)
    with pytest.raises(ImportError, match=r"curation-features\[dagster\]") as caught:
        require_extra("dagster")
    assert isinstance(caught.value, SettingsError)
    assert (caught.value.name, caught.value.extra) == ("dagster", "dagster")


@pytest.mark.parametrize("extra", EXTRAS)
def test_each_module_of_an_extra_comes_with_it_alone(extra: str) -> None:
    try:
        required = PYPROJECT["optional-dependencies"][extra]
        declared = [installed_distribution(Requirement(text).name) for text in required]
    except PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    names = {name.removesuffix(".py") for found in declared for name in top_levels(found)}
    assert set(EXTRAS[extra]) <= names
    base = required_distributions(PYPROJECT["dependencies"]).values()
    assert set(EXTRAS[extra]).isdisjoint(set().union(*map(top_levels, base)))
