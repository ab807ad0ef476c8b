"""Batch manifests out of drop folders: each is claimed, delivered and put away, whatever dies in between.

    {folder}/{name}.json                           dropped here; what is half-written waits here
    {folder}/.claimed/{token}.new.{name}.json      claimed; delivered until a cursor that names it comes back
    {folder}/accepted/{batch_id}-{digest12}.json   such a cursor came back
    {quarantine}/{name}.json, {name}.reason.json   never valid, and why

The caller persists the cursor of one `take` and gives it to the next. Where it was lost, the same files are delivered
again, under the same tokens. Files leave the watched folder, so that a look at it costs the same however many have
come through. Every step is one rename. Clocks and modification times say what comes first and how long to wait for
the rest of a file; nothing is missed, or delivered under two tokens, because they are wrong.
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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from filelock import FileLock

from curation_features.atomic_files import flush, remove_leftover, replacing, store_bytes, write_bytes
from curation_features.errors import ManifestError
from curation_features.inbox.json_prefix import is_incomplete
from curation_features.manifest import Batch, parse_manifest, to_json
from curation_features.text import file_stem

MAX_BYTES = 100_000_000  # about 150,000 photos; parsed in less than a sensor's time limit
INCOMPLETE_AFTER_S = 3600.0

_NAME_BYTES = 180  # of the name that a file was dropped under; a token and endings still fit into 255
_QUARANTINE_LOCK_S = 10

_TOKEN = re.compile(r"[0-9]{20}-[0-9a-f]{8}")
_CLAIMED_NAME = re.compile(rf"(?P<token>{_TOKEN.pattern})\.(?P<state>new|again)\.(?P<name>.+\.json)")
_ACCEPTED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}-[0-9a-f]{12}\.json")


@dataclass(frozen=True, slots=True)
class Sighting:
    """An incomplete file: what it was like, and since when it has been so (seconds of the Unix epoch)."""

    inode: int
    size: int
    mtime_ns: int
    since: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """What one `take` must know of the one before.

    Attributes:
        handed_over: tokens of what was delivered, and the name under which each is to be put away.
        incomplete: paths of the files that wait for the rest of them.
    """

    handed_over: Mapping[str, str] = field(default_factory=dict)
    incomplete: Mapping[str, Sighting] = field(default_factory=dict)

    def dumps(self) -> str:
        """The cursor as compact ASCII JSON."""
        return json.dumps({"form": 1, **asdict(self)}, separators=(",", ":"))

    @classmethod
    def loads(cls, text: str | None) -> Cursor:
        """The cursor in `text`; an empty one where there is none, or where it is damaged or of another form."""
        try:
            values = json.loads(text or "")
            handed_over, incomplete = dict(values["handed_over"]), dict(values["incomplete"])
            sightings = {path: Sighting(**seen) for path, seen in incomplete.items()}
            sound = (
                values["form"] == 1
                and all(_TOKEN.fullmatch(token) and _ACCEPTED.fullmatch(name) for token, name in handed_over.items())
                and all(type(value) is int for seen in sightings.values() for value in asdict(seen).values())
            )
        except (ValueError, TypeError, KeyError, RecursionError):
            return cls()
        return cls(handed_over, sightings) if sound else cls()


@dataclass(frozen=True, slots=True)
class Delivery:
    """A manifest that was claimed.

    Attributes:
        token: unique; the same for every delivery of one file; sorts by the order of claiming.
        again: whether `mark_again` was called for it.
        name: the name that the file was dropped under: shortened if long, `_` for what cannot be printed.
        batch: what was read from `path`.
        path: where the file lies now.
    """

    token: str
    again: bool
    name: str
    batch: Batch
    path: Path


@dataclass(frozen=True, slots=True)
class Rejection:
    """A file that can never be a valid manifest: where it is wrong, why, and where it lies in quarantine."""

    name: str
    field: str
    reason: str
    path: Path


@dataclass(frozen=True, slots=True)
class Trouble:
    """A file, or a whole folder, that could not be handled now; every `take` tries it again."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path.name!r}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Taken:
    """What one `take` did.

    Attributes:
        deliveries: in the order in which they were claimed.
        incomplete: names of the files that wait for the rest of them.
        more: whether files were left for the next `take`.
        cursor: what must come back in the next `take`, once the deliveries are taken care of.
    """

    deliveries: tuple[Delivery, ...]
    rejections: tuple[Rejection, ...]
    incomplete: tuple[str, ...]
    troubles: tuple[Trouble, ...]
    more: bool
    cursor: Cursor


class IncomingFolders:
    """Drop folders, and the quarantine for what can never be valid.

    Args:
        folders: one that is missing counts as empty; one that cannot be written to is a trouble.
        quarantine: made when it is needed; may lie on another file system.
        max_bytes: larger files are never valid.
        incomplete_after_s: seconds after which an incomplete file that does not change is never valid.
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

    def take(self, cursor: Cursor, *, limit: int = 100, seconds: float = 20.0) -> Taken:
        """Put away what the cursor names, then deliver or reject what is left: claimed files first, then by age.

        Nothing is raised for a file or folder that cannot be handled: it is among the `troubles`, and the others go
        on. While one `take` is at work in a folder, that folder is a trouble to every other.

        Args:
            cursor: that of the last `take` whose deliveries were taken care of.
            limit: the most deliveries and rejections; files that wait do not count.
            seconds: no further file is begun after so long.
        """
        deadline, begun = time.monotonic() + seconds, False
        tick = _Tick()
        with ExitStack() as locks:
            files = self._put_away(self._listed(cursor, tick, locks), tick)
            tick.stamp = max((int(file.token[:20]) for file in files if file.token), default=0)
            for file in sorted(files, key=_order):
                sighting, waited = _sighted(file, tick.incomplete.get(file.key))
                if waited is not None and waited < self.incomplete_after_s:
                    tick.incomplete[file.key] = sighting
                    continue
                if len(tick.deliveries) + len(tick.rejections) >= limit or (begun and time.monotonic() >= deadline):
                    tick.more = True
                    break
                begun = True
                tick.incomplete.pop(file.key, None)
                try:
                    self._advance(file, sighting, waited is not None, tick)
                except FileNotFoundError:  # its writer, or another process, has just moved it
                    continue
                except OSError as error:
                    tick.trouble(file.path, error)
            tick.settle()
        return tick.taken()

    def mark_again(self, delivery: Delivery) -> Delivery:
        """Note that a delivery is to be run even though its content was run before; the note survives a crash.

        Raises:
            OSError: the file cannot be renamed.
        """
        path = delivery.path.with_name(_claimed_name(delivery.token, "again", delivery.name))
        delivery.path.rename(path)
        flush(path.parent)
        return replace(delivery, again=True, path=path)

    def reject(self, delivery: Delivery, error: ManifestError) -> Rejection:
        """Move what was delivered to quarantine: it is a manifest, but one that can never be accepted.

        Raises:
            OSError: the file cannot be moved.
        """
        tick, path = _Tick(), delivery.path
        file = _File(path.parent.parent, path, path.lstat(), delivery.name, delivery.token, delivery.again)
        rejection = self._reject(file, error, tick)
        tick.settle()
        return rejection

    def quarantined(self) -> list[str]:
        """Names of the files in quarantine, sorted; their reason files are not among them.

        Raises:
            OSError: the folder is there and cannot be listed.
        """
        try:
            return sorted(path.name for path, _ in _json_files(self.quarantine) if not path.stem.endswith(".reason"))
        except FileNotFoundError:
            return []

    def reason(self, name: str) -> str:
        """Why a file lies in quarantine, as its reason file says."""
        try:
            return str(json.loads(_reason_path(self.quarantine / name).read_bytes())["reason"])
        except (OSError, ValueError, KeyError, TypeError):
            return "there is no readable reason file"

    def _listed(self, cursor: Cursor, tick: _Tick, locks: ExitStack) -> list[_File]:
        """The files of all folders, each folder locked; the tick gets what the cursor says about them."""
        files: list[_File] = []
        for folder in self.folders:
            claimed = folder / _CLAIMED_FOLDER
            try:
                claimed.mkdir(exist_ok=True)
                locks.enter_context(FileLock(claimed / ".lock", timeout=0))
                files += [*_claimed(folder), *_dropped(folder)]
            except FileNotFoundError:  # no such folder yet
                continue
            except OSError as error:
                tick.trouble(folder, error)
        unseen = bool(tick.troubles)  # what the cursor names may lie in a folder that could not be listed
        tokens, keys = {file.token for file in files}, {file.key for file in files}
        tick.handed_over = {token: name for token, name in cursor.handed_over.items() if unseen or token in tokens}
        tick.incomplete = {key: seen for key, seen in cursor.incomplete.items() if unseen or key in keys}
        return files

    def _put_away(self, files: list[_File], tick: _Tick) -> list[_File]:
        """Move what was handed over to where it stays, and give the files that were not."""
        left = [file for file in files if file.token not in tick.handed_over]
        for file in files:
            if file.token not in tick.handed_over:
                continue
            accepted = file.folder / "accepted"
            try:
                accepted.mkdir(exist_ok=True)
                file.path.replace(accepted / tick.handed_over[file.token])
            except OSError as error:  # it stays in the cursor, or else it would be delivered again
                tick.trouble(file.path, error)
            else:
                del tick.handed_over[file.token]
                tick.touched |= {accepted, file.path.parent}
        return left

    def _advance(self, file: _File, sighting: Sighting, expired: bool, tick: _Tick) -> None:
        """Let a file wait; or claim it, and deliver or reject what was claimed.

        A file in place is read only to see whether it has to wait: until it is claimed, its writer may replace it.
        """
        if not file.token:
            if not expired and self._must_wait(file.path):
                tick.incomplete[file.key] = sighting
                return
            file = _claim(file, tick)
        try:
            batch = self._read(file.path)
        except ManifestError as error:
            if isinstance(error, _IncompleteError) and not expired:
                tick.incomplete[file.key] = sighting
            else:
                tick.rejections.append(self._reject(file, error, tick))
        else:
            tick.deliveries.append(Delivery(file.token, file.again, file.name, batch, file.path))
            tick.handed_over[file.token] = f"{batch.batch_id}-{batch.digest[:12]}.json"

    def _must_wait(self, path: Path) -> bool:
        try:
            self._read(path)
        except ManifestError as error:
            return isinstance(error, _IncompleteError)
        return False

    def _read(self, path: Path) -> Batch:
        """The batch in a file. Opening it never blocks, whatever it is.

        Raises:
            _IncompleteError: it may become valid.
            ManifestError: it never will.
            OSError: it cannot be read now.
        """
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a symbolic link" if stat.S_ISLNK(mode) else "a FIFO, a socket or a device"
            raise ManifestError("", f"is {kind}, not a regular file")
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)  # it may have become one
        with os.fdopen(descriptor, "rb") as stream:
            data = stream.read(self.max_bytes + 1)
        if len(data) > self.max_bytes:
            raise ManifestError("", f"has more than {self.max_bytes:,} bytes, the most that are read")
        try:
            return parse_manifest(data)
        except ManifestError as error:
            if not is_incomplete(data):
                raise
            unchanged = f"has not changed for {self.incomplete_after_s:g} s"
            raise _IncompleteError("", f"is incomplete and {unchanged}; deliver it again, whole ({error})") from error

    def _reject(self, file: _File, error: ManifestError, tick: _Tick) -> Rejection:
        """Move a claimed file to quarantine. A reason without its file, which a crash leaves, is written anew."""
        stem = re.sub(r"(\.reason)+$", "", file.name.removesuffix(".json"))  # reason files end so
        record = {"field": error.field, "reason": str(error), "folder": str(file.folder), "token": file.token}
        self.quarantine.mkdir(parents=True, exist_ok=True)
        with FileLock(self.quarantine / ".lock", timeout=_QUARANTINE_LOCK_S):
            path = self.quarantine / f"{stem}.json"
            if os.path.lexists(path) and _token_in(_reason_path(path)) != file.token:
                path = self.quarantine / f"{stem}-{file.token}.json"
            write_bytes(_reason_path(path), to_json({"file": file.name, **record}))
            _move(file.path, path)
        tick.touched |= {self.quarantine, file.path.parent}
        return Rejection(file.name, error.field, str(error), path)


def submit(data: bytes, folder: Path, name: str) -> Path:
    """Drop a manifest into a watched folder, whole or not at all, and say where it lies. The folder is made.

    Args:
        name: of the file, without its ending; a batch id will do. A file of that name that is still there is replaced.

    Raises:
        ValueError: a name that is no file name, or would not be looked at.
        StoreError: the file cannot be written.
    """
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise ValueError(f"{name!r} cannot name a manifest: give a file name that does not begin with '.'")
    path = folder / f"{name}.json"
    store_bytes(path, data)
    return path


class _IncompleteError(ManifestError):
    """A manifest of which only the beginning is there."""


# --- files ----------------------------------------------------------------------------------------------------------

_CLAIMED_FOLDER = ".claimed"


@dataclass(frozen=True, slots=True)
class _File:
    """A file in a watched folder; `token` is empty until it is claimed."""

    folder: Path
    path: Path
    stat: os.stat_result
    name: str
    token: str = ""
    again: bool = False

    @property
    def key(self) -> str:
        return str(self.path)


def _order(file: _File) -> tuple[bool, str, int, str]:
    return not file.token, file.token, file.stat.st_mtime_ns, file.name


def _dropped(folder: Path) -> Iterator[_File]:
    for path, found in _json_files(folder):
        yield _File(folder, path, found, _safe(path.stem))


def _claimed(folder: Path) -> Iterator[_File]:
    for path, found in _json_files(folder / _CLAIMED_FOLDER):
        if parts := _CLAIMED_NAME.fullmatch(path.name):
            yield _File(folder, path, found, parts["name"], parts["token"], parts["state"] == "again")


def _json_files(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """What has a name ending in `.json` and is no folder, with its own status, not that of a link's target.

    What killed processes have left of their writes goes on the way.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                remove_leftover(Path(entry.path))
            elif entry.name.endswith(".json"):
                with suppress(FileNotFoundError):  # gone meanwhile
                    found = entry.stat(follow_symlinks=False)
                    if not stat.S_ISDIR(found.st_mode):
                        yield Path(entry.path), found


def _sighted(file: _File, seen: Sighting | None) -> tuple[Sighting, int | None]:
    """A file as it is now, and the seconds for which it has been known to be incomplete; None if it has changed."""
    now = int(time.time())
    sighting = Sighting(file.stat.st_ino, file.stat.st_size, file.stat.st_mtime_ns, now)
    if seen is None or replace(seen, since=now) != sighting:
        return sighting, None
    since = min(seen.since, now)  # the clock may have been set back
    return replace(sighting, since=since), now - since


def _claim(file: _File, tick: _Tick) -> _File:
    """Take a file out of its writer's hands."""
    tick.stamp = max(time.time_ns(), tick.stamp + 1)  # after every other, even if the clock was set back
    token = f"{tick.stamp:020d}-{secrets.token_hex(4)}"
    path = file.folder / _CLAIMED_FOLDER / _claimed_name(token, "new", file.name)
    file.path.rename(path)
    tick.touched |= {file.folder, path.parent}
    return replace(file, path=path, token=token)


def _claimed_name(token: str, state: str, name: str) -> str:
    return f"{token}.{state}.{name}"


def _dropped_name(path: Path) -> str:
    parts = _CLAIMED_NAME.fullmatch(path.name)
    return parts["name"] if parts else _safe(path.stem)


def _safe(stem: str) -> str:
    """The name of a JSON file: short, and safe to print."""
    return f"{file_stem(stem, _NAME_BYTES)}.json"


def _reason_path(path: Path) -> Path:
    return path.with_name(f"{path.name.removesuffix('.json')}.reason.json")


def _token_in(reason: Path) -> str | None:
    """The token of the file that a reason is about; None if there is no such reason."""
    try:
        record = json.loads(reason.read_bytes())
    except (OSError, ValueError):
        return None
    return record.get("token") if isinstance(record, dict) else None


def _move(source: Path, target: Path) -> None:
    """Rename a file; onto another file system, copy it. Of what is no regular file an empty one is left there."""
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


@dataclass(slots=True)
class _Tick:
    """What one `take` has done so far. `stamp` is the time in the last token, in ns."""

    deliveries: list[Delivery] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
    troubles: list[Trouble] = field(default_factory=list)
    handed_over: dict[str, str] = field(default_factory=dict)
    incomplete: dict[str, Sighting] = field(default_factory=dict)
    touched: set[Path] = field(default_factory=set)
    stamp: int = 0
    more: bool = False

    def trouble(self, path: Path, error: OSError) -> None:
        self.troubles.append(Trouble(path, str(error)))

    def settle(self) -> None:
        """Make what was done durable, before anyone relies on it."""
        for folder in sorted(self.touched):
            try:
                flush(folder)
            except OSError as error:
                self.trouble(folder, error)

    def taken(self) -> Taken:
        return Taken(
            tuple(self.deliveries),
            tuple(self.rejections),
            tuple(_dropped_name(Path(key)) for key in self.incomplete),
            tuple(self.troubles),
            self.more,
            Cursor(self.handed_over, self.incomplete),
        )
