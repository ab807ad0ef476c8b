"""PDQ against the reference implementation: hashes of `pdqhash` 0.2.8, of each turned picture."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from interpreters import run_python
from skimage import data

from curation_features.fingerprints.pdq import oriented, pdq

REFERENCE = {
    "chelsea": (
        "5feb5321f01da156898e2bf629a5d3438412cdbd23f48942464526315db33ffd",
        "39509eb576671efdce537f34c52d288c8a63eac6c667cb18b841c1969d921cb0",
        "4abed98ba5481bfcdddb81dc7cf079e95147471776a123e81310889b28e68557",
        "6c85b41f6372b457db06d59e90788a26df36c06c933261b2fd146b3cc8c7b61a",
        "4afe2e74a548f40bdddb7e237cf086165147b8e876a1dc171310776428e67aa8",
        "39d0e14a3625e1038e5380cfc52ddf738e639539c66734e7a8413e699d92e34f",
        "5febacdef01d5ea9898ed48929a52cbc8412324223f476bd4645ddce7db3d002",
        "6c05cbe023325ba8db062a6190787dd9df363f9393329e4dfd1494c3c8c749e5",
    ),
    "coffee": (
        "8c629e779a663698b9a33866c026726c21a679f61eb6e1f8c79ba7e23c8299e0",
        "ea1d74a51dd6029cec630fd0712cf50218fd0aaaeff5ae831118881beeee1577",
        "b03534d9cb329ce6acd612ccdc7258c674f2d35c4be34b5292ce0d5c29d7334a",
        "be48de0fc883283ebb36a57b2479df88ddaaa000baa01529444d62b13bbb3fdd",
        "8936cb22cb326389acf66d339472272974f22ca34ae3b4ad92cef2a32957c8b5",
        "ea1d03581dd67d63ec63d02e712c08dd18ffe555eff55078111867e0eeee4808",
        "ede0618c9e67c9b3f9a3c799c9270d9321a786091eb61e07d79b58097c82661f",
        "ba4823f0c883d7c93b365a84247920775daa5fffb2a0ead6444d9d4e3bbbc022",
    ),
    "camera": (
        "dc9c9d3b746978f888f40ce6e5c3f70f7266623e8d989cb99f21f2010841e1c7",
        "c93dcc7233c70e63fc1c18c703ccbcd39e39c1747c98278ff170623e47c19ce0",
        "f9c137b0893cd2f6dda9a64c30967dad273388b4d0cd3613cab451ab75144a6d",
        "be68e690669224c98b6fb66d54b91679db646bd679cd8d252d25d8941294764a",
        "c9c9c86e293c2da9dda159b33296a25a2733774bd0cdc9ec8ab4ae547514b592",
        "cb3db3c533c5f19cdc3ae73801cc43299e313e837cd8d870f1708dc147c1631f",
        "cc9462e5f46987a788fcf719edc308f872669de18f9863469f210cfe28411f38",
        "bc68992fc792db36a9494d925499e986db6c942179cd72da2d25376b129489b5",
    ),
}
"""Picture -> hashes in the order of `oriented`."""


def luma_of(rgb: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY) if rgb.ndim == 3 else rgb


def differing_bits(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.unpackbits(one ^ other).sum())


@pytest.mark.parametrize("name", REFERENCE)
def test_hashes_agree_with_the_reference(name):
    hashes, quality = pdq(luma_of(getattr(data, name)()))
    expected = [np.frombuffer(bytes.fromhex(text), np.uint8) for text in REFERENCE[name]]
    assert quality == 100
    assert max(map(differing_bits, hashes, expected)) <= 2


@pytest.mark.parametrize(
    ("rgb", "quality"), [(data.rocket()[:101, :333], 26), (cv2.GaussianBlur(data.chelsea(), (0, 0), 12), 77)]
)
def test_quality_agrees_with_the_reference(rgb, quality):
    assert pdq(luma_of(rgb))[1] == quality


def test_orientations_are_those_of_the_turned_photo():
    luma = luma_of(data.rocket())
    hashes, _ = pdq(luma)
    turned = [pdq(oriented(luma, orientation))[0][0] for orientation in range(8)]
    assert max(map(differing_bits, hashes, turned)) <= 2
    assert min(differing_bits(hashes[0], other) for other in hashes[1:]) > 80


ELSEWHERE = """
import time
import numpy as np
from curation_features.fingerprints.pdq import pdq

luma = np.random.default_rng(0).integers(0, 256, (384, 512), dtype=np.uint8)
pdq(luma)
time.sleep(0.3)
before = time.process_time() - time.thread_time()
for _ in range(30):
    pdq(luma)
    time.sleep(0.005)
print(time.process_time() - time.thread_time() - before)
"""


def test_no_other_thread_works_on_a_hash():
    """Threads of the BLAS wait in a loop after each product: 20 ms of CPU time per hash."""
    assert float(run_python("-c", ELSEWHERE)) < 0.01
