"""On the path of the processes that tests start.

Python looks for garbage rarely: it finds none during imports, which take most of the time of a short process.
Dagster's daemon looks at backfills every 3 seconds, not every 30.
"""

import gc
import sys

gc.set_threshold(100_000)

if "dagster._daemon" in sys.orig_argv:
    from dagster._daemon import controller

    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 3
