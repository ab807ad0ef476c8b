"""Compare the conversion of a photo from Display P3 to sRGB with decoding it, and with straightforward code.

Straightforward is `ImageCms.profileToProfile` as in Pillow's guide, which builds a transform for each photo. Both are
on one thread. A photo tagged as sRGB takes the time of recognising its profile.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import cv2
import numpy as np
from measure import Report, arguments, medians
from PIL import Image, ImageCms
from skimage import data

from curation_features.photos.colour.conversion import to_srgb
from curation_features.photos.colour.srgb_profile import SRGB_PROFILE
from curation_features.photos.decoders.jpeg.reader import jpeg_pixels
from curation_features.photos.decoding_version import decoding_version


def p3_profile() -> bytes:
    """Return Display P3: sRGB's profile with the primaries of P3, adapted to D50."""
    found = SRGB_PROFILE
    columns = {
        b"rXYZ": (0.51512, 0.24120, -0.00105),
        b"gXYZ": (0.29198, 0.69225, 0.04189),
        b"bXYZ": (0.15710, 0.06657, 0.78407),
    }
    for name, column in columns.items():
        entry = found.index(name)
        start = int.from_bytes(found[entry + 4 : entry + 8], "big") + 8
        numbers = np.rint(np.array(column) * 65536).astype(">i4").tobytes()
        found = found[:start] + numbers + found[start + 12 :]
    return found


def straightforward(pixels: np.ndarray, profile: bytes) -> np.ndarray:
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    target = ImageCms.createProfile("sRGB")
    return np.array(ImageCms.profileToProfile(Image.fromarray(pixels), source, target, outputMode="RGB"))


def ways(width: int) -> dict[str, Callable[[], object]]:
    """Return the actions that are timed for a photo of `width` px."""
    pixels = cv2.resize(data.astronaut(), (width, width * 3 // 4), interpolation=cv2.INTER_CUBIC)
    p3, buffer = p3_profile(), BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, icc_profile=p3)
    jpeg = buffer.getvalue()
    return {
        "decode": lambda: jpeg_pixels(jpeg),
        "P3": lambda: to_srgb(pixels, p3),
        "straightforward": lambda: straightforward(pixels, p3),
        "sRGB": lambda: to_srgb(pixels, SRGB_PROFILE),
        "version": lambda: decoding_version(jpeg),
    }


def main() -> None:
    options = arguments(__doc__, rounds=15).parse_args()
    cv2.setNumThreads(1)
    report = Report(f"Display P3 to sRGB, ms per photo ({options.rounds} rounds)")
    for width in (1024, 2048):
        found = {name: 1000 * seconds for name, seconds in medians(ways(width), options.rounds).items()}
        report.add(
            f"{width} x {width * 3 // 4}",
            **{name: found[name] for name in ("P3", "decode", "straightforward")},
            **{"tagged sRGB, us": 1000 * found["sRGB"], "decoding_version, us": 1000 * found["version"]},
            **{"of decoding": found["P3"] / found["decode"]},
        )
    report.show(options.json)


if __name__ == "__main__":
    main()
