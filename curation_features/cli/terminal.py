"""What a person sees on the terminal: text that cannot drive it, progress, sizes."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, TextIO

from curation_features.text import printable as printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, TaskID

    from curation_features.schema import PhotoRecord

_LINE_EVERY_S = 60.0  # of a long run that no terminal shows
_WARM_UP = 0.1  # of the time to the first photo: what comes so soon after it is of its group
_PACE_OVER_S = 300.0  # long against the time of one group of photos, which are finished together


def console(to_stderr: bool = False, file: TextIO | None = None) -> Console:
    """The terminal, or where output goes instead; nothing is coloured by what it looks like."""
    from rich.console import Console

    class Terminal(Console):
        def on_broken_pipe(self) -> None:
            raise  # where rich would end the process: `main` does

    return Terminal(highlight=False, stderr=to_stderr, file=file)


def moving(terminal: Console) -> bool:
    """Whether bars may move on it: it is a terminal that can do that, and no log of a CI service."""
    return terminal.is_interactive and terminal.file.isatty() and "CI" not in os.environ


def say(text: str, style: str = "") -> None:
    """Say a line on standard output."""
    console().print(printable(text), style=style, markup=False, soft_wrap=True)


def complain(text: str) -> None:
    """Say on standard error what is wrong; it may have several lines."""
    print("\n".join(map(printable, f"curation-features: {text}".split("\n"))), file=sys.stderr)


class Bar:
    """Counts what is done of a whole, and tells how fast that goes and how long it will take.

    A terminal shows a bar; where there is none, a long run says a line now and then. The pace counts from the end of
    the first group of photos, at the start and after each wait: models that were just loaded take longer for it.
    """

    def __init__(self, bars: Progress, label: str, total: int, unit: str) -> None:
        self._bars = bars
        self._label = label
        self._unit = unit
        self._task = bars.add_task(label, total=total, start=False, pace="")
        self._worked = bars.add_task("", total=None, visible=False)
        self._waits: list[str] = []
        self._lock = threading.Lock()
        self._said = self._began = bars.get_time()
        self._warm: float | None = None  # from then on photos count for the pace

    def advance(self, count: int = 1, *, worked: bool = True) -> None:
        """So much more is done; what took no work says nothing of how fast it goes."""
        with self._lock:
            if worked:
                self._count(count)
            self._bars.start_task(self._task)
            self._bars.advance(self._task, count)
            self._bars.update(self._task, pace=self._pace())
        if self._bars.disable and self._bars.get_time() - self._said >= _LINE_EVERY_S:
            self._said = self._bars.get_time()
            task = self._bars.tasks[self._task]
            told = f"{self._label}: {task.completed:.0f} of {task.total:.0f} {self._unit}  {task.fields['pace']}"
            self._bars.console.file.write(f"{told.rstrip()}\n")
            self._bars.console.file.flush()

    def later(self, label: str, total: int) -> Callable[[int], None]:
        """A function that counts what is done of a later step, on a bar of its own that appears with the first."""
        bar: list[Bar] = []

        def advance(count: int) -> None:
            if not bar:
                bar.append(Bar(self._bars, label, total, self._unit))
            bar[0].advance(count)

        return advance

    def photo(self, record: PhotoRecord) -> None:
        """One more photo is done."""
        self.advance(worked=not record.cached)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Say what is waited for in the block; that time is none of the pace's."""
        self._told(self._waits.append, what)
        try:
            yield
        finally:
            self._told(self._waits.remove, what)

    def _told(self, change: Callable[[str], None], what: str) -> None:
        with self._lock:
            change(what)
            self._bars.update(self._task, description=self._waits[-1] if self._waits else self._label, refresh=True)
            self._bars.reset(self._worked)
            self._began, self._warm = self._bars.get_time(), None

    def _count(self, count: int) -> None:
        """Count photos that took work; those of the first group only tell when the others begin."""
        now = self._bars.get_time()
        if self._warm is None:
            self._warm = now + _WARM_UP * (now - self._began)
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
    """Progress on standard error: see `Bar`."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}", markup=False),
    )
    with _standard_error() as stream:
        terminal = console(file=stream)
        disable = not moving(terminal)
        with Progress(
            *columns, console=terminal, disable=disable, get_time=get_time, speed_estimate_period=_PACE_OVER_S
        ) as bars:
            yield Bar(bars, label, total, unit)


@contextmanager
def _standard_error() -> Iterator[TextIO]:
    """Standard error as it is now, whatever is put in its place: while a step of Dagster runs, that is a log file."""
    try:
        own = os.dup(sys.stderr.fileno())
    except (OSError, ValueError):  # no file
        yield sys.stderr
        return
    with os.fdopen(own, "w", encoding=sys.stderr.encoding, errors="replace") as stream:
        yield stream


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Say on a terminal what goes on in the block, for as long as it does."""
    terminal = console(to_stderr=True)
    if not moving(terminal):
        yield
        return
    with terminal.status(what, spinner="line"):
        yield


@contextmanager
def downloads() -> Iterator[Callable[[str, int, int | None], None]]:
    """A progress bar for every file on the terminal's standard error; where there is none, a line when one is here."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    looking = True

    class Downloads(Progress):
        def get_renderables(self) -> Iterator[RenderableType]:
            """Until there is a file to show, what is done to find it: a network that does not answer takes its time."""
            if self.tasks:
                yield self.make_tasks_table(self.tasks)
            elif looking:
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
            looking = False


def size(count: int) -> str:
    """A number of bytes for people."""
    unit, factor = next(((unit, factor) for unit, factor in (("GB", 1e9), ("MB", 1e6)) if count >= factor), ("kB", 1e3))
    return f"{count / factor:.1f} {unit}"
