#!/usr/bin/env bash
# pyarrow 26.0.1 (Python 3.11 to 3.13)
#
# Expected: key-value metadata that `ParquetWriter.add_key_value_metadata` adds to a file "will overwrite any existing
# metadata with the same key" (its documentation), so `read_schema` and `read_table` return it.
#
# Behaviour: with the default `store_schema=True` both return only the metadata of the schema that the writer was opened
# with: an added key is missing, and an overwritten one has its old value. `read_metadata`, and other readers, return the
# new ones. With `store_schema=False` both return the new ones, too.
#
# Seen:
#   stored schema: file {'rows': '2', 'model': 'x'}, schema {'rows': '0'}, table {'rows': '0'}
#   no stored schema: file {'rows': '2', 'model': 'x'}, schema {'rows': '2', 'model': 'x'}, table {'rows': '2', 'model': 'x'}
#
# Remedy: read facts that are known only at the end by `read_metadata(path).metadata`, and give the schema no key of the
# same name.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "pyarrow==26.0.1"
cat > "$work/read.py" <<'PYTHON'
import pyarrow as pa
import pyarrow.parquet as pq


def texts(metadata):
    found = {key.decode(): value.decode() for key, value in (metadata or {}).items()}
    return {key: found[key] for key in ("rows", "model") if key in found}


schema = pa.schema([("x", pa.int32())], metadata={"rows": "0"})
for name, store in (("stored schema", True), ("no stored schema", False)):
    with pq.ParquetWriter("x.parquet", schema, store_schema=store) as writer:
        writer.write_table(pa.table({"x": pa.array([1, 2], pa.int32())}, schema=schema))
        writer.add_key_value_metadata({"rows": "2", "model": "x"})
    seen = {
        "file": pq.read_metadata("x.parquet").metadata,
        "schema": pq.read_schema("x.parquet").metadata,
        "table": pq.read_table("x.parquet").schema.metadata,
    }
    print(f"{name}: {', '.join(f'{way} {texts(metadata)}' for way, metadata in seen.items())}")
PYTHON
(cd "$work" && "$work/venv/bin/python" read.py) | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
stored schema: file {'rows': '2', 'model': 'x'}, schema {'rows': '0'}, table {'rows': '0'}
no stored schema: file {'rows': '2', 'model': 'x'}, schema {'rows': '2', 'model': 'x'}, table {'rows': '2', 'model': 'x'}
SEEN
