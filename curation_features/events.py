"""`features.completed`: one CloudEvents 1.0 event for each finished version of a batch, and its way out.

    data/events/features.completed/{batch_id}-{digest12}.json   the journal: every event that was ever made
    data/events/pending/{time_ns}-{batch_id}-{digest12}.json    events that a remote sink has not taken yet
    data/events/pending/{...}.refused.json                      the same, of those that it has refused

An event is published after the artifacts are durable. A sink gets it at least once: after a crash it may get an
event of the same `source` and `id` again, which by CloudEvents is the same event.
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

from curation_features.errors import CurationError, EventError
from curation_features.files import store_bytes, sweep, uri
from curation_features.manifest import to_json
from curation_features.webhook import WebhookSink

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
) -> dict[str, Any]:
    """The event that says that the features of a batch are there.

    It follows from its arguments alone, so that it is the same, byte for byte, when it is made again after a crash;
    that is why it has no `time`, which CloudEvents leaves optional.

    Args:
        manifest: digest of the manifest (`Batch.digest`).
        digest: sha256 (hex) of the bytes of the features' JSON file.
        features: that file.
        table: the features as Parquet.
        embeddings: the image vectors, as Parquet.
        root: the project's root; files inside it are named from there, others by their absolute path.
        statuses: how many artifacts are `ok`, `degraded` and `failed`.
        version: the `version` of the features: `technical` and `clip`.
    """
    return {
        "specversion": "1.0",
        "id": f"{batch_id}-{digest[:12]}",
        "source": SOURCE,
        "type": FEATURES_COMPLETED,
        "subject": batch_id,
        "datacontenttype": "application/json",
        "data": {
            "batch_id": batch_id,
            "manifest": manifest,
            "features": digest,
            "features_uri": uri(features, root),
            "table_uri": uri(table, root),
            "embeddings_uri": uri(embeddings, root),
            "artifacts": sum(statuses.values()),
            "statuses": {status: statuses[status] for status in ("ok", "degraded", "failed")},
            "version": {part: version[part] for part in ("technical", "clip")},
        },
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

    def publish(self, event: Mapping[str, Any]) -> Path:
        """Record `event` and try to deliver what waits; returns its file in the journal.

        Call it once the artifacts are durable. An event that is in the journal already is not sent again. A sink
        that is down is no error: the event waits.

        Raises:
            StoreError: it could not be recorded.
        """
        if not self._swept:
            self._swept = True
            sweep(self.pending, self.journal.folder)
        if self._sink is not None and not self.journal.holds(event):
            # Before the journal: an event that is there counts as sent or waiting, whenever the process dies.
            store_bytes(self.pending / f"{time.time_ns():020d}-{event['id']}.json", to_json(event))
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
