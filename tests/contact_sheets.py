"""Contact sheets for tests of the page."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from datetime import datetime, timedelta
from html.parser import HTMLParser
from io import BytesIO
from typing import Any

from PIL import Image

from curation_features.schema import METRICS

SIGNALS = (
    *("blur_px", "streak", "noise_luma", "noise_chroma", "headroom_ev", "clipped_centre", "contrast", "blocks"),
    *("focus_px", "focus_median_px"),
)
BLURRED = ["blurred", "edges 0.93 px wide at 512 px, limit 0.85"]
DARK = ["dark", "could be 2.00 EV brighter before highlights clip, limit 1.4"]
SOFT = ["soft", "edges 0.70 px wide at 512 px, limit 0.6"]
LABELS = ("landscape", "portrait", "beach", "night", "forest", "street photography", "architecture", "macro")


def sheet(photos: Iterable[dict[str, Any]], **replaced: Any) -> dict[str, Any]:
    """A sheet of these photos."""
    made = {
        "batch_id": "trip",
        "version": {"technical": "8c1f", "clip": "1-5d0e"},
        "metrics": json.loads(json.dumps([asdict(metric) for metric in METRICS])),
        "signals": list(SIGNALS),
        "flags": ["blurred", "noisy", "dark"],
        "hints": ["shaken", "soft", "bright", "blocky"],
        "labels": list(LABELS),
        "digest": "d" * 64,
        "photos": photos,
    }
    return made | replaced


def photo(position: int, **replaced: Any) -> dict[str, Any]:
    """A photo with random numbers, seeded by its position."""
    chance = random.Random(position)
    scores: list[float | None] = [
        round(chance.betavariate(a, b), 6) for a, b in ((3, 2), (6, 3), (1.3, 9), (4, 2), (5, 2))
    ]
    chosen = chance.sample(LABELS, 5)
    shares = sorted((chance.random() ** 3 for _ in LABELS), reverse=True)
    labels = [
        [label, round(share / sum(shares), 6), round(0.3 - 0.02 * place, 6)]
        for place, (label, share) in enumerate(zip(chosen, shares, strict=False))
    ]
    signals = [round(chance.uniform(low, high), 3) for low, high in ((0.35, 0.6), (1, 1.4), (0, 3), (0, 1), (0, 1))]
    signals += [0.012, 0.86, None, None if position % 5 == 4 else round(chance.uniform(0.5, 4), 3), 3.25]
    taken = datetime(2024, 5, 17, 18, 3) + timedelta(hours=7 * position)
    camera, lens = ("Canon EOS R6", "FUJIFILM X-T3")[position % 2], (None, "RF 35mm", "XF 18-55mm")[position % 3]
    iso = (400, 100, 3200, None)[position % 4]
    made = {
        "name": f"IMG_{position + 1}.jpg",
        "id": f"id-{position}",
        "position": position,
        "status": "ok",
        "scores": scores,
        "raw": {"tenengrad": 1234.5 + position, "p1": 0.02, "p50": 0.45, "p99": 0.97, "noise_sigma": 0.0041},
        "signals": signals,
        "flags": [],
        "hints": [],
        "focus": None,
        "group": None,
        "labels": labels,
        "margin": labels[0][1] - labels[1][1],
        "errors": [],
        "width": 4032,
        "height": 3024,
        "format": "JPEG",
        "facts": [
            ["Taken", str(taken)],
            ["Camera", camera],
            *([["Lens", lens]] if lens else []),
            ["Exposure", "1/250 s, f/4"],
            ["Original", "6,000 \u00d7 4,000 px"],
        ],
        "taken": str(taken),
        "iso": iso,
        "href": f"../rankingInput/{position}_1024.jpg",
        "original": None,
        "thumbnail": None,
    }
    return made | {"path": replaced.get("name", made["name"])} | replaced


def degraded(position: int, *stages: str, reason: str = "missing_weights", **replaced: Any) -> dict[str, Any]:
    """A photo without the values of some stages."""
    made = photo(position)
    for place, metric in enumerate(METRICS):
        if metric.name in stages:
            made["scores"][place] = None
    if "clip_labels" in stages:
        made.update(labels=[], margin=None)
    made.update(status="degraded", errors=[[stage, reason, f"{stage}: the weights are not here"] for stage in stages])
    return made | replaced


def failed(position: int, reason: str = "truncated", **replaced: Any) -> dict[str, Any]:
    """A failed photo."""
    unknown = dict.fromkeys(("margin", "width", "height", "format", "href", "thumbnail", "taken", "iso"))
    nothing = unknown | {"scores": [None] * len(METRICS), "raw": {}, "signals": [], "labels": [], "facts": []}
    errors = [["photo", reason, "the file ends early"]]
    return photo(position) | nothing | {"status": "failed", "errors": errors} | replaced


def thumbnail(position: int) -> list[Any]:
    """A small picture of noise, in one of three shapes."""
    width, height = ((48, 32), (32, 48), (48, 27))[position % 3]
    buffer = BytesIO()
    Image.effect_noise((width, height), 20 + position).save(buffer, "JPEG")
    return ["image/jpeg", base64.b64encode(buffer.getvalue()).decode(), width, height]


def many(photos: int, **replaced: Any) -> Iterator[dict[str, Any]]:
    """Photos without pictures; one of ten is degraded."""
    for position in range(photos):
        yield degraded(position, "brisque", **replaced) if position % 10 == 9 else photo(position, **replaced)


class Elements(HTMLParser):
    """Every element with its attributes and text, as a browser parses them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], str]] = []
        self.is_inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs), ""))
        self.is_inside = True

    def handle_endtag(self, tag: str) -> None:
        self.is_inside = False

    def handle_data(self, data: str) -> None:
        if self.is_inside:
            tag, attributes, text = self.found[-1]
            self.found[-1] = (tag, attributes, text + data)

    def texts(self, tag: str) -> list[str]:
        return [text for found, _, text in self.found if found == tag]

    def json(self, name: str) -> Any:
        (text,) = [text for tag, attributes, text in self.found if tag == "script" and attributes.get("id") == name]
        return json.loads(text)
