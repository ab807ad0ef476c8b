"""What an interrupt means to a run: where a person waits for it at a terminal, that it is canceled."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

AT_TERMINAL = "curation_features/at_terminal"
"""Tag of a run that a person waits for."""


@contextmanager
def interruptible(context: dg.AssetExecutionContext) -> Iterator[None]:
    """What an interrupt of the step in the block means: where a person has launched the run, that it is canceled.

    Dagster itself takes an interrupt that it was not asked for for the death of the process: a failure with a stack
    trace, to be tried again.
    """
    try:
        yield
    except dg.DagsterExecutionInterruptedError:  # what Dagster makes of a KeyboardInterrupt
        if AT_TERMINAL not in context.run.tags:
            raise
        context.instance.report_run_canceling(context.run, "Interrupted at the terminal.")
        raise dg.Failure("interrupted at the terminal", allow_retries=False) from None
