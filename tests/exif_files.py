"""Files of every format with the same EXIF, and the containers of raw files, made by their layout."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any

import pytest
from pictures import CAT, encoded, png
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

MAKE, MODEL, EDITED, EXIF, GPS = 0x010F, 0x0110, 0x0132, 0x8769, 0x8825
MAIN = {MAKE: "NIKON CORPORATION", MODEL: "NIKON D3400", EDITED: "2025:06:01 10:00:00"}
CAMERA = {
    0x829A: IFDRational(1, 160),  # exposure time
    0x829D: IFDRational(28, 10),  # f-number
    0x8827: 400,  # ISO
    0x9003: "2024:12:25 11:25:57",  # original
    0x9011: "+01:00",
    0x9291: "07",
    0x9204: IFDRational(-2, 3),  # exposure compensation
    0xA402: 2,  # exposure mode
    0x920A: IFDRational(35),  # focal length
    0xA434: "NIKKOR 35mm f/1.8",
}
BURST = "0A1B2C3D-4E5F-4A6B-8C7D-9E0F1A2B3C4D"
APPLE_NOTE = b"Apple iOS\0\0\1MM" + struct.pack(">HHHII", 1, 0x000B, 2, len(BURST) + 1, 32) + bytes(4) + BURST.encode()
CAMERA[0x927C] = APPLE_NOTE + b"\0"  # ExifTool knows it by its head alone
PLACE = {1: "S", 2: (33.0, 51.0, 24.0), 3: "E", 4: (151.0, 12.0, 36.0), 5: b"\0", 6: IFDRational(58, 10)}
EXPECTED = {
    "camera": "NIKON D3400",
    "lens": "NIKKOR 35mm f/1.8",
    "iso": 400,
    "aperture": "f/2.8",
    "shutter_speed": "1/160",
    "focal_length": "35mm",
    "datetime": "2024:12:25 11:25:57",
    "gps": {"latitude": -33.8566667, "longitude": 151.21, "altitude": 5.8},
    "utc_offset": "+01:00",
    "subseconds": "07",
    "exposure_bias": -0.67,
    "exposure_mode": "auto bracket",
    "burst_id": BURST,
}


def block(main: Any = (), camera: Any = (), place: Any = (), order: str = ">", start: int = 8) -> bytes:
    """Return EXIF: a TIFF without pixels. Its offsets are those of a directory at `start`."""
    exif = Image.Exif()
    exif.endian = order
    exif.update(main)
    if camera:
        exif.get_ifd(EXIF).update(camera)
    if place:
        exif.get_ifd(GPS).update(place)
    return exif.tobytes(start).removeprefix(b"Exif\0\0")


WHOLE = block(MAIN, CAMERA, PLACE)
LITTLE = block(MAIN, CAMERA, PLACE, "<")


def box(kind: bytes, *parts: bytes) -> bytes:
    """Return an ISO box."""
    return struct.pack(">I4s", 8 + sum(map(len, parts)), kind) + b"".join(parts)


def segment(payload: bytes) -> bytes:
    """Return a JPEG segment of type APP1."""
    return b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload


def jpeg(*segments: bytes) -> bytes:
    plain = encoded(CAT)
    return plain[:2] + b"".join(segments) + plain[2:]


def pieces_of_jpeg() -> bytes:
    """EXIF that is too long for a segment continues in the next one: here its directory is at 70,000."""
    directory = block(MAIN, CAMERA, PLACE, start=70_000)[8:]
    long = b"MM\0*" + struct.pack(">I", 70_000).ljust(70_000 - 4, b"\0") + directory
    return jpeg(*(segment(b"Exif\0\0" + long[start : start + 65_000]) for start in (0, 65_000)))


def multi_picture() -> bytes:
    buffer = BytesIO()
    second = Image.new("RGB", (8, 8))
    CAT.save(buffer, "MPO", save_all=True, append_images=[second], exif=b"Exif\0\0" + WHOLE)
    return buffer.getvalue()


def png_at_end() -> bytes:
    plain = encoded(CAT, "PNG")
    return plain[:-12] + png(b"eXIf" + WHOLE)[8:] + plain[-12:]


def png_of_imagemagick() -> bytes:
    profile = f"\nexif\n{len(WHOLE) + 6:8}\n".encode() + (b"Exif\0\0" + WHOLE).hex().encode() + b"\n"
    plain = encoded(CAT, "PNG")
    return plain[:33] + png(b"zTXtRaw profile type exif\0\0" + zlib.compress(profile))[8:] + plain[33:]


def heic() -> bytes:
    heif = pytest.importorskip("pillow_heif")
    buffer = BytesIO()
    heif.from_pillow(CAT).save(buffer, exif=b"Exif\0\0" + WHOLE)
    return buffer.getvalue()


def heic_of_two_pictures(still: int = 3, links: bool = True) -> bytes:
    """EXIF is in items 3, two pieces of the file, and 4, in `idat`; that of `still` describes the primary image."""
    other = struct.pack(">I", 6) + b"Exif\0\0" + block({MODEL: "gain map"}, {0x8827: 64}, {**PLACE, 1: "N"})
    whole = struct.pack(">I", 6) + b"Exif\0\0" + WHOLE
    in_file, in_idat = (whole, other) if still == 3 else (other, whole)
    names = [struct.pack(">IHH4sx", 2 << 24, item, 0, b"Exif") for item in (7 - still, still)]
    iinf = box(b"iinf", struct.pack(">IH", 0, 2), *(box(b"infe", name) for name in (names if links else names[1:])))
    described = ((7 - still, 1, 2), (still, 1, 1))
    iref = box(b"iref", bytes(4), *(box(b"cdsc", struct.pack(">3H", *item)) for item in described)) if links else b""
    pitm, idat = box(b"pitm", struct.pack(">IH", 0, 1)), box(b"idat", in_idat)
    half = len(in_file) // 2

    def meta(start: int) -> bytes:
        four = struct.pack(">4HII", 4, 1, 0, 1, 0, len(in_idat))
        three = struct.pack(">4H4I", 3, 0, 0, 2, start, half, start + half, len(in_file) - half)
        iloc = box(b"iloc", struct.pack(">IBBH", 1 << 24, 0x44, 0, 2), four, three)
        return box(b"meta", bytes(4), pitm, iinf, iref, iloc, idat)

    head = box(b"ftyp", b"heic\0\0\0\0mif1heic")
    return head + meta(len(head) + len(meta(0)) + 8) + box(b"mdat", in_file)


def jpeg_xl(*boxes: bytes) -> bytes:
    return box(b"JXL ", b"\r\n\x87\n") + box(b"ftyp", b"jxl \0\0\0\0jxl ") + b"".join(boxes) + box(b"jxlc", b"\xff\n")


def jpeg_xl_packed() -> bytes:
    brotli = pytest.importorskip("brotli")
    return jpeg_xl(box(b"brob", b"Exif", brotli.compress(bytes(4) + WHOLE)))


def canon_raw() -> bytes:
    """CR3: main, EXIF and position directories are three TIFFs."""
    parts = (b"CMT1", block(MAIN)), (b"CMT2", block(CAMERA)), (b"CMT4", block(PLACE))
    uuid = box(b"uuid", bytes.fromhex("85c0b687820f11e08111f4ce462b6a48"), *(box(*part) for part in parts))
    return box(b"ftyp", b"crx \0\0\0\1crx isom") + box(b"moov", uuid)


def fujifilm_raw() -> bytes:
    photo = encoded(CAT, exif=b"Exif\0\0" + WHOLE)
    return b"FUJIFILMCCD-RAW 0201".ljust(84, b"\0") + struct.pack(">II", 148, len(photo)).ljust(64, b"\0") + photo


def panasonic_raw() -> bytes:
    """RW2: its own tags, and a JPEG with all EXIF in tag 0x2E."""
    photo = encoded(CAT, exif=b"Exif\0\0" + WHOLE)
    return b"IIU\0" + struct.pack("<IHHHIII", 8, 1, 0x2E, 7, len(photo), 26, 0) + photo


FILES: Mapping[str, Callable[[], bytes]] = {
    "a.jpg": lambda: encoded(CAT, exif=b"Exif\0\0" + WHOLE),
    "little.jpg": lambda: encoded(CAT, exif=b"Exif\0\0" + LITTLE),
    "pieces.jpg": pieces_of_jpeg,
    "damaged-first.jpg": lambda: jpeg(segment(b"Exif\0\0MM\0*" + bytes(9)), segment(b"Exif\0\0" + WHOLE)),
    "two.mpo": multi_picture,
    "a.png": lambda: encoded(CAT, "PNG", exif=WHOLE),
    "end.png": png_at_end,
    "imagemagick.png": png_of_imagemagick,
    "a.webp": lambda: encoded(CAT, "WEBP", exif=WHOLE),
    "a.avif": lambda: encoded(CAT, "AVIF", exif=WHOLE),
    "a.tif": lambda: encoded(CAT, "TIFF", exif=WHOLE),
    "big.tif": lambda: encoded(CAT, "TIFF", exif=WHOLE, big_tiff=True),
    "a.heic": heic,
    "two.heic": heic_of_two_pictures,
    "idat.heic": lambda: heic_of_two_pictures(still=4),
    "unlinked.heic": lambda: heic_of_two_pictures(links=False),
    "a.jxl": lambda: jpeg_xl(box(b"Exif", bytes(4), WHOLE)),
    "packed.jxl": jpeg_xl_packed,
    "a.cr3": canon_raw,
    "a.raf": fujifilm_raw,
    "a.rw2": panasonic_raw,
    "a.orf": lambda: b"IIRO" + LITTLE[4:],
    "a.dng": lambda: LITTLE,
}
"""Name -> function that makes the file. Each has the EXIF of `EXPECTED`."""
