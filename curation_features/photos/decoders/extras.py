"""Libraries of optional formats, imported when the first photo needs them."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from curation_features.errors import EXTRAS, MissingExtraError, PhotoError, require_extra


@cache
def _problem(extra: str) -> str | None:
    """Return why the library of an extra cannot be used, or None. Cached: a decoder process can open no file later."""
    remedy = f'pip install "curation-features[{extra}]"'
    try:
        require_extra(extra)
        import_module(EXTRAS[extra][0])
    except MissingExtraError:
        return f"need a package: {remedy}"
    except ImportError as error:
        return f"cannot be read ({error}); {remedy.replace('install', 'install --force-reinstall')}"
    return None


def load_library(extra: str, files: str) -> Any:
    """Import the library of an extra.

    Args:
        files: name of the format, for the message.

    Raises:
        PhotoError: `unsupported_format`: it is not installed, or cannot be loaded.
    """
    problem = _problem(extra)
    if problem:
        raise PhotoError("unsupported_format", f"{files} files {problem}")
    return import_module(EXTRAS[extra][0])
