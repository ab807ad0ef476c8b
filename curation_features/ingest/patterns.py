"""Paths with the wildcards `*`, `?`, `[...]` and `**`, which a shell has not expanded.

Up to the first wildcard, a name that exists precedes the pattern, so that `IMG_[1].jpg` can be given as it is. As in a
shell, wildcards match no leading dot. `**` matches any number of folders. Links to folders are not followed, so that
loops end.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

_WILDCARD = re.compile(r"[*?[]")


def fixed_part(path: Path) -> Path:
    """Return the folder before the first wildcard; `path` itself if it exists or has no wildcard."""
    fixed = Path()
    for part in path.parts:
        if _WILDCARD.search(part) and not os.path.lexists(fixed / part):
            return fixed
        fixed /= part
    return path


def is_pattern(path: Path) -> bool:
    """Whether a path has a wildcard and does not exist."""
    return fixed_part(path) != path


@dataclass(frozen=True, slots=True)
class Expansion:
    """An expansion of patterns.

    Attributes:
        is_entered: whether a folder, given as parent and name, is entered and may match.
        on_error: is called for a folder that cannot be listed.
    """

    is_entered: Callable[[str, str], bool]
    on_error: Callable[[OSError], None]

    def paths(self, pattern: Path) -> Iterator[str]:
        """Yield the files and folders that match; a path can occur several times."""
        fixed = fixed_part(pattern)
        yield from self._match(str(fixed), pattern.parts[len(fixed.parts) :])

    def _match(self, folder: str, parts: Sequence[str]) -> Iterator[str]:
        if not parts or (parts[0] == "**" and len(parts) == 1):
            yield folder
            return
        part, rest = parts[0], parts[1:]
        if not _WILDCARD.search(part):
            literal = os.path.join(folder, part)  # noqa: PTH118 (Path is slow)
            if os.path.lexists(literal):
                yield from self._match(literal, rest)
            return
        if part == "**":
            yield from self._match(folder, rest)
        for name, is_folder in self._list(folder):
            if part == "**":
                is_match, following = is_folder and not name.startswith("."), parts
            else:
                is_visible = part.startswith(".") or not name.startswith(".")
                is_match, following = is_visible and fnmatchcase(name, part) and (is_folder or not rest), rest
            if is_match and (not is_folder or self.is_entered(folder, name)):
                yield from self._match(os.path.join(folder, name), following)  # noqa: PTH118

    def _list(self, folder: str) -> Iterator[tuple[str, bool]]:
        """Yield each name in a folder, and whether it is a folder."""
        try:
            with os.scandir(folder) as entries:
                listed = sorted((entry.name, entry.is_dir()) for entry in entries)
        except NotADirectoryError:
            return
        except OSError as error:
            self.on_error(error)
            return
        yield from listed
