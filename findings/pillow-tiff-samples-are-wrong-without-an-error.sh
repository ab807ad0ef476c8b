#!/usr/bin/env bash
# Pillow 13.0.0 (pillow==13.0.0, tifffile==2026.3.3 writes the files, Python 3.11 to 3.13)
#
# Expected: Pillow reads the picture of a valid uncompressed TIFF (TIFF 6.0), or raises an error.
#
# Behaviour: no error, and another picture. 16-bit RGB in planes is decoded as 8-bit planes: a scrambled picture. 16-bit
# and float gray with PhotometricInterpretation 0, white is zero, is a negative. Subsampled YCbCr is read like one with
# three samples per pixel. A big-endian BigTIFF, whose first bytes Pillow lists, is no image: it looks for the BigTIFF
# version in the third byte, which is 0 in that byte order. 16-bit RGB in one plane keeps the upper byte (v // 256)
# instead of v / 257 rounded.
#
# Seen: mean difference of levels 0 to 255 from the picture
#   planar 16-bit RGB: RGB, mean difference 53
#   white-is-zero 16-bit: I;16, a negative
#   white-is-zero float: F, a negative
#   YCbCr 2x2, uncompressed: mean difference 65
#   big-endian BigTIFF: UnidentifiedImageError
#   chunky 16-bit RGB: differs from v / 257 rounded in 25 % of samples
#
# Remedy: check the tags before pixels are decoded; decode such files with tifffile and imagecodecs, or by hand.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "pillow==13.0.0" "tifffile==2026.3.3" numpy
cat > "$work/read.py" <<'PYTHON'
import struct
from io import BytesIO

import numpy as np
import tifffile
from PIL import Image

picture = np.zeros((64, 96, 3), np.uint16)
picture[..., 0] = np.linspace(0, 65535, 96)
picture[..., 1] = np.linspace(0, 65535, 64)[:, None]
picture[16:48, 24:72] = 65535 // 3
levels = np.rint(picture / 257)


def opened(pixels, **options):
    buffer = BytesIO()
    tifffile.imwrite(buffer, pixels, metadata=None, **options)
    return Image.open(buffer)


planar = opened(picture.transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate")
print(f"planar 16-bit RGB: {planar.mode}, mean difference {np.abs(np.asarray(planar) - levels).mean():.0f}")

gray = picture[..., 0]
for name, values in (("16-bit", 65535 - gray), ("float", (1 - gray / 65535).astype(np.float32))):
    image = opened(values, photometric="miniswhite")
    is_negative = np.array_equal(np.asarray(image), values)  # 0 is white in the file, and black in Pillow
    print(f"white-is-zero {name}: {image.mode}, {'a negative' if is_negative else 'right'}")

units = np.full((32, 48, 6), 128, np.uint8)  # four luma, Cb, Cr
units[..., :4] = np.linspace(0, 255, 48).astype(np.uint8)[:, None]
tags = {256: 96, 257: 64, 258: 8, 259: 1, 262: 6, 273: 200, 277: 3, 278: 64, 279: units.size, 530: 2 | 2 << 16}
head = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
for tag, value in tags.items():
    head += struct.pack("<HHII", tag, *((3, 2) if tag == 530 else (4, 1)), value)
data = head.ljust(200, b"\0") + units.tobytes() + bytes(units.size)  # as long as Pillow takes it for
gradient = np.repeat(np.repeat(units[:, :, 0], 2, axis=0), 2, axis=1)[..., None]
difference = np.abs(np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(int) - gradient).mean()
print(f"YCbCr 2x2, uncompressed: mean difference {difference:.0f}")

try:
    opened(levels.astype(np.uint8), photometric="rgb", bigtiff=True, byteorder=">")
    print("big-endian BigTIFF: read")
except Exception as error:
    print(f"big-endian BigTIFF: {type(error).__name__}")

values = np.random.default_rng(1).integers(0, 65536, (256, 256, 3), np.uint16)
share = (np.asarray(opened(values, photometric="rgb")) != np.rint(values / 257)).mean()
print(f"chunky 16-bit RGB: differs from v / 257 rounded in {share:.0%} of samples".replace("%", " %"))
PYTHON
"$work/venv/bin/python" -W ignore "$work/read.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
planar 16-bit RGB: RGB, mean difference 53
white-is-zero 16-bit: I;16, a negative
white-is-zero float: F, a negative
YCbCr 2x2, uncompressed: mean difference 65
big-endian BigTIFF: UnidentifiedImageError
chunky 16-bit RGB: differs from v / 257 rounded in 25 % of samples
SEEN
