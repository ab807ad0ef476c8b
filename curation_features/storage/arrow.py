"""Python values as Arrow arrays, without pandas.

`pyarrow.array` imports pandas wherever it is installed: half a second in each process that writes a table, as long as
all tables of a thousand photos take. Arrays are put together from their buffers here, as Arrow's format lays down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


def arrow_array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Values, or None, as an array of strings, booleans, numbers, times, or lists or structs of those.

    A NumPy array stands for a list of numbers none of which is None.

    Text becomes legal UTF-8: JSON allows lone surrogates, and Arrow does not.
    """
    import pyarrow as pa

    if isinstance(values, np.ndarray):
        numbers = np.ascontiguousarray(values, kind.to_pandas_dtype())
        return pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(numbers)])
    present = np.array([value is not None for value in values], bool)
    buffers = [None if present.all() else _bits(present)]
    children = []
    if pa.types.is_struct(kind):
        children = [arrow_array([value and value[part.name] for value in values], part.type) for part in kind]
    elif pa.types.is_list(kind):
        buffers.append(_offsets([0 if value is None else len(value) for value in values]))
        children = [arrow_array(_joined([value for value in values if value is not None]), kind.value_type)]
    elif pa.types.is_string(kind):
        texts = [b"" if value is None else value.encode("utf-8", "replace") for value in values]
        buffers += [_offsets([len(text) for text in texts]), pa.py_buffer(b"".join(texts))]
    elif pa.types.is_boolean(kind):
        buffers.append(_bits(np.array([bool(value) for value in values], bool)))
    elif pa.types.is_timestamp(kind):
        moments = np.array([np.datetime64(value or 0, kind.unit) for value in values], f"datetime64[{kind.unit}]")
        buffers.append(pa.py_buffer(moments.view(np.int64)))
    else:
        numbers = np.array([0 if value is None else value for value in values], kind.to_pandas_dtype())
        buffers.append(pa.py_buffer(numbers))
    return pa.Array.from_buffers(kind, len(values), buffers, children=children)


def _joined(lists: Sequence[Sequence[Any]]) -> Sequence[Any]:
    if lists and all(isinstance(items, np.ndarray) for items in lists):
        return cast("Sequence[Any]", np.concatenate(lists))
    return [item for items in lists for item in items]


def _bits(values: NDArray[np.bool_]) -> pa.Buffer:
    import pyarrow as pa

    return pa.py_buffer(np.packbits(values, bitorder="little"))


def _offsets(lengths: Sequence[int]) -> pa.Buffer:
    """Where each of several lists or texts begins, and where the last one ends."""
    import pyarrow as pa

    return pa.py_buffer(np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32))
