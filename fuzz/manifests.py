"""Fuzz a drop folder with made-up and damaged manifests: each is accepted whole, waits, or is refused.

    python fuzz/manifests.py --count 10000 --seed 1

An accepted manifest must keep every field. A refusal must name the cause and the field. No file may appear outside the
folders. Anything else is a finding, which Hypothesis reduces to the smallest input.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from mutations import (
    Mutation,
    flip_bits,
    insert,
    overwrite,
    remove,
    repeat,
    shuffle_blocks,
    truncate,
    write_number,
)

from curation_features.errors import ManifestError
from curation_features.inbox.folders import Cursor, Inbox
from curation_features.inbox.json_prefix import is_incomplete
from curation_features.manifest import enrich, parse_manifest, to_json

DAMAGE: tuple[Mutation, ...] = (
    flip_bits,
    insert,
    overwrite,
    remove,
    repeat,
    shuffle_blocks,
    truncate,
    truncate,
    write_number,
)
VARIANTS = 5
HOSTILE = (
    "",
    ".",
    "..",
    "...",
    "a/../b",
    "/etc/passwd",
    "a\n",
    "\0",
    "x" * 300,
    "x" * 10_000,
    "é",
    "=cmd",
    "<b>",
    "\ud800",
)

_TEXT = st.text(max_size=8) | st.sampled_from(HOSTILE)
_NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
_SCALARS = st.none() | st.booleans() | _NUMBERS | _TEXT
_NOT_JSON = st.sampled_from((float("nan"), float("inf"), 10**4000))
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3), max_leaves=8
)
_DEEP = st.integers(1, 150).map(lambda levels: json.loads("[" * levels + "]" * levels))
_URIS = st.sampled_from(("a.jpg", "./a/b.png", "s3://bucket/a.jpg", "../a.jpg", "a\nb", "é"))


def _mostly(good: st.SearchStrategy[Any], bad: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 19).flatmap(lambda number: bad if number == 19 else good)


@st.composite
def _objects(draw: st.DrawFn, **members: st.SearchStrategy[Any]) -> dict[str, Any]:
    """Generate an object with most of `members` and some others, in any order."""
    found = draw(st.dictionaries(_TEXT, _mostly(_VALUES, _DEEP | _NOT_JSON), max_size=2))
    found |= {name: draw(value) for name, value in members.items() if draw(st.integers(0, 40)) < 40}
    return {key: found[key] for key in draw(st.permutations(sorted(found, key=ascii)))}


_ARTIFACTS = _objects(
    photo_id=_mostly(st.text(min_size=1, max_size=20), _VALUES),
    std_uri=_mostly(_URIS, _VALUES),
    exif=_objects(iso=_SCALARS, gps=_VALUES),
    features=_VALUES,
)
_MANIFESTS = _objects(
    batch_id=_mostly(st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,20}\Z"), _TEXT | _VALUES),
    artifacts=_mostly(st.lists(_mostly(_ARTIFACTS, _VALUES), max_size=3), _VALUES),
)
_EVENTS = _objects(
    specversion=_mostly(st.just("1.0"), _VALUES),
    type=_mostly(st.just("preprocess.completed"), _VALUES),
    datacontenttype=st.sampled_from(("application/json", None, "text/xml")),
    data=_MANIFESTS,
)


@st.composite
def files(draw: st.DrawFn) -> list[bytes]:
    """Generate a manifest or an event, and `VARIANTS` - 1 damaged copies."""
    document = draw(_mostly(_MANIFESTS | _EVENTS, _VALUES))
    text = json.dumps(document, indent=draw(st.sampled_from((None, 2))), ensure_ascii=draw(st.booleans()))
    if draw(st.integers(0, 19)) == 19:
        text = text.replace("{", '{"batch_id": "twice", ', 1)
    whole = draw(st.sampled_from((b"", b"", b"", b"\xef\xbb\xbf"))) + text.encode(errors="surrogatepass")
    random = Random(draw(st.integers(0, 2**32)))
    return [whole, *(_damaged(random, whole) for _ in range(VARIANTS - 1))]


def _damaged(random: Random, data: bytes) -> bytes:
    for mutation in random.choices(DAMAGE, k=random.choice((1, 1, 2))):
        data = mutation(random, data)
    return data


class Trial:
    """Drops files into separate folders, and returns the outcome of each.

    Args:
        root: an empty folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming, self._quarantine = root / "project" / "incoming", root / "project" / "quarantine"
        self._incoming.mkdir(parents=True)
        self._folders = Inbox([self._incoming], self._quarantine)

    def __call__(self, data: bytes) -> str:
        """Return `accepted`, `refused` or `waits`.

        Raises:
            AssertionError: a promise is broken.
            Exception: the package raised an unexpected error.
        """
        expected = parsed(data)
        path = self._incoming / "manifest.json"
        path.write_bytes(data)
        taken = self._folders.take(Cursor())
        outcomes = {"accepted": taken.deliveries, "refused": taken.rejections, "waits": taken.incomplete}
        outcome = next(name for name, found in outcomes.items() if found)
        assert outcome == expected, f"{outcome}, not {expected}"
        assert sum(map(len, outcomes.values())) == 1
        assert not taken.problems
        if outcome == "refused":
            assert taken.rejections[0].path.read_bytes() == data
            assert self._folders.reason("manifest.json") == taken.rejections[0].reason
        after = self._folders.take(Cursor.loads(taken.cursor.dumps()))
        assert not after.deliveries
        self._clear(data, outcome)
        return outcome

    def _clear(self, data: bytes, outcome: str) -> None:
        """Remove the file, which must be in its folder, with only a reason and locks next to it."""
        here = {"accepted": self._incoming / "accepted", "refused": self._quarantine, "waits": self._incoming}[outcome]
        files = [path for path in self._root.rglob("*") if path.is_file() and path.name != ".lock"]
        kept = [path for path in files if not path.name.endswith(".reason.json")]
        assert [(path.parent, path.read_bytes()) for path in kept] == [(here, data)], files
        for path in files:
            path.unlink()


def parsed(data: bytes) -> str:
    """Return the expected outcome of a file; raises if a field is lost or an error names no field."""
    try:
        batch = parse_manifest(data)
    except ManifestError as error:
        assert str(error).isprintable(), ascii(str(error))
        assert str(error).startswith(error.field)
        assert len(str(error)) < 1000
        return "waits" if is_incomplete(data) else "refused"
    document = json.loads(data.decode().removeprefix("\ufeff"))
    document = document["data"] if "specversion" in document else document
    enriched = json.loads(to_json(enrich(batch, [{"status": "ok"}] * len(batch.artifacts))))
    assert all(fields.pop("features") == {"status": "ok"} for fields in enriched["artifacts"])
    for fields in document["artifacts"]:
        fields.pop("features", None)
    assert repr(enriched) == repr(document)  # distinguishes 1, 1.0 and True, and the order of keys
    return "accepted"


def run(count: int, number: int, trial: Trial) -> Counter[str]:
    """Try at least `count` files generated from `number`; returns the count of each outcome."""
    totals = Counter[str]()

    @seed(number)
    @settings(
        max_examples=-(-count // VARIANTS),
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(files())
    def each(variants: list[bytes]) -> None:
        totals.update(map(trial, variants))

    each()
    return totals


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="inputs to try")
    parser.add_argument("--seed", type=int, default=1, help="another seed makes other inputs")
    options = parser.parse_args()
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        totals = run(options.count, options.seed, Trial(Path(folder).resolve()))
    for outcome, number in totals.most_common():
        print(f"{number:8,}  {outcome}")
    print(f"{totals.total():8,}  inputs, seed {options.seed}, {time.monotonic() - begun:.0f} s; findings: 0")
    return 0


if __name__ == "__main__":
    sys.exit(main())
