#!/usr/bin/env bash
# pillow-jxl-plugin 1.3.8 with Pillow 13.0.0 (Python 3.11 to 3.13)
#
# Expected: EXIF that was saved with `compress_metadata=True` is in `info["exif"]` and `getexif()` again; libjxl has a
# decoder setting that unpacks compressed boxes, and its program cjxl compresses them by default. A saved `Exif` box
# begins with four bytes, the offset of the TIFF header (ISO/IEC 18181-2, 9.4).
#
# Behaviour: of a file whose EXIF is in a compressed box (`brob`) no EXIF is read: capture time, camera and position are
# silently missing. An uncompressed box is written without the four bytes, so readers that follow the standard take
# "MM\0*" for an offset; ExifTool and this plugin accept both.
#
# Seen:
#   plain box: starts with b'MM\x00*', EXIF read: True
#   compressed box: EXIF read: False
#
# Remedy: find the boxes yourself: `Exif` with or without an offset, and `brob`, whose payload is the type and Brotli.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "pillow==13.0.0" "pillow-jxl-plugin==1.3.8"
cat > "$work/read.py" <<'PYTHON'
from io import BytesIO

import pillow_jxl  # registers the format
from PIL import Image

exif = Image.Exif()
exif[0x0110] = "Camera"
for name, packed in (("plain box", False), ("compressed box", True)):
    file = BytesIO()
    Image.new("RGB", (64, 48), "red").save(file, "JXL", exif=exif.tobytes(), compress_metadata=packed)
    data = file.getvalue()
    assert (b"brobExif" in data) == packed
    start = "" if packed else f"starts with {data[data.index(b'Exif') + 4 :][:4]}, "
    print(f"{name}: {start}EXIF read: {0x0110 in Image.open(BytesIO(data)).getexif()}")
PYTHON
"$work/venv/bin/python" "$work/read.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
plain box: starts with b'MM\x00*', EXIF read: True
compressed box: EXIF read: False
SEEN
