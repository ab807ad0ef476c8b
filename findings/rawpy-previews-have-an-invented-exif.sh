#!/usr/bin/env bash
# rawpy 0.28.0 (LibRaw 0.22.2; tifffile 2026.3.3 and imagecodecs 2026.3.6, Pillow 13.0.0, NumPy 2.4.6, Python 3.11)
#
# Expected: `RawPy.extract_thumb()` gives the embedded JPEG as it is in the file. rawpy documents "JPEG image as bytes
# object", and that it "can be written as-is to file".
#
# Behaviour: if the JPEG has no EXIF of its own, LibRaw inserts one: the orientation of the raw file, which is useful, but
# also its own name as software, and 1970:01:01 00:00:00 as the date if the raw file has none. The preview that a camera
# made has then a date that it never had, and a digest that no part of the file has.
#
# Seen:
#   JPEG in the file: True; software: dcraw v9.26; date: 1970:01:01 00:00:00; orientation: 6
#   as it is in the file: False
#
# Remedy: take the pixels and the orientation from the preview, and every other field of EXIF from the raw file.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "rawpy==0.28.0" "tifffile==2026.3.3" "imagecodecs==2026.3.6" "pillow==13.0.0" "numpy==2.4.6"
cat > "$work/preview.py" <<'PYTHON'
import sys
from io import BytesIO

import numpy as np
import rawpy
import tifffile
from PIL import Image

jpeg = BytesIO()
Image.new("RGB", (160, 120), "orange").save(jpeg, "JPEG")
matrix = tuple(n for entry in (32405, -15371, -4985, -9693, 18760, 416, 556, -2040, 10572) for n in (entry, 10000))
tags = [(50706, 1, 4, bytes([1, 4, 0, 0])), (50708, 2, 0, "Drawn"), (50721, 10, 9, matrix), (274, 3, 1, 6)]
tags += [(50728, 5, 3, (1,) * 6), (50778, 3, 1, 21), (33421, 3, 2, (2, 2)), (33422, 1, 4, bytes([0, 1, 1, 2]))]
tags += [(271, 2, 0, "Drawn"), (272, 2, 0, "Camera")]
dng = BytesIO()
with tifffile.TiffWriter(dng, byteorder="<") as file:
    sensor = np.full((240, 320), 9000, np.uint16)
    file.write(sensor, photometric=32803, extratags=tags, subifds=1, metadata=None, software=False)
    options = {"compression": "jpeg", "photometric": "ycbcr", "subfiletype": 1, "rowsperstrip": 120}
    data = iter([jpeg.getvalue()])
    file.write(data, shape=(120, 160, 3), dtype=np.uint8, metadata=None, software=False, **options)
with rawpy.RawPy() as raw:
    raw.open_buffer(BytesIO(dng.getvalue()))
    preview = raw.extract_thumb().data
exif = Image.open(BytesIO(preview)).getexif()
software, date = exif.get(305), exif.get(306)
print(f"JPEG in the file: {jpeg.getvalue() in dng.getvalue()}; ", end="")
print(f"software: {software}; date: {date}; orientation: {exif.get(274)}")
print(f"as it is in the file: {preview in dng.getvalue()}")
sys.exit(preview in dng.getvalue() or date != "1970:01:01 00:00:00")
PYTHON
"$work/venv/bin/python" "$work/preview.py"
