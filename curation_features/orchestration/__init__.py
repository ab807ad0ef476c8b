"""Dagster: one of its nouns per file. Beside these, only `definitions` and the command line know Dagster."""

from curation_features.errors import require_extra

require_extra("dagster")
