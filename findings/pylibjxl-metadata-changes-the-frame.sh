#!/usr/bin/env bash
# pylibjxl 0.5.0 (libjxl 0.11.2; NumPy 2.4.6, imagecodecs 2026.3.6 as encoder, Python 3.11)
#
# Expected: `pylibjxl.decode(data)` and the pixels of `pylibjxl.decode(data, metadata=True)` are the same.
#
# Behaviour: for an animated JPEG XL the first gives the first frame, and the second the last one: it continues to read,
# to the end of the file, for the metadata, and each frame overwrites the same buffer.
#
# Seen:
#   have_animation: True
#   decode(data): [255, 0, 0]
#   decode(data, metadata=True): [0, 0, 255]
#
# Remedy: if `probe(data)["have_animation"]`, take the pixels from a call without `metadata`.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "pylibjxl==0.5.0" "imagecodecs==2026.3.6" "numpy==2.4.6"
cat > "$work/decode.py" <<'PYTHON'
import sys

import imagecodecs
import numpy as np
import pylibjxl

colours = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255)], np.uint8)
frames = np.broadcast_to(colours[:, None, None], (3, 8, 8, 3))
data = imagecodecs.jpegxl_encode(np.ascontiguousarray(frames), lossless=True)
first, (last, _) = pylibjxl.decode(data), pylibjxl.decode(data, metadata=True)
print(f"have_animation: {pylibjxl.probe(data)['have_animation']}")
print(f"decode(data): {first[0, 0].tolist()}")
print(f"decode(data, metadata=True): {last[0, 0].tolist()}")
sys.exit((first[0, 0].tolist(), last[0, 0].tolist()) != ([255, 0, 0], [0, 0, 255]))
PYTHON
"$work/venv/bin/python" "$work/decode.py"
