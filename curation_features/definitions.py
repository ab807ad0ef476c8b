"""Entry point of Dagster: `dagster dev -w workspace.yaml` loads `defs`."""

from curation_features.orchestration.project import build_definitions

defs = build_definitions()
