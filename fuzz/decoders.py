"""Fuzz the decoder processes with damaged images of every format, also of the extras.

    PYTHONPATH=tests python fuzz/decoders.py --count 100000 --seed 1

Each input is decoded in a decoder process. It gives pixels of the size that it says, or a `PhotoError` with a known
reason. After every hundredth input an intact photo is decoded, which must give the same pixels each time. Everything
else is a finding: the table counts it, and the exit code is 1. A decoder that crashes twice on an input, or does not
end, is counted as such: that costs the photo, which is what the processes are for.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from random import Random

import numpy as np
from image_files import PHOTOS, image_files
from mutations import damaged
from other_formats import dng, heic, jxl

from curation_features.concurrency import bounded_map
from curation_features.errors import PhotoError
from curation_features.photos.formats import identify
from curation_features.photos.processes.isolation import Decoder
from curation_features.photos.reader import PhotoFile
from curation_features.schema import PHOTO_REASONS
from curation_features.settings import Settings

MAX_PIXELS = 4_000_000
SECONDS = 10.0


def other_files() -> Iterator[tuple[str, bytes]]:
    """Yield files of the formats that extras decode."""
    for name in ("cat", "astronaut"):
        pixels = np.ascontiguousarray(PHOTOS[name])
        yield f"{name} HEIC", heic(pixels)
        yield f"{name} JXL", jxl(pixels)
        yield f"{name} DNG", dng(pixels[: len(pixels) // 2 * 2, : pixels.shape[1] // 2 * 2])


class Trial:
    """Decodes inputs, each in a decoder process."""

    def __init__(self) -> None:
        settings = Settings(root=Path.cwd(), max_pixels=MAX_PIXELS, max_decode_seconds=SECONDS)
        self._decoder = Decoder(settings)
        self._intact = PhotoFile(dict(image_files())["cat JPEG baseline"], "")
        self._expected = self._decoder.decode(self._intact).rgb

    def __call__(self, data: bytes, *, check_neighbour: bool) -> str:
        """Return `measured`, the reason of the refusal, or a finding."""
        outcome = self._decode(data)
        if check_neighbour and not np.array_equal(self._decoder.decode(self._intact).rgb, self._expected):
            return "FOUND other pixels of an intact photo"
        return outcome

    def _decode(self, data: bytes) -> str:
        try:
            photo = self._decoder.decode(PhotoFile(data, sha256(data).hexdigest()))
        except PhotoError as error:
            if error.reason not in PHOTO_REASONS:
                return f"FOUND reason {error.reason}"
            crashed = "the decoder" in str(error) or "the system stopped" in str(error)
            return f"{error.reason}, the decoder died" if crashed else error.reason
        except Exception as error:
            return f"FOUND {type(error).__name__}: {error}"[:120]
        if photo.rgb.shape[2] != 3 or photo.rgb.shape[0] * photo.rgb.shape[1] > MAX_PIXELS:
            return "FOUND shape"
        return "measured"


def numbered(seed: int, index: int, files: Mapping[str, bytes]) -> bytes:
    """Return input `index`."""
    return damaged(Random(f"{seed} {index}"), files)[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="inputs to try")
    parser.add_argument("--seed", type=int, default=1, help="another seed makes other inputs")
    parser.add_argument("--workers", type=int, default=2, help="inputs at the same time")
    options = parser.parse_args()

    begun = time.monotonic()
    files = {name: data for name, data in image_files().items() if len(data) < 100_000} | dict(other_files())
    trial = Trial()
    totals, formats, slowest = Counter[str](), Counter[str](), 0.0

    def run(index: int) -> tuple[str, str, float]:
        data = numbered(options.seed, index, files)
        started = time.monotonic()
        outcome = trial(data, check_neighbour=index % 100 == 0)
        return identify(data) or "none", outcome, time.monotonic() - started

    for kind, outcome, seconds in bounded_map(run, range(options.count), workers=options.workers, ahead=50):
        formats[kind] += 1
        totals[outcome] += 1
        slowest = max(slowest, seconds)
        if sum(totals.values()) % 10_000 == 0:
            print(f"{sum(totals.values()):8,} inputs", file=sys.stderr, flush=True)
    for outcome, number in totals.most_common():
        print(f"{number:8,}  {outcome}")
    took = f"slowest {slowest:.1f} s, in all {time.monotonic() - begun:.0f} s"
    print(f"{options.count:8,}  inputs out of {len(files)} files, seed {options.seed}; {took}")
    print(", ".join(f"{kind} {number:,}" for kind, number in formats.most_common()))
    return int(any(outcome.startswith("FOUND") for outcome in totals))


if __name__ == "__main__":
    sys.exit(main())
