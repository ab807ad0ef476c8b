"""Reconciliation: rematerialize partitions that a change of code or settings affects, and no others."""

from typing import Any

import dagster as dg

Condition = dg.AutomationCondition[Any]

_source = dg.AssetSelection.assets("preprocess_batches")  # the sensor launches changes of it
_new_code: Condition = dg.AutomationCondition.code_version_changed()
_changed: Condition = dg.AutomationCondition.data_version_changed()
_requested: Condition = dg.AutomationCondition.will_be_requested()
_parent_changed: Condition = dg.AutomationCondition.any_deps_match(_changed).ignore(_source)
_parent_requested: Condition = dg.AutomationCondition.any_deps_match(_requested)

# A change is pending until it has been requested. Neither the end of a run of the old code nor a request for an earlier
# change clears it. A partition that was never materialized starts without pending changes.
_code_handled: Condition = (
    dg.AutomationCondition.newly_requested() | dg.AutomationCondition.initial_evaluation()
) & ~_new_code | (dg.AutomationCondition.missing() & ~dg.AutomationCondition.in_progress())

RECONCILE = (
    (_parent_changed.since_last_handled() | _parent_requested | _new_code.since(_code_handled))
    & ~dg.AutomationCondition.missing()  # never materialized: it is new, and the sensor launches it
    & ~dg.AutomationCondition.in_progress()
    & ~dg.AutomationCondition.any_deps_missing()
    & ~dg.AutomationCondition.any_deps_in_progress()
).with_label("reconcile")
"""Requests a partition if its code version, or its parent's data version, has changed or will change."""

reconcile = dg.AutomationConditionSensorDefinition(
    "reconcile",
    target=dg.AssetSelection.groups("photo_features"),
    default_status=dg.DefaultSensorStatus.STOPPED,
    minimum_interval_seconds=30,
    description="Rematerializes what a change of labels, templates, model, constants or code affects. Off by default.",
)
