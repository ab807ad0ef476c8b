#!/usr/bin/env bash
# Ray 2.60.0 (Python 3.11 to 3.13)
#
# Expected: with `ray.init(log_to_driver=False)` Ray writes nothing to the driver's standard output, so that a program
# can print JSON there.
#
# Behaviour: the option turns off the output of workers only. Deaths of workers are printed by another thread
# (`listen_error_messages`), to standard output, not to standard error, in between the program's lines.
#
# Seen:
#   standard output of the driver: ['(raylet) A worker died or was killed while executing a task by an unexpected sys
#   ...', '{"done": true}']
#
# Remedy: exchange `sys.stdout` while Ray is connected (`contextlib.redirect_stdout(sys.stderr)`), and print results to
# the former one.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "ray==2.60.0"
cat > "$work/driver.py" <<'PYTHON'
import json
import os
import signal
import time

import ray

ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)


@ray.remote
class Actor:
    """Ends as if the kernel had no memory left for it."""

    def end(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


try:
    ray.get(Actor.remote().end.remote())
except ray.exceptions.RayActorError:
    time.sleep(10)  # the message comes a little later
print(json.dumps({"done": True}), flush=True)
PYTHON
cat > "$work/check.py" <<'PYTHON'
import re
import subprocess
import sys

run = subprocess.run([sys.executable, sys.argv[1]], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
lines = [re.sub(r"\x1b\[\d*m", "", line) for line in run.stdout.splitlines()]
print("standard output of the driver:", [line if len(line) < 90 else f"{line[:80]} ..." for line in lines])
raise SystemExit(len(lines) < 2 or not lines[0].startswith("(raylet) A worker died"))
PYTHON
HOME="$work" RAY_USAGE_STATS_ENABLED=0 "$work/venv/bin/python" "$work/check.py" "$work/driver.py"
