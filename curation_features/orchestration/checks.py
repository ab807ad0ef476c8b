"""Asset checks, one result per partition: are the results correct and similar to those of other batches?

`curation_features.verification` holds the checks; this module has their Dagster specs and gathers their input.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from curation_features.inbox.folders import Inbox
from curation_features.manifest import Batch
from curation_features.orchestration.partitions import BATCHES
from curation_features.orchestration.provenance import recent_metadata
from curation_features.report.text import one_line
from curation_features.schema import STATUSES
from curation_features.settings import Settings
from curation_features.verification import CHECKS, cached_share, degraded_share, flag_shift, label_shift

_ASSETS = {"cache_effective": "technical_metrics"}
"""The asset of a check, if it is not `features`."""

_HISTORY = 40
_BATCHES_COMPARED = 20

Metadata = Mapping[str, dg.MetadataValue]

with warnings.catch_warnings(action="ignore", category=dg.PreviewWarning):  # checks with partitions are a preview
    CHECK_SPECS = [
        dg.AssetCheckSpec(
            check.name,
            asset=_ASSETS.get(check.name, "features"),
            description=check.description,
            blocking=check.blocking,
            partitions_def=BATCHES,
        )
        for check in CHECKS
    ]


_QUARANTINE = dg.AssetCheckKey(dg.AssetKey("preprocess_batches"), "nothing_quarantined")
_FILES_SHOWN = 20
_REASON_SHOWN = 500  # characters


@dg.asset_check(
    asset=_QUARANTINE.asset_key,
    name=_QUARANTINE.name,
    description="`data/quarantine/` is empty. Correct and submit a manifest again, or delete it with its reason file.",
)
def nothing_quarantined(incoming: dg.ResourceParam[Inbox]) -> dg.AssetCheckResult:
    """Check that the quarantine is empty."""
    return dg.AssetCheckResult(**_quarantine_result(incoming.quarantined(), incoming))


def quarantine_evaluation(names: Sequence[str], incoming: Inbox) -> dg.AssetCheckEvaluation:
    """Result of the quarantine check; `names` are the files in quarantine."""
    return dg.AssetCheckEvaluation(
        asset_key=_QUARANTINE.asset_key, check_name=_QUARANTINE.name, **_quarantine_result(names, incoming)
    )


def _quarantine_result(names: Sequence[str], incoming: Inbox) -> dict[str, Any]:
    records = [
        dg.TableRecord({"file": one_line(name, 255), "reason": one_line(incoming.reason(name), _REASON_SHOWN)})
        for name in names[:_FILES_SHOWN]
    ]
    return {
        "passed": not names,
        "severity": dg.AssetCheckSeverity.WARN,
        "description": f"{len(names)} quarantined" if names else None,
        "metadata": {"quarantined": len(names), **({"files": dg.MetadataValue.table(records)} if records else {})},
    }


@dataclass(frozen=True)
class BatchChecks:
    """Evaluates the checks of one batch."""

    batch: Batch
    instance: dg.DagsterInstance
    settings: Settings

    def of_features(
        self, problems: Mapping[str, Sequence[str]], metadata: Metadata
    ) -> Iterator[dg.AssetCheckEvaluation]:
        """Results of the checks on the finished artifacts, and of those against other batches.

        Args:
            problems: the return value of `verify`.
            metadata: of `features`; if it is empty (never materialized), nothing is compared.
        """
        for name, texts in problems.items():
            details = {"problems": dg.MetadataValue.md("\n".join(f"- {text}" for text in texts))} if texts else {}
            yield self._result(name, not texts, "; ".join(texts[:3]), details)
        if not metadata:
            return
        statuses = {status: _value(metadata, f"artifacts_{status}", 0) for status in STATUSES}
        yield self._compare("few_degraded", degraded_share(statuses), self.settings.warn_degraded_share, statuses)
        comparable = self._comparable(metadata, "clip_version", "signals_version")
        labels = [_value(other, "labels", {}) for other in comparable["clip_version"]]
        shift = label_shift(_value(metadata, "labels", {}), labels)
        yield self._compare("labels_as_usual", shift, self.settings.warn_label_shift)
        flags = [_flagged(other) for other in comparable["signals_version"]]
        yield self._compare("flags_as_usual", flag_shift(*_flagged(metadata), flags), self.settings.warn_flag_shift)

    def of_cache(self, metadata: Metadata, before: Metadata) -> Iterator[dg.AssetCheckEvaluation]:
        """Result of the cache check; `before`: metadata of the previous materialization."""
        comparable = bool(before) and all(
            _value(metadata, name, None) == _value(before, name, None) for name in ("manifest", "pass")
        )
        readable = _value(metadata, "photos", 0) - _value(metadata, "unreadable", 0)
        share = cached_share(_value(metadata, "cached", 0), readable, comparable)
        yield self._compare("cache_effective", share, self.settings.warn_cached_share, at_least=True)

    def _comparable(self, metadata: Metadata, *versions: str) -> dict[str, list[Metadata]]:
        """The latest other batches with the same version, by the name of the version, such as `clip_version`."""
        found: dict[str, list[Metadata]] = {name: [] for name in versions}
        for batch_id, other in recent_metadata(self.instance, dg.AssetKey("features"), _HISTORY):
            for name, batches in found.items():
                is_same = _value(other, name, "") == _value(metadata, name, None)
                if batch_id != self.batch.batch_id and is_same and len(batches) < _BATCHES_COMPARED:
                    batches.append(other)
            if all(len(batches) == _BATCHES_COMPARED for batches in found.values()):
                break
        return found

    def _compare(
        self, name: str, value: float | None, limit: float, details: Mapping[str, Any] | None = None, *,
        at_least: bool = False,
    ) -> dg.AssetCheckEvaluation:  # fmt: skip
        """Compare a value with its limit; None passes, as there is nothing to compare with yet."""
        if value is None:
            return self._result(name, True, "nothing to compare with yet", {"limit": limit})
        passed = value >= limit if at_least else value <= limit
        bound = "at least" if at_least else "at most"
        return self._result(
            name, passed, f"{value:.3f}, {bound} {limit:g}", {"value": value, "limit": limit, **(details or {})}
        )

    def _result(self, name: str, passed: bool, text: str, metadata: Mapping[str, Any]) -> dg.AssetCheckEvaluation:
        [spec] = (spec for spec in CHECK_SPECS if spec.name == name)
        return dg.AssetCheckEvaluation(
            asset_key=spec.asset_key,
            check_name=name,
            passed=passed,
            severity=dg.AssetCheckSeverity.ERROR if spec.blocking else dg.AssetCheckSeverity.WARN,
            description=text or None,
            blocking=spec.blocking,
            partition=self.batch.batch_id,
            metadata=metadata,
        )


def _value(metadata: Metadata, name: str, default: Any) -> Any:
    return metadata[name].value if name in metadata else default


def _flagged(metadata: Metadata) -> tuple[int, int]:
    """Number of artifacts with a flag, and of those that were measured."""
    measured = sum(_value(metadata, f"artifacts_{status}", 0) for status in ("ok", "degraded"))
    return _value(metadata, "flagged", 0), measured
