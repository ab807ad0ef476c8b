#!/usr/bin/env bash
# s3fs 2026.9.0 with aiobotocore 3.10.0 (Python 3.11 to 3.13)
#
# Expected: an object of a store that answers 503 SlowDown is asked for five times, with pauses that grow: s3fs has
# `retries = 5`, and botocore five attempts by default.
#
# Behaviour: both apply, one inside the other. A single `cat_file` sends 25 requests to a store that asks for fewer, and
# an own loop of five attempts around it 125. Neither warns.
#
# Seen:
#   default: 25 requests in more than 10 s: [Errno 16] Please reduce your request rate.
#   total_max_attempts 1: 5 requests in less than 10 s: [Errno 16] Please reduce your request rate.
#
# Remedy: let one layer retry. `config_kwargs={"retries": {"total_max_attempts": 1}}` turns botocore's retries off, and
# `filesystem.retries = 1` those of s3fs.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "s3fs==2026.9.0" "aiobotocore==3.10.0"
cat > "$work/busy.py" <<'PYTHON'
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

requests = 0


class Busy(BaseHTTPRequestHandler):
    """Answers each request as Amazon's S3 does if it is asked too often."""

    def do_GET(self) -> None:
        global requests
        requests += 1
        body = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
        self.send_response(503)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


server = ThreadingHTTPServer(("127.0.0.1", 0), Busy)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ.update(AWS_ACCESS_KEY_ID="id", AWS_SECRET_ACCESS_KEY="secret", AWS_DEFAULT_REGION="us-east-1")

import s3fs  # noqa: E402


def ask(name: str, **options: object) -> int:
    global requests
    requests, before = 0, time.monotonic()
    store = s3fs.S3FileSystem(endpoint_url=f"http://127.0.0.1:{server.server_port}", **options)
    try:
        store.cat_file("bucket/photo.jpg", start=0, end=100)
    except OSError as error:
        took = time.monotonic() - before
        print(f"{name}: {requests} requests in {'more' if took > 10 else 'less'} than 10 s: {error}")
    return requests


usual = ask("default")
once = ask("total_max_attempts 1", config_kwargs={"retries": {"total_max_attempts": 1}})
raise SystemExit(usual != 25 or once != 5)
PYTHON
NO_PROXY=127.0.0.1 "$work/venv/bin/python" "$work/busy.py"
