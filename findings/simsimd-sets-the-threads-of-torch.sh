#!/usr/bin/env bash
# SimSIMD 6.5.16 beside torch 2.14.1 (simsimd==6.5.16, torch==2.14.1, Python 3.11, x86, two cores or more)
#
# Expected: `simsimd.cdist(..., threads=1)` limits that call. The wheels of SimSIMD and of torch each bring their own
# libgomp, so that neither affects the other.
#
# Behaviour: if torch was imported first, SimSIMD uses torch's libgomp, and the call sets its number of threads for the
# calling thread, without restoring it. (If SimSIMD was imported first, nothing is seen.) From then on torch computes with
# one thread there, silently, and with all cores in other threads: products are slower, and the last bits of results
# depend on the thread that computes them.
#
# Seen:
#   torch's threads are 3 after torch.set_num_threads(3): True
#   still 3 after a call with threads=1: False (1)
#   still 3 if another thread makes the call: True
#
# Remedy: call SimSIMD in a thread that does not use torch.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "simsimd==6.5.16" "numpy>=2" "torch==2.14.1"
cat > "$work/threads.py" <<'PYTHON'
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch  # first
import simsimd

rows = np.zeros((40, 16), np.float16)


def call():
    simsimd.cdist(rows[:2], rows, metric="dot", out_dtype="float32", threads=1)


torch.set_num_threads(3)
print("torch's threads are 3 after torch.set_num_threads(3):", torch.get_num_threads() == 3)
call()
print(f"still 3 after a call with threads=1: {torch.get_num_threads() == 3} ({torch.get_num_threads()})")
torch.set_num_threads(3)
with ThreadPoolExecutor(1) as pool:
    pool.submit(call).result()
print("still 3 if another thread makes the call:", torch.get_num_threads() == 3)
PYTHON
"$work/venv/bin/python" -W ignore "$work/threads.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
torch's threads are 3 after torch.set_num_threads(3): True
still 3 after a call with threads=1: False (1)
still 3 if another thread makes the call: True
SEEN
