"""`features.completed`: one CloudEvents 1.0 event for each finished version of a batch, and its way out.

    data/events/features.completed/{batch_id}-{digest12}.json   the journal: every event that was ever made
    data/events/latest/{batch_id}.json                          the newest event of each batch
    data/events/pending/{time_ns}-{batch_id}-{digest12}.json    events that a remote sink has not taken yet
    data/events/pending/{...}.refused.json                      the same, of those that it has refused

An event is published after the artifacts are durable. A sink gets it at least once: after a crash it may get an
event of the same `source` and `id` again, which by CloudEvents is the same event. `data.sequence` counts the versions
of a batch from 1, and `data.supersedes` is the id of the event before, so that a consumer can tell the newest one.
A batch that returns to an earlier state has a new event, `{batch_id}-{digest12}-{sequence}`.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from filelock import FileLock, Timeout

from curation_features.atomic_files import store_bytes, sweep, uri
from curation_features.errors import CurationError, EventError
from curation_features.events.webhook import WebhookSink
from curation_features.manifest import to_json
from curation_features.schema import STATUSES
from curation_features.storage.deletions import last_sequence

if TYPE_CHECKING:
    from curation_features.settings import Settings

FEATURES_COMPLETED = "features.completed"
SOURCE = "/curation_features"

_REFUSED = ".refused.json"  # how the names of pending files end that the sink has refused
_SECONDS_IN_A_RUN = 5.0  # a run does not stand still for the events of a long outage

log = logging.getLogger(__name__)


def features_completed(
    *,
    batch_id: str,
    manifest: str,
    digest: str,
    features: Path,
    table: Path,
    embeddings: Path,
    root: Path,
    statuses: Mapping[str, int],
    version: Mapping[str, str],
    retryable: int = 0,
    latest: Mapping[str, Any] | None = None,
    sequence: int = 1,
) -> dict[str, Any]:
    """The event that says that the features of a batch are there.

    It follows from its arguments alone, so that it is the same, byte for byte, when it is made again after a crash;
    that is why it has no `time`, which CloudEvents leaves optional.

    Args:
        manifest: digest of the manifest (`Batch.digest`).
        digest: sha256 (hex) of the bytes of the features' JSON file.
        features: that file.
        table: the features as Parquet.
        embeddings: the image embeddings, as Parquet.
        root: the project's root; files inside it are named from there, others by their absolute path.
        statuses: how many artifacts are `ok`, `degraded` and `failed`.
        version: the `version` of the features: `technical` and `clip`.
        retryable: how many artifacts have an error that another run may not meet (`schema.RETRYABLE_REASONS`).
        latest: the newest event of the batch. If it says the same, it is the result; else the new event supersedes it.
        sequence: of the new event if the batch has no `latest`.
    """
    data = {
        "batch_id": batch_id,
        "manifest": manifest,
        "features": digest,
        "features_uri": uri(features, root),
        "table_uri": uri(table, root),
        "embeddings_uri": uri(embeddings, root),
        "artifacts": sum(statuses.values()),
        "statuses": {status: statuses[status] for status in STATUSES},
        "retryable": retryable,
        "version": {part: version[part] for part in ("technical", "clip")},
    }
    if latest is not None:
        known = latest["data"]
        if {name: known.get(name) for name in data} == data:
            return dict(latest)
        sequence = known["sequence"] + 1
    return {
        "specversion": "1.0",
        "id": f"{batch_id}-{digest[:12]}",
        "source": SOURCE,
        "type": FEATURES_COMPLETED,
        "subject": batch_id,
        "datacontenttype": "application/json",
        "data": {**data, "sequence": sequence, "supersedes": latest["id"] if latest else None},
    }


class EventSink(Protocol):
    """Where events go. It may get one again that it has taken."""

    def deliver(self, event: Mapping[str, Any]) -> None:
        """Take `event`. Raises `EventError`: it was not taken, and `retry` says if the next one would be."""


class FileSink:
    """The journal: each event as a file of its own, whole or not at all."""

    def __init__(self, data_path: Path) -> None:
        self.folder = data_path / "events" / FEATURES_COMPLETED

    def path(self, event: Mapping[str, Any]) -> Path:
        """The file of an event."""
        return self.folder / f"{event['id']}.json"

    def holds(self, event: Mapping[str, Any]) -> bool:
        """Whether this very event is there."""
        try:
            return self.path(event).read_bytes() == to_json(event)
        except OSError:
            return False

    def deliver(self, event: Mapping[str, Any]) -> None:
        """Write `event`, durably; one that is there is not touched. Raises `StoreError`."""
        if not self.holds(event):
            store_bytes(self.path(event), to_json(event))

    def of_batch(self, batch_id: str) -> list[dict[str, Any]]:
        """The readable events of a batch, oldest first. It reads them all: the newest is in `LatestEvents`."""
        found = (_read_event(path) for path in self.folder.glob(f"{batch_id}-*.json"))
        events = [event for event in found if event is not None and event["subject"] == batch_id]
        return sorted(events, key=lambda event: int(event["data"]["sequence"]))


class LatestEvents:
    """The newest event of each batch: `{data_path}/events/latest/{batch_id}.json`."""

    def __init__(self, data_path: Path) -> None:
        self.folder = data_path / "events" / "latest"

    def path(self, batch_id: str) -> Path:
        """The file of a batch."""
        return self.folder / f"{batch_id}.json"

    def get(self, batch_id: str) -> dict[str, Any] | None:
        """The newest event of a batch; None if there is none, or if its file is damaged."""
        event = _read_event(self.path(batch_id))
        return event if event is not None and event["subject"] == batch_id else None

    def put(self, event: Mapping[str, Any]) -> None:
        """Keep an event as the newest of its batch, durably. Raises `StoreError`."""
        if self.get(event["subject"]) != event:
            store_bytes(self.path(event["subject"]), to_json(event))


def _read_event(path: Path) -> dict[str, Any] | None:
    """A `features.completed` event with a sequence number in a file; None if it holds no such event."""
    try:
        event: Any = json.loads(path.read_bytes()) if path.is_file() else {}
        is_sound = isinstance(event["id"], str) and type(event["data"]["sequence"]) is int
        return event if is_sound and isinstance(event["subject"], str) else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


@dataclass(frozen=True, slots=True)
class Flushed:
    """What came of an attempt to deliver the events that wait.

    Attributes:
        delivered: events that were taken.
        pending: events that still wait.
        problem: why they do; empty if nothing went wrong.
    """

    delivered: int
    pending: int
    problem: str = ""


class Outbox:
    """Records events in the journal, and keeps them for a remote sink until it has taken them.

    Args:
        data_path: the data folder.
        sink: the remote sink; None: events go to the journal only.
        quiet_s: after the sink was found down, it is left alone for so long, s.
    """

    def __init__(self, data_path: Path, sink: EventSink | None = None, *, quiet_s: float = 30.0) -> None:
        self.journal = FileSink(data_path)
        self.latest = LatestEvents(data_path)
        self._data_path = data_path
        self.pending = data_path / "events" / "pending"
        self._sink = sink
        self._quiet_s = quiet_s
        self._quiet = (0.0, "")  # until when, on the monotonic clock, and why
        self._swept = False

    @classmethod
    def from_settings(cls, settings: Settings) -> Outbox:
        """The outbox that settings ask for. Raises `SettingsError`: a webhook that can never be used."""
        webhook = settings.event_webhook
        return cls(settings.data_path, WebhookSink(webhook, settings.event_webhook_token) if webhook else None)

    def announce(self, **finished: Any) -> dict[str, Any]:
        """Publish that a version of a batch is finished, and give the event.

        The same version as the last time is the same event. Call it while no other process finishes the same batch
        (`ArtifactStore.exclusive`), once the artifacts are durable.

        Args:
            finished: as in `features_completed`, but for `latest` and `sequence`.

        Raises:
            StoreError: it could not be recorded.
        """
        batch_id = finished["batch_id"]
        latest = self.latest.get(batch_id) or next(reversed(self.journal.of_batch(batch_id)), None)
        if latest is not None and not self.journal.holds(latest):
            self.publish(latest)  # the process died between the two records of it
        sequence = (last_sequence(self._data_path, batch_id) or 0) + 1 if latest is None else 1
        event = features_completed(**finished, latest=latest, sequence=sequence)
        if event != latest and self.journal.path(event).exists() and not self.journal.holds(event):
            event["id"] += f"-{event['data']['sequence']}"  # an earlier version had the same features
        self.latest.put(event)  # before the journal: no two events of a batch may have one sequence number
        self.publish(event)
        return event

    def publish(self, event: Mapping[str, Any]) -> Path:
        """Record `event` and try to deliver what waits; returns its file in the journal.

        Call it once the artifacts are durable. An event that is in the journal already is not sent again. A sink
        that is down is no error: the event waits.

        Raises:
            StoreError: it could not be recorded.
        """
        if not self._swept:
            self._swept = True
            sweep(self.pending, self.journal.folder, self.latest.folder)
        if self._sink is not None and not self.journal.holds(event):
            # Before the journal: an event that is there counts as sent or waiting, whenever the process dies.
            store_bytes(self.pending / f"{self._next_stamp():020d}-{event['id']}.json", to_json(event))
        self.journal.deliver(event)
        self.flush(seconds=_SECONDS_IN_A_RUN)
        return self.journal.path(event)

    def flush(self, *, force: bool = False, seconds: float = 20.0) -> Flushed:
        """Deliver what waits, oldest first; only one process at a time does so, and others return at once.

        It ends where the sink is down, which is no error. An event that the sink refuses goes on waiting, behind all
        others.

        Args:
            force: try at once, even if the sink was down a moment ago, and in what time is left offer again what it
                has refused.
            seconds: no further event is begun after so long; the rest waits for the next call.
        """
        waiting = len(self._waiting())
        if not waiting:
            return Flushed(0, 0)
        if self._sink is None:
            return Flushed(0, waiting, "no webhook is configured")
        quiet_until, problem = self._quiet
        if time.monotonic() < quiet_until and not force:
            return Flushed(0, waiting, problem)
        try:
            with FileLock(self.pending / ".lock", blocking=False):
                return self._deliver(self._sink, force, time.monotonic() + seconds)
        except Timeout:
            return Flushed(0, waiting, "another process is delivering")
        except OSError as error:  # of the pending folder; the events are recorded all the same
            self._rest(str(error))
            return Flushed(0, waiting, str(error))

    def _deliver(self, sink: EventSink, force: bool, deadline: float) -> Flushed:
        delivered, problem = 0, ""
        refusals: list[str] = []  # of events that were never refused before
        for path in self._in_turn(force):
            if time.monotonic() >= deadline:
                break
            event = self._read(path)
            if event is None:
                continue
            try:
                sink.deliver(event)
            except CurationError as error:
                problem = str(error)
                if not isinstance(error, EventError) or error.retry:
                    self._rest(problem)
                    break
                refusals += [] if _is_refused(path) else [problem]
                _refuse(path)
                continue
            path.unlink(missing_ok=True)
            delivered += 1
        waiting = self._waiting()
        refused = sum(map(_is_refused, waiting))
        if refused and not problem:
            problem = f"{refused} events were refused"
        if refusals:
            log.warning("%d events are refused and kept in %s: %s", len(refusals), self.pending, refusals[-1])
        if delivered:
            log.info("Delivered %d events, %d wait", delivered, len(waiting))
        return Flushed(delivered, len(waiting), problem)

    def _rest(self, problem: str) -> None:
        self._quiet = (time.monotonic() + self._quiet_s, problem)
        log.warning("Events wait in %s: %s", self.pending, problem)

    def _next_stamp(self) -> int:
        """The time in ns, but later than that of every event that waits, even if the clock was set back."""
        last = max((int(path.name.partition("-")[0]) for path in self._waiting()), default=0)
        return max(time.time_ns(), last + 1)

    def _waiting(self) -> list[Path]:
        return sorted(path for path in self.pending.glob("[0-9]*.json") if path.is_file())

    def _in_turn(self, force: bool) -> list[Path]:
        """What is to be offered: events in order of time, then the refused, those offered longest ago first."""
        waiting = self._waiting()
        refused = [path for path in waiting if _is_refused(path)]
        in_order = [path for path in waiting if not _is_refused(path)]
        return in_order + (sorted(refused, key=lambda path: path.stat().st_mtime_ns) if force else [])

    def _read(self, path: Path) -> dict[str, Any] | None:
        """A pending event; a file that holds none is set aside."""
        try:
            event = json.loads(path.read_bytes())
            if isinstance(event, dict):
                return event
            problem = "holds no JSON object"
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            problem = f"is not valid JSON ({error})"
        aside = path.replace(path.with_suffix(".damaged"))
        log.warning("A pending event %s and is set aside: %s", problem, aside)
        return None


def _is_refused(path: Path) -> bool:
    return path.name.endswith(_REFUSED)


def _refuse(path: Path) -> None:
    """Mark a pending file as refused, now; it is behind all others until each of them was offered."""
    os.utime(path if _is_refused(path) else path.replace(path.with_name(path.stem + _REFUSED)))
