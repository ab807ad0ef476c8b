"""Fuzz the manifest parser guided by coverage; needs `pip install atheris`.

    python fuzz/guided.py -atheris_runs=100000

An input with a finding is stored as `crash-*`. libFuzzer's other options work as well.
"""

import sys

import atheris

with atheris.instrument_imports(include=["curation_features.manifest", "curation_features.inbox.json_prefix"]):
    import curation_features.inbox.json_prefix
    import curation_features.manifest  # noqa: F401

from manifests import parsed


def _try(data: bytes) -> None:
    parsed(data)


if __name__ == "__main__":
    atheris.Setup(sys.argv, _try)
    atheris.Fuzz()
