"""Close hashes, against a comparison of all pairs that is written in another way."""

from __future__ import annotations

import numpy as np
import pytest

from curation_features.groups import Moment, Photo
from curation_features.groups.candidates import AnyPair
from curation_features.groups.confirmation import Exposures
from curation_features.groups.near_hashes import near_hashes

LOW = [16 * row + column for row in range(8) for column in range(8)]
"""Numbers of PDQ's bits (0 is the lowest one of its text form) of the lowest 8 x 8 frequencies."""

HIGH = sorted(set(range(256)) - set(LOW))


def close_pairs(hashes: np.ndarray) -> list[list[int]]:
    """All pairs within 92 of 256 bits and 18 of the low 64, and the orientation, by Python's whole numbers."""
    numbers = [[int.from_bytes(one.tobytes(), "big") for one in photo] for photo in hashes]
    mask = sum(1 << bit for bit in LOW)
    found = []
    for i, first in enumerate(numbers):
        for j in range(i + 1, len(numbers)):
            apart = [one ^ numbers[j][0] for one in first]
            near = [
                (bits.bit_count(), orientation)
                for orientation, bits in enumerate(apart)
                if bits.bit_count() <= 92 and (bits & mask).bit_count() <= 18
            ]
            if near:
                found.append([i, j, min(near)[1]])
    return found


def close_pairs_of_many(hashes: np.ndarray) -> list[list[int]]:
    """The same by products of signs."""
    bits = np.unpackbits(hashes, axis=2)[..., ::-1]  # by PDQ's numbers
    signs = 1 - 2 * bits.astype(np.float32)
    all_bits = np.stack([(256 - turned @ signs[:, 0].T) / 2 for turned in signs.swapaxes(0, 1)])
    low_bits = np.stack([(64 - turned[:, LOW] @ signs[:, 0, LOW].T) / 2 for turned in signs.swapaxes(0, 1)])
    all_bits[(low_bits > 18) | (all_bits > 92)] = 999
    first, second = np.nonzero(np.triu(all_bits.min(0) < 999, 1))
    return np.stack([first, second, all_bits[:, first, second].argmin(0)], axis=1).tolist()


def random_hashes(number: int, copies: int) -> np.ndarray:
    """Hashes; the last ones are copies of others with some wrong bits, in some orientation."""
    random = np.random.default_rng(1)
    bits = random.random((number, 8, 256)) < 0.5
    for copy in range(number - copies, number):
        share = random.uniform(0.1, 0.45)
        bits[copy, 0] = bits[random.integers(number - copies), random.integers(8)] ^ (random.random(256) < share)
    return np.packbits(bits, axis=2)


@pytest.fixture(scope="module")
def hashes():
    return random_hashes(120, 60)


def test_close_hashes_are_found_exactly(hashes):
    expected = close_pairs(hashes)
    assert len(expected) > 30
    assert len({orientation for *_, orientation in expected}) == 8
    assert near_hashes(hashes, np.ones(120, bool)).tolist() == expected


def test_blocks_do_not_matter():
    hashes = random_hashes(1300, 400)
    expected = close_pairs_of_many(hashes)
    assert len(expected) > 150
    assert near_hashes(hashes, np.ones(1300, bool)).tolist() == expected
    changed = np.arange(40, 1300, 7)
    with_one = [pair for pair in expected if {*pair[:2]} & set(changed.tolist())]
    assert near_hashes(hashes, np.ones(1300, bool), changed).tolist() == with_one


@pytest.mark.parametrize("low_bits", [0, 17, 18, 19])
@pytest.mark.parametrize("all_bits", [91, 92, 93])
@pytest.mark.parametrize("others", [0.5, 1.0], ids=["random", "inverted"])
def test_limits_hold_to_the_bit_in_each_orientation(low_bits, all_bits, others):
    random = np.random.default_rng(3)
    upright = random.random(256) < 0.5
    photos = np.repeat(upright[None, None], 9, axis=0).repeat(8, axis=1)  # by PDQ's numbers
    photos[:8] ^= random.random((8, 8, 256)) < others  # far from the last one, in all orientations
    for orientation in range(8):
        wrong = [*random.permutation(LOW)[:low_bits], *random.permutation(HIGH)[: all_bits - low_bits]]
        photos[orientation, orientation] = upright
        photos[orientation, orientation, wrong] ^= True
    hashes = np.packbits(photos[..., ::-1], axis=2)
    found = near_hashes(hashes, np.ones(9, bool))
    found = found[found[:, 1] == 8].tolist()
    assert found == ([[one, 8, one] for one in range(8)] if low_bits <= 18 and all_bits <= 92 else [])


def test_changed_photos_find_their_pairs_only(hashes):
    changed = np.array([3, 70, 119])
    every = near_hashes(hashes, np.ones(120, bool)).tolist()
    found = near_hashes(hashes, np.ones(120, bool), changed).tolist()
    assert found == [pair for pair in every if {pair[0], pair[1]} & {3, 70, 119}]


def test_photos_without_a_hash_are_not_compared(hashes):
    usable = np.arange(120) < 90
    flat = hashes.copy()
    flat[90:] = 0
    expected = close_pairs(hashes[:90])
    assert near_hashes(hashes, usable).tolist() == expected
    assert near_hashes(flat, np.ones(120, bool)).tolist() == expected
    assert near_hashes(np.zeros((0, 8, 32), np.uint8), np.zeros(0, bool)).shape == (0, 3)


def test_a_rule_rules_pairs_out(hashes):
    class Even(AnyPair):
        def may_be_one(self, first, second):
            return (first + second) % 2 == 0

    every = near_hashes(hashes, np.ones(120, bool)).tolist()
    found = near_hashes(hashes, np.ones(120, bool), None, Even()).tolist()
    assert found == [pair for pair in every if not (pair[0] + pair[1]) % 2]


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_times_rule_out_the_same_pairs_in_any_order(share):
    """Photos of other times are not compared; all pairs are compared without the rule, and chosen then."""
    random = np.random.default_rng(6)
    hashes = random_hashes(2200, 1100)
    seconds = random.integers(0, 3000, 2200) + random.choice([0.0, 0.5], 2200)
    moments = [
        None
        if random.random() < share
        else Moment(float(second), float(random.choice([0.01, 1.0, 60.0], p=[0.5, 0.4, 0.1])))
        for second in seconds
    ]
    times = Exposures([Photo(str(i), str(i), "", 3, 2, "JPEG", moment) for i, moment in enumerate(moments)])
    every = near_hashes(hashes, np.ones(2200, bool))
    expected = every[times.may_be_one(every[:, 0], every[:, 1])]
    assert 0.01 < len(expected) / len(every) < 0.5
    assert near_hashes(hashes, np.ones(2200, bool), None, times).tolist() == expected.tolist()
