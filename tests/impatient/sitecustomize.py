"""On the path of the processes that tests start: they spend less CPU time on imports, and wait less.

Python looks for garbage rarely: it finds none during imports, which take most of the time of a short process.
Dagster's daemon looks at backfills every 3 seconds, not every 30. It does not replace its code server each minute.
"""

import gc
import sys

gc.set_threshold(100_000)

if "dagster._daemon" in sys.orig_argv:
    from dagster._daemon import controller

    controller.DEFAULT_DAEMON_INTERVAL_SECONDS = 3
    controller.RELOAD_WORKSPACE_INTERVAL = 3600
