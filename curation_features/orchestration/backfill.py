"""Launch and follow backfills in a running Dagster, over its GraphQL interface."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from curation_features.errors import CurationError, InputError

LOCATION = "curation_features"
RETRY_FAILED = "curation_features/retry_failed"
"""Tag of a run that processes only photos that failed for a transient reason."""

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
_MAX_FAILED_POLLS = 5  # in a row, while a webserver restarts
_HEARTBEAT_S = 60.0  # due every 30 s; Dagster itself calls a daemon healthy for 30 minutes after the last one
_DAEMON_START_S = 40.0
_PARTITIONS_PER_QUERY = 1000  # databases limit the parameters of a statement


@dataclass(frozen=True, slots=True)
class BackfillStatus:
    """Progress of a backfill.

    Attributes:
        launched: launch time by the server's clock, Unix time in s.
        made: number of materialized pairs of asset and partition.
        failed: number of failed pairs.
        ended: whether the backfill has ended.
    """

    launched: float
    made: int
    failed: int
    ended: bool


class DagsterServer:
    """Client of a running Dagster webserver; a loopback address bypasses the environment's proxy.

    Every method raises `CurationError` if the server is down or is not a Dagster webserver.

    Args:
        url: as in the browser, such as `http://127.0.0.1:3000`.
    """

    def __init__(self, url: str, timeout_s: float = 120.0) -> None:
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._direct = _is_loopback(self.url)

    def reload(self) -> None:
        """Reload the definitions, so that changed labels and settings take effect."""
        entry = self._query(_RELOAD, location=LOCATION)
        problem = (entry.get("locationOrLoadError") or {}).get("message")
        if entry["__typename"] != "WorkspaceLocationEntry" or problem:
            raise CurationError(f"{self.url} cannot load {LOCATION}: {problem or entry['__typename']}")

    def batch_ids(self) -> list[str]:
        """Ids of all batches, in the order in which they were added."""
        node = self._query(_PARTITIONS, key={"path": ["features"]})
        if node["__typename"] != "AssetNode":
            raise CurationError(f"{self.url} does not serve {LOCATION}: is it another project's Dagster?")
        return list(node["partitionKeys"])

    def check_daemon(self) -> None:
        """Raise an error unless the daemon runs; wait up to 40 s for one that starts."""
        deadline = time.monotonic() + _DAEMON_START_S
        first = heartbeat = self._heartbeat()
        # a changed heartbeat counts as well: the clock of the server may differ from this one
        while heartbeat == first and time.time() - heartbeat > _HEARTBEAT_S:
            if time.monotonic() > deadline:
                raise CurationError(
                    f"{self.url}: Dagster's daemon is not running, so a backfill would never start: run `make dev` or "
                    "`dagster-daemon run`"
                )
            time.sleep(_POLL_S)
            heartbeat = self._heartbeat()

    def launch(self, batch_ids: Sequence[str], assets: Sequence[str], tags: Mapping[str, str] | None = None) -> str:
        """Launch a backfill and return its id.

        Args:
            tags: added to every run.

        Raises:
            InputError: a batch is unknown, or there is none.
        """
        known = set(self.batch_ids())
        if unknown := [batch_id for batch_id in batch_ids if batch_id not in known]:
            raise InputError(f"no such batch: {', '.join(unknown[:5])}")
        if not batch_ids:
            raise InputError("this Dagster has no batches yet")
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
        """The address of a backfill in the UI."""
        return f"{self.url}/runs/b/{backfill_id}"

    def status(self, backfill_id: str) -> BackfillStatus:
        """Progress of a backfill."""
        backfill = self._query(_STATUS, id=backfill_id)
        if backfill["__typename"] != "PartitionBackfill":
            raise CurationError(f"{self.url}: backfill {backfill_id} is gone")
        counts = (backfill["assetBackfillData"] or {}).get("assetBackfillStatuses", [])
        return BackfillStatus(
            launched=backfill["timestamp"],
            made=sum(count.get("numPartitionsMaterialized", 0) for count in counts),
            failed=sum(count.get("numPartitionsFailed", 0) for count in counts),
            ended=backfill["status"] in _ENDED,
        )

    def wait(self, backfill_id: str, progress: Callable[[int], None]) -> BackfillStatus:
        """Wait until a backfill has ended; `progress` gets the number of pairs that ended since its last call."""
        done = failed_polls = 0
        while True:
            try:
                status = self.status(backfill_id)
            except CurationError:
                failed_polls += 1
                if failed_polls > _MAX_FAILED_POLLS:
                    raise
            else:
                failed_polls = 0
                progress(status.made + status.failed - done)
                done = status.made + status.failed
                if status.ended:
                    return status
            time.sleep(_POLL_S)

    def not_made(self, batch_ids: Sequence[str], assets: Sequence[str], since: float) -> list[str]:
        """Batches that lack a materialization of an asset since `since` (Unix time, s)."""
        made = dict.fromkeys(batch_ids, 0)
        for start in range(0, len(batch_ids), _PARTITIONS_PER_QUERY):
            ids = list(batch_ids[start : start + _PARTITIONS_PER_QUERY])
            for name in assets:
                node = self._query(_LATEST, key={"path": [name]}, partitions=ids)
                for batch_id, event in zip(ids, node.get("latestMaterializationByPartition", ()), strict=False):
                    made[batch_id] += event is not None and float(event["timestamp"]) / 1000 >= since
        return [batch_id for batch_id, count in made.items() if count < len(assets)]

    def _heartbeat(self) -> float:
        """Last heartbeat of the backfill daemon, Unix time in s; 0 if there was none."""
        statuses = self._query(_DAEMONS)["daemonHealth"]["allDaemonStatuses"]
        return max(
            (status["lastHeartbeatTime"] or 0 for status in statuses if status["daemonType"] == "BACKFILL"), default=0
        )

    def _query(self, text: str, **variables: Any) -> dict[str, Any]:
        """Run a query for one field and return its value."""
        import requests  # not at the top: a run does not need it

        try:
            with requests.Session() as session:
                session.trust_env = not self._direct
                body = {"query": text, "variables": variables}
                response = session.post(f"{self.url}/graphql", json=body, timeout=self._timeout_s)
        except requests.ConnectionError as error:
            raise CurationError(f"no Dagster answers at {self.url}: start it with `make dev`, or set --url") from error
        except (requests.RequestException, ValueError) as error:
            raise CurationError(f"{self.url}: request failed: {error}") from error
        try:
            answer = response.json()
            if answer.get("errors"):
                raise CurationError(f"{self.url}: {answer['errors'][0]['message']}")
            [value] = answer["data"].values()
            return {**value}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise CurationError(
                f"{self.url} is not a Dagster webserver (HTTP {response.status_code}): "
                "set --url to the address of Dagster's webserver"
            ) from error


def _is_loopback(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
