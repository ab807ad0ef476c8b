"""Dagster definitions, one noun per file; only these, `definitions` and the command line import Dagster."""

from curation_features.errors import require_extra

require_extra("dagster")
