"""Conversion of Python values to Arrow arrays, without pandas.

`pyarrow.array` imports pandas if it is installed: half a second in each process that writes a table, as long as writing
all tables of a thousand photos. This module builds arrays from their buffers, as Arrow's columnar format defines them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

_Parts = tuple[list["pa.Buffer"], list["pa.Array"]]  # buffers after the validity bitmap, and child arrays


def arrow_array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Convert values (or None) to an Arrow array of type `kind`.

    `kind` may be string, binary, boolean, number, timestamp, list or struct. A NumPy array is a list of numbers
    without None. Lone surrogates, which JSON allows and Arrow does not, become "?".
    """
    import pyarrow as pa

    if isinstance(values, np.ndarray):
        numbers = np.ascontiguousarray(values, kind.to_pandas_dtype())
        return pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(numbers)])
    valid = np.array([value is not None for value in values], bool)
    build = next((build for name, build in _BUILDERS.items() if getattr(pa.types, name)(kind)), _build_numbers)
    buffers, children = build(values, kind)
    validity = None if valid.all() else _bitmap(valid)
    return pa.Array.from_buffers(kind, len(values), [validity, *buffers], children=children)


def _build_structs(values: Sequence[Any], kind: pa.DataType) -> _Parts:
    return [], [arrow_array([value and value[field.name] for value in values], field.type) for field in kind]


def _build_lists(values: Sequence[Any], kind: pa.DataType) -> _Parts:
    lists = [value for value in values if value is not None]
    if lists and all(isinstance(items, np.ndarray) for items in lists):
        joined: Sequence[Any] = np.concatenate(lists)  # type: ignore[assignment]
    else:
        joined = [item for items in lists for item in items]
    return [_offsets([() if value is None else value for value in values])], [arrow_array(joined, kind.value_type)]


def _build_strings(values: Sequence[Any], kind: pa.DataType) -> _Parts:
    texts = [b"" if value is None else value.encode("utf-8", "replace") for value in values]
    return [_offsets(texts), _buffer(b"".join(texts))], []


def _build_binaries(values: Sequence[Any], kind: pa.DataType) -> _Parts:
    items = [value or b"" for value in values]
    return [_offsets(items), _buffer(b"".join(items))], []


def _build_booleans(values: Sequence[Any], kind: pa.DataType) -> _Parts:
    return [_bitmap(np.array([bool(value) for value in values], bool))], []


def _build_timestamps(values: Sequence[Any], kind: pa.DataType) -> _Parts:
    moments = np.array([np.datetime64(value or 0, kind.unit) for value in values], f"datetime64[{kind.unit}]")
    return [_buffer(moments.view(np.int64))], []


def _build_numbers(values: Sequence[Any], kind: pa.DataType) -> _Parts:
    return [_buffer(np.array([0 if value is None else value for value in values], kind.to_pandas_dtype()))], []


_BUILDERS: dict[str, Callable[[Sequence[Any], pa.DataType], _Parts]] = {  # by the predicate in `pyarrow.types`
    "is_struct": _build_structs,
    "is_list": _build_lists,
    "is_string": _build_strings,
    "is_binary": _build_binaries,
    "is_boolean": _build_booleans,
    "is_timestamp": _build_timestamps,
}


def _buffer(data: Any) -> pa.Buffer:
    import pyarrow as pa

    return pa.py_buffer(data)


def _bitmap(values: NDArray[np.bool_]) -> pa.Buffer:
    return _buffer(np.packbits(values, bitorder="little"))


def _offsets(items: Sequence[Any]) -> pa.Buffer:
    """Return the start of each list or string, and the last end."""
    ends = np.cumsum([len(item) for item in items], dtype=np.int64)
    return _buffer(np.concatenate([[0], ends]).astype(np.int32))
