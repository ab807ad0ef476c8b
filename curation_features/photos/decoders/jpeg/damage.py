"""Damage of a JPEG: what of the picture is missing, judged by the warnings of libjpeg-turbo.

A JPEG has no checksum. If bits of its coded pixels are flipped, the decoder meets an invalid code, lacks data at the
end, or has data left over. Whole files have data left over, too: webcams, scanners and action cameras pad scans and
restart intervals, and some leave out the end marker. The decoder reports only its first warning, so that harmless data
is removed and the rest decoded again, until a decoder has nothing to report or pixels are missing.

What is left over is picture if it decodes as whole blocks to its last bit (`jpeg_blocks`), otherwise padding.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable
from itertools import takewhile
from typing import TYPE_CHECKING, Protocol

from curation_features.errors import PhotoError
from curation_features.photos.decoders.jpeg.blocks import Coder, find_coder, has_blocks
from curation_features.photos.jpeg_segments import (
    HUFFMAN_FRAMES,
    RESTART_INTERVAL,
    SEQUENTIAL_FRAMES,
    START_OF_SCAN,
    Frame,
    Scan,
    find_frame,
    find_scans,
    segments,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Decoder(Protocol):
    """Decodes a JPEG; raises `ValueError` with its first error or, if strict, its first warning."""

    def __call__(self, data: bytes, *, strict: bool = True) -> NDArray[np.uint8]:
        """Return (height, width, channels)."""


_MAX_PADDING = 16  # bytes at the end of a progressive scan that are padding: few, and it is not known what they are
_FEW = 8  # bytes that are padding even if they look like picture: they are too few to say
_MAX_DECODES = 24  # of one file; a progressive JPEG has about ten scans
_MAX_INTERVALS = 20_000  # restart intervals of one file that are decoded one by one
_MAX_SIDE = 65_500  # px, of libjpeg
_END = b"\xff\xd9"
_LOST = re.compile(r"premature end of data segment|bad Huffman code|bad arithmetic code|instead of RST")
_EXTRA = re.compile(r"(?P<extra>\d+) extraneous bytes before marker 0x(?P<marker>..)")
_NO_END = "Premature end of JPEG file"
_STRANGE_MARKER = "Unsupported marker type"
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_APPLICATION_SEGMENTS = frozenset({0xE0, 0xEE})  # JFIF and Adobe: about density and colour


class Lost(Exception):
    """Pixels are missing. The message is the decoder's warning, or the reason."""


def decode_in_doubt(
    data: bytes, warning: str, decode: Decoder, check_time: Callable[[], None]
) -> NDArray[np.uint8] | None:
    """Decode a JPEG that is whole although the decoder warns.

    Args:
        data: a JPEG without metadata.
        warning: the decoder's first warning or error.
        decode: the decoder.
        check_time: raises `PhotoError` after the limit of time.

    Returns:
        The result of `decode`. None if the decoder's error or warning is not about pixels: Pillow reads the file, or
        explains the error.

    Raises:
        PhotoError: `truncated` or `unreadable`: pixels are missing.
    """
    data, has_end = _remove_junk(data)
    try:
        if not has_end and not is_complete(data):
            raise Lost(warning)
        about_end = _NO_END in warning or _STRANGE_MARKER in warning  # an end marker has been added
        return _decode_without_padding(data, "" if about_end else warning, decode, check_time)
    except Lost as error:
        if has_end:
            raise PhotoError("unreadable", f"the image is damaged ({error}); copy it again") from None
        raise PhotoError("truncated", f"the file ends before the image is complete ({error}); copy it again") from None


def _decode_without_padding(
    data: bytes, message: str, decode: Decoder, check_time: Callable[[], None]
) -> NDArray[np.uint8] | None:
    is_original = True
    for _ in range(_MAX_DECODES):
        check_time()
        if _LOST.search(message) or _STRANGE_MARKER in message:
            raise Lost(message)
        if extra := _EXTRA.search(message):
            if intervals := find_intervals(data):
                intervals.check(decode, check_time)
                return decode(data, strict=False)
            data = _remove_padding(data, message, int(extra["marker"], 16), decode, check_time)
        elif message:  # hides the warnings after it
            simple = _remove_causes_of_other_warnings(data)
            if simple == data:
                return None
            data, is_original = simple, False
        try:
            pixels = decode(data)
        except ValueError as error:
            message = str(error)
        else:
            return pixels if is_original else None
    raise Lost(message)


def warning_of(data: bytes, decode: Decoder) -> str:
    """Return the first warning or error of a decoder; empty without one."""
    try:
        decode(data)
    except ValueError as error:
        return str(error)
    return ""


def _remove_junk(data: bytes) -> tuple[bytes, bool]:
    """Return a JPEG without bytes between segments and after the last scan, and whether it has an end marker."""
    scans = find_scans(data)
    if not scans:
        return data, True
    ends = {scan.header: scan.end for scan in scans}
    parts = (
        data[segment.start : ends.get(segment.start, segment.end)]
        for segment in takewhile(lambda segment: segment.start <= scans[-1].header, segments(data))
    )
    return b"".join([*parts, _END]), _END in data[scans[-1].end :]


def is_complete(data: bytes) -> bool:
    """Return whether the scans contain all bits of all coefficients of all components.

    Of a truncated progressive JPEG, the last scans may be missing, and the decoder does not warn. Arithmetic coding
    has no end that a decoder notices (T.81, D.2.8), so that it is incomplete here.
    """
    frame = find_frame(data)
    if frame is None or frame.kind not in HUFFMAN_FRAMES:
        return False
    missing = {part.identifier: [1] * 64 for part in frame.components}  # lowest bit that is known, plus one
    for scan in find_scans(data):
        header = data[scan.header + 4 : scan.start]
        number = header[0]
        first, last, bits = header[1 + 2 * number : 4 + 2 * number]
        if frame.kind in SEQUENTIAL_FRAMES:
            first, last, bits = 0, 63, 0
        for identifier in header[1 : 1 + 2 * number : 2]:
            missing.get(identifier, [0] * 64)[first : last + 1] = [bits & 15] * (last + 1 - first)
    return not any(any(part) for part in missing.values())


def _remove_padding(data: bytes, warning: str, marker: int, decode: Decoder, check_time: Callable[[], None]) -> bytes:
    """Remove the bytes that the decoder has left over in the first scan that has some, if they are padding.

    Raises:
        Lost: they are picture.
    """
    if 0xD0 <= marker <= 0xD7:
        return _remove_run_before_restart(data, warning)
    scans = find_scans(data)

    def warning_after(number: int) -> str:
        check_time()
        return warning_of(data[: scans[number].end] + _END, decode)

    number = bisect_left(range(len(scans) - 1), True, key=lambda scan: bool(warning_after(scan)))
    scan, extra = scans[number], _EXTRA.search(warning_after(number))
    if extra is None:
        raise Lost(warning)
    coder = find_coder(data, scan) if number == len(scans) - 1 else None
    coded = remove_extra(data[scan.start : scan.end], int(extra["extra"]), coder)
    if coded is None:
        raise Lost(warning)
    return data[: scan.start] + coded + data[scan.end :]


def remove_extra(coded: bytes, extra: int, coder: Coder | None, *, in_interval: bool = False) -> bytes | None:
    """Remove bytes that the decoder has left over from coded pixels; None if they are picture.

    Args:
        extra: number of the bytes, without fill bytes (0xFF) before the marker.
        coder: tables of the scan; None: unknown, as of progressive scans.
        in_interval: the bytes are before a restart marker: blocks that are left over there may be few.
    """
    coded = coded.rstrip(b"\xff")
    rest, before = coded[-extra:], coded[-extra - 1 :]  # the first block may start within the byte before them
    if set(rest) <= {0, 0xFF} or (extra >= 4 and len(set(rest)) == 1):
        is_padding = True
    elif in_interval or extra > _MAX_PADDING:
        is_padding = coder is not None and not has_blocks(before, coder)
    else:
        is_padding = extra < _FEW or coder is None or not has_blocks(before, coder, only_whole_mcus=True)
    return coded[:-extra] if is_padding else None


def _restart_interval(data: bytes) -> int:
    """Return the number of MCUs between restarts, of the first scan; 0 without restarts."""
    interval = 0
    for segment in segments(data):
        if segment.kind == START_OF_SCAN:
            break
        if segment.kind == RESTART_INTERVAL:
            interval = int.from_bytes(data[segment.start + 4 : segment.end], "big")
    return interval


def _remove_run_before_restart(data: bytes, warning: str) -> bytes:
    """Remove equal bytes before the restart marker of a warning."""
    extra = _EXTRA.search(warning)
    number, marker = int(extra["extra"]) if extra else 0, bytes.fromhex(f"ff{extra['marker']}" if extra else "")
    for match in re.finditer(re.escape(marker), data):
        run = data[match.start() - number : match.start()]
        if len(run) > 1 and len(set(run)) == 1:
            return data[: match.start() - number] + data[match.start() :]
    raise Lost(warning)


def _remove_causes_of_other_warnings(data: bytes) -> bytes:
    """Remove application segments, and set the parameters of sequential scans that libjpeg ignores."""
    frame, parts, end = find_frame(data), [], 0
    for segment in segments(data):
        if segment.kind in _APPLICATION_SEGMENTS:
            parts.append(data[end : segment.start])
            end = segment.end
        elif segment.kind == START_OF_SCAN and frame and frame.kind in SEQUENTIAL_FRAMES:
            parts.append(data[end : segment.end - 3] + b"\x00\x3f\x00")
            end = segment.end
    return b"".join([*parts, data[end:]])


def _mcu_size(frame: Frame) -> tuple[int, int]:
    """Return width and height of an MCU of a scan of all components, px."""
    if len(frame.components) == 1:
        return 8, 8
    return (
        8 * max(part.horizontal for part in frame.components),
        8 * max(part.vertical for part in frame.components),
    )


def find_intervals(data: bytes) -> _Intervals | None:
    """Return the restart intervals of a sequential JPEG of one scan; None without them, or if one is too large."""
    scans, frame, interval = find_scans(data), find_frame(data), _restart_interval(data)
    if not interval or frame is None or len(scans) != 1 or frame.kind not in SEQUENTIAL_FRAMES:
        return None
    width, height = _mcu_size(frame)
    in_row = -(-frame.width // width)
    row = in_row if interval % in_row == 0 else 1
    return _Intervals(data, scans[0], frame, interval, row) if interval // row * height <= _MAX_SIDE else None


class _Intervals:
    """The restart intervals of a scan. Each is decoded as a picture, since none depends on another.

    Args:
        row: MCUs in a row of these pictures.
    """

    def __init__(self, data: bytes, scan: Scan, frame: Frame, interval: int, row: int) -> None:
        self._data, self._scan, self._frame, self._interval, self._row = data, scan, frame, interval, row
        width, height = _mcu_size(frame)
        self._mcus = -(-frame.width // width) * -(-frame.height // height)

    def check(self, decode: Decoder, check_time: Callable[[], None]) -> None:
        """Raise `Lost` if a marker is missing, or an interval is damaged."""
        pieces = _RESTART.split(self._data[self._scan.start : self._scan.end])
        parts, codes = pieces[::2], pieces[1::2]
        expected = -(-self._mcus // self._interval)
        if len(parts) == expected + 1 and not parts[-1].strip(b"\0\xff"):  # a marker after the last interval
            del parts[-1], codes[-1]
        if codes != [bytes([0xD0 + number % 8]) for number in range(expected - 1)]:
            raise Lost("restart markers are missing, or their numbers are wrong")
        if expected > _MAX_INTERVALS:
            raise Lost(f"padding in one of {expected} restart intervals")
        coder = find_coder(self._data, self._scan)
        for number, part in enumerate(parts):
            check_time()
            mcus = min(self._interval, self._mcus - number * self._interval)
            if warning := warning_of(self._header(mcus) + part + _END, decode):
                extra = _EXTRA.search(warning)
                inside = number < expected - 1
                if extra is None or remove_extra(part, int(extra["extra"]), coder, in_interval=inside) is None:
                    raise Lost(warning)

    def _header(self, mcus: int) -> bytes:
        """Return the header of a picture of some MCUs."""
        width, height = _mcu_size(self._frame)
        size = mcus // self._row * height, min(self._row * width, self._frame.width if self._row > 1 else width)
        at = self._frame.start + 5
        fields = b"".join(number.to_bytes(2, "big") for number in size)
        return self._data[:at] + fields + self._data[at + 4 : self._scan.start]
