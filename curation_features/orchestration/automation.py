"""Reconciliation: what changes in the code or the settings is made anew, and nothing else."""

from typing import Any

import dagster as dg

_changed: dg.AutomationCondition[Any] = dg.AutomationCondition.data_version_changed()
_to_be_made: dg.AutomationCondition[Any] = dg.AutomationCondition.will_be_requested()
_new_code: dg.AutomationCondition[Any] = dg.AutomationCondition.code_version_changed()
_new_input: dg.AutomationCondition[Any] = dg.AutomationCondition.any_deps_match(_changed | _to_be_made).ignore(
    dg.AssetSelection.assets("preprocess_batches")  # what changes there the sensor launches
)

RECONCILE = (
    (_new_input.since_last_handled() | _new_code.since_last_handled())
    & ~dg.AutomationCondition.missing()  # never made: it has just come in, and the sensor launches it
    & ~dg.AutomationCondition.in_progress()
    & ~dg.AutomationCondition.any_deps_missing()
    & ~dg.AutomationCondition.any_deps_in_progress()
).with_label("reconcile")
"""Requests a partition whose code version changed, or whose parent was made anew with another data version."""

reconcile = dg.AutomationConditionSensorDefinition(
    "reconcile",
    target=dg.AssetSelection.groups("photo_features"),
    default_status=dg.DefaultSensorStatus.STOPPED,
    minimum_interval_seconds=30,
    description="Makes anew what a change of labels, templates, model, constants or code has touched. Off at first.",
)
