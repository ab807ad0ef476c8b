"""Measure the contact sheet of a large batch: what it adds to a pass, seconds to write it, and latency in a browser.

    a contact sheet adds    CPU seconds of a first pass with a sheet, less those of one without: thumbnails and page.
                            Models and metrics are stand-ins: a pass is little more than decoding, in this process
    first grid    from the start of navigation until the page is usable
    pictures      until every picture of the first screen is decoded
    sort, filter  from the event until the grid is laid out again

All but the first need Chromium. Their pictures are synthetic, with the detail of photos, so that their JPEGs have the
same size.
"""

from __future__ import annotations

import argparse
import base64
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import partial
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
from cached import batch_of, stages
from measure import Report, arguments, elapsed, in_rounds
from photos import write_photos
from PIL import Image

from curation_features import Settings
from curation_features.events.outbox import Outbox
from curation_features.fingerprints import measure
from curation_features.manifest import batch_from
from curation_features.processing import accept_without_dagster, process_batch
from curation_features.report.page import render
from curation_features.report.signals import SHOWN
from curation_features.schema import METRICS
from curation_features.signals import table
from curation_features.signals.flags import FLAGS, HINTS
from curation_features.storage.artifacts import ArtifactStore
from curation_features.technical.analyzer import TechnicalQualityAnalyzer

if TYPE_CHECKING:
    from playwright.sync_api import Browser

LABELS = [f"label {number}" for number in range(50)]
MEASURED = 200  # photos of a pass; its seconds are scaled to the size of the batch
PAIRS = 4  # passes with and without a sheet, per round
PICTURES = 50  # synthetic; the photos share them
OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
ACTIONS = {
    "sort": "choose('sort', ['noise', 'sharpness', 'brisque', 'name'][turn % 4], 'change')",
    "filter by text": "choose('text', ['1', '12', '7', ''][turn % 4], 'input')",
    "filter by confidence": "choose('confidence', [0.2, 0.4, 0.1, 0][turn % 4], 'input')",
    "filter by score": "choose(document.querySelector('.handles input'), [0.2, 0.6, 0.4, 0][turn % 4], 'input')",
}
TIMED = """
([action, turns]) => {
  const choose = (control, value, event) => {
    const element = typeof control === "string" ? document.getElementById(control) : control;
    element.value = value;
    element.dispatchEvent(new Event(event, { bubbles: true }));
  };
  const times = [];
  for (let turn = 0; turn < turns; turn++) {
    const start = performance.now();
    ACTION;
    document.getElementById("grid").getBoundingClientRect();
    times.push(performance.now() - start);
  }
  return times;
}
"""
SEEN = """
() => new Promise((done) => {
  const look = () => {
    const images = [...document.querySelectorAll(".card img")];
    if (document.readyState === "complete" && images.every((image) => image.complete && image.naturalWidth))
      done(performance.now());
    else setTimeout(look, 5);
  };
  look();
})
"""


def picture(number: int, side: int, quality: int) -> list[Any]:
    """Make a JPEG with the spectrum of a photo: noise whose amplitude falls with frequency."""
    chance = np.random.default_rng(number)
    height, width = side * 2 // 3, side
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)) + 1 / side
    noise = chance.normal(size=(height, width)) + 0.2 * chance.normal(size=(3, height, width))  # colours correlate
    pixels = np.fft.ifft2(np.fft.fft2(noise) / frequency**1.3).real
    pixels = 128 + 55 * pixels / pixels.std(axis=(1, 2), keepdims=True)
    buffer = BytesIO()
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return ["image/jpeg", base64.b64encode(buffer.getvalue()).decode(), width, height]


def photos(number: int, pictures: list[list[Any]]) -> Iterator[dict[str, Any]]:
    """Make photos, of which one in fifty is degraded."""
    chance = random.Random(0)
    for position in range(number):
        scores = [round(chance.random(), 6) for _ in METRICS]
        shares = sorted((chance.random() ** 3 for _ in range(5)), reverse=True)
        labels = chance.sample(LABELS, 5)
        is_degraded = position % 50 == 0
        yield {
            "name": f"DSC_{position:05}.jpg",
            "path": f"{position // 500}CANON/DSC_{position:05}.jpg",
            "id": f"{chance.getrandbits(256):064x}",
            "position": position,
            "status": "degraded" if is_degraded else "ok",
            "scores": [*scores[:4], None] if is_degraded else scores,
            "raw": {raw.name: round(chance.random(), 6) for metric in METRICS for raw in metric.raw},
            "signals": [round(chance.random(), digits) for digits in SHOWN.values()],
            "flags": [["blurred", "edges 0.93 px wide at 512 px, limit 0.85"]] if position % 20 == 0 else [],
            "hints": [["soft", "edges 0.70 px wide at 512 px, limit 0.6"]] if position % 8 == 1 else [],
            "focus": [round(chance.random() / 2, 3) for _ in range(4)],
            "labels": [
                [label, round(share / 5, 6), round(share / 3, 6)] for label, share in zip(labels, shares, strict=True)
            ],
            "margin": round((shares[0] - shares[1]) / 5, 6),
            "errors": [["brisque", "flat_image", "the image has one brightness all over"]] if is_degraded else [],
            "width": 6000,
            "height": 4000,
            "format": "JPEG",
            "facts": [["Taken", "2024-05-17 18:03"], ["Camera", "Canon EOS R6"], ["Exposure", "1/250 s, f/4, ISO 400"]],
            "taken": str(datetime(2024, 5, 17) + timedelta(minutes=7 * position)),
            "iso": chance.choice([100, 200, 400, 800]),
            "href": f"../rankingInput/{position}_1024.jpg",
            "original": f"../../photos/DSC_{position:05}.jpg",
            "thumbnail": pictures[position % len(pictures)],
        }


def sheet(options: argparse.Namespace, pictures: list[list[Any]]) -> dict[str, Any]:
    """Make the sheet to measure."""
    return {
        "batch_id": "benchmark",
        "version": {"technical": "t", "clip": "c"},
        "metrics": [asdict(metric) for metric in METRICS],
        "signals": list(SHOWN),
        "flags": list(FLAGS),
        "hints": list(HINTS),
        "labels": LABELS,
        "digest": "d",
        "photos": photos(options.photos, pictures),
    }


def write(path: Path, given: dict[str, Any]) -> None:
    with path.open("wb") as file:
        file.writelines(render(given))


def opened(browser: Browser, path: Path) -> tuple[float, float, dict[str, list[float]]]:
    """Milliseconds to the first grid, to its pictures, and of each action, in a new page."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(path.as_uri(), wait_until="commit")
    pictures = page.evaluate(SEEN)
    ready = float(page.evaluate("document.documentElement.dataset.ready"))
    actions = {name: page.evaluate(TIMED.replace("ACTION", code), [name, 12]) for name, code in ACTIONS.items()}
    page.close()
    return ready, pictures, actions


class Pass:
    """A first pass over photos from manifest to event, with or without a contact sheet."""

    def __init__(self, folder: str, *, contact_sheet: bool) -> None:
        self.settings = Settings(
            root=Path(folder),
            data_dir=f"data-{contact_sheet}",
            contact_sheet=contact_sheet,
            device="cpu",
            workers=1,
            isolate_decoders=False,
        )
        self.stages = stages(self.settings)
        self.store = ArtifactStore(self.settings.data_path)

    def cpu_seconds(self, paths: Sequence[Path]) -> float:
        """Measure photos with nothing but label embeddings in the cache; return the CPU seconds."""
        self.stages.cache.clear()
        shutil.rmtree(self.settings.data_path / "cache" / "thumbnails", ignore_errors=True)
        batch = batch_from(batch_of(paths))
        self.page.unlink(missing_ok=True)
        accept_without_dagster(batch, self.store)
        start = time.process_time()
        process_batch(batch, self.stages, self.store, Outbox(self.settings.data_path))
        return time.process_time() - start

    @property
    def page(self) -> Path:
        """Return the contact sheet."""
        return self.settings.data_path / "features" / "benchmark.html"


def report_pass(report: Report, folder: str, photos: int, rounds: int) -> None:
    """Report what contact sheets add to passes, with and without them in turn.

    The median of the differences does not depend on the few that other load disturbs.
    """
    paths = write_photos(Path(folder) / "photos", min(photos, MEASURED))
    scale = photos / len(paths)
    ways = {
        name: partial(Pass(folder, contact_sheet=name == "with").cpu_seconds, paths) for name in ("without", "with")
    }
    with (
        patch.object(TechnicalQualityAnalyzer, "measure_cpu", only_first(TechnicalQualityAnalyzer.measure_cpu)),
        patch.object(table, "measure_parts", only_first(table.measure_parts)),
        patch.object(measure, "measure", only_first(measure.measure)),
    ):
        found = in_rounds(ways, PAIRS * rounds)
    pairs = zip(found["with"], found["without"], strict=True)
    size = Pass(folder, contact_sheet=True).page.stat().st_size
    report.add("pass without a contact sheet, CPU s", median=median(found["without"]) * scale)
    report.add("a contact sheet adds, CPU s", median=median(one - other for one, other in pairs) * scale)
    report.add("file of the pass, MB", median=size / 1e6 * scale)


def only_first(measure: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that measures the first photo, and gives all others its result."""
    results: list[Any] = []

    def measured(*arguments: Any) -> Any:
        if not results:
            results.append(measure(*arguments))
        return results[0]

    return measured


def report_page(report: Report, folder: str, options: argparse.Namespace, chromium: str) -> None:
    """Report the time to render a page of synthetic pictures, and its latency in a browser."""
    from playwright.sync_api import sync_playwright

    pictures = [picture(number, options.side, options.quality) for number in range(PICTURES)]
    path = Path(folder) / "sheet.html"
    with sync_playwright() as playwright:
        seconds = median(elapsed(lambda: write(path, sheet(options, pictures))) for _ in range(options.rounds))
        browser = playwright.chromium.launch(executable_path=chromium, args=OPTIONS)
        opened(browser, path)  # warm up the disk's cache
        found = [opened(browser, path) for _ in range(options.rounds)]
        browser.close()
    report.add("render, s", median=seconds)
    report.add("picture, kB", median=sum(len(p[1]) * 3 / 4 for p in pictures) / len(pictures) / 1000)
    report.add("file, MB", median=path.stat().st_size / 1e6)
    report.add("first grid, ms", median=median(ready for ready, _, _ in found))
    report.add("its pictures, ms", median=median(seen for _, seen, _ in found))
    for name in ACTIONS:
        times = [time for _, _, actions in found for time in actions[name]]
        report.add(f"{name}, ms", median=median(times), longest=max(times))


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--photos", type=int, default=2000, help="photos in the batch (%(default)s)")
    parser.add_argument("--side", type=int, default=320, help="long side of a picture, px (%(default)s)")
    parser.add_argument("--quality", type=int, default=75, help="of its JPEG (%(default)s)")
    parser.add_argument("--only", choices=("pass", "page"), nargs="+", default=("pass", "page"))
    options = parser.parse_args()
    chromium = shutil.which("chromium")
    if chromium is None and "page" in options.only:
        sys.exit("no chromium on this machine: install it (apt install chromium), or choose --only pass")
    report = Report(f"Contact sheet of {options.photos:,} photos ({options.rounds} rounds)")
    with tempfile.TemporaryDirectory() as folder:
        if "pass" in options.only:
            report_pass(report, folder, options.photos, options.rounds)
        if "page" in options.only:
            report_page(report, folder, options, str(chromium))
    report.show(options.json)


if __name__ == "__main__":
    main()
