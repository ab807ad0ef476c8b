"""Measure the CPU seconds of a cached batch through Dagster, each run in a fresh process from start to end.

The baseline is the least work of such a process: import Dagster and read the photos' files. Five empty assets on the
same instance and a batch of one photo show the fixed time of a run. The models are the fakes of
`curation_features.testing`; the run must not load torch.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from statistics import median

from measure import Report, arguments, cpu_of_children, in_rounds, median_ratio
from photos import write_photos

from curation_features.ingest.folder import find_photos, ingest
from curation_features.settings import Settings

SIDE = 256
"""Long side of the photos, px: small ones, so that little but our own work is added to Dagster's."""

READ = """
import sys, json
import dagster
from pathlib import Path
for artifact in json.loads(Path(sys.argv[1]).read_bytes())["artifacts"]:
    Path(artifact["std_uri"]).read_bytes()
"""

NOTHING = """
import dagster as dg
from curation_features.orchestration.resources import dagster_home
from curation_features.settings import Settings

partitions = dg.DynamicPartitionsDefinition(name="nothing")
names = [f"nothing_{number}" for number in range(5)]

@dg.multi_asset(specs=[dg.AssetSpec(name, skippable=True) for name in names], partitions_def=partitions)
def nothing(context):
    for name in names:
        context.log_event(dg.AssetMaterialization(name, partition="one"))
    yield from ()

definitions = dg.Definitions([nothing], jobs=[dg.define_asset_job("job", [nothing])])
with dg.DagsterInstance.from_config(str(dagster_home(Settings()).resolve())) as instance:
    instance.add_dynamic_partitions("nothing", ["one"])
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    run = definitions.resolve_job_def("job").execute_in_process(
        instance=instance, partition_key="one", run_config=quiet
    )
assert run.success
"""

MATERIALIZE = """
import sys
from curation_features.cli import main
from curation_features.weights import LazyModel
from curation_features.pipeline import Models
from curation_features.testing import FakeBrisque, FakeClipEngine, FakeQualityModel
stand_ins = Models(
    clip=LazyModel.ready(FakeClipEngine(768), "fake-clip"),
    clip_iqa=LazyModel.ready(FakeQualityModel(), "fake-clip-iqa"),
    brisque=LazyModel.ready(FakeBrisque(), "fake-brisque"),
)
Models.from_settings = lambda *_: stand_ins
code = main(["materialize", sys.argv[1]])
print("torch" if "torch" in sys.modules else "no torch")
sys.exit(code)
"""


def run(code: str, manifest: Path, root: Path) -> str:
    """Run `code` in a new process in a project; returns its output."""
    # Like an installed package, this one has bytecode from its second run on.
    unwanted = {"DAGSTER_HOME", "PYTHONDONTWRITEBYTECODE"}
    environment = {name: value for name, value in os.environ.items() if name not in unwanted}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", code, str(manifest)]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def batches(root: Path, photos: int) -> dict[int, Path]:
    """Ingest a batch of one photo and one of `photos`, and materialize both once to fill the cache."""
    settings = Settings(root=root)
    write_photos(root / "input", photos, SIDE)
    paths = find_photos(root / "input")
    manifests = {}
    for count in (1, photos):
        manifests[count] = ingest(paths[:count], settings, batch_id=f"batch-{count}").path
        run(MATERIALIZE, manifests[count], root)
        printed = run(MATERIALIZE, manifests[count], root)  # the label embeddings exist only now
        assert "no torch" in printed.splitlines(), "a cached run loads torch"
        assert f"{count} of {count} photos came from the cache" in printed
    return manifests


def report(options: argparse.Namespace, root: Path) -> Report:
    manifests = batches(root, options.photos)
    few, many = manifests.values()
    ways = {
        "import dagster and read the files": (READ, many),
        "five assets that do nothing": (NOTHING, many),
        "materialize, 1 photo": (MATERIALIZE, few),
        f"materialize, {options.photos:,} photos": (MATERIALIZE, many),
    }
    seconds = in_rounds(
        {name: partial(cpu_of_children, partial(run, *way, root)) for name, way in ways.items()}, options.rounds
    )
    found = Report(
        f"A cached batch of {options.photos:,} photos of {SIDE} px through Dagster ({options.rounds} rounds)"
    )
    least = next(iter(seconds.values()))
    for name, taken in seconds.items():
        found.add(name, **{"CPU s": median(taken), "of the least": median_ratio(taken, least)})
    return found


def main() -> None:
    parser = arguments(__doc__, rounds=5)
    parser.add_argument("--photos", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report(options, Path(folder)).show(options.json)


if __name__ == "__main__":
    main()
