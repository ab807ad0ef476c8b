"""The command line, `curation-features COMMAND`: one module per group of commands."""

from curation_features.cli.app import main

__all__ = ["main"]
