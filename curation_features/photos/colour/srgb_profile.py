"""The ICC profile that reduced copies carry: sRGB, with the same bytes on every machine and day."""

from __future__ import annotations

import struct


def _fixed(*numbers: float) -> bytes:
    """Return numbers as s15Fixed16 (ICC.1:2022, 4.6)."""
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def _xyz(*numbers: float) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*numbers)


def _text(text: str) -> bytes:
    """Return a text in English (multiLocalizedUnicodeType)."""
    return struct.pack(">4s4xII4sII", b"mluc", 1, 12, b"enUS", 2 * len(text), 28) + text.encode("utf-16-be")


def _make_srgb() -> bytes:
    white = (0.9642, 1.0, 0.8249)  # D50
    curve = b"para" + struct.pack(">4xHxx", 3) + _fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    contents = {
        b"desc": _text("sRGB"),
        b"cprt": _text("CC0"),
        b"wtpt": _xyz(*white),
        b"chad": b"sf32\0\0\0\0"
        + _fixed(1.04788, 0.02292, -0.05022, 0.02959, 0.99048, -0.01707, -0.00925, 0.01508, 0.75168),
        b"rXYZ": _xyz(0.43607, 0.22249, 0.01392),
        b"gXYZ": _xyz(0.38515, 0.71687, 0.09708),
        b"bXYZ": _xyz(0.14307, 0.06061, 0.71410),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    start = 132 + 12 * len(contents)
    table, body = b"", b""
    for name, content in contents.items():
        padded = content + bytes(-len(content) % 4)
        if padded not in body:  # the three curves share their bytes
            body += padded
        table += struct.pack(">4sII", name, start + body.index(padded), len(content))
    size = start + len(body)
    head = struct.pack(">I4xI4s4s4s6H4s", size, 0x04000000, b"mntr", b"RGB ", b"XYZ ", 2000, 1, 1, 0, 0, 0, b"acsp")
    return head + bytes(28) + _fixed(*white) + bytes(48) + struct.pack(">I", len(contents)) + table + body


SRGB_PROFILE = _make_srgb()
"""sRGB (IEC 61966-2-1) as a display profile of ICC version 4: matrix, adapted to D50, and parametric curve."""
