"""The command line: `curation-features COMMAND`. A module for each group of commands."""

from curation_features.cli.app import main

__all__ = ["main"]
