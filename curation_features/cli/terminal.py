"""Terminal output: safe text, tables, progress, sizes."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from curation_features.text import printable as printable

_LINE_EVERY_S = 60.0  # progress line of a long run without a terminal
_WARM_UP = 0.1  # fraction of the time to the first photo; photos that follow so soon belong to its group
_PACE_OVER_S = 300.0  # long compared with one group of photos, which finish together

LEFT: Mapping[str, Any] = {}
RIGHT: Mapping[str, Any] = {"justify": "right"}
FOLD: Mapping[str, Any] = {"overflow": "fold"}  # wraps instead of being cut


class _Terminal(Console):
    def on_broken_pipe(self) -> None:
        raise  # rich would exit here; `main` handles it


def console(to_stderr: bool = False, file: TextIO | None = None) -> Console:
    """A console on standard output or error, or a file, without syntax highlighting and emoji codes."""
    return _Terminal(highlight=False, emoji=False, stderr=to_stderr, file=file)


def moving(terminal: Console) -> bool:
    """Whether to show moving bars: on a terminal that supports them, but not in CI."""
    return terminal.is_interactive and terminal.file.isatty() and "CI" not in os.environ


def say(text: str, style: str = "") -> None:
    """Print a line on standard output."""
    console().print(printable(text), style=style, markup=False, soft_wrap=True)


def complain(text: str) -> None:
    """Print an error, of one or more lines, on standard error."""
    print("\n".join(map(printable, f"curation-features: {text}".split("\n"))), file=sys.stderr)


def make_table(
    columns: Mapping[str, Mapping[str, Any]],
    rows: Iterable[Sequence[str | Text]],
    *,
    gap: int = 1,
    expand: bool = False,
) -> Table:
    """A table without borders.

    Args:
        columns: header -> options of rich's `add_column`; see `LEFT`, `RIGHT`, `FOLD`. Only `FOLD` columns wrap.
        gap: spaces between columns.
    """
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim", expand=expand)
    for name, options in columns.items():
        table.add_column(name, **{"no_wrap": "overflow" not in options, **options})
    for row in rows:
        table.add_row(*(Text(printable(cell)) if isinstance(cell, str) else cell for cell in row))
    return table


def flag_line(counts: Iterable[Mapping[str, Any]]) -> str:
    """Flags and hints with their numbers: "flags: 3 blurred, 1 dark; hints: 5 soft". Empty without any.

    Args:
        counts: `signals.flags.FlagCount` as dicts.
    """
    kinds: dict[str, list[str]] = {}
    for count in counts:
        kinds.setdefault(f"{count['kind']}s", []).append(f"{count['artifacts']:,} {count['name']}")
    return "; ".join(f"{kind}: {', '.join(parts)}" for kind, parts in kinds.items())


def groups_line(counts: Mapping[str, int]) -> str:
    """Numbers of groups by kind: "groups: 3 copies, 2 bursts, 1 set". Empty without any."""
    names = {"copy": ("copy", "copies"), "burst": ("burst", "bursts"), "set": ("set", "sets")}
    parts = (f"{counts[kind]:,} {names[kind][counts[kind] != 1]}" for kind in names if counts.get(kind))
    return "groups: " * any(counts.values()) + ", ".join(parts)


class Bar:
    """A progress bar with the pace and the time left.

    Without a terminal, a long run prints a line every minute. The pace excludes the first group of photos after the
    start and after each wait, because freshly loaded models are slower.
    """

    def __init__(self, bars: Progress, label: str, total: int, unit: str) -> None:
        self._bars = bars
        self._label = label
        self._unit = unit
        self._task = bars.add_task(label, total=total, start=False, pace="")
        self._worked = bars.add_task("", total=None, visible=False)
        self._waits: list[str] = []
        self._lock = threading.Lock()
        self._printed = self._started = bars.get_time()
        self._warm: float | None = None  # time from which photos count for the pace

    def advance(self, count: int = 1, *, worked: bool = True) -> None:
        """Count finished units; those that took no work (cached photos) are excluded from the pace."""
        with self._lock:
            if worked:
                self._count(count)
            self._bars.start_task(self._task)
            self._bars.advance(self._task, count)
            self._bars.update(self._task, pace=self._pace())
        if self._bars.disable and self._bars.get_time() - self._printed >= _LINE_EVERY_S:
            self._printed = self._bars.get_time()
            task = self._bars.tasks[self._task]
            line = f"{self._label}: {task.completed:.0f} of {task.total:.0f} {self._unit}  {task.fields['pace']}"
            self._bars.console.file.write(f"{line.rstrip()}\n")
            self._bars.console.file.flush()

    def second(self, label: str, total: int) -> Bar:
        """Another bar below this one, of a later step over the same units."""
        return Bar(self._bars, label, total, self._unit)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Show what the block waits for; that time is excluded from the pace."""
        self._waits.append(what)
        self._begin_group()
        try:
            yield
        finally:
            self._waits.remove(what)
            self._begin_group()

    def _begin_group(self) -> None:
        with self._lock:
            self._bars.update(self._task, description=[self._label, *self._waits][-1], refresh=True)
            self._bars.reset(self._worked)
            self._started, self._warm = self._bars.get_time(), None

    def _count(self, count: int) -> None:
        """Count units for the pace; those of the first group only start the clock."""
        now = self._bars.get_time()
        if self._warm is None:
            self._warm = now + _WARM_UP * (now - self._started)
        if now <= self._warm:
            self._bars.reset(self._worked)
            count = 0
        self._bars.advance(self._worked, count)

    def _pace(self) -> str:
        task, speed = self._bars.tasks[self._task], self._bars.tasks[self._worked].speed
        if not speed or task.remaining is None:
            return ""
        left = f"  {timedelta(seconds=int(task.remaining / speed))} left" if task.remaining else ""
        return f"{speed:.{1 if speed < 100 else 0}f} {self._unit}/s{left}"


@contextmanager
def progress(
    label: str, total: int, unit: str = "photos", get_time: Callable[[], float] = time.monotonic
) -> Iterator[Bar]:
    """Show a `Bar` on standard error."""
    with _standard_error() as stream:
        terminal = console(file=stream)
        with Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}", markup=False),
            console=terminal,
            disable=not moving(terminal),
            get_time=get_time,
            speed_estimate_period=_PACE_OVER_S,
        ) as bars:
            yield Bar(bars, label, total, unit)


@contextmanager
def _standard_error() -> Iterator[TextIO]:
    """A copy of the current standard error; Dagster redirects the original to a log file during a step."""
    try:
        own = os.dup(sys.stderr.fileno())
    except (OSError, ValueError):  # not a file
        yield sys.stderr
        return
    with os.fdopen(own, "w", encoding=sys.stderr.encoding, errors="replace") as stream:
        yield stream


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Show a spinner on a terminal during the block."""
    terminal = console(to_stderr=True)
    if not moving(terminal):
        yield
        return
    with terminal.status(what, spinner="line"):
        yield


@contextmanager
def downloads() -> Iterator[Callable[[str, int, int | None], None]]:
    """Show a progress bar for each download on standard error. Without a terminal, print one line per finished file."""
    is_searching = True

    class Downloads(Progress):
        def get_renderables(self) -> Iterator[RenderableType]:
            """Show a message until the first file: an unreachable network takes a while to fail."""
            if self.tasks:
                yield self.make_tasks_table(self.tasks)
            elif is_searching:
                yield "looking for model weights"

    terminal = console(to_stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    tasks: dict[str, TaskID] = {}
    with Downloads(*columns, TimeRemainingColumn(), console=terminal, disable=not moving(terminal)) as bars:

        def show(name: str, done: int, total: int | None) -> None:
            if name not in tasks or bars.tasks[tasks[name]].finished:
                tasks[name] = bars.add_task(printable(name), total=None)
            bars.update(tasks[name], completed=done, total=total)
            if done == total and bars.disable:
                print(f"{printable(name)}: {size(done)}", file=sys.stderr)

        try:
            yield show
        finally:
            is_searching = False


def count_of(count: int, noun: str) -> str:
    """Format a number of things whose plural ends in s."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def size(count: int) -> str:
    """Format a number of bytes."""
    unit, factor = next(((unit, factor) for unit, factor in (("GB", 1e9), ("MB", 1e6)) if count >= factor), ("kB", 1e3))
    return f"{count / factor:.1f} {unit}"
