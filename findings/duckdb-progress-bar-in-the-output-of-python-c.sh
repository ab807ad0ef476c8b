#!/usr/bin/env bash
# DuckDB 2.0.1 (duckdb==2.0.1, Python 3.11 to 3.13)
#
# Expected: the Python package prints nothing, or a progress bar in a terminal or a notebook only.
#
# Behaviour: a process whose `__main__` has no file (`python -c`, a worker of execnet or pytest-xdist, an embedded
# interpreter) counts as interactive: each query of more than two seconds prints a progress bar on standard output, also if
# that is a pipe, between the lines of the program. The same code from a file prints none. `enable_progress_bar` cannot be
# given to `connect`: it is no global option.
#
# Seen (a query that takes some seconds):
#   from a file: a bar in the output: False
#   with -c: a bar in the output: True
#   with -c, after SET enable_progress_bar = false: a bar in the output: False
#   as an option of connect: InvalidInputException
#
# Remedy: SET enable_progress_bar = false, after each connect.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "duckdb==2.0.1"
cat > "$work/query.py" <<'PYTHON'
import sys

import duckdb

connection = duckdb.connect()
if sys.argv[1:] == ["off"]:
    connection.execute("SET enable_progress_bar = false")
rows = "range(1000000) a, range(300) b"
connection.execute(f"SELECT max(sin(a.range * b.range)) FROM {rows} WHERE hash(a.range + b.range) % 3 = 0").fetchall()
print("result")
PYTHON
has_bar() { if grep -q "%" "$1"; then echo True; else echo False; fi; }
{
  "$work/venv/bin/python" "$work/query.py" > "$work/output"
  echo "from a file: a bar in the output: $(has_bar "$work/output")"
  "$work/venv/bin/python" -c "$(cat "$work/query.py")" > "$work/output"
  echo "with -c: a bar in the output: $(has_bar "$work/output")"
  "$work/venv/bin/python" -c "$(cat "$work/query.py")" off > "$work/output"
  echo "with -c, after SET enable_progress_bar = false: a bar in the output: $(has_bar "$work/output")"
  "$work/venv/bin/python" -c '
import duckdb
try:
    duckdb.connect(config={"enable_progress_bar": False})
except duckdb.Error as error:
    print("as an option of connect:", type(error).__name__)'
} | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
from a file: a bar in the output: False
with -c: a bar in the output: True
with -c, after SET enable_progress_bar = false: a bar in the output: False
as an option of connect: InvalidInputException
SEEN
