"""Dagster: one of its nouns per file. Beside these, only `definitions` and the command line know Dagster."""
