"""Dagster definitions, one noun per file; only these, `definitions` and the command line import Dagster."""
