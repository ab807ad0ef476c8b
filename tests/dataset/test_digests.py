"""A set of digests, against Python's."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from curation_features.dataset.digests import DigestSet, parse_digests


def test_new_digests_are_those_new_to_a_python_set() -> None:
    random = np.random.default_rng(0)
    known: set[str] = set()
    digests = DigestSet()
    for count in (1, 0, 500, 5_000, 3):
        texts = [hashlib.sha256(bytes(number)).hexdigest() for number in random.integers(0, 1000, count)]
        expected = [text not in known and text not in texts[:place] for place, text in enumerate(texts[:1000])]
        found = digests.add(parse_digests(texts))
        assert found[:1000].tolist() == expected
        known.update(texts)
    many = [hashlib.sha256(b"many %d" % number).hexdigest() for number in range(9_000)]
    assert digests.add(parse_digests(many)).all()
    assert not digests.add(parse_digests(many[::-1])).any()


def test_digests_that_want_the_same_slot_differ() -> None:
    """Equal low bits of the first word, which choose the slot; also at the last one, after which the first comes."""
    words = np.array([[2**32 * n + 4095, n // 2] for n in range(200)], np.uint64)
    digests = DigestSet()
    assert digests.add(words).all()
    assert not digests.add(words).any()
    assert digests.add(np.array([[4095, 2**40], [4095, 2**40]], np.uint64)).tolist() == [True, False]


@pytest.mark.parametrize("texts", [["ab"], ["a" * 63, "a" * 65], ["x" * 64]])
def test_other_texts_are_refused(texts: list[str]) -> None:
    with pytest.raises(ValueError, match=r"hex"):
        parse_digests(texts)
