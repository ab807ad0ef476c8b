"""The results of a batch, for a person at a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curation_features.cli.terminal import console, printable


def show_results(document: dict[str, Any], paths: Sequence[Path]) -> None:
    """A table of the results, and where they are."""
    from rich.table import Table
    from rich.text import Text

    from curation_features.schema import METRIC_NAMES

    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("photo", max_width=16, no_wrap=True)
    table.add_column("status", no_wrap=True, min_width=len("degraded"))
    for name in METRIC_NAMES:
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    table.add_column("best label", no_wrap=True, min_width=10)
    for artifact in document["artifacts"][:50]:
        features = artifact["features"]
        defaults = {error["stage"] for error in features["errors"]}
        unread = "photo" in defaults
        scores = ["-" if unread or name in defaults else f"{features['tech'][name]:.3f}" for name in METRIC_NAMES]
        best = features["clip_labels"][0]
        label = f"{best['confidence']:.2f} {best['label']}" if best["confidence"] else "-"
        name = Path(str(artifact.get("original_uri") or artifact["photo_id"])).name
        table.add_row(*(Text(printable(cell)) for cell in (name, features["status"], *scores, label)))
    terminal = console()
    terminal.print(table)
    if len(document["artifacts"]) > 50:
        terminal.print(f"... and {len(document['artifacts']) - 50} more")
    for error, count in _error_counts(document).items():
        terminal.print(Text(f"{count} x {printable(error)}", style="yellow"))
    for path in paths:
        terminal.print(Text(str(path)), soft_wrap=True)


def say_cached(cached: int, photos: int) -> None:
    """Say how much of a run was known before."""
    console().print(f"{cached} of {photos} photos came out of the cache", style="dim", soft_wrap=True)


def _error_counts(document: dict[str, Any]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for artifact in document["artifacts"]:
        for error in artifact["features"]["errors"]:
            key = f"{error['stage']}: {error['reason']}"
            counts[key] = counts.get(key, 0) + 1
    return counts
