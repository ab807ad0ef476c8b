"""Ids of batches from names of folders."""

import hashlib
import os
import re
import unicodedata

_MAX_ID = 128  # characters


def legal_id(name: str) -> str:
    """Return a batch id like `name`: other characters than the allowed ones become `-`."""
    letters = "".join(c for c in unicodedata.normalize("NFKD", name) if not unicodedata.combining(c))
    legal = re.sub(r"\.+", ".", re.sub(r"[^A-Za-z0-9._-]+", "-", letters)).strip("._-")
    return legal[:_MAX_ID].rstrip("._-") or f"photos-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"
