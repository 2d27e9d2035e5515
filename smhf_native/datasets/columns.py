"""Columns of a :class:`~smhf_native.datasets.Dataset`, stored small.

Three kinds, immutable once made:

- :class:`Values`: one NumPy number per row;
- :class:`Rows`: one list of numbers per row, all rows in one flat array with offsets, in the smallest
  integer type that holds them.  A column of 512 token ids per row costs 2 KB a row, a mask 0.5 KB;
- :class:`Objects`: a Python list, for texts and for everything else.

Access by row gives what the ``datasets`` package gives: Python ints, lists and strings, or int64/float32
arrays when a format is set.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from smhf_native.datasets.tensors import as_tensor

__all__ = ["Column", "Objects", "Rows", "Values", "concat", "make_column"]

Index = npt.NDArray[np.int64]


class Column:
    """Common face of the three kinds."""

    def __len__(self) -> int:
        raise NotImplementedError

    def take(self, index: Index) -> Column:
        """Return the column made of the rows ``index`` (int64, all in range)."""
        raise NotImplementedError

    def cut(self, start: int, stop: int) -> Column:
        """Return rows ``start`` to ``stop`` (a view where that is possible)."""
        raise NotImplementedError

    def tolist(self) -> list[Any]:
        """Return Python values, one per row."""
        raise NotImplementedError

    def arrays(self, kind: str) -> Any:
        """Return all rows under the format ``kind`` ("numpy" or "torch")."""
        raise NotImplementedError

    def feature(self) -> Any:
        """Return the feature that describes the column (see ``features.py``)."""
        raise NotImplementedError


class Values(Column):
    """One number (or boolean) per row."""

    def __init__(self, array: npt.NDArray[Any]):
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def take(self, index: Index) -> Column:
        """Return the rows ``index``."""
        return Values(self.array[index])

    def cut(self, start: int, stop: int) -> Column:
        """Return a range of rows."""
        return Values(self.array[start:stop])

    def tolist(self) -> list[Any]:
        """Return Python values, one per row."""
        return list(self.array.tolist())

    def arrays(self, kind: str) -> Any:
        """Return all rows under a format."""
        return as_tensor(self.array) if kind == "torch" else self.array.copy()

    def feature(self) -> Any:
        """Return the feature of the column."""
        from smhf_native.datasets.features import Value

        return Value(str(self.array.dtype))


class Rows(Column):
    """One list of numbers per row.

    Parameters
    ----------
    flat : (N,) array of the smallest sufficient dtype
    offsets : (rows + 1,) int64, ``flat[offsets[i]:offsets[i + 1]]`` is row i
    dtype : what the user sees ("int64", "int32", "float32" or "float64")
    """

    def __init__(self, flat: npt.NDArray[Any], offsets: Index, dtype: str):
        self.flat = flat
        self.offsets = offsets
        self.dtype = dtype

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Index:
        """Return the number of elements of each row (int64)."""
        return np.diff(self.offsets)

    def row(self, i: int) -> npt.NDArray[Any]:
        """Return row ``i`` in its storage dtype (a view)."""
        return self.flat[self.offsets[i] : self.offsets[i + 1]]

    def take(self, index: Index) -> Column:
        """Return the rows ``index``."""
        lengths = self.lengths[index]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        starts = np.repeat(self.offsets[:-1][index] - offsets[:-1], lengths)
        flat = self.flat[starts + np.arange(offsets[-1], dtype=np.int64)]
        return Rows(flat, offsets, self.dtype)

    def cut(self, start: int, stop: int) -> Column:
        """Return a range of rows."""
        stop = max(start, stop)
        offsets = self.offsets[start : stop + 1]
        return Rows(self.flat[offsets[0] : offsets[-1]], offsets - offsets[0], self.dtype)

    def tolist(self) -> list[Any]:
        """Return Python values, one per row."""
        values = self.flat.tolist()
        bounds = self.offsets.tolist()
        return [values[bounds[i] : bounds[i + 1]] for i in range(len(self))]

    def matrix(self) -> npt.NDArray[Any] | None:
        """Return (rows, width) in storage dtype when all rows have one length, else None."""
        lengths = self.lengths
        if len(lengths) == 0 or not (lengths == lengths[0]).all():
            return None
        return self.flat.reshape(len(lengths), int(lengths[0]))

    def arrays(self, kind: str) -> Any:
        """Return all rows under a format."""
        wanted = np.dtype(self.dtype)
        if kind == "torch" and wanted == np.float64:
            wanted = np.dtype(np.float32)
        wrap = as_tensor if kind == "torch" else np.asarray
        whole = self.matrix()
        if whole is not None:
            return wrap(whole.astype(wanted))
        return [wrap(self.row(i).astype(wanted)) for i in range(len(self))]

    def feature(self) -> Any:
        """Return the feature of the column."""
        from smhf_native.datasets.features import Sequence as SequenceFeature
        from smhf_native.datasets.features import Value

        return SequenceFeature(Value(self.dtype))


class Objects(Column):
    """Any Python values: texts, None, nested lists."""

    def __init__(self, values: list[Any]):
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def take(self, index: Index) -> Column:
        """Return the rows ``index``."""
        values = self.values
        return Objects([values[i] for i in index.tolist()])

    def cut(self, start: int, stop: int) -> Column:
        """Return a range of rows."""
        return Objects(self.values[start:stop])

    def tolist(self) -> list[Any]:
        """Return Python values, one per row."""
        return list(self.values)

    def arrays(self, kind: str) -> Any:
        """Return all rows under a format."""
        if kind == "torch":
            return list(self.values)  # as the datasets package: texts stay Python
        if all(isinstance(value, str) for value in self.values):
            return np.array(self.values)
        array = np.empty(len(self.values), dtype=object)
        array[:] = self.values
        return array

    def feature(self) -> Any:
        """Return the feature of the column."""
        from smhf_native.datasets.features import infer_feature

        return infer_feature(self.values)


def make_column(values: Any) -> Column:
    """Store ``values`` (list, array, list of lists or arrays, or a Column) in the smallest fitting kind."""
    if isinstance(values, Column):
        return values
    if isinstance(values, np.ndarray):
        return _from_array(np.asarray(values))
    items = values if isinstance(values, list) else list(values)
    if not items:
        return Objects([])
    first = items[0]
    if isinstance(first, (bool, np.bool_)) and all(isinstance(v, (bool, np.bool_)) for v in items):
        return Values(np.array(items, dtype=np.bool_))
    if isinstance(first, (int, np.integer)) and all(_is_int(v) for v in items):
        try:
            return Values(np.array(items, dtype=np.int64))
        except OverflowError:
            return Objects(items)
    if isinstance(first, (int, float, np.integer, np.floating)) and all(_is_number(v) for v in items):
        return Values(np.array(items, dtype=np.float64))
    if isinstance(first, np.ndarray) and first.ndim == 0:
        return make_column([v.item() if isinstance(v, np.ndarray) else v for v in items])
    if isinstance(first, (list, tuple, np.ndarray)):
        rows = _rows_of(items)
        if rows is not None:
            return rows
    return Objects(items)


def _is_int(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(
        value, (bool, np.bool_)
    )


def _from_array(array: npt.NDArray[Any]) -> Column:
    if array.dtype == object or array.dtype.kind in "US":
        return make_column(array.tolist())
    if array.ndim == 1:
        return Values(array.copy())
    if array.ndim == 2 and array.dtype.kind in "iufb":
        offsets = np.arange(array.shape[0] + 1, dtype=np.int64) * array.shape[1]
        return Rows(shrink(array.reshape(-1)), offsets, _shown_dtype(array.dtype))
    return Objects(list(array))


def _rows_of(items: list[Any]) -> Rows | None:
    """Flatten a list of one-dimensional number lists, or answer None when it is something else."""
    lengths = np.empty(len(items), dtype=np.int64)
    parts: list[npt.NDArray[Any]] = []
    for i, item in enumerate(items):
        if not isinstance(item, (list, tuple, np.ndarray)):
            return None
        if len(item) and isinstance(item[0], (str, list, tuple, dict, bytes, type(None))):
            return None
        try:
            part = np.asarray(item)
        except ValueError:
            return None
        if part.ndim != 1 or (len(part) and part.dtype.kind not in "iufb"):
            return None
        lengths[i] = len(part)
        if len(part):
            parts.append(part)
    if not parts:
        return None
    dtypes = {part.dtype for part in parts}
    shown = _shown_dtype(np.result_type(*dtypes))
    flat = np.concatenate([shrink(part) for part in parts])
    return Rows(shrink(flat), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), shown)


def _shown_dtype(dtype: np.dtype[Any]) -> str:
    if dtype.kind in "iub":
        return "int64"
    return "float32" if dtype.itemsize <= 4 else "float64"


def shrink(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return integers in the smallest of int8, int32, int64 that holds them; floats unchanged."""
    if array.dtype.kind not in "iub":
        return array
    if len(array) == 0:
        return array.astype(np.int8)
    low, high = int(array.min()), int(array.max())
    for dtype in (np.int8, np.int32):
        info = np.iinfo(dtype)
        if info.min <= low and high <= info.max:
            return array.astype(dtype)
    return array.astype(np.int64)


def concat(parts: Sequence[Column]) -> Column:
    """Return the parts under one another; mixed kinds become Objects."""
    parts = [part for part in parts if len(part)] or list(parts[:1])
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, Values) for part in parts):
        arrays = [part.array for part in parts if isinstance(part, Values)]
        if len({array.dtype.kind for array in arrays}) == 1 or not any(a.dtype.kind == "b" for a in arrays):
            return Values(np.concatenate(arrays))
    if all(isinstance(part, Rows) for part in parts):
        rows = [part for part in parts if isinstance(part, Rows)]
        lengths: Iterable[Index] = [part.lengths for part in rows]
        offsets = np.concatenate([[0], np.cumsum(np.concatenate(list(lengths)))]).astype(np.int64)
        shown = rows[0].dtype if len({part.dtype for part in rows}) == 1 else "float64"
        return Rows(np.concatenate([part.flat for part in rows]), offsets, shown)
    merged: list[Any] = []
    for part in parts:
        merged.extend(part.tolist())
    return Objects(merged)
