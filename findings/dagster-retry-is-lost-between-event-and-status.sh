#!/usr/bin/env bash
# Dagster 1.13.27 (dagster==1.13.27, Python 3.11 to 3.13; SQLite storage)
#
# Expected: with `run_retries` on, the daemon retries each run that ends with RUN_FAILURE and gets the tag
# `dagster/will_retry: true`, whenever it happens to look at the event log.
#
# Behaviour: Dagster stores the event RUN_FAILURE first, and the status of the run and its tag afterwards. If the
# daemon's event log consumer looks in between, it sees the event of a run that has not failed: it does not retry the
# run, and moves its cursor past the event. A moment later the run is FAILURE with `dagster/will_retry: true`, and is
# never retried. The script lets the consumer look exactly in between; under load it does so by chance.
#
# Seen:
#   between event and status: status STARTED, cursor passes the event
#   in the end: status FAILURE, will_retry true, retries launched 0
#
# Remedy for code that reports failures: write the status first (`run_storage.handle_run_event`), then the event.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "dagster==1.13.27"
mkdir "$work/home"
cat > "$work/home/dagster.yaml" <<'YAML'
telemetry: {enabled: false}
run_retries: {enabled: true, max_retries: 1}
YAML
cat > "$work/race.py" <<'PYTHON'
import logging
import sys
from types import SimpleNamespace

import dagster as dg
from dagster._daemon.auto_run_reexecution.event_log_consumer import EventLogConsumerDaemon

logging.disable(logging.CRITICAL)
FAILURE = dg.DagsterEventType.RUN_FAILURE


@dg.job
def job() -> None:
    """Does nothing."""


with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    consumer = EventLogConsumerDaemon()
    daemon = SimpleNamespace(instance=instance)  # the consumer needs a workspace only to launch a retry

    def look() -> None:
        list(consumer.run_iteration(daemon))

    def cursor() -> int:
        key = f"EVENT_LOG_CONSUMER_CURSOR-{FAILURE.value}"
        return int(instance.daemon_cursor_storage.get_cursor_values({key})[key])

    look()  # the first look sets the cursor
    run = instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)
    storage = instance.event_log_storage
    store_event = storage.store_event
    before = cursor()

    def store_and_look(event: dg.EventLogEntry) -> None:
        store_event(event)
        if event.dagster_event_type is FAILURE:
            look()
            seen = instance.get_run_by_id(run.run_id).status.value
            passed = "passes the event" if cursor() > before else "stays"
            print(f"between event and status: status {seen}, cursor {passed}")

    storage.store_event = store_and_look
    instance.report_run_failed(run)
    look()
    ended = instance.get_run_by_id(run.run_id)
    retries = [other for other in instance.get_runs() if other.parent_run_id == run.run_id]
    will_retry = ended.tags.get("dagster/will_retry")
    print(f"in the end: status {ended.status.value}, will_retry {will_retry}, retries launched {len(retries)}")
PYTHON
"$work/venv/bin/python" -W ignore "$work/race.py" "$work/home" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
between event and status: status STARTED, cursor passes the event
in the end: status FAILURE, will_retry true, retries launched 0
SEEN
