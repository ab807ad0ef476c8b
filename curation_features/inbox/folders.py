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

from curation_features.atomic_files import flush, open_regular, remove_leftover, replacing, store_bytes, write_bytes
from curation_features.errors import ManifestError
from curation_features.inbox.json_prefix import is_incomplete
from curation_features.manifest import Batch, parse_manifest, to_json
from curation_features.text import file_stem, printable

_MAX_BYTES = 100_000_000  # about 150,000 photos; parsed in less than a sensor's time limit
_INCOMPLETE_AFTER_S = 3600  # an incomplete file that has not changed for so long is rejected
_NAME_BYTES = 180  # of the submitted name; with a token and suffixes it stays under 255
_QUARANTINE_LOCK_S = 10

_CLAIMED_FOLDER = ".claimed"
_TOKEN = re.compile(r"[0-9]{20}-[0-9a-f]{8}")
_CLAIMED_NAME = re.compile(rf"(?P<token>{_TOKEN.pattern})\.(?P<state>new|again)\.(?P<name>.+\.json)")
_ACCEPTED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}-[0-9a-f]{12}\.json")

_SPECIAL = "a FIFO, a socket or a device"
_OTHER_KINDS = {errno.ELOOP: "a symbolic link", errno.ENODEV: _SPECIAL, errno.ENXIO: _SPECIAL}  # by error of `open`


@dataclass(frozen=True, slots=True)
class FileState:
    """Inode, size and modification time of an incomplete file; `since`: first seen in this state, Unix time in s."""

    inode: int
    size: int
    mtime_ns: int
    since: int = field(compare=False)


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
class InboxProblem:
    """A file or folder that could not be taken: its name, the reason, and its current path."""

    name: str
    reason: str
    path: Path

    def __str__(self) -> str:
        return f"{self.name!r}: {self.reason}"


@dataclass(slots=True)
class TickResult:
    """Result of one `take`.

    Attributes:
        deliveries: in the order of claiming.
        rejections: files that can never be valid; they are in quarantine.
        problems: files and folders that the next `take` tries again.
        has_more: whether files remain for the next `take`.
        cursor: for the next `take`, once the deliveries are processed.
    """

    deliveries: list[Delivery] = field(default_factory=list)
    rejections: list[InboxProblem] = field(default_factory=list)
    problems: list[InboxProblem] = field(default_factory=list)
    has_more: bool = False
    cursor: Cursor = field(default_factory=Cursor)

    @property
    def incomplete(self) -> list[str]:
        """Names of the incomplete files."""
        return [_CLAIMED_NAME.sub(r"\g<name>", printable(Path(path).name, "_")) for path in self.cursor.incomplete]


class Inbox:
    """Watched folders, and the quarantine for files that can never be valid.

    Args:
        folders: a missing one counts as empty; one without write permission is reported as a problem.
        quarantine: created when needed; may be on another file system.
    """

    def __init__(self, folders: Sequence[Path], quarantine: Path) -> None:
        self.folders = tuple(dict.fromkeys(folder.resolve() for folder in folders))
        self.quarantine = quarantine

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
                    continue
                previous = tick.cursor.incomplete.get(str(file.path))
                age = file.state.since - previous.since if previous is not None and previous == file.state else -1
                if 0 <= age < _INCOMPLETE_AFTER_S:  # negative: the clock was set back
                    continue
                if len(tick.deliveries) + len(tick.rejections) >= limit or (has_begun and time.monotonic() >= deadline):
                    tick.has_more = True
                    break
                has_begun = True
                tick.cursor.incomplete.pop(str(file.path), None)
                try:
                    self._advance(file, tick, is_expired=age >= _INCOMPLETE_AFTER_S)
                except FileNotFoundError:  # moved by its writer or another process
                    continue
                except OSError as error:
                    tick.report(file.path, error)
            for folder in sorted(tick.changed):  # the caller relies on these renames
                try:
                    flush(folder)
                except OSError as error:
                    tick.report(folder, error)
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

    def reject(self, file: Delivery | _File, error: ManifestError) -> InboxProblem:
        """Move a claimed manifest that can never be accepted to quarantine.

        A reason without its file, left by a crash, is overwritten.

        Raises:
            OSError: the file cannot be moved.
        """
        stem = re.sub(r"(\.reason)+$", "", file.name.removesuffix(".json"))  # the suffix of reason files
        claimed = file.path.parent
        record = {"field": error.field, "reason": str(error), "folder": str(claimed.parent), "token": file.token}
        self.quarantine.mkdir(parents=True, exist_ok=True)
        with FileLock(self.quarantine / ".lock", timeout=_QUARANTINE_LOCK_S):
            path = self.quarantine / f"{stem}.json"
            if os.path.lexists(path) and _read_reason(path).get("token") != file.token:
                path = self.quarantine / f"{stem}-{file.token}.json"
            write_bytes(path.with_suffix(".reason.json"), to_json({"file": file.name, **record}))
            _move(file.path, path)
        flush(self.quarantine)
        flush(claimed)
        return InboxProblem(file.name, str(error), path)

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
        """Lock every folder and list its files in the order of handling.

        The tick's cursor keeps the entries that are still valid.
        """
        files: list[_File] = []
        for folder in self.folders:
            claimed = folder / _CLAIMED_FOLDER
            try:
                claimed.mkdir(exist_ok=True)
                locks.enter_context(FileLock(claimed / ".lock", timeout=0))
                files += [*_files_in(claimed), *_files_in(folder)]
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
        return sorted(files, key=lambda file: (not file.token, file.token, file.state.mtime_ns, file.name))

    def _archive(self, file: _File, tick: _Tick) -> None:
        """Move a delivered file to `accepted`; it stays in the cursor if that fails, to not be delivered again."""
        accepted = file.path.parent.parent / "accepted"
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
        content = _read(file.path, is_expired=is_expired)
        if content is None:
            tick.cursor.incomplete[str(file.path)] = file.state
        elif not file.token:  # its writer may replace it before it is claimed, so read it again after that
            self._advance(_claim(file, tick), tick, is_expired=is_expired)
        elif isinstance(content, ManifestError):
            tick.rejections.append(self.reject(file, content))
        else:
            tick.deliveries.append(Delivery(file.token, file.again, file.name, content, file.path))
            tick.cursor.handed_over[file.token] = f"{content.batch_id}-{content.digest[:12]}.json"


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


@dataclass(frozen=True, slots=True)
class _File:
    """A file in a watched folder; `token` is empty until it is claimed."""

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

    def report(self, path: Path, error: OSError) -> None:
        self.problems.append(InboxProblem(path.name, str(error), path))


def _read(path: Path, *, is_expired: bool) -> Batch | ManifestError | None:
    """Read a manifest; None if it is incomplete and may still grow. Opening a file of any kind never blocks.

    Raises:
        OSError: it cannot be read now.
    """
    try:
        with open_regular(path, follow_links=False) as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        if error.errno not in _OTHER_KINDS:
            raise
        return ManifestError("", f"is {_OTHER_KINDS[error.errno]}, not a regular file")
    if len(data) > _MAX_BYTES:
        return ManifestError("", f"has more than {_MAX_BYTES:,} bytes, the maximum")
    try:
        return parse_manifest(data)
    except ManifestError as error:
        if not is_incomplete(data):
            return error
        unchanged = f"has not changed for {_INCOMPLETE_AFTER_S} s"
        expired = ManifestError("", f"is incomplete and {unchanged}; submit the whole file ({error})")
        return expired if is_expired else None


def _files_in(folder: Path) -> Iterator[_File]:
    """Submitted files of a watched folder, or those in its folder of claimed files."""
    for path, state in _json_files(folder):
        if folder.name != _CLAIMED_FOLDER:
            yield _File(path, state, f"{file_stem(path.stem, _NAME_BYTES)}.json")
        elif parts := _CLAIMED_NAME.fullmatch(path.name):
            yield _File(path, state, parts["name"], parts["token"], parts["state"] == "again")


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


def _claim(file: _File, tick: _Tick) -> _File:
    """Rename a file, so that its writer cannot replace it."""
    tick.stamp = max(time.time_ns(), tick.stamp + 1)  # greater than all others, even if the clock was set back
    token = f"{tick.stamp:020d}-{secrets.token_hex(4)}"
    path = file.path.parent / _CLAIMED_FOLDER / f"{token}.new.{file.name}"
    file.path.rename(path)
    tick.changed |= {file.path.parent, path.parent}
    return replace(file, path=path, token=token)


def _read_reason(path: Path) -> dict[str, Any]:
    """The reason file of a quarantined file; empty if it is missing or damaged."""
    try:
        record = json.loads(path.with_suffix(".reason.json").read_bytes())
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
        is_regular = stat.S_ISREG(source.lstat().st_mode)
        with replacing(target) as temporary:
            shutil.copyfile(source if is_regular else os.devnull, temporary)
        source.unlink()
