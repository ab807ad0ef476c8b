"""On the path of the processes that tests start: Dagster's daemon looks at backfills every 3 seconds, not every 30."""

import sys

if "dagster._daemon" in sys.orig_argv:
    from dagster._daemon import controller

    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 3
