"""Dagster definitions that process each shard in a separate job, by Dagster Pipes.

    dagster dev -f examples/cluster_jobs.py

A partition is a shard of `data/shards`. The job runs `curation_features.engines.pipes_worker`, here as a process of
this machine; `PipesK8sClient` or `PipesRayJobClient` run the same command in a cluster. The settings are those of the
current folder.
"""

import sys

import dagster as dg

from curation_features import load_settings

SETTINGS = load_settings()
MANIFESTS = {path.stem: path for path in sorted(SETTINGS.data_path.glob("shards/*/*.json"))}
COMMAND = [sys.executable, "-m", "curation_features.engines.pipes_worker"]


@dg.asset(partitions_def=dg.StaticPartitionsDefinition([*MANIFESTS]))
def processed_shard(context: dg.AssetExecutionContext, jobs: dg.PipesSubprocessClient) -> dg.MaterializeResult:
    """Process a shard; the files are in `data/features`."""
    extras = {"manifest": str(MANIFESTS[context.partition_key]), "root": str(SETTINGS.root)}
    return jobs.run(context=context, command=COMMAND, extras=extras).get_materialize_result()


definitions = dg.Definitions([processed_shard], resources={"jobs": dg.PipesSubprocessClient()})
