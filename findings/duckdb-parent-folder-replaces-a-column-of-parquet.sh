#!/usr/bin/env bash
# DuckDB 2.0.1 (duckdb==2.0.1, pyarrow==26.0.1, Python 3.11 to 3.13)
#
# Expected: `read_parquet` of one named file, or of a list of named files, gives the columns of the files. Folders such as
# `year=2024` become columns (Hive partitions) where the caller reads a pattern or asks for them.
#
# Behaviour: partitions are detected in the path of a single named file, too, and such a column silently replaces the
# file's column of the same name. A user who keeps the data below a folder `iso=high` gets 'high' as the ISO of each photo,
# and `iso > 150` is an error of types. The working directory decides: with a relative path below that folder, the
# file's values are back.
#
# Seen:
#   one named file: [('a', 'high'), ('b', 'high')]
#   a list of named files: [('a', 'high'), ('b', 'high')]
#   a relative path from within the folder: [('a', 100), ('b', 200)]
#   with hive_partitioning = false: [('a', 100), ('b', 200)]
#
# Remedy: `hive_partitioning = false` for files of which one knows the columns.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "duckdb==2.0.1" "pyarrow==26.0.1"
mkdir -p "$work/iso=high"
cat > "$work/read.py" <<'PYTHON'
import os
import sys

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

folder = sys.argv[1]
file = os.path.join(folder, "trip.parquet")
pq.write_table(pa.table({"name": ["a", "b"], "iso": [100, 200]}), file)


def rows(paths, options=""):
    return duckdb.execute(f"SELECT name, iso FROM read_parquet(?{options})", [paths]).fetchall()


print("one named file:", rows(file))
print("a list of named files:", rows([file]))
os.chdir(folder)
print("a relative path from within the folder:", rows("trip.parquet"))
print("with hive_partitioning = false:", rows(file, ", hive_partitioning = false"))
PYTHON
"$work/venv/bin/python" "$work/read.py" "$work/iso=high" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
one named file: [('a', 'high'), ('b', 'high')]
a list of named files: [('a', 'high'), ('b', 'high')]
a relative path from within the folder: [('a', 100), ('b', 200)]
with hive_partitioning = false: [('a', 100), ('b', 200)]
SEEN
