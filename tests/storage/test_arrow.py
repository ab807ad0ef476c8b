"""Arrow arrays from buffers equal those of pyarrow."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation_features.storage.arrow import arrow_array
from curation_features.storage.tables import FEATURE_COLUMNS, STAGE_TABLES, arrow_schema, vectors

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = {
    pa.float64(): st.floats(allow_nan=False),
    pa.float32(): st.floats(width=32, allow_nan=False),
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.bool_(): st.booleans(),
    pa.string(): TEXT,
    pa.binary(): st.binary(max_size=8),
    pa.timestamp("ms"): st.datetimes().map(lambda moment: moment.replace(microsecond=0)),
}


def values_of(kind: pa.DataType) -> st.SearchStrategy[Any]:
    if pa.types.is_list(kind):
        found = st.lists(values_of(kind.value_type), max_size=4)
    elif pa.types.is_struct(kind):
        found = st.fixed_dictionaries({part.name: values_of(part.type) for part in kind})
    else:
        found = NUMBERS[kind]
    return st.none() | found


KINDS = {
    field.type
    for columns in (FEATURE_COLUMNS, *(t.columns for t in STAGE_TABLES.values()))
    for field in arrow_schema(columns)
}


@pytest.mark.long
@pytest.mark.parametrize("kind", sorted(KINDS, key=str), ids=str)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_arrays_are_those_of_pyarrow(kind: pa.DataType, data: st.DataObject) -> None:
    values = data.draw(st.lists(values_of(kind), max_size=20))
    found = arrow_array(values, kind)
    found.validate(full=True)
    assert found.equals(pa.array(values, kind))


def test_lone_surrogates_become_legal_text_and_floats_keep_bits() -> None:
    found = arrow_array(["a\ud800b", None], pa.string())
    found.validate(full=True)
    assert found.to_pylist() == ["a?b", None]
    values = [0.1, -0.0, 5e-324, math.pi]
    assert [value.hex() for value in arrow_array(values, pa.float64()).to_pylist()] == [value.hex() for value in values]


def test_numpy_arrays_become_lists() -> None:
    kind = pa.list_(pa.float32())
    values = [np.arange(3, dtype=np.float32)[::-1], None, np.empty(0, np.float32), np.ones(2, np.float32)]
    found = arrow_array(values, kind)
    found.validate(full=True)
    assert found.equals(pa.array([[2, 1, 0], None, [], [1, 1]], kind))
    assert [None if value is None else value.tolist() for value in vectors(found)] == found.to_pylist()
    assert [value.tolist() for value in vectors(found.slice(2))] == [[], [1, 1]]
    assert vectors(found.slice(0, 0)) == []
    with pytest.raises(ValueError, match="null"):
        vectors(pa.array([[1.0, None]], kind))


@pytest.mark.long
def test_pandas_is_not_imported_for_a_table(tmp_path) -> None:
    code = """
import sys
from datetime import datetime
from pathlib import Path
from curation_features.storage.tables import Column, read_rows, table_writer
columns = {"name": Column("string", ""), "scores": Column("list<double>", ""), "there": Column("bool", "")}
columns |= {"taken": Column("timestamp[ms]", ""), "vector": Column("list<float>", "")}
with table_writer(Path(sys.argv[1]), columns, {}) as add:
    add({"name": "x", "scores": [0.5, 1.0], "there": True, "taken": datetime(2024, 2, 29), "vector": [1.5]})
assert list(read_rows(Path(sys.argv[1])))[0]["scores"] == [0.5, 1.0]
print("pandas" in sys.modules)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "table.parquet")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "False\n"
