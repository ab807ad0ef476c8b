#!/usr/bin/env bash
# OpenCV 5.0.0 (opencv-python-headless==5.0.0.93, Python 3.11 to 3.13)
#
# Expected: `cv2.intersectConvexConvex` gives the area that two convex shapes share; for two rectangles that differ by
# rounding, that of either.
#
# Behaviour: for rectangles whose sides nearly coincide it often gives half of the area or none: 28 of 100 rectangles of
# 1 x 0.75 whose corners were moved by about 1e-7, and a few of a thousand moved by 1e-3. Two frames of one picture do
# nearly coincide, so an overlap (IoU) from it is least reliable where it should be 1. Reported upstream for other shapes
# (opencv/opencv#22812, #26972).
#
# Seen:
#   moved by 1e-07: an area under 0.7 for more than a tenth: True
#   moved by 0.001: an area under 0.7 for some: True
#
# Remedy: clip one shape by the lines of the other (Sutherland and Hodgman), in double precision.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "opencv-python-headless==5.0.0.93" "numpy>=2"
cat > "$work/overlap.py" <<'PYTHON'
import cv2
import numpy as np

frame = np.array([[0, 0], [1, 0], [1, 0.75], [0, 0.75]], np.float32)
random = np.random.default_rng(0)


def wrong(size: float, number: int) -> int:
    """Number of moved frames that share less than 0.7 with the frame; in truth all share over 0.74."""
    found = 0
    for _ in range(number):
        moved = frame @ (np.eye(2) + random.normal(0, size, (2, 2))) + random.normal(0, size, 2)
        found += cv2.intersectConvexConvex(frame, moved.astype(np.float32))[0] < 0.7
    return found


print(f"moved by 1e-07: an area under 0.7 for more than a tenth: {wrong(1e-7, 2000) > 200}")
print(f"moved by 0.001: an area under 0.7 for some: {wrong(1e-3, 20000) > 0}")
PYTHON
"$work/venv/bin/python" "$work/overlap.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
moved by 1e-07: an area under 0.7 for more than a tenth: True
moved by 0.001: an area under 0.7 for some: True
SEEN
