#!/usr/bin/env bash
# Pillow 13.0.0 (Python 3.11 to 3.13)
#
# Expected: text of EXIF 3.0 (CIPA DC-008-2023), which has the type 129 for UTF-8 beside ASCII, is in `getexif()`; or a
# warning says that a tag was skipped, as for damaged tags.
#
# Behaviour: a tag of type 129 is dropped without a warning, as if the photo had none. The same bytes as ASCII (type 2)
# are read, as Latin-1: UTF-8, which most cameras write there, comes out as two or three characters for each one.
#
# Seen:
#   type 129: {}
#   type 2: {272: 'ZÃ¼rich'}
#   warnings: 0
#
# Remedy: read the bytes of the tag; text of type 2 is restored by `text.encode("latin-1").decode()` if that is UTF-8.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "pillow==13.0.0"
cat > "$work/read.py" <<'PYTHON'
import struct
import warnings
from io import BytesIO

from PIL import Image

MODEL = 0x0110
name = "Zürich".encode() + b"\0"
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for kind in (129, 2):
        tags = struct.pack("<2sHIHHHIII", b"II", 42, 8, 1, MODEL, kind, len(name), 26, 0) + name
        photo = BytesIO()
        Image.new("RGB", (8, 8)).save(photo, "JPEG", exif=b"Exif\0\0" + tags)
        print(f"type {kind}: {dict(Image.open(photo).getexif())}")
print(f"warnings: {len(caught)}")
PYTHON
PYTHONUTF8=1 "$work/venv/bin/python" "$work/read.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
type 129: {}
type 2: {272: 'ZÃ¼rich'}
warnings: 0
SEEN
