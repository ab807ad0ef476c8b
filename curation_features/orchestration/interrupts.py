"""Cancel a run whose user interrupts it at the terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

AT_TERMINAL = "curation_features/at_terminal"
"""Tag of a run whose user waits for it at a terminal."""


@contextmanager
def interruptible(context: dg.AssetExecutionContext) -> Iterator[None]:
    """Turn an interrupt into a cancellation if the run is tagged `AT_TERMINAL`.

    By default, Dagster takes an unexpected interrupt for the death of the process: a failure with a stack trace, and a
    retry.
    """
    try:
        yield
    except dg.DagsterExecutionInterruptedError:  # raised by Dagster for a KeyboardInterrupt
        if AT_TERMINAL not in context.run.tags:
            raise
        context.instance.report_run_canceling(context.run, "Interrupted at the terminal.")
        raise dg.Failure("interrupted at the terminal", allow_retries=False) from None
