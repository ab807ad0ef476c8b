"""The figures of `docs/scores.md` are those of its pictures, its names are the program's, and its examples run."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from worlds import World

from curation_features import TechnicalQualityAnalyzer, load_settings, read_pixels
from curation_features.schema import METRIC_NAMES, SIGNALS
from curation_features.service import FeaturesService
from curation_features.settings import Settings
from curation_features.signals.flags import DEFAULT_LIMITS, FLAGS, HINTS, RULES, flags
from curation_features.signals.table import measure_parts
from curation_features.signals.views import Views
from curation_features.storage.artifacts import ArtifactStore

REPOSITORY = Path(__file__).resolve().parents[2]
FIGURES = REPOSITORY / "docs" / "figures"
TEXT = (REPOSITORY / "docs" / "scores.md").read_text()
STRIPS = runpy.run_path(str(FIGURES / "strips.py"))
NOTES = "flags, hints"
Pixels = np.ndarray


def rows_after(marker: str) -> list[list[str]]:
    """The cells of the first table after a text, header first, without the line of dashes."""
    lines = TEXT[TEXT.index(marker) :].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    table: list[list[str]] = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return [table[0], *table[2:]]


def name_of(cell: str) -> str:
    """The first name in backticks, or the text."""
    found = re.search(r"`(\w+)`", cell)
    return found[1] if found else cell


def show(cell: str, value: float | str | None) -> Any:
    """A value that equals the cell if it is within one unit of the cell's last digit."""
    if isinstance(value, str) or value is None:
        return value or "null"
    return pytest.approx(value, abs=1.1 * 10.0 ** -len(cell.partition(".")[2]))


def number(cell: str) -> float | str:
    return float(cell) if re.fullmatch(r"[\d.]+", cell) else cell


class Measured:
    """Signals, scores and flags of a picture by name; each is measured if it is asked for."""

    def __init__(self, analyzer: TechnicalQualityAnalyzer, rgb: Pixels, is_jpeg: bool = False) -> None:
        self._analyzer, self._rgb, self._is_jpeg = analyzer, np.ascontiguousarray(rgb), is_jpeg

    def __getitem__(self, name: str) -> float | str | None:
        if name in METRIC_NAMES:
            return self._analyzer.measure_cpu(self._rgb, (name,))[name].score
        signals = {
            name: value for part in measure_parts(Views(self._rgb)).values() for name, value in part.values.items()
        }
        signals["blocks"] = signals["blocks"] if self._is_jpeg else None
        return ", ".join(flag.name for flag in flags(signals)) or "-" if name == NOTES else signals[name]


@pytest.fixture(scope="module")
def analyzer() -> TechnicalQualityAnalyzer:
    settings = Settings(root=REPOSITORY, device="cpu", clip_iqa_weights="no/such.pt", on_missing_weights="degrade")
    return TechnicalQualityAnalyzer(settings)


# --- Pictures ---

PICTURES = rows_after("| picture |")
FILES = {re.sub(r".*\((figures/.*)\)", r"\1", row[0]): row[2:] for row in PICTURES[1:]}


@pytest.mark.parametrize("file", FILES)
def test_the_figures_beside_a_picture(analyzer: TechnicalQualityAnalyzer, file: str) -> None:
    measured = Measured(analyzer, read_pixels(REPOSITORY / "docs" / file, analyzer.settings), is_jpeg=True)
    for name, cell in zip(PICTURES[0][2:], FILES[file], strict=True):
        assert number(cell) == show(cell, measured[name]), name


@cache
def photos_of(strip: str) -> dict[str, Pixels]:
    found: dict[str, Pixels] = STRIPS["STRIPS"][strip]()
    return found


def panels() -> Iterator[tuple[str, str]]:
    for strip in STRIPS["STRIPS"]:
        yield from ((strip, caption) for caption in rows_after(f"(figures/strip-{strip}.jpg)")[0][1:])


@pytest.mark.parametrize(("strip", "caption"), list(panels()))
def test_the_figures_under_a_strip(analyzer: TechnicalQualityAnalyzer, strip: str, caption: str) -> None:
    header, *rows = rows_after(f"(figures/strip-{strip}.jpg)")
    photos = photos_of(strip)
    assert header[1:] == list(photos)  # in the order of the panels
    measured = Measured(analyzer, photos[caption])
    for row in rows:
        cell = row[header.index(caption)]
        assert number(cell) == show(cell, measured[name_of(row[0])]), row[0]


def test_every_picture_is_in_the_guide() -> None:
    shown = re.findall(r"!\[[^]]{10,}\]\((figures/[\w-]+\.jpg)\)", TEXT)
    assert sorted(shown) == sorted(f"figures/{path.name}" for path in FIGURES.glob("*.jpg"))
    assert len(FILES) == 7
    assert all(path.stat().st_size < 100_000 for path in FIGURES.glob("strip-*.jpg"))


@pytest.mark.long
@pytest.mark.parametrize("script", ["draw.py", "strips.py"])
def test_the_pictures_are_drawn_by_the_scripts(tmp_path: Path, script: str) -> None:
    """Up to differences of JPEG encoders."""
    runpy.run_path(str(FIGURES / script))["draw"](tmp_path)
    drawn = sorted(tmp_path.glob("*.jpg"))
    assert len(drawn) == {"draw.py": 7, "strips.py": 3}[script]
    for path in drawn:
        pair = (np.asarray(Image.open(file), dtype=float) for file in (FIGURES / path.name, path))
        kept, made = pair
        assert abs(kept - made).mean() < 2, path.name


# --- Where the scores mislead ---


CHANGES: Mapping[str, Callable[[Pixels], Pixels]] = {
    "mirrored": lambda rgb: rgb[:, ::-1],
    "turned by 90 degrees": np.rot90,
    "blurred by 1.2 px": lambda rgb: STRIPS["blurred"](rgb, 1.2),
    "blurred by 8 px": lambda rgb: cv2.GaussianBlur(rgb, (0, 0), 8),
    "contrast doubled": lambda rgb: np.clip(2 * (rgb - rgb.mean()) + rgb.mean(), 0, 255).astype(np.uint8),
    "black bars, as wide film on a 4:3 screen": lambda rgb: np.pad(rgb, ((rgb.shape[0] // 6,) * 2, (0, 0), (0, 0))),
    "black where all channels are under 200": lambda rgb: rgb * (rgb.max(2, keepdims=True) >= 200),
}


REAL = {"a beer, 24 megapixels": "craft-beer.jpg", "a web photo": "mongolels.jpg"}
MISLEADING = [
    pytest.param(row, marks=[pytest.mark.long] if row[0] in REAL else [], id="-".join(row[:3]))
    for row in rows_after("## Where the scores mislead")[1:]
]


@pytest.mark.parametrize("row", MISLEADING)
def test_where_the_scores_mislead(
    analyzer: TechnicalQualityAnalyzer, request: pytest.FixtureRequest, row: list[str]
) -> None:
    name, change, score, before, after = row[:5]
    if name in REAL:
        rgb = read_pixels(request.getfixturevalue("shared_data") / "photos" / REAL[name], analyzer.settings)
    else:
        rgb = STRIPS["photo"](name)
    for cell, pixels in ((before, rgb), (after, CHANGES[change](rgb))):
        assert number(cell) == show(cell, Measured(analyzer, pixels)[name_of(score)])


# --- Names, limits and examples ---


def test_every_signal_and_flag_is_described() -> None:
    assert [signal.name for signal in SIGNALS if f"`{signal.name}`" not in TEXT] == []
    header, *rows = rows_after("## Flags and hints")
    assert header[:2] == ["name", "kind"]
    assert {(name_of(row[0]), row[1]) for row in rows} == {*((n, "flag") for n in FLAGS), *((n, "hint") for n in HINTS)}


def test_the_limits_are_those_of_the_settings() -> None:
    limits = asdict(DEFAULT_LIMITS)
    for row in rows_after("## Flags and hints")[1:]:
        for rule in (rule for rule in RULES if rule.flag == name_of(row[0]) and row[3] != "the same"):
            for signal, limit in rule.over:
                assert f"`{signal}`" in row[2]
                assert re.search(rf"\b{limits[limit]:g}\b", row[2]), limit
                assert f"`limit_{limit}`" in row[3]


def test_the_limit_of_the_example(tmp_path: Path) -> None:
    [block] = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "settings.toml").write_text(block)
    assert load_settings(tmp_path).limit_blurred == 1.1


@pytest.mark.long
def test_the_example_prints_reasons(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (world.root / "photos").mkdir()
    for name in ("as it is", "3.2 px"):
        Image.fromarray(photos_of("blur")[name]).save(world.root / "photos" / f"{name}.png")
    artifacts = [{"photo_id": name, "original_uri": f"photos/{name}.png"} for name in ("as it is", "3.2 px")]
    merged = FeaturesService(stages=world.stages()).run(world.batch(artifacts, "trip"))
    store = ArtifactStore(world.root / "data")
    with store.embeddings("trip", "1-x", "fake") as vectors:
        store.write_features(merged.document, merged.rows(), merged.version, ("a", "b"), vectors)
    monkeypatch.chdir(world.root)
    [block] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(block, "docs/scores.md", "exec"), {})
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("photos/3.2 px.png blurred: edges ")
