"""Reconciliation: what changes in the code or the settings is made anew, and nothing else."""

from typing import Any

import dagster as dg

Condition = dg.AutomationCondition[Any]

_source = dg.AssetSelection.assets("preprocess_batches")  # what changes there the sensor launches
_new_code: Condition = dg.AutomationCondition.code_version_changed()
_changed: Condition = dg.AutomationCondition.data_version_changed()
_requested: Condition = dg.AutomationCondition.will_be_requested()
_parent_changed: Condition = dg.AutomationCondition.any_deps_match(_changed).ignore(_source)
_parent_requested: Condition = dg.AutomationCondition.any_deps_match(_requested)

# A change counts until it has been requested. Neither a run that ends with the old code, nor a request for the change
# before this one, may make it forgotten; what has never been made starts without a past.
_code_handled: Condition = (
    dg.AutomationCondition.newly_requested() | dg.AutomationCondition.initial_evaluation()
) & ~_new_code | (dg.AutomationCondition.missing() & ~dg.AutomationCondition.in_progress())

RECONCILE = (
    (_parent_changed.since_last_handled() | _parent_requested | _new_code.since(_code_handled))
    & ~dg.AutomationCondition.missing()  # never made: it has just come in, and the sensor launches it
    & ~dg.AutomationCondition.in_progress()
    & ~dg.AutomationCondition.any_deps_missing()
    & ~dg.AutomationCondition.any_deps_in_progress()
).with_label("reconcile")
"""Requests a partition whose code version changed, or whose parent is, or was, made anew with another data version."""

reconcile = dg.AutomationConditionSensorDefinition(
    "reconcile",
    target=dg.AssetSelection.groups("photo_features"),
    default_status=dg.DefaultSensorStatus.STOPPED,
    minimum_interval_seconds=30,
    description="Makes anew what a change of labels, templates, model, constants or code has touched. Off at first.",
)
