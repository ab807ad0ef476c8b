#!/usr/bin/env bash
# Pillow 13.0.0 (pillow==13.0.0, Python 3.11 to 3.13)
#
# Expected: a PNG of 2- or 4-bit gray with a transparent value (chunk tRNS, PNG specification 11.3.1.1) has transparent
# pixels after `convert("RGBA")`.
#
# Behaviour: Pillow scales the pixels to 0..255, but keeps the transparent value of the file in `info["transparency"]`,
# 0 to 3 or 0 to 15. So no pixel is transparent, except for value 0; 1-bit gray is right. Once the image is loaded, its
# bit depth is not available, and the value cannot be corrected.
#
# Seen: transparent pixels of four, of which one has the transparent value
#   2-bit gray, value 2: pixels [0, 85, 170, 255], transparency 2, transparent pixels 0
#
# Remedy: before `load()`, read the bit depth (`image.tile[0].args` is "L;2" or "L;4") and multiply by 85 or 17.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "pillow==13.0.0"
cat > "$work/read.py" <<'PYTHON'
import struct
import zlib
from io import BytesIO

from PIL import Image


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, 2, 0, 0, 0, 0))
pixels = chunk(b"IDAT", zlib.compress(b"\0" + bytes([0b00011011])))
data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"tRNS", struct.pack(">H", 2)) + pixels + chunk(b"IEND", b"")
image = Image.open(BytesIO(data))
image.load()
transparent = image.convert("RGBA").getchannel("A").tobytes().count(0)
values = list(image.tobytes())
print(f"2-bit gray, value 2: pixels {values}, transparency {image.info['transparency']}, transparent pixels {transparent}")
PYTHON
"$work/venv/bin/python" -W ignore "$work/read.py" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
2-bit gray, value 2: pixels [0, 85, 170, 255], transparency 2, transparent pixels 0
SEEN
