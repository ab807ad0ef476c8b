"""The pool that lets one run hold the models at a time; `dagster.yaml` sets its limit."""

import dagster as dg

POOL = "models"


def limit_pool(instance: dg.DagsterInstance) -> None:
    """Set the pool's limit now; Dagster itself sets it only after the first runs were dequeued, all at once."""
    storage = instance.event_log_storage
    if POOL not in {limit.name for limit in storage.get_pool_limits()}:
        storage.initialize_concurrency_limit_to_default(POOL)
