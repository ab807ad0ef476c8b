"""The formats of photo files: names, suffixes and first bytes."""

from __future__ import annotations

import re

SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "AVIF": (".avif",),
}
"""Supported formats and their suffixes, the usual suffix first."""

FORMATS = tuple(SUFFIXES)
"""Supported formats; the file name does not matter. A multi-picture or Ultra HDR JPEG counts as its first JPEG."""

_STARTS = {
    "JPEG": re.compile(rb"\xff\xd8\xff"),
    "PNG": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "WEBP": re.compile(rb"RIFF....WEBP", re.DOTALL),
    "TIFF": re.compile(rb"II[*+]\x00|MM\x00[*+]|MM\*\x00|II\x00\*"),
    "BMP": re.compile(rb"BM"),
    "GIF": re.compile(rb"GIF8[79]a"),
    "AVIF": re.compile(rb"....ftyp(avi[fs]|mif1....(....)*?avi[fs])", re.DOTALL),
}

OTHER_FORMATS = {
    "HEIC": re.compile(rb"....ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)", re.DOTALL),
    "JPEG XL": re.compile(rb"\xff\x0a|\x00\x00\x00\x0cJXL "),
    "JPEG 2000": re.compile(rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51"),
    "Photoshop": re.compile(rb"8BPS"),
    "icon": re.compile(rb"\x00\x00[\x01\x02]\x00"),
    "PDF": re.compile(rb"%PDF-"),
    "camera raw": re.compile(rb"FUJIFILM|IIU\x00|II\*\x00....CR|II(RO|RS)", re.DOTALL),
}
"""Known formats that are not read -> their first bytes."""


def identify(data: bytes) -> str:
    """Return the format of a file by its first bytes; empty if it is none of `FORMATS`."""
    start = data[:64]
    return next((name for name, pattern in _STARTS.items() if pattern.match(start)), "")
