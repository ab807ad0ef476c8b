"""The pool that keeps two runs from holding models at the same time; its limit is `dagster.yaml`'s default."""

import dagster as dg

POOL = "models"


def limit_pool(instance: dg.DagsterInstance) -> None:
    """Make the pool's limit known. Dagster does so only after the first runs have left the queue, all at once."""
    storage = instance.event_log_storage
    if POOL not in {limit.name for limit in storage.get_pool_limits()}:
        storage.initialize_concurrency_limit_to_default(POOL)
