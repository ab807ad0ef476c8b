"""Fingerprints in a temporary file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

from curation_features.errors import ResourceError
from curation_features.fingerprints import spool, to_bytes
from curation_features.fingerprints.measure import measure
from curation_features.fingerprints.spool import FingerprintSpool


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_IN_MEMORY", 1)


def fingerprint(seed: int) -> bytes:
    return to_bytes(measure(np.random.default_rng(seed).integers(0, 256, (96, 128, 3), dtype=np.uint8)))


def test_fingerprints_are_read_back_in_any_order() -> None:
    given = [fingerprint(0), None, fingerprint(1), fingerprint(2)]
    with FingerprintSpool() as kept:
        for data in given:
            kept.add(data)
        found = {number: kept.read(number) for number in (3, 1, 0, 2)}
        hashes, has_hash = kept.hashes()
    assert [found[number] and to_bytes(found[number]) for number in range(4)] == given
    assert has_hash.tolist() == [True, False, True, True]
    assert (hashes[2] == found[2].hashes).all()


def test_a_temporary_folder_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with FingerprintSpool() as kept, pytest.raises(ResourceError, match=r"gone .*TMPDIR"):
        kept.add(fingerprint(0))
