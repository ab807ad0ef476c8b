"""What a person sees on the terminal: text that cannot drive it, progress, sizes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID


def console(to_stderr: bool = False) -> Console:
    """The terminal, or where output goes instead; nothing is coloured by what it looks like."""
    from rich.console import Console

    return Console(highlight=False, stderr=to_stderr)


def printable(text: str) -> str:
    """Text that cannot drive a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def complain(text: str) -> None:
    """Say on standard error what is wrong; it may have several lines."""
    print("\n".join(map(printable, f"curation-features: {text}".split("\n"))), file=sys.stderr)


@contextmanager
def progress(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on the terminal's standard error; nothing where there is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(label, total=total)
        yield lambda count: progress.advance(task, count)


@contextmanager
def downloads() -> Iterator[Callable[[str, int, int | None], None]]:
    """A progress bar for every file on the terminal's standard error; where there is none, a line when one is here."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bars:

        def show(name: str, done: int, total: int | None) -> None:
            if name not in tasks or bars.tasks[tasks[name]].finished:
                tasks[name] = bars.add_task(printable(name), total=None)
            bars.update(tasks[name], completed=done, total=total)
            if done == total and not console.is_terminal:
                print(f"{printable(name)}: {size(done)}", file=sys.stderr)

        yield show


def size(count: int) -> str:
    """A number of bytes for people."""
    unit, factor = next(((unit, factor) for unit, factor in (("GB", 1e9), ("MB", 1e6)) if count >= factor), ("kB", 1e3))
    return f"{count / factor:.1f} {unit}"
