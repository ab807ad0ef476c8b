"""`features.completed`: one CloudEvents 1.0 event per finished version of a batch, and its delivery.

    data/events/features.completed/{batch_id}-{digest12}.json   the journal: every event
    data/events/latest/{batch_id}.json                          the newest event of each batch
    data/events/pending/{time_ns}-{batch_id}-{digest12}.json    events that the remote sink has not accepted yet
    data/events/pending/{...}.refused.json                      pending events that it has refused

An event is published once the artifacts are durable. A sink gets it at least once: after a crash it may get an event of
the same `source` and `id` again, which CloudEvents defines as the same event. `data.sequence` counts the versions of a
batch from 1, and `data.supersedes` is the id of the previous event, so that a consumer can find the newest one. A batch
that returns to an earlier state has a new event, `{batch_id}-{digest12}-{sequence}`.
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
from curation_features.manifest import to_json
from curation_features.schema import STATUSES
from curation_features.storage.deletions import last_sequence

if TYPE_CHECKING:
    from curation_features.settings import Settings

FEATURES_COMPLETED = "features.completed"
SOURCE = "/curation_features"

_REFUSED = ".refused.json"  # suffix of pending events that the sink has refused
_SECONDS_IN_A_RUN = 5.0  # a run does not wait for all events of a long outage

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
    """Build the event of a finished batch.

    It depends on its arguments alone, so that a repetition after a crash is byte-identical. Therefore it has no `time`,
    which is optional in CloudEvents.

    Args:
        manifest: digest of the manifest (`Batch.digest`).
        digest: SHA-256 (hex) of the features' JSON file.
        features: path of that file.
        table: path of the features as Parquet.
        embeddings: path of the image embeddings as Parquet.
        root: the project's root; paths inside it are relative to it, others absolute.
        statuses: number of artifacts that are `ok`, `degraded` and `failed`.
        version: the `version` of the features: `technical`, `clip`, `signals` and `groups`.
        retryable: number of artifacts with a transient error (`schema.RETRYABLE_REASONS`).
        latest: the newest event of the batch; returned if its data is equal, else superseded.
        sequence: number of the new event if there is no `latest`.
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
        "version": {part: version[part] for part in ("technical", "clip", "signals", "groups") if part in version},
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
    """A receiver of events. It may get an accepted event again."""

    def deliver(self, event: Mapping[str, Any]) -> None:
        """Accept `event`. Raises `EventError`: not accepted; `retry`: whether the sink is down for all events."""


class FileSink:
    """The journal: one file per event, written whole or not at all."""

    def __init__(self, data_path: Path) -> None:
        self.folder = data_path / "events" / FEATURES_COMPLETED

    def path(self, event: Mapping[str, Any]) -> Path:
        """The file of an event."""
        return self.folder / f"{event['id']}.json"

    def holds(self, event: Mapping[str, Any]) -> bool:
        """Whether the journal has this event, byte for byte."""
        try:
            return self.path(event).read_bytes() == to_json(event)
        except OSError:
            return False

    def deliver(self, event: Mapping[str, Any]) -> None:
        """Write `event` durably; an existing file is not touched. Raises `StoreError`."""
        if not self.holds(event):
            store_bytes(self.path(event), to_json(event))

    def of_batch(self, batch_id: str) -> list[dict[str, Any]]:
        """The valid events of a batch, oldest first. It reads all of them; `LatestEvents` has the newest."""
        candidates = (_read_event(path, batch_id) for path in self.folder.glob(f"{batch_id}-*.json"))
        return sorted(filter(None, candidates), key=lambda event: int(event["data"]["sequence"]))


class LatestEvents:
    """The newest event of each batch: `{data_path}/events/latest/{batch_id}.json`."""

    def __init__(self, data_path: Path) -> None:
        self.folder = data_path / "events" / "latest"

    def path(self, batch_id: str) -> Path:
        """The file of a batch."""
        return self.folder / f"{batch_id}.json"

    def get(self, batch_id: str) -> dict[str, Any] | None:
        """The newest event of a batch; None if its file is missing or damaged."""
        return _read_event(self.path(batch_id), batch_id)

    def put(self, event: Mapping[str, Any]) -> None:
        """Store an event durably as the newest of its batch. Raises `StoreError`."""
        if self.get(event["subject"]) != event:
            store_bytes(self.path(event["subject"]), to_json(event))


def _read_event(path: Path, batch_id: str) -> dict[str, Any] | None:
    """Read an event of a batch with its sequence number; None if the file has no such event."""
    try:
        event: Any = json.loads(path.read_bytes()) if path.is_file() else {}
        is_valid = isinstance(event["id"], str) and type(event["data"]["sequence"]) is int
        return event if is_valid and event["subject"] == batch_id else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


@dataclass(frozen=True, slots=True)
class FlushResult:
    """Result of an attempt to deliver the pending events.

    Attributes:
        delivered: number of accepted events.
        pending: number of events that remain.
        problem: why they remain; empty without an error.
    """

    delivered: int
    pending: int
    problem: str = ""


class Outbox:
    """Records events in the journal, and keeps them until the remote sink accepts them.

    Args:
        data_path: the data folder.
        sink: the remote sink; None: events go to the journal only.
        quiet_s: time without attempts after the sink was down, s.
    """

    def __init__(self, data_path: Path, sink: EventSink | None = None, *, quiet_s: float = 30.0) -> None:
        self.journal = FileSink(data_path)
        self.latest = LatestEvents(data_path)
        self._data_path = data_path
        self.pending = data_path / "events" / "pending"
        self._sink = sink
        self._quiet_s = quiet_s
        self._quiet = (0.0, "")  # end of that time on the monotonic clock, and the problem
        self._is_swept = False

    @classmethod
    def from_settings(cls, settings: Settings) -> Outbox:
        """Create the outbox of the settings. Raises `SettingsError`: the webhook is invalid."""
        if not settings.event_webhook:
            return cls(settings.data_path)
        from curation_features.events.webhook import WebhookSink  # imported here, since requests takes a while

        return cls(settings.data_path, WebhookSink(settings.event_webhook, settings.event_webhook_token))

    def announce(self, **finished: Any) -> dict[str, Any]:
        """Publish the event of a finished version of a batch, and return it.

        An unchanged version has the same event. Call it once the artifacts are durable, and while no other process can
        finish the same batch (`ArtifactStore.exclusive`).

        Args:
            finished: arguments of `features_completed`, without `latest` and `sequence`.

        Raises:
            StoreError: the event cannot be recorded.
        """
        batch_id = finished["batch_id"]
        latest = self.latest.get(batch_id) or next(reversed(self.journal.of_batch(batch_id)), None)
        if latest is not None and not self.journal.holds(latest):
            self.publish(latest)  # the process died between the two writes below
        sequence = (last_sequence(self._data_path, batch_id) or 0) + 1 if latest is None else 1
        event = features_completed(**finished, latest=latest, sequence=sequence)
        if event != latest and self.journal.path(event).exists() and not self.journal.holds(event):
            event["id"] += f"-{event['data']['sequence']}"  # an earlier version had the same features
        self.latest.put(event)  # before the journal: sequence numbers must be unique
        self.publish(event)
        return event

    def publish(self, event: Mapping[str, Any]) -> Path:
        """Record `event`, deliver pending events, and return its path in the journal.

        Call it once the artifacts are durable. An event in the journal is not sent again. If the sink is down, the
        event stays pending, without an error.

        Raises:
            StoreError: the event cannot be recorded.
        """
        if not self._is_swept:
            self._is_swept = True
            sweep(self.pending, self.journal.folder, self.latest.folder)
        if self._sink is not None and not self.journal.holds(event):
            # Before the journal: an event in the journal must be sent or pending, even if the process dies.
            store_bytes(self.pending / f"{self._next_stamp():020d}-{event['id']}.json", to_json(event))
        self.journal.deliver(event)
        self.flush(seconds=_SECONDS_IN_A_RUN)
        return self.journal.path(event)

    def flush(self, *, force: bool = False, seconds: float = 20.0) -> FlushResult:
        """Deliver pending events, oldest first; return at once if another process is delivering.

        It stops if the sink is down, without an error. A refused event stays pending, behind all others.

        Args:
            force: try even if the sink was down a moment ago, and offer refused events again, after the others.
            seconds: after this time no further event is sent; the others wait for the next call.
        """
        pending = len(self._paths())
        if not pending:
            return FlushResult(0, 0)
        if self._sink is None:
            return FlushResult(0, pending, "no webhook is configured")
        quiet_until, problem = self._quiet
        if time.monotonic() < quiet_until and not force:
            return FlushResult(0, pending, problem)
        try:
            with FileLock(self.pending / ".lock", blocking=False):
                return self._deliver_due(self._sink, force, time.monotonic() + seconds)
        except Timeout:
            return FlushResult(0, pending, "another process is delivering")
        except OSError as error:  # of the pending folder; the journal has the events
            self._pause(str(error))
            return FlushResult(0, pending, str(error))

    def _deliver_due(self, sink: EventSink, force: bool, deadline: float) -> FlushResult:
        delivered, problem = 0, ""
        new_refusals: list[str] = []
        for path in self._due_paths(force):
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
                    self._pause(problem)
                    break
                if not _is_refused(path):
                    new_refusals.append(problem)
                    path = path.replace(path.with_name(path.stem + _REFUSED))
                os.utime(path)  # the order in which refused events are offered again
            else:
                path.unlink(missing_ok=True)
                delivered += 1
        pending = self._paths()
        refused = sum(map(_is_refused, pending))
        if new_refusals:
            log.warning("%d events are refused and kept in %s: %s", len(new_refusals), self.pending, new_refusals[-1])
        if delivered:
            log.info("Delivered %d events, %d pending", delivered, len(pending))
        return FlushResult(delivered, len(pending), problem or (f"{refused} events were refused" if refused else ""))

    def _due_paths(self, force: bool) -> list[Path]:
        """Pending files in order of time; with `force` also the refused ones, least recently offered first."""
        paths = self._paths()
        refused = sorted(filter(_is_refused, paths), key=lambda path: path.stat().st_mtime_ns) if force else []
        return [path for path in paths if not _is_refused(path)] + refused

    def _pause(self, problem: str) -> None:
        self._quiet = (time.monotonic() + self._quiet_s, problem)
        log.warning("Events are pending in %s: %s", self.pending, problem)

    def _next_stamp(self) -> int:
        """The time in ns, but after every pending event even if the clock was set back."""
        last = max((int(path.name.partition("-")[0]) for path in self._paths()), default=0)
        return max(time.time_ns(), last + 1)

    def _paths(self) -> list[Path]:
        return sorted(path for path in self.pending.glob("[0-9]*.json") if path.is_file())

    def _read(self, path: Path) -> dict[str, Any] | None:
        """Read a pending event; a damaged file is renamed."""
        try:
            return {**json.loads(path.read_bytes())}
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, RecursionError) as error:
            renamed = path.replace(path.with_suffix(".damaged"))
            log.warning("A pending event is damaged (%s) and is set aside: %s", error, renamed)
            return None


def _is_refused(path: Path) -> bool:
    return path.name.endswith(_REFUSED)
