#!/usr/bin/env bash
# torch 2.14.1 (torch==2.14.1, Python 3.11; x86 with AVX2, one thread)
#
# Expected: `torch.aminmax(x, dim=-1)`, which reads a float32 matrix once, takes at most as long as `x.amin(-1)` and
# `x.amax(-1)`, which read it twice.
#
# Behaviour: along a dimension it takes about ten times as long as both together. Without `dim` it is fast. Values are the
# same. (Quantisers with a range for each row call it in every layer.)
#
# Seen:
#   257 x 4096 float32: aminmax 4.0 ms, amin and amax 0.35 ms
#   aminmax along rows is at least 3 times slower: True
#   the same values: True
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "torch==2.14.1"
cat > "$work/rows.py" <<'PYTHON'
import sys
import time

import torch

torch.set_num_threads(1)
x = torch.randn(257, 4096, generator=torch.Generator().manual_seed(0))


def best(function):
    times = []
    for _ in range(40):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1000 * min(times)


both, fused = best(lambda: (x.amin(-1), x.amax(-1))), best(lambda: torch.aminmax(x, dim=-1))
print(f"257 x 4096 float32: aminmax {fused:.2f} ms, amin and amax {both:.2f} ms", file=sys.stderr)
print("aminmax along rows is at least 3 times slower:", fused > 3 * both)
low, high = torch.aminmax(x, dim=-1)
print("the same values:", torch.equal(low, x.amin(-1)) and torch.equal(high, x.amax(-1)))
PYTHON
"$work/venv/bin/python" -W ignore "$work/rows.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
aminmax along rows is at least 3 times slower: True
the same values: True
SEEN
