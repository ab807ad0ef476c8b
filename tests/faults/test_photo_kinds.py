"""Photos without statistics, and files that are not photos, through the whole service."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from interpreters import run_python
from pictures import encoded
from skimage import data as bundled

from curation_features.service import FeaturesService
from curation_features.storage.artifacts import ArtifactStore

PHOTO = np.ascontiguousarray(bundled.chelsea()[60:156, 100:228])  # (96, 128, 3): eyes, whiskers, no symmetry


def measured(world, files: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """The features of each file, from one batch, which also writes the table."""
    for name, data in files.items():
        (world.root / name).write_bytes(data)
    batch = world.batch([{"photo_id": name, "original_uri": name} for name in files])
    merged = FeaturesService(stages=world.stages(world.settings.replace(batch_size=8))).run(batch)
    store = ArtifactStore(world.settings.data_path)
    store.write_features(merged.document, merged.rows(), merged.version, merged.labels)
    return {artifact["photo_id"]: artifact["features"] for artifact in merged.document["artifacts"]}


# Small, flat and stepped


def odd_photos() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    step = np.zeros((64, 64, 3), np.uint8)
    step[:, 32:] = 200
    shapes = {**{f"{side}.png": (side, side, 3) for side in range(1, 12)}, "row.png": (1, 900, 3)}
    return {
        **{name: encoded(rng.integers(0, 256, shape, dtype=np.uint8), "PNG") for name, shape in shapes.items()},
        **{f"flat {level}.png": encoded(np.full((48, 64, 3), level, np.uint8), "PNG") for level in (0, 127, 255)},
        "step.png": encoded(step, "PNG"),
    }


def numbers(value: Any) -> list[float]:
    if isinstance(value, float):
        return [value]
    if isinstance(value, Mapping):
        return [number for item in value.values() for number in numbers(item)]
    return [number for item in value for number in numbers(item)] if isinstance(value, list) else []


@pytest.fixture
def real_brisque(world) -> None:
    """The real BRISQUE."""
    from curation_features.technical.brisque.loading import brisque_model

    world.brisque.score = brisque_model(world.settings).get().score


def test_photos_without_statistics_get_defaults_with_a_reason(world, real_brisque) -> None:
    normal = {f"normal {n}.png": encoded(np.roll(PHOTO, n, axis=1), "PNG") for n in range(3)}
    alone = measured(world, normal)
    world.stages().cache.clear(label_embeddings=True)
    odd = odd_photos()
    first, *rest = normal
    found = measured(world, {first: normal[first], **odd, **{name: normal[name] for name in rest}})
    assert {name: found[name] for name in normal} == alone
    for name in odd:
        reasons = {error["stage"]: error["reason"] for error in found[name]["errors"]}
        assert set(reasons) <= {"noise", "brisque"}, name  # the others are defined for any image
        assert set(reasons.values()) <= {"flat_image", "too_small", "undefined_statistics"}
        assert found[name]["status"] == ("degraded" if reasons else "ok")
        assert found[name]["tech"]["noise"] == 1.0 or "noise" not in reasons
        assert found[name]["tech"]["brisque"] == 0.0 or "brisque" not in reasons
        assert all(0 <= score <= 1 for score in found[name]["tech"].values())
    assert all("noise" in {error["stage"] for error in found[f"flat {n}.png"]["errors"]} for n in (0, 127, 255))
    assert found["1.png"]["status"] == "degraded"
    json.dumps(found, allow_nan=False)
    rows = pq.read_table(world.settings.data_path / "features" / "batch_1.parquet").to_pylist()
    assert all(math.isfinite(number) for row in rows for number in numbers(row))


# Files that are not photos

AS_NOBODY = """
import json, os, sys
from pathlib import Path
import curation_features.groups.grouping
from curation_features.service import FeaturesService
from worlds import World

world, batch = World(Path(sys.argv[1])), json.load(sys.stdin)
service = FeaturesService(stages=world.stages(world.settings.replace(photo_roots=(sys.argv[1], "/dev"))))
service.process({**batch, "artifacts": batch["artifacts"][:1]})  # import everything before the change of user
if os.getuid() == 0:
    os.setuid(65534)  # root ignores permissions
json.dump([artifact["features"] for artifact in service.process(batch)["artifacts"]], sys.stdout)
"""


@pytest.mark.long
def test_unreadable_files_fail_alone_and_block_nothing() -> None:
    """In a process without special rights; the real format of a photo counts, not the name."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's folders are closed to other users
        root = Path(folder)
        root.chmod(0o777)
        for name in ("before.png", "after.jpg", "secret.png"):
            (root / name).write_bytes(encoded(PHOTO, "PNG"))
        (root / "secret.png").chmod(0)
        (root / "folder.png").mkdir()
        os.mkfifo(root / "fifo.png")
        for name, target in (("loop.png", "loop.png"), ("to-fifo.png", "fifo.png"), ("a", "b"), ("b", "a")):
            (root / name).symlink_to(target)
        expected = {
            "nothing.png": "missing",
            "before.png/x.png": "missing",
            "folder.png": "not_a_file",
            "fifo.png": "not_a_file",
            "to-fifo.png": "not_a_file",
            "/dev/zero": "not_a_file",
            "/dev/null": "not_a_file",
            "loop.png": "forbidden_path",
            "a/x.png": "forbidden_path",
            "secret.png": "permission_denied",
        }
        artifacts = [{"photo_id": name, "original_uri": name} for name in ("before.png", *expected, "after.jpg")]
        given = json.dumps({"batch_id": "b", "artifacts": artifacts})
        before, *bad, after = json.loads(run_python("-c", AS_NOBODY, root, given=given))
    assert [[error["reason"] for error in features["errors"]] for features in bad] == [[r] for r in expected.values()]
    assert {features["status"] for features in bad} == {"failed"}
    assert before["status"] == "ok"
    groups = [features.pop("group") for features in (before, after)]
    assert before == after
    assert [group["kind"] for group in groups] == ["copy", "copy"]
