"""Take batch manifests from watched folders: claim each one, deliver it, then archive it.

    {folder}/{name}.json                           submitted here; a half-written file waits here
    {folder}/.claimed/{token}.new.{name}.json      claimed; delivered again until its token comes back in a cursor
    {folder}/accepted/{batch_id}-{digest12}.json   archived: its token came back
    {quarantine}/{name}.json, {name}.reason.json   a file that can never be valid, and the reason

The caller persists the cursor of one `take` and passes it to the next. If the cursor is lost, the same files are
delivered again under the same tokens. Files leave the watched folder, so the cost of a look does not grow with the
number of past manifests. Every step is one rename, so a crash loses nothing. Clocks and modification times only decide
the order and the length of a wait: a wrong clock neither hides a file nor delivers it under two tokens.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from curation_features.atomic_files import flush, remove_leftover, replacing, store_bytes, write_bytes
from curation_features.errors import ManifestError
from curation_features.inbox.json_prefix import is_incomplete
from curation_features.manifest import Batch, parse_manifest, to_json
from curation_features.text import file_stem

MAX_BYTES = 100_000_000  # about 150,000 photos; parsed in less than a sensor's time limit
INCOMPLETE_AFTER_S = 3600.0

_NAME_BYTES = 180  # of the submitted name; with a token and suffixes it stays under 255
_QUARANTINE_LOCK_S = 10

_CLAIMED_FOLDER = ".claimed"
_TOKEN = re.compile(r"[0-9]{20}-[0-9a-f]{8}")
_CLAIMED_NAME = re.compile(rf"(?P<token>{_TOKEN.pattern})\.(?P<state>new|again)\.(?P<name>.+\.json)")
_ACCEPTED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}-[0-9a-f]{12}\.json")


@dataclass(frozen=True, slots=True)
class FileState:
    """Inode, size and modification time of an incomplete file; `since`: first seen in this state, Unix time in s."""

    inode: int
    size: int
    mtime_ns: int
    since: int


@dataclass(slots=True)
class Cursor:
    """State that one `take` passes to the next.

    Attributes:
        handed_over: for each delivered token, the name of its file in the archive.
        incomplete: state of each incomplete file, by path.
    """

    handed_over: dict[str, str] = field(default_factory=dict)
    incomplete: dict[str, FileState] = field(default_factory=dict)

    def dumps(self) -> str:
        """The cursor as compact ASCII JSON."""
        return json.dumps({"form": 1, **asdict(self)}, separators=(",", ":"))

    @classmethod
    def loads(cls, text: str | None) -> Cursor:
        """Read a cursor; an empty one if `text` is empty, damaged or of another form."""
        try:
            values = json.loads(text or "")
            handed_over = dict(values["handed_over"])
            incomplete = {path: FileState(**state) for path, state in dict(values["incomplete"]).items()}
            is_valid = (
                values["form"] == 1
                and all(_TOKEN.fullmatch(token) and _ACCEPTED.fullmatch(name) for token, name in handed_over.items())
                and all(type(value) is int for state in incomplete.values() for value in asdict(state).values())
            )
            return cls(handed_over, incomplete) if is_valid else cls()
        except (ValueError, TypeError, KeyError, RecursionError):
            return cls()


@dataclass(frozen=True, slots=True)
class Delivery:
    """A claimed manifest.

    Attributes:
        token: unique; the same for every delivery of one file; sorts by the order of claiming.
        again: whether `mark_again` was called for it.
        name: the submitted file name, shortened if long; `_` replaces unprintable characters.
        batch: the content of `path`.
        path: the current file.
    """

    token: str
    again: bool
    name: str
    batch: Batch
    path: Path


@dataclass(frozen=True, slots=True)
class Rejection:
    """A file that can never be a valid manifest: the invalid field, the reason, and its path in quarantine."""

    name: str
    field: str
    reason: str
    path: Path


@dataclass(frozen=True, slots=True)
class InboxProblem:
    """A file or folder that could not be handled; the next `take` tries again."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path.name!r}: {self.reason}"


@dataclass(slots=True)
class TickResult:
    """Result of one `take`.

    Attributes:
        deliveries: in the order of claiming.
        has_more: whether files remain for the next `take`.
        cursor: for the next `take`, once the deliveries are processed.
    """

    deliveries: list[Delivery] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    problems: list[InboxProblem] = field(default_factory=list)
    has_more: bool = False
    cursor: Cursor = field(default_factory=Cursor)

    @property
    def incomplete(self) -> list[str]:
        """Names of the incomplete files."""
        return [_submitted_name(Path(path)) for path in self.cursor.incomplete]


class Inbox:
    """Watched folders, and the quarantine for files that can never be valid.

    Args:
        folders: a missing one counts as empty; one without write permission is reported as a problem.
        quarantine: created when needed; may be on another file system.
        max_bytes: larger files are never valid.
        incomplete_after_s: seconds without a change after which an incomplete file is rejected.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        quarantine: Path,
        *,
        max_bytes: int = MAX_BYTES,
        incomplete_after_s: float = INCOMPLETE_AFTER_S,
    ) -> None:
        self.folders = tuple(dict.fromkeys(folder.resolve() for folder in folders))
        self.quarantine = quarantine
        self.max_bytes = max_bytes
        self.incomplete_after_s = incomplete_after_s

    def take(self, cursor: Cursor, *, limit: int = 100, seconds: float = 20.0) -> TickResult:
        """Archive the files that the cursor names; deliver or reject the others, claimed ones first, then by age.

        A file or folder that cannot be handled is one of the `problems`; it never raises and never blocks the others.
        While one `take` holds a folder, every other `take` reports that folder as a problem.

        Args:
            cursor: of the last `take` whose deliveries were processed.
            limit: maximum number of deliveries and rejections; incomplete files do not count.
            seconds: after this time no further file is started.
        """
        deadline, has_begun = time.monotonic() + seconds, False
        tick = _Tick()
        with ExitStack() as locks:
            files = self._list(cursor, tick, locks)
            tick.stamp = max((int(file.token[:20]) for file in files if file.token), default=0)
            for file in files:
                if file.token in cursor.handed_over:
                    self._archive(file, tick)
            for file in sorted((file for file in files if file.token not in cursor.handed_over), key=_order):
                since = _unchanged_since(file, tick.cursor.incomplete.get(str(file.path)))
                if since is not None and file.state.since - since < self.incomplete_after_s:
                    tick.wait(replace(file, state=replace(file.state, since=since)))
                    continue
                if len(tick.deliveries) + len(tick.rejections) >= limit or (has_begun and time.monotonic() >= deadline):
                    tick.has_more = True
                    break
                has_begun = True
                tick.cursor.incomplete.pop(str(file.path), None)
                try:
                    self._advance(file, tick, is_expired=since is not None)
                except FileNotFoundError:  # moved by its writer or another process
                    continue
                except OSError as error:
                    tick.report(file.path, error)
            tick.flush()
        return tick

    def mark_again(self, delivery: Delivery) -> Delivery:
        """Mark a delivery to run although its content ran before; the mark survives a crash.

        Raises:
            OSError: the file cannot be renamed.
        """
        path = delivery.path.with_name(f"{delivery.token}.again.{delivery.name}")
        delivery.path.rename(path)
        flush(path.parent)
        return replace(delivery, again=True, path=path)

    def reject(self, delivery: Delivery, error: ManifestError) -> Rejection:
        """Move a delivered manifest that can never be accepted to quarantine.

        Raises:
            OSError: the file cannot be moved.
        """
        tick = _Tick()
        rejection = self._reject(delivery, error, tick)
        tick.flush()
        return rejection

    def quarantined(self) -> list[str]:
        """Names of the files in quarantine, sorted, without their reason files.

        Raises:
            OSError: the folder exists and cannot be listed.
        """
        try:
            return sorted(path.name for path, _ in _json_files(self.quarantine) if not path.stem.endswith(".reason"))
        except FileNotFoundError:
            return []

    def reason(self, name: str) -> str:
        """The reason in the reason file of a quarantined file."""
        return str(_read_reason(self.quarantine / name).get("reason", "its reason file is missing or damaged"))

    def _list(self, cursor: Cursor, tick: _Tick, locks: ExitStack) -> list[_File]:
        """Lock every folder and list its files; the tick's cursor keeps the entries that are still valid."""
        files: list[_File] = []
        for folder in self.folders:
            claimed = folder / _CLAIMED_FOLDER
            try:
                claimed.mkdir(exist_ok=True)
                locks.enter_context(FileLock(claimed / ".lock", timeout=0))
                files += _files_in(folder)
            except FileNotFoundError:  # the folder does not exist yet
                continue
            except OSError as error:
                tick.report(folder, error)
        is_partial = bool(tick.problems)  # a file that the cursor names may be in a folder that could not be listed
        tokens, paths = {file.token for file in files}, {str(file.path) for file in files}
        tick.cursor = Cursor(
            {token: name for token, name in cursor.handed_over.items() if is_partial or token in tokens},
            {path: state for path, state in cursor.incomplete.items() if is_partial or path in paths},
        )
        return files

    def _archive(self, file: _File, tick: _Tick) -> None:
        """Move a delivered file to `accepted`; it stays in the cursor if that fails, to not be delivered again."""
        accepted = file.folder / "accepted"
        try:
            accepted.mkdir(exist_ok=True)
            file.path.replace(accepted / tick.cursor.handed_over[file.token])
        except OSError as error:
            tick.report(file.path, error)
        else:
            del tick.cursor.handed_over[file.token]
            tick.changed |= {accepted, file.path.parent}

    def _advance(self, file: _File, tick: _Tick, *, is_expired: bool) -> None:
        """Let an incomplete file wait; claim any other one, and deliver or reject it."""
        content: Batch | ManifestError
        try:
            content = self._read(file.path)
        except ManifestError as error:
            content = error
        if isinstance(content, _IncompleteError) and not is_expired:
            tick.wait(file)
        elif not file.token:  # its writer may replace it before it is claimed, so read it again after that
            self._advance(_claim(file, tick), tick, is_expired=is_expired)
        elif isinstance(content, ManifestError):
            tick.rejections.append(self._reject(file, content, tick))
        else:
            tick.deliveries.append(Delivery(file.token, file.again, file.name, content, file.path))
            tick.cursor.handed_over[file.token] = f"{content.batch_id}-{content.digest[:12]}.json"

    def _read(self, path: Path) -> Batch:
        """Read a manifest. Opening a file of any kind never blocks.

        Raises:
            _IncompleteError: the file is half-written.
            ManifestError: it can never be valid.
            OSError: it cannot be read now.
        """
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a symbolic link" if stat.S_ISLNK(mode) else "a FIFO, a socket or a device"
            raise ManifestError("", f"is {kind}, not a regular file")
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)  # its kind may have changed
        with os.fdopen(descriptor, "rb") as stream:
            data = stream.read(self.max_bytes + 1)
        if len(data) > self.max_bytes:
            raise ManifestError("", f"has more than {self.max_bytes:,} bytes, the maximum")
        try:
            return parse_manifest(data)
        except ManifestError as error:
            if not is_incomplete(data):
                raise
            unchanged = f"has not changed for {self.incomplete_after_s:g} s"
            raise _IncompleteError("", f"is incomplete and {unchanged}; submit the whole file ({error})") from error

    def _reject(self, file: _File | Delivery, error: ManifestError, tick: _Tick) -> Rejection:
        """Move a claimed file to quarantine. A reason without its file, left by a crash, is overwritten."""
        stem = re.sub(r"(\.reason)+$", "", file.name.removesuffix(".json"))  # the suffix of reason files
        claimed = file.path.parent
        record = {"field": error.field, "reason": str(error), "folder": str(claimed.parent), "token": file.token}
        self.quarantine.mkdir(parents=True, exist_ok=True)
        with FileLock(self.quarantine / ".lock", timeout=_QUARANTINE_LOCK_S):
            path = self.quarantine / f"{stem}.json"
            if os.path.lexists(path) and _read_reason(path).get("token") != file.token:
                path = self.quarantine / f"{stem}-{file.token}.json"
            write_bytes(_reason_path(path), to_json({"file": file.name, **record}))
            _move(file.path, path)
        tick.changed |= {self.quarantine, claimed}
        return Rejection(file.name, error.field, str(error), path)


def submit(data: bytes, folder: Path, name: str) -> Path:
    """Write a manifest to a watched folder, whole or not at all; return its path.

    Args:
        folder: created if missing.
        name: file name without suffix, such as a batch id. A waiting file of the same name is replaced.

    Raises:
        ValueError: the name is not a file name, or the inbox would ignore it.
        StoreError: the file cannot be written.
    """
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} cannot name a manifest: give a file name that does not begin with '.'")
    path = folder / f"{name}.json"
    store_bytes(path, data)
    return path


class _IncompleteError(ManifestError):
    """The manifest is truncated."""


@dataclass(frozen=True, slots=True)
class _File:
    """A file in a watched folder; `token` is empty until it is claimed."""

    folder: Path
    path: Path
    state: FileState
    name: str
    token: str = ""
    again: bool = False


@dataclass(slots=True)
class _Tick(TickResult):
    """A `take` in progress: `changed` folders to flush, and `stamp`, the time in the last token (ns)."""

    changed: set[Path] = field(default_factory=set)
    stamp: int = 0

    def wait(self, file: _File) -> None:
        self.cursor.incomplete[str(file.path)] = file.state

    def report(self, path: Path, error: OSError) -> None:
        self.problems.append(InboxProblem(path, str(error)))

    def flush(self) -> None:
        """Make all renames durable before the caller relies on them."""
        for folder in sorted(self.changed):
            try:
                flush(folder)
            except OSError as error:
                self.report(folder, error)


def _order(file: _File) -> tuple[bool, str, int, str]:
    return not file.token, file.token, file.state.mtime_ns, file.name


def _files_in(folder: Path) -> list[_File]:
    """Claimed and submitted files of a folder."""
    claimed = [
        _File(folder, path, state, parts["name"], parts["token"], parts["state"] == "again")
        for path, state in _json_files(folder / _CLAIMED_FOLDER)
        if (parts := _CLAIMED_NAME.fullmatch(path.name))
    ]
    return claimed + [_File(folder, path, state, _safe_name(path.stem)) for path, state in _json_files(folder)]


def _json_files(folder: Path) -> Iterator[tuple[Path, FileState]]:
    """Scan the `.json` entries of a folder, without subfolders.

    The state of a link is its own, not that of its target. Temporary files of killed processes are deleted.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                remove_leftover(Path(entry.path))
            elif entry.name.endswith(".json"):
                with suppress(FileNotFoundError):  # deleted meanwhile
                    status = entry.stat(follow_symlinks=False)
                    if not stat.S_ISDIR(status.st_mode):
                        state = FileState(status.st_ino, status.st_size, status.st_mtime_ns, int(time.time()))
                        yield Path(entry.path), state


def _unchanged_since(file: _File, previous: FileState | None) -> int | None:
    """Time since when a file is in its state (Unix time, s); None if it is new or changed."""
    if previous is None or replace(previous, since=file.state.since) != file.state:
        return None
    return min(previous.since, file.state.since)  # the clock may have been set back


def _claim(file: _File, tick: _Tick) -> _File:
    """Rename a file, so that its writer cannot replace it."""
    tick.stamp = max(time.time_ns(), tick.stamp + 1)  # greater than all others, even if the clock was set back
    token = f"{tick.stamp:020d}-{secrets.token_hex(4)}"
    path = file.folder / _CLAIMED_FOLDER / f"{token}.new.{file.name}"
    file.path.rename(path)
    tick.changed |= {file.folder, path.parent}
    return replace(file, path=path, token=token)


def _submitted_name(path: Path) -> str:
    parts = _CLAIMED_NAME.fullmatch(path.name)
    return parts["name"] if parts else _safe_name(path.stem)


def _safe_name(stem: str) -> str:
    """A short, printable name for a JSON file."""
    return f"{file_stem(stem, _NAME_BYTES)}.json"


def _reason_path(path: Path) -> Path:
    return path.with_name(f"{path.name.removesuffix('.json')}.reason.json")


def _read_reason(path: Path) -> dict[str, Any]:
    """The reason file of a quarantined file; empty if it is missing or damaged."""
    try:
        record = json.loads(_reason_path(path).read_bytes())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _move(source: Path, target: Path) -> None:
    """Rename a file; copy it to another file system. A special file becomes an empty one there."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with replacing(target) as temporary:
            if stat.S_ISREG(source.lstat().st_mode):
                shutil.copyfile(source, temporary, follow_symlinks=False)
            else:
                temporary.touch()
        source.unlink()
