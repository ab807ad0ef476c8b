"""Libraries of optional formats, imported when the first photo needs them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from curation_features.errors import EXTRAS, MissingExtraError, PhotoError, require_extra


def load_library(extra: str, files: str) -> Any:
    """Import the library of an extra.

    Args:
        files: name of the format, for the message.

    Raises:
        PhotoError: `unsupported_format`: it is not installed, or cannot be loaded.
    """
    try:
        require_extra(extra)
        return import_module(EXTRAS[extra][0])
    except MissingExtraError:
        remedy = f'{files} files need a package: pip install "curation-features[{extra}]"'
        raise PhotoError("unsupported_format", remedy) from None
    except ImportError as error:
        remedy = f'pip install --force-reinstall "curation-features[{extra}]"'
        raise PhotoError("unsupported_format", f"{files} files cannot be read ({error}); {remedy}") from error
