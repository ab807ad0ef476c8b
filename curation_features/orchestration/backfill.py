"""Backfills from the command line: asks a running Dagster, over its GraphQL interface, to make partitions anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
  status assetBackfillData { assetBackfillStatuses { ... on AssetPartitionsStatusCounts {
    numPartitionsMaterialized numPartitionsFailed } } } } } }"""
_ENDED = ("COMPLETED_SUCCESS", "COMPLETED_FAILED", "COMPLETED", "FAILED", "CANCELED")
_POLL_S = 2.0


@dataclass(frozen=True, slots=True)
class BackfillStatus:
    """How far a backfill is: pairs of asset and partition that are made, or failed; and whether it has ended."""

    made: int
    failed: int
    ended: bool


class DagsterServer:
    """A running Dagster webserver.

    Args:
        url: as in the browser, `http://127.0.0.1:3000`.
    """

    def __init__(self, url: str, timeout_s: float = 120.0) -> None:
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s

    def reload(self) -> None:
        """Load the definitions again, so that changed labels and settings count. Raises `CurationError`."""
        entry = self._query(_RELOAD, location=LOCATION)["reloadRepositoryLocation"]
        problem = (entry.get("locationOrLoadError") or {}).get("message")
        if entry["__typename"] != "WorkspaceLocationEntry" or problem:
            raise CurationError(f"{self.url} cannot load {LOCATION}: {problem or entry['__typename']}")

    def batch_ids(self) -> list[str]:
        """All batches, in the order in which they came."""
        node = self._query(_PARTITIONS, key={"path": ["features"]})["assetNodeOrError"]
        if node["__typename"] != "AssetNode":
            raise CurationError(f"{self.url} does not serve {LOCATION}: is it another project's Dagster?")
        return list(node["partitionKeys"])

    def launch(self, batch_ids: Sequence[str], assets: Sequence[str]) -> str:
        """Launch a backfill and give its id.

        Raises:
            InputError: there are no such batches, or none at all.
        """
        known = set(self.batch_ids())
        unknown = [batch_id for batch_id in batch_ids if batch_id not in known]
        if unknown or not batch_ids:
            raise InputError(f"no such batch: {', '.join(unknown[:5])}" if unknown else "there are no batches yet")
        params = {"partitionNames": list(batch_ids), "assetSelection": [{"path": [name]} for name in assets]}
        launched = self._query(_LAUNCH, params=params)["launchPartitionBackfill"]
        if launched["__typename"] != "LaunchBackfillSuccess":
            raise CurationError(f"{self.url}: {launched.get('message') or launched['__typename']}")
        return str(launched["backfillId"])

    def page(self, backfill_id: str) -> str:
        """Where the UI shows a backfill."""
        return f"{self.url}/runs/b/{backfill_id}"

    def status(self, backfill_id: str) -> BackfillStatus:
        """How far a backfill is."""
        found = self._query(_STATUS, id=backfill_id)["partitionBackfillOrError"]
        if found["__typename"] != "PartitionBackfill":
            raise CurationError(f"{self.url}: backfill {backfill_id} is gone")
        counts = (found["assetBackfillData"] or {}).get("assetBackfillStatuses", [])
        return BackfillStatus(
            made=sum(count.get("numPartitionsMaterialized", 0) for count in counts),
            failed=sum(count.get("numPartitionsFailed", 0) for count in counts),
            ended=found["status"] in _ENDED,
        )

    def wait(self, backfill_id: str, progress: Callable[[int], None]) -> BackfillStatus:
        """Wait until a backfill has ended; `progress` is called with what was made or failed since the last call."""
        done = 0
        while True:
            status = self.status(backfill_id)
            progress(status.made + status.failed - done)
            done = status.made + status.failed
            if status.ended:
                return status
            time.sleep(_POLL_S)

    def _query(self, text: str, **variables: Any) -> dict[str, Any]:
        try:
            response = requests.post(
                f"{self.url}/graphql", json={"query": text, "variables": variables}, timeout=self._timeout_s
            )
            answer = response.json()
        except requests.ConnectionError as error:
            raise CurationError(f"no Dagster answers at {self.url}: start it with `make dev`, or give --url") from error
        except (requests.RequestException, ValueError) as error:
            raise CurationError(f"{self.url} does not answer as Dagster does: {error}") from error
        if answer.get("errors"):
            raise CurationError(f"{self.url}: {answer['errors'][0].get('message')}")
        data: dict[str, Any] = answer["data"]
        return data
