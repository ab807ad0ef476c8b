"""Backfills from the command line: asks a running Dagster, over its GraphQL interface, to make partitions anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import requests

from curation_features.errors import CurationError, InputError

LOCATION = "curation_features"

_RELOAD = """mutation ($location: String!) { reloadRepositoryLocation(repositoryLocationName: $location) { __typename
  ... on WorkspaceLocationEntry { locationOrLoadError { __typename ... on PythonError { message } } } } }"""
_PARTITIONS = """query ($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) {
  __typename ... on AssetNode { partitionKeys } } }"""
_LAUNCH = """mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
_STATUS = """query ($id: String!) { partitionBackfillOrError(backfillId: $id) { __typename ... on PartitionBackfill {
  status timestamp assetBackfillData { assetBackfillStatuses { ... on AssetPartitionsStatusCounts {
    numPartitionsMaterialized numPartitionsFailed } } } } } }"""
_LATEST = """query ($key: AssetKeyInput!, $partitions: [String!]) { assetNodeOrError(assetKey: $key) {
  __typename ... on AssetNode { latestMaterializationByPartition(partitions: $partitions) { timestamp } } } }"""
_DAEMONS = "{ instance { daemonHealth { allDaemonStatuses { daemonType lastHeartbeatTime } } } }"
_ENDED = ("COMPLETED_SUCCESS", "COMPLETED_FAILED", "COMPLETED", "FAILED", "CANCELED")
_POLL_S = 2.0
_POLLS_LOST = 5  # in a row, while a webserver restarts
_HEARTBEAT_S = 60.0  # one is due every 30 s; Dagster itself calls a daemon healthy for half an hour after its last
_DAEMON_START_S = 40.0
_PARTITIONS_PER_QUERY = 1000  # databases limit the parameters of a statement


@dataclass(frozen=True, slots=True)
class BackfillStatus:
    """How far a backfill is: pairs of asset and partition that are made, or failed; and whether it has ended.

    Attributes:
        launched: when, in seconds since 1970, by the server's clock.
    """

    launched: float
    made: int
    failed: int
    ended: bool


class DagsterServer:
    """A running Dagster webserver. One on this machine is asked directly, whatever proxy the environment names.

    Every method raises `CurationError` where the server is not there, or does not answer as Dagster does.

    Args:
        url: as in the browser, `http://127.0.0.1:3000`.
    """

    def __init__(self, url: str, timeout_s: float = 120.0) -> None:
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._direct = _is_loopback(self.url)

    def reload(self) -> None:
        """Load the definitions again, so that changed labels and settings count."""
        entry = self._query(_RELOAD, location=LOCATION)
        problem = (entry.get("locationOrLoadError") or {}).get("message")
        if entry["__typename"] != "WorkspaceLocationEntry" or problem:
            raise CurationError(f"{self.url} cannot load {LOCATION}: {problem or entry['__typename']}")

    def batch_ids(self) -> list[str]:
        """All batches, in the order in which they came."""
        node = self._query(_PARTITIONS, key={"path": ["features"]})
        if node["__typename"] != "AssetNode":
            raise CurationError(f"{self.url} does not serve {LOCATION}: is it another project's Dagster?")
        return list(node["partitionKeys"])

    def check_daemon(self) -> None:
        """Check that the daemon runs, without which a backfill waits for ever; waits a while for one that starts."""
        end = time.monotonic() + _DAEMON_START_S
        first = heartbeat = self._heartbeat()
        # a heartbeat that moves is one, too: the clock of the server may differ from ours
        while heartbeat == first and time.time() - heartbeat > _HEARTBEAT_S:
            if time.monotonic() > end:
                raise CurationError(
                    f"{self.url}: Dagster's daemon does not run, and a backfill would wait for it for ever: `make dev` "
                    "runs it with the webserver, `dagster-daemon run` alone"
                )
            time.sleep(_POLL_S)
            heartbeat = self._heartbeat()

    def launch(self, batch_ids: Sequence[str], assets: Sequence[str], tags: Mapping[str, str] | None = None) -> str:
        """Launch a backfill and give its id.

        Args:
            tags: of the runs.

        Raises:
            InputError: there are no such batches, or none at all.
        """
        known = set(self.batch_ids())
        unknown = [batch_id for batch_id in batch_ids if batch_id not in known]
        if unknown or not batch_ids:
            raise InputError(f"no such batch: {', '.join(unknown[:5])}" if unknown else "there are no batches yet")
        params = {
            "partitionNames": list(batch_ids),
            "assetSelection": [{"path": [name]} for name in assets],
            **({"tags": [{"key": key, "value": value} for key, value in tags.items()]} if tags else {}),
        }
        launched = self._query(_LAUNCH, params=params)
        if launched["__typename"] != "LaunchBackfillSuccess":
            raise CurationError(f"{self.url}: {launched.get('message') or launched['__typename']}")
        return str(launched["backfillId"])

    def page(self, backfill_id: str) -> str:
        """Where the UI shows a backfill."""
        return f"{self.url}/runs/b/{backfill_id}"

    def status(self, backfill_id: str) -> BackfillStatus:
        """How far a backfill is."""
        found = self._query(_STATUS, id=backfill_id)
        if found["__typename"] != "PartitionBackfill":
            raise CurationError(f"{self.url}: backfill {backfill_id} is gone")
        counts = (found["assetBackfillData"] or {}).get("assetBackfillStatuses", [])
        return BackfillStatus(
            launched=found["timestamp"],
            made=sum(count.get("numPartitionsMaterialized", 0) for count in counts),
            failed=sum(count.get("numPartitionsFailed", 0) for count in counts),
            ended=found["status"] in _ENDED,
        )

    def wait(self, backfill_id: str, progress: Callable[[int], None]) -> BackfillStatus:
        """Wait until a backfill has ended; `progress` is called with what was made or failed since the last call."""
        done = lost = 0
        while True:
            try:
                status = self.status(backfill_id)
            except CurationError:
                lost += 1
                if lost > _POLLS_LOST:
                    raise
            else:
                lost = 0
                progress(status.made + status.failed - done)
                done = status.made + status.failed
                if status.ended:
                    return status
            time.sleep(_POLL_S)

    def not_made(self, batch_ids: Sequence[str], assets: Sequence[str], since: float) -> list[str]:
        """The batches that lack one of these assets made at or after `since` (seconds since 1970)."""
        made = dict.fromkeys(batch_ids, 0)
        for start in range(0, len(batch_ids), _PARTITIONS_PER_QUERY):
            asked = list(batch_ids[start : start + _PARTITIONS_PER_QUERY])
            for name in assets:
                node = self._query(_LATEST, key={"path": [name]}, partitions=asked)
                for batch_id, event in zip(asked, node.get("latestMaterializationByPartition", ()), strict=False):
                    made[batch_id] += event is not None and float(event["timestamp"]) / 1000 >= since
        return [batch_id for batch_id, count in made.items() if count < len(assets)]

    def _heartbeat(self) -> float:
        """When the daemon that runs backfills was last alive, in seconds since 1970; 0 if it never was."""
        statuses = self._query(_DAEMONS)["daemonHealth"]["allDaemonStatuses"]
        return max(
            (status["lastHeartbeatTime"] or 0 for status in statuses if status["daemonType"] == "BACKFILL"), default=0
        )

    def _query(self, text: str, **variables: Any) -> dict[str, Any]:
        """Ask for one field, and give what is in it."""
        try:
            with requests.Session() as session:
                session.trust_env = not self._direct
                asked = {"query": text, "variables": variables}
                response = session.post(f"{self.url}/graphql", json=asked, timeout=self._timeout_s)
        except requests.ConnectionError as error:
            raise CurationError(f"no Dagster answers at {self.url}: start it with `make dev`, or give --url") from error
        except (requests.RequestException, ValueError) as error:
            raise CurationError(f"{self.url} cannot be asked: {error}") from error
        try:
            answer = response.json()
            problem = str(answer["errors"][0]["message"]) if answer.get("errors") else ""
            [found] = [{}] if problem else answer["data"].values()
            node: dict[str, Any] = found | {}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise CurationError(
                f"{self.url} does not answer as Dagster does (HTTP {response.status_code}): "
                "give the address of its webserver as --url"
            ) from error
        if problem:
            raise CurationError(f"{self.url}: {problem}")
        return node


def _is_loopback(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
