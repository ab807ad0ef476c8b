"""Photos: one open and one strict decode each; upright, in RGB, and whole or not at all.

`PhotoReader` knows which bytes may be read and reads them; `decode` makes pixels out of them and touches no file. The
bytes that are hashed are the bytes that are decoded, so that a photo replaced meanwhile is never mixed up.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote, unquote_to_bytes

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from curation_features.errors import TOO_MANY_FILES, PhotoError, ResourceError, too_many_files
from curation_features.photos.jpeg import jpeg_pixels
from curation_features.photos.limits import FORMATS, MAX_SECONDS, check_before_pixels, open_image, read_tags
from curation_features.schema import PhotoInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from curation_features.settings import Settings

RANKING_FOLDER = "rankingInput"
"""Folder in `Settings.data_dir` with reduced and standardised photos; it may always be read."""


@dataclass(frozen=True, slots=True)
class PhotoFile:
    """The bytes of a photo file and their SHA-256 (hex)."""

    data: bytes
    sha256: str


@dataclass(frozen=True, slots=True)
class Photo:
    """A decoded photo: `rgb` is (height, width, 3), uint8, 0..255, upright, C-contiguous, and no side is 0."""

    info: PhotoInfo
    rgb: NDArray[np.uint8]


# Reading -------------------------------------------------------------------------------------------------------------

_REMOTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}  # scheme -> the extra of this package that opens it
_ERRNO_REASONS = {
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
    errno.EISDIR: "not_a_file",
    errno.ENXIO: "not_a_file",  # a socket
    errno.ENODEV: "not_a_file",
    errno.EACCES: "permission_denied",
    errno.EPERM: "permission_denied",
    errno.ELOOP: "forbidden_path",  # links in a circle, or a link that was put there after the path was checked
    errno.ENAMETOOLONG: "forbidden_path",
    errno.EIO: "io_error",
    errno.ENOTCONN: "io_error",  # a FUSE file system whose process is gone
    errno.ESTALE: "io_error",  # NFS
    errno.EHOSTDOWN: "io_error",
    errno.EHOSTUNREACH: "io_error",
    errno.ENETDOWN: "io_error",
    errno.ENETUNREACH: "io_error",
    errno.ECONNREFUSED: "io_error",
    errno.ECONNRESET: "io_error",
    errno.ECONNABORTED: "io_error",
    errno.ETIMEDOUT: "timed_out",
}
_CLASS_REASONS: dict[type[OSError], str] = {  # fsspec raises these without an errno
    FileNotFoundError: "missing",
    NotADirectoryError: "missing",
    IsADirectoryError: "not_a_file",
    PermissionError: "permission_denied",
    TimeoutError: "timed_out",
}


class PhotoReader:
    """Reads photo files, whole, from where that is allowed. Safe to use from several threads.

    A URI is a path (a relative one starts at `settings.root`), a `file://` URI, or an fsspec URI such as `s3://...`.
    Once symbolic links are resolved, a local file must lie in one of `settings.photo_roots` (`settings.root` if there
    are none) or among the pipeline's own standardised photos. A remote one must lie under a prefix that
    `settings.photo_roots` lists with the same scheme, so that by default nothing is fetched from anywhere.
    """

    def __init__(self, settings: Settings) -> None:
        self._base = os.path.realpath(settings.root)
        self._max_bytes = settings.max_file_bytes
        roots = settings.photo_roots or (self._base,)
        local = (*(root for root in roots if not is_remote(root)), str(settings.data_path / RANKING_FOLDER))
        self._folders = tuple(self._resolved(root) for root in local)
        self._inside = tuple(os.path.join(folder, "") for folder in self._folders)  # noqa: PTH118 (with a slash)
        self._prefixes = tuple(root for root in roots if is_remote(root))

    def read(self, uri: str) -> PhotoFile:
        """The bytes of one photo.

        Raises:
            PhotoError: the URI is not legal or not allowed, or nothing here opens it; or the file is missing, no
                regular file, not permitted, empty, or of more than `settings.max_file_bytes` bytes.
            ResourceError: too many files are open, for which no photo is to blame.
        """
        if _CONTROL.search(unquote(uri) if _REMOTE.fullmatch(uri) else uri):  # in a plain path % is any character
            raise PhotoError("forbidden_path", f"{_shown(uri)} holds control characters; rename the file")
        try:
            data = self._read_remote(uri) if is_remote(uri) else self._read_local(uri)
        except OSError as error:
            if too_many_files(error):
                raise ResourceError(f"{_shown(uri)} cannot be opened: {error.strerror}; {TOO_MANY_FILES}") from error
            raise PhotoError(
                _reason_of(error, uri), f"{_shown(uri)} cannot be read: {error.strerror or error}"
            ) from error
        except ValueError as error:  # a lone surrogate, say, which no file system can hold
            raise PhotoError("forbidden_path", f"{_shown(uri)} is not a legal path: {error}") from error
        if not data:
            raise PhotoError("unreadable", f"{_shown(uri)} is empty")
        if len(data) > self._max_bytes:
            raise PhotoError("too_large", f"{_shown(uri)} has more than max_file_bytes ({self._max_bytes}) bytes")
        return PhotoFile(data, hashlib.sha256(data).hexdigest())

    def _resolved(self, uri: str) -> str:
        """The absolute path of a local URI, without symbolic links (as far as it exists)."""
        return os.path.realpath(os.path.join(self._base, local_path(uri)))  # noqa: PTH118 (Path would drop "..")

    def _read_local(self, uri: str) -> bytes:
        path = self._resolved(uri)
        if not f"{path}{os.sep}".startswith(self._inside):
            folders = ", ".join(self._folders)
            raise PhotoError(
                "forbidden_path", f"{_shown(uri)} leads out of {folders}; list its folder in photo_roots to allow it"
            )
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise PhotoError("not_a_file", f"{_shown(uri)} is a folder, FIFO, device or socket")
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(min(status.st_size, self._max_bytes) + 1)
        finally:
            os.close(descriptor)

    def _read_remote(self, uri: str) -> bytes:
        import fsspec

        scheme = uri.partition("://")[0]
        if scheme.lower() not in fsspec.available_protocols():
            raise PhotoError("unsupported_uri", f"{_shown(uri)}: nothing here opens {scheme}://")
        if not any(_is_under(uri, prefix) for prefix in self._prefixes):
            raise PhotoError(
                "forbidden_path",
                f"{_shown(uri)} is under no {scheme}:// prefix in photo_roots; list one there to allow it",
            )
        try:
            filesystem, path = fsspec.url_to_fs(uri)
            return cast("bytes", filesystem.cat_file(path, start=0, end=self._max_bytes + 1))
        except ImportError as error:
            extra = _EXTRAS.get(scheme.lower())
            remedy = f'pip install "curation-features[{extra}]"' if extra else str(error)
            raise PhotoError("unsupported_uri", f"{_shown(uri)}: {scheme}:// needs a package: {remedy}") from error
        except (OSError, ValueError):
            raise
        except Exception as error:  # each backend has exceptions of its own; none of them is about the bytes
            raise PhotoError("io_error", f"{_shown(uri)} cannot be read: {error}") from error


def _reason_of(error: OSError, uri: str) -> str:
    """Why a file could not be read. Of a remote one, what has no other name is a failure of the connection."""
    by_class = next((reason for kind, reason in _CLASS_REASONS.items() if isinstance(error, kind)), None)
    return _ERRNO_REASONS.get(error.errno or 0) or by_class or ("io_error" if is_remote(uri) else "unreadable")


def is_remote(uri: str) -> bool:
    """Whether a URI names no file of this machine."""
    scheme = _REMOTE.fullmatch(uri)
    return scheme is not None and scheme[1].lower() not in ("file", "local")


def local_path(uri: str) -> str:
    """The path that a local URI names: `file://` URIs are percent-decoded, plain paths taken as they are.

    Raises:
        PhotoError: it names another machine.
    """
    scheme = _REMOTE.fullmatch(uri)
    if scheme is None:
        return uri
    host, slash, path = scheme[2].partition("/")
    if host.lower() not in ("", "localhost") or not slash:
        raise PhotoError("unsupported_uri", f"{_shown(uri)} names another machine; write file:///absolute/path")
    return os.fsdecode(unquote_to_bytes(slash + path))


def _is_under(uri: str, prefix: str) -> bool:
    """Whether a remote URI lies under a prefix, component by component."""
    scheme, _, path = uri.partition("://")
    root_scheme, _, root = prefix.partition("://")
    parts, root_parts = path.split("/"), root.rstrip("/").split("/")
    if ".." in unquote(path).split("/") or "::" in uri:  # "::" chains file systems in fsspec
        return False
    return scheme.lower() == root_scheme.lower() and (root_parts == [""] or parts[: len(root_parts)] == root_parts)


def _shown(uri: str) -> str:
    return repr(uri if len(uri) <= 200 else f"{uri[:200]}...")


# Decoding ------------------------------------------------------------------------------------------------------------

_UPRIGHT = {  # EXIF orientation -> what turns the stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_STRAIGHT_ALPHA = {"La": "LA", "RGBa": "RGBA"}
_RGB_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})
_REDUCED_IMAGE = 1  # bit of TIFF's NewSubfileType: in camera raw files the first image is only a thumbnail
_OTHER_FORMATS = {  # first bytes -> formats that are known and not read
    "HEIC": re.compile(rb"....ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)", re.DOTALL),
    "JPEG XL": re.compile(rb"\xff\x0a|\x00\x00\x00\x0cJXL "),
    "JPEG 2000": re.compile(rb"\x00\x00\x00\x0cjP  |\xff\x4f\xff\x51"),
    "Photoshop": re.compile(rb"8BPS"),
    "icon": re.compile(rb"\x00\x00[\x01\x02]\x00"),
    "PDF": re.compile(rb"%PDF-"),
    "camera raw": re.compile(rb"FUJIFILM|IIU\x00|II\*\x00....CR|II(RO|RS)", re.DOTALL),
}
_ENDS_EARLY = re.compile(r"truncated|incomplete", re.IGNORECASE)  # in the messages of Pillow and its codecs

_UNPACKS_TOO_LARGE = re.compile(r"MAX_TEXT_CHUNK|MAX_TEXT_MEMORY")  # texts and profiles of a PNG, 1 MB and 64 MB


def decode(file: PhotoFile, *, max_pixels: int, max_seconds: float = MAX_SECONDS) -> Photo:
    """Decode a photo: its first frame, turned upright by its EXIF or XMP orientation, as 8-bit RGB.

    Transparency is composited on white, 16-bit gray is scaled by 1/257, gray becomes three equal channels. Colour
    profiles are not applied. Metadata that cannot be read is ignored; pixels that cannot be read are an error.
    A PNG's checksums are verified. A JPEG has none: one that ends early or whose structure is broken is refused, and so
    is one in which the decoder loses its step; a flipped bit that leaves the code well formed goes unseen.

    Args:
        max_pixels: width times height above which the photo is refused before its pixels are decoded. Pillow's own
            limit, twice `PIL.Image.MAX_IMAGE_PIXELS` (179 million as it comes), applies as well.
        max_seconds: the thread's own work after which parsing is given up. One call of a decoder cannot be
            interrupted; `confinement` bounds what it may be given.

    Raises:
        PhotoError: `too_large`, `too_slow`, `truncated`, `unsupported_format` or `unreadable`.
        ResourceError: too many files are open.
    """
    with quiet_pillow():
        try:
            image = _opened(file.data, max_pixels, max_seconds)
            pixels = jpeg_pixels(file.data) if _is_plain_jpeg(image) else None
            if pixels is None:
                image.load()
                pixels = np.array(_rgb(image))
            turn = _UPRIGHT.get(_orientation(image))
            if turn is not None:
                pixels = np.array(Image.fromarray(pixels).transpose(turn))
        except PhotoError:
            raise
        except Image.DecompressionBombError as error:
            raise PhotoError("too_large", f"{error}; PIL.Image.MAX_IMAGE_PIXELS sets this limit") from error
        except Exception as error:  # hostile bytes raise whatever the decoders did not think of
            if too_many_files(error):  # Pillow loads its decoders when it first needs them
                raise ResourceError(f"{error}; {TOO_MANY_FILES}") from error
            raise _failure(file.data, error) from error
    height, width = pixels.shape[:2]
    return Photo(PhotoInfo(file.sha256, _format(image), width, height), pixels)


def upright(image: Image.Image) -> Image.Image:
    """A loaded image as the picture that it shows: RGB, transparency on white, turned as its EXIF says.

    Raises:
        PhotoError: `unsupported_format`; `too_slow`.
    """
    rgb, turn = _rgb(image), _UPRIGHT.get(_orientation(image))
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, of a loaded image; 1 where there is none or it cannot be read."""
    try:
        value = read_tags(image).get(ExifTags.Base.Orientation, 1)
    except PhotoError:  # out of time
        raise
    except Exception:  # broken metadata raises anything; the pixels are still whole
        return 1
    return value if value in _UPRIGHT else 1


def _opened(data: bytes, max_pixels: int, max_seconds: float) -> Image.Image:
    """The image with its pixels not yet decoded; of a PNG, the checksums of all its parts are verified."""
    image = open_image(data, seconds=max_seconds)
    check_before_pixels(image, data, max_pixels)
    if isinstance(image, TiffImageFile) and image.tag_v2.get(ExifTags.Base.NewSubfileType, 0) & _REDUCED_IMAGE:
        raise PhotoError("unsupported_format", "camera raw, of which only a thumbnail could be read; export it as JPEG")
    if image.format != "PNG":
        return image
    image.verify()  # Pillow's load() does not look at them; a verified image cannot be loaded
    return open_image(data, formats=("PNG",), seconds=max_seconds)


def _is_plain_jpeg(image: Image.Image) -> bool:
    return image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB")


def _rgb(image: Image.Image) -> Image.Image:
    """A loaded image of any mode as RGB, on white."""
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if image.mode in _STRAIGHT_ALPHA:
        image = image.convert(_STRAIGHT_ALPHA[image.mode])
    if image.mode not in _RGB_MODES:
        raise PhotoError("unsupported_format", f"pixels of type {image.mode} cannot be read as RGB; export it as JPEG")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    layer = image.convert("RGBA")
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(layer, mask=layer)
    return canvas


def _eight_bits(image: Image.Image) -> Image.Image:
    """Gray of 16 bits (0..65535) or of floats in [0, 1], as 8-bit gray; transparent where one value is said to be."""
    values: NDArray[Any] = np.asarray(image)
    limit = 1 if image.mode == "F" else 65535
    if not (values.min() >= 0 and values.max() <= limit):  # NaN fails too
        raise PhotoError("unsupported_format", f"gray values are not all within 0 and {limit}; export it as 8 bits")
    scaled = np.rint(values * np.float32(255)) if image.mode == "F" else (values.astype(np.uint32) + 128) // 257
    gray = Image.fromarray(scaled.astype(np.uint8))
    transparent = image.info.get("transparency")
    if transparent is not None:
        gray.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return gray


def _format(image: Image.Image) -> str:
    return "JPEG" if image.format == "MPO" else str(image.format)


def _failure(data: bytes, error: Exception) -> PhotoError:
    """What Pillow's error means. It names no file: the bytes have none."""
    detail = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, UnidentifiedImageError):
        for name, start in _OTHER_FORMATS.items():
            if start.match(data):
                return PhotoError("unsupported_format", f"{name} files are not read; export it as JPEG")
        return PhotoError("unreadable", f"it is no {', '.join(FORMATS)} image, or its beginning is damaged")
    if isinstance(error, MemoryError) or _UNPACKS_TOO_LARGE.search(str(error)):
        return PhotoError("too_large", f"it needs more memory than there is or than Pillow's limits allow ({detail})")
    if _ENDS_EARLY.search(str(error)) or _is_short_webp(data):
        return PhotoError("truncated", f"the file ends before the image does ({detail}); copy it again")
    return PhotoError("unreadable", f"the image is damaged ({detail})")


def _is_short_webp(data: bytes) -> bool:
    """Whether a WebP says that it is longer than it is; its decoder does not tell this from other damage."""
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP" and int.from_bytes(data[4:8], "little") + 8 > len(data)


_TAG_LOG = logging.getLogger("PIL.TiffImagePlugin")  # at DEBUG it tells the value of every tag: positions, owners


def _tells_no_tag(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG


class _Silence:
    """Ignores warnings raised inside Pillow, and what it logs of tags, while at least one thread asks for it.

    Pillow warns about damaged metadata and about sizes that are limited here anyway. `warnings.catch_warnings` is no
    help in threads: it swaps a list that all of them share, and restores it in whatever order they end. Here one entry
    is put into that list and taken out again. It only ever ignores, so Python's record of warnings that were shown
    stays right and need not be reset.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._entry = ("ignore", None, Warning, re.compile(r"PIL\."), 0)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            self._users += 1
            if self._entry not in self._filters():
                self._filters().insert(0, self._entry)
            _TAG_LOG.addFilter(_tells_no_tag)  # once, however often it is added
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    _TAG_LOG.removeFilter(_tells_no_tag)
                    with suppress(ValueError):  # somebody restored an older list meanwhile
                        self._filters().remove(self._entry)

    @staticmethod
    def _filters() -> list[Any]:
        return cast("list[Any]", warnings.filters)


quiet_pillow = _Silence().__call__
"""Context in which Pillow neither warns nor logs what tags hold; threads may enter it at the same time."""
