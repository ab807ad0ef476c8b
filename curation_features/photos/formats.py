"""The formats of photo files: names, suffixes and first bytes."""

from __future__ import annotations

import re
from collections.abc import Mapping

from curation_features.photos.boxes import read_brands
from curation_features.photos.raw_kinds import identify_raw

_OF_PILLOW = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "AVIF": (".avif",),
}

RAW_FORMATS: Mapping[str, tuple[str, ...]] = {
    "DNG": (".dng", ".gpr"),
    "CR3": (".cr3",),
    "CR2": (".cr2",),
    "CRW": (".crw",),
    "NEF": (".nef", ".nrw"),
    "ARW": (".arw", ".sr2", ".srf"),
    "RAF": (".raf",),
    "ORF": (".orf", ".ori"),
    "RW2": (".rw2", ".rwl"),
    "PEF": (".pef", ".ptx"),
    "SRW": (".srw",),
    "X3F": (".x3f",),
    "3FR": (".3fr", ".fff"),
    "IIQ": (".iiq", ".cap"),
    "MOS": (".mos",),
    "MEF": (".mef",),
    "MRW": (".mrw", ".mdc"),
    "ERF": (".erf",),
    "DCR": (".dcr", ".dcs", ".drf", ".k25", ".kdc"),
    "RAW": (".raw", ".bay", ".pxn", ".rwz", ".sti"),
}
"""Camera raw formats, by maker, and their suffixes. `RAW`: of another maker."""

SUFFIXES: Mapping[str, tuple[str, ...]] = {
    **_OF_PILLOW,
    "HEIC": (".heic", ".heif", ".hif", ".heics", ".heifs", ".avci"),
    "JXL": (".jxl",),
    **RAW_FORMATS,
}
"""Supported formats and their suffixes, the usual suffix first. HEIC, JXL and camera raw need an extra."""

FORMATS = tuple(SUFFIXES)
"""Supported formats; the file name does not matter. A multi-picture or Ultra HDR JPEG counts as its first JPEG."""

PILLOW_FORMATS = tuple(_OF_PILLOW)
"""Formats that Pillow opens. Other plugins are never tried, also if a program has registered them."""

NAMES = (*PILLOW_FORMATS, "HEIC", "JPEG XL", "camera raw")
"""Names of the supported formats, for messages."""

EXTRA_OF: Mapping[str, str] = {"HEIC": "heic", "JXL": "jxl", **dict.fromkeys(RAW_FORMATS, "raw")}
"""Format -> extra whose library decodes it."""

_STARTS = {
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "WEBP": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "TIFF": re.compile(rb"II[*+]\x00|MM\x00[*+]|MM\*\x00|II\x00\*"),
    "BMP": re.compile(rb"BM"),
    "GIF": re.compile(rb"GIF8[79]a"),
    "JXL": re.compile(rb"\xff\x0a|\x00\x00\x00\x0cJXL \r\n\x87\n"),
}

_BRANDS = {
    "AVIF": frozenset({b"avif", b"avis"}),
    "HEIC": frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}),
}
"""Format -> brands of ISO/IEC 23008-12 and AVIF 1.1. `mif1` allows any codec: the other brands decide first."""

OTHER_FORMATS = {
    "JPEG 2000": re.compile(rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51"),
    "Photoshop": re.compile(rb"8BPS"),
    "icon": re.compile(rb"\x00\x00[\x01\x02]\x00"),
    "PDF": re.compile(rb"%PDF-"),
}
"""Known formats that are not read -> their first bytes."""


def identify(data: bytes) -> str:
    """Return the format of a file by its content; empty if it is none of `FORMATS`."""
    raw = identify_raw(data)
    if raw:
        return raw
    brands = read_brands(data)
    if brands:
        return next((name for name, known in _BRANDS.items() if known.intersection(brands)), "")
    start = data[:64]
    return next((name for name, pattern in _STARTS.items() if pattern.match(start)), "")
