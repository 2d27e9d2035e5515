"""The ``Dataset`` and ``DatasetDict`` of the ``datasets`` package, in memory, over compact columns.

Operations return new datasets that share column memory; only ``set_format`` and ``reset_format``
change an object.  Orders that depend on a seed (``shuffle``, ``train_test_split``) equal the ones of
the ``datasets`` package: permutations of ``numpy.random.default_rng(seed)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from smhf_native.datasets import columns as storage
from smhf_native.datasets.columns import Column, Objects, Rows, Values, make_column
from smhf_native.datasets.features import ClassLabel, Features
from smhf_native.datasets.mapping import filter_rows, map_rows
from smhf_native.datasets.tensors import as_tensor
from smhf_native.errors import MissingExtraError

__all__ = ["Dataset", "DatasetDict", "concatenate_datasets"]

_FORMATS = {None: None, "python": None, "numpy": "numpy", "np": "numpy", "torch": "torch", "pt": "torch"}
_FORMATS.update({"pytorch": "torch", "pandas": "pandas", "pd": "pandas"})


class Dataset:
    """A table of named columns of equal length."""

    def __init__(
        self, columns: Mapping[str, Any], split: str | None = None, features: Features | None = None
    ):
        self._columns: dict[str, Column] = {
            str(name): make_column(values) for name, values in columns.items()
        }
        lengths = {name: len(column) for name, column in self._columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns differ in length: {lengths}")
        self._length = next(iter(lengths.values()), 0)
        self._labels: dict[str, ClassLabel] = {
            name: feature
            for name, feature in (features or {}).items()
            if isinstance(feature, ClassLabel) and name in self._columns
        }
        self.split = split
        self._kind: str | None = None
        self._shown: list[str] | None = None
        self._all_columns = False

    # -- construction -------------------------------------------------------------------------

    @classmethod
    def from_dict(
        cls, mapping: Mapping[str, Any], features: Features | None = None, split: str | None = None, **_: Any
    ) -> Dataset:
        """Build from column name to list or array."""
        return cls(mapping, split, features)

    @classmethod
    def from_list(
        cls, mapping: list[dict[str, Any]], features: Features | None = None, split: str | None = None
    ) -> Dataset:
        """Build from a list of row dicts; a key that a row lacks is None there."""
        names: dict[str, None] = {}
        for row in mapping:
            names.update(dict.fromkeys(row))
        return cls({name: [row.get(name) for row in mapping] for name in names}, split, features)

    @classmethod
    def from_pandas(
        cls,
        df: Any,
        features: Features | None = None,
        split: str | None = None,
        preserve_index: bool | None = None,
        **_: Any,
    ) -> Dataset:
        """Build from a DataFrame; NaN becomes None, a named or non-default index becomes a column."""
        columns: dict[str, Any] = {}
        for name in df.columns:
            series = df[name]
            missing = series.isna()
            if bool(missing.any()):
                columns[str(name)] = [
                    None if gone else v for v, gone in zip(series.tolist(), missing, strict=True)
                ]
            else:
                columns[str(name)] = series.tolist() if series.dtype.kind not in "iufb" else series.to_numpy()
        default = type(df.index).__name__ == "RangeIndex" and df.index.name is None
        if preserve_index or (preserve_index is None and not default):
            columns[str(df.index.name or "__index_level_0__")] = df.index.tolist()
        return cls(columns, split, features)

    @classmethod
    def from_csv(cls, path: Any, split: str | None = None, **kwargs: Any) -> Dataset:
        """Read one CSV file or a list of them (see :func:`smhf_native.datasets.load_dataset`)."""
        from smhf_native.datasets.load import load_dataset

        loaded = load_dataset("csv", data_files=path, split="train", **kwargs)
        assert isinstance(loaded, Dataset)
        loaded.split = split
        return loaded

    @classmethod
    def from_json(cls, path: Any, split: str | None = None, **kwargs: Any) -> Dataset:
        """Read one JSON or JSON-lines file or a list of them."""
        from smhf_native.datasets.load import load_dataset

        loaded = load_dataset("json", data_files=path, split="train", **kwargs)
        assert isinstance(loaded, Dataset)
        loaded.split = split
        return loaded

    # -- shape --------------------------------------------------------------------------------

    @property
    def column_names(self) -> list[str]:
        """Return the column names in order."""
        return list(self._columns)

    @property
    def num_rows(self) -> int:
        """Return the number of rows."""
        return self._length

    @property
    def num_columns(self) -> int:
        """Return the number of columns."""
        return len(self._columns)

    @property
    def shape(self) -> tuple[int, int]:
        """Return (rows, columns)."""
        return (self._length, len(self._columns))

    @property
    def features(self) -> Features:
        """Return column name to feature."""
        return Features({n: self._labels.get(n) or c.feature() for n, c in self._columns.items()})

    @property
    def format(self) -> dict[str, Any]:
        """Return the output format as the ``datasets`` package describes it."""
        return {
            "type": self._kind,
            "format_kwargs": {},
            "columns": self._visible(),
            "output_all_columns": self._all_columns,
        }

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"Dataset({{\n    features: {self.column_names},\n    num_rows: {self._length}\n}})"

    # -- access -------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self._render(self._column(key))
        if isinstance(key, (bool, np.bool_)):
            raise TypeError("a row is selected by an integer, a slice or a list of integers")
        if isinstance(key, (int, np.integer)):
            index = int(key)
            if index < 0:
                index += self._length
            if not 0 <= index < self._length:
                raise IndexError(f"row {int(key)} of a dataset with {self._length} rows")
            return self._row(index)
        return self._batch(self._resolve(key))

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index in range(self._length):
            yield self._row(index)

    def __getitems__(self, keys: list[int]) -> list[dict[str, Any]]:
        """Return rows for a data loader."""
        return [self._row(int(key)) for key in keys]

    def iter(self, batch_size: int, drop_last_batch: bool = False) -> Iterator[dict[str, Any]]:
        """Yield batches (dict of columns) of ``batch_size`` rows."""
        for start in range(0, self._length, batch_size):
            stop = min(start + batch_size, self._length)
            if stop - start < batch_size and drop_last_batch:
                return
            yield self[start:stop]

    def _column(self, name: str) -> Column:
        if name not in self._columns:
            raise KeyError(
                f"Column {name} not in the dataset. Current columns in the dataset: {self.column_names}"
            )
        return self._columns[name]

    def _visible(self) -> list[str]:
        if self._shown is None:
            return self.column_names
        return [name for name in self._columns if name in self._shown]

    def _resolve(self, key: Any) -> Any:
        if isinstance(key, slice):
            return np.arange(*key.indices(self._length), dtype=np.int64)
        index = np.asarray(list(key) if not isinstance(key, np.ndarray) else key)
        if index.dtype == np.bool_:
            if len(index) != self._length:
                raise IndexError(f"mask of {len(index)} values for {self._length} rows")
            index = np.flatnonzero(index)
        index = index.astype(np.int64, copy=True)
        index[index < 0] += self._length
        if len(index) and (index.min() < 0 or index.max() >= self._length):
            bad = int(index[(index < 0) | (index >= self._length)][0])
            raise IndexError(f"row {bad} of a dataset with {self._length} rows")
        return index

    def _render(self, column: Column) -> Any:
        if self._kind is None:
            return column.tolist()
        if self._kind == "pandas":
            return _pandas().Series(column.tolist())
        return column.arrays(self._kind)

    def _batch(self, index: Any) -> Any:
        picked = {name: self._columns[name].take(index) for name in self._columns}
        shown = self._visible()
        if self._kind == "pandas":
            return _pandas().DataFrame({name: picked[name].tolist() for name in shown})
        batch = {name: self._render(picked[name]) for name in shown}
        if self._all_columns:
            batch.update({name: picked[name].tolist() for name in picked if name not in batch})
        return batch

    def _row(self, index: int) -> Any:
        row: dict[str, Any] = {}
        names = list(self._columns) if self._all_columns else self._visible()
        shown = set(self._visible())
        for name in names:
            cell = self._columns[name].cut(index, index + 1)
            if self._kind in ("numpy", "torch") and name in shown:
                value = cell.arrays(self._kind)[0]
                if self._kind == "torch" and isinstance(cell, Values):
                    value = as_tensor(value)
                row[name] = value
            else:
                row[name] = cell.tolist()[0]
        return row

    # -- format -------------------------------------------------------------------------------

    def set_format(
        self,
        type: str | None = None,  # the name the datasets package uses
        columns: list[str] | None = None,
        output_all_columns: bool = False,
        **_: Any,
    ) -> None:
        """Choose what rows look like: None (Python), "numpy", "torch" (NumPy-backed) or "pandas"."""
        if type not in _FORMATS:
            raise ValueError(f"format {type!r} is not one of {[name for name in _FORMATS if name]}")
        if isinstance(columns, str):
            columns = [columns]
        for name in columns or []:
            self._column(name)
        self._kind = _FORMATS[type]
        self._shown = list(columns) if columns is not None else None
        self._all_columns = output_all_columns

    def reset_format(self) -> None:
        """Go back to Python values of all columns."""
        self.set_format()

    def with_format(
        self,
        type: str | None = None,
        columns: list[str] | None = None,
        output_all_columns: bool = False,
        **kwargs: Any,
    ) -> Dataset:
        """Return the dataset under another format; the original keeps its own."""
        other = self._like(self._columns)
        other.set_format(type, columns, output_all_columns, **kwargs)
        return other

    def _like(self, columns: Mapping[str, Column], renames: Mapping[str, str] | None = None) -> Dataset:
        """Return a dataset with these columns and the format, split and labels of this one."""
        renames = renames or {}
        labels = Features({renames.get(name, name): label for name, label in self._labels.items()})
        other = Dataset(columns, self.split, labels)
        other._kind = self._kind
        other._all_columns = self._all_columns
        if self._shown is not None:
            shown = [renames.get(name, name) for name in self._shown]
            other._shown = [name for name in shown if name in other._columns]
        return other

    # -- columns ------------------------------------------------------------------------------

    def rename_column(self, original_column_name: str, new_column_name: str) -> Dataset:
        """Return the dataset with one column renamed, in its place."""
        return self.rename_columns({original_column_name: new_column_name})

    def rename_columns(self, column_mapping: Mapping[str, str]) -> Dataset:
        """Return the dataset with columns renamed (old to new)."""
        for name in column_mapping:
            self._column(name)
        renamed = [column_mapping.get(name, name) for name in self._columns]
        doubled = sorted({name for name in renamed if renamed.count(name) > 1})
        if doubled:
            raise ValueError(f"renaming would make two columns named {doubled}; columns: {self.column_names}")
        columns = {column_mapping.get(name, name): column for name, column in self._columns.items()}
        return self._like(columns, column_mapping)

    def remove_columns(self, column_names: str | list[str]) -> Dataset:
        """Return the dataset without these columns."""
        gone = [column_names] if isinstance(column_names, str) else list(column_names)
        for name in gone:
            if name not in self._columns:
                raise ValueError(
                    f"Column name {[name]} not in the dataset. Current columns in the dataset: {self.column_names}"
                )
        return self._like({name: column for name, column in self._columns.items() if name not in gone})

    def select_columns(self, column_names: str | list[str]) -> Dataset:
        """Return the dataset with only these columns, in the order given."""
        kept = [column_names] if isinstance(column_names, str) else list(column_names)
        return self._like({name: self._column(name) for name in kept})

    def add_column(self, name: str, column: Any, **_: Any) -> Dataset:
        """Return the dataset with one more column at the end."""
        if name in self._columns:
            raise ValueError(f"column {name!r} exists already; columns: {self.column_names}")
        return self._like({**self._columns, name: make_column(column)})

    def class_encode_column(self, column: str, include_nulls: bool = False) -> Dataset:
        """Return the dataset with a column of values turned into class integers (sorted by name)."""
        values = self._column(column).tolist()
        names = sorted({str(value) for value in values if include_nulls or value is not None})
        label = ClassLabel(names=names)
        table = {name: i for i, name in enumerate(names)}
        encoded = [None if v is None and not include_nulls else table[str(v)] for v in values]
        other = self._like({**self._columns, column: make_column(encoded)})
        other._labels[column] = label
        return other

    def cast_column(self, column: str, feature: Any) -> Dataset:
        """Return the dataset with one column cast to ``Value(dtype)`` or ``ClassLabel``."""
        current = self._column(column)
        other = self._like(self._columns)
        if isinstance(feature, ClassLabel):
            values = current.tolist()
            if any(isinstance(value, str) for value in values):
                values = feature.str2int(values)
            other._columns[column] = make_column(values)
            other._labels[column] = feature
            return other
        dtype = getattr(feature, "dtype", None)
        if dtype == "string":
            other._columns[column] = Objects([None if v is None else str(v) for v in current.tolist()])
        elif dtype is not None:
            other._columns[column] = Values(np.array(current.tolist(), dtype=dtype))
        else:
            raise TypeError(f"cast_column takes Value(dtype) or ClassLabel, not {feature!r}")
        other._labels.pop(column, None)
        return other

    def unique(self, column: str) -> list[Any]:
        """Return the different values of a column in order of first appearance."""
        return list(dict.fromkeys(self._column(column).tolist()))

    # -- rows ---------------------------------------------------------------------------------

    def select(self, indices: Any, **_: Any) -> Dataset:
        """Return the rows ``indices`` (any iterable of integers), in that order."""
        if (
            isinstance(indices, range)
            and indices.step == 1
            and 0 <= indices.start <= indices.stop <= self._length
        ):
            columns = {name: c.cut(indices.start, indices.stop) for name, c in self._columns.items()}
            return self._like(columns)
        index = self._resolve(indices)
        return self._like({name: column.take(index) for name, column in self._columns.items()})

    def take(self, n: int) -> Dataset:
        """Return the first ``n`` rows."""
        return self.select(range(min(n, self._length)))

    def skip(self, n: int) -> Dataset:
        """Return all but the first ``n`` rows."""
        return self.select(range(min(n, self._length), self._length))

    def shuffle(self, seed: int | None = None, generator: Any = None, **_: Any) -> Dataset:
        """Return the rows in the order of ``numpy.random.default_rng(seed).permutation``."""
        rng = generator if generator is not None else np.random.default_rng(seed)
        return self.select(rng.permutation(self._length))

    def sort(self, column_names: str | list[str], reverse: bool | list[bool] = False, **_: Any) -> Dataset:
        """Return the rows sorted by one or several columns (stable)."""
        names = [column_names] if isinstance(column_names, str) else list(column_names)
        flags = [reverse] * len(names) if isinstance(reverse, bool) else list(reverse)
        order = list(range(self._length))
        for name, flag in reversed(list(zip(names, flags, strict=True))):
            values = self._column(name).tolist()
            order.sort(key=values.__getitem__, reverse=flag)
        return self.select(order)

    def train_test_split(
        self,
        test_size: float | int | None = None,
        train_size: float | int | None = None,
        shuffle: bool = True,
        stratify_by_column: str | None = None,
        seed: int | None = None,
        generator: Any = None,
        **_: Any,
    ) -> DatasetDict:
        """Return ``{"train": …, "test": …}``; sizes are fractions or row counts (default test 0.25)."""
        if stratify_by_column is not None:
            raise NotImplementedError("train_test_split: stratify_by_column is not supported")
        n_train, n_test = _split_sizes(self._length, test_size, train_size)
        if not shuffle:
            return DatasetDict(
                train=self.select(range(n_train)), test=self.select(range(n_train, n_train + n_test))
            )
        rng = generator if generator is not None else np.random.default_rng(seed)
        order = rng.permutation(self._length)
        return DatasetDict(
            train=self.select(order[n_test : n_test + n_train]), test=self.select(order[:n_test])
        )

    def map(self, function: Callable[..., Any] | None = None, **options: Any) -> Dataset:
        """Apply ``function`` to rows or batches and store what it returns; see ``mapping.map_rows``."""
        return map_rows(self, function, options)

    def filter(self, function: Callable[..., Any] | None = None, **options: Any) -> Dataset:
        """Return the rows for which ``function`` is true; see ``mapping.filter_rows``."""
        return filter_rows(self, function, options)

    def flatten_indices(self, **_: Any) -> Dataset:
        """Return the dataset itself: rows are always stored in order here."""
        return self

    # -- export -------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, list[Any]]:
        """Return column name to list of Python values."""
        return {name: self._columns[name].tolist() for name in self._visible()}

    def to_list(self) -> list[dict[str, Any]]:
        """Return one dict per row."""
        columns = self.to_dict()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def to_pandas(self, **_: Any) -> Any:
        """Return a DataFrame (needs pandas)."""
        columns: dict[str, Any] = {}
        for name in self._visible():
            column = self._columns[name]
            columns[name] = column.array.copy() if isinstance(column, Values) else column.tolist()
        return _pandas().DataFrame(columns)

    def to_csv(self, path_or_buf: Any, index: bool = False, **_: Any) -> int:
        """Write a CSV file and return the number of characters written."""
        import csv
        import io

        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        names = self._visible()
        writer.writerow(([""] if index else []) + names)
        for number, row in enumerate(self.to_list()):
            cells = ["" if row[name] is None else row[name] for name in names]
            writer.writerow(([number] if index else []) + cells)
        content = text.getvalue()
        if hasattr(path_or_buf, "write"):
            path_or_buf.write(content)
        else:
            with open(path_or_buf, "w", encoding="utf-8", newline="") as file:
                file.write(content)
        return len(content)

    def packed_rows(self, name: str) -> Rows | None:
        """Return the compact storage of a column of number lists, or None when it is another kind."""
        column = self._columns.get(name)
        return column if isinstance(column, Rows) else None


def _split_sizes(n: int, test_size: Any, train_size: Any) -> tuple[int, int]:
    def check(name: str, size: Any) -> None:
        if size is None:
            return
        bad = not 0 < size < 1 if isinstance(size, float) else not 0 < size < n
        if bad:
            limit = "strictly between 0 and 1" if isinstance(size, float) else f"between 1 and {n - 1}"
            raise ValueError(f"{name}={size} must be {limit} for a dataset of {n} rows")

    check("test_size", test_size)
    check("train_size", train_size)
    if test_size is None and train_size is None:
        test_size = 0.25
    n_test = math.ceil(test_size * n) if isinstance(test_size, float) else test_size
    n_train = math.floor(train_size * n) if isinstance(train_size, float) else train_size
    if n_test is None:
        n_test = n - n_train
    if n_train is None:
        n_train = n - n_test
    if n_train + n_test > n or n_train <= 0:
        raise ValueError(f"train_size {n_train} + test_size {n_test} do not fit a dataset of {n} rows")
    return int(n_train), int(n_test)


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise MissingExtraError.of("pandas", "pandas", "DataFrame output") from error
    return pandas


def concatenate_datasets(
    dsets: list[Dataset], info: Any = None, split: str | None = None, axis: int = 0
) -> Dataset:
    """Return the datasets under one another (``axis=0``) or side by side (``axis=1``)."""
    if not dsets:
        raise ValueError("concatenate_datasets needs at least one dataset")
    if axis == 1:
        merged: dict[str, Column] = {}
        for dset in dsets:
            for name, column in dset._columns.items():
                if name in merged:
                    raise ValueError(f"two datasets have a column {name!r}")
                merged[name] = column
        return Dataset(merged, split)
    names = dsets[0].column_names
    for i, dset in enumerate(dsets):
        if set(dset.column_names) != set(names):
            raise ValueError(f"dataset {i} has columns {dset.column_names}, the first has {names}")
    columns = {name: storage.concat([dset._columns[name] for dset in dsets]) for name in names}
    other = dsets[0]._like(columns)
    other.split = split
    return other


class DatasetDict(dict[str, Dataset]):
    """Split name to dataset; methods apply to each split."""

    @property
    def num_rows(self) -> dict[str, int]:
        """Return split name to number of rows."""
        return {name: dset.num_rows for name, dset in self.items()}

    @property
    def column_names(self) -> dict[str, list[str]]:
        """Return split name to column names."""
        return {name: dset.column_names for name, dset in self.items()}

    @property
    def shape(self) -> dict[str, tuple[int, int]]:
        """Return split name to (rows, columns)."""
        return {name: dset.shape for name, dset in self.items()}

    def __getitem__(self, key: str) -> Dataset:
        if key not in self:
            raise KeyError(f"no split {key!r}; the splits are {list(self)}")
        return super().__getitem__(key)

    def _each(self, method: str, *args: Any, **kwargs: Any) -> DatasetDict:
        return DatasetDict({name: getattr(dset, method)(*args, **kwargs) for name, dset in self.items()})

    def map(self, function: Callable[..., Any] | None = None, **options: Any) -> DatasetDict:
        """Apply :meth:`Dataset.map` to each split."""
        return self._each("map", function, **options)

    def filter(self, function: Callable[..., Any] | None = None, **options: Any) -> DatasetDict:
        """Apply :meth:`Dataset.filter` to each split."""
        return self._each("filter", function, **options)

    def rename_column(self, original_column_name: str, new_column_name: str) -> DatasetDict:
        """Apply :meth:`Dataset.rename_column` to each split."""
        return self._each("rename_column", original_column_name, new_column_name)

    def rename_columns(self, column_mapping: Mapping[str, str]) -> DatasetDict:
        """Apply :meth:`Dataset.rename_columns` to each split."""
        return self._each("rename_columns", column_mapping)

    def remove_columns(self, column_names: str | list[str]) -> DatasetDict:
        """Apply :meth:`Dataset.remove_columns` to each split."""
        return self._each("remove_columns", column_names)

    def select_columns(self, column_names: str | list[str]) -> DatasetDict:
        """Apply :meth:`Dataset.select_columns` to each split."""
        return self._each("select_columns", column_names)

    def class_encode_column(self, column: str, include_nulls: bool = False) -> DatasetDict:
        """Apply :meth:`Dataset.class_encode_column` to each split."""
        return self._each("class_encode_column", column, include_nulls)

    def cast_column(self, column: str, feature: Any) -> DatasetDict:
        """Apply :meth:`Dataset.cast_column` to each split."""
        return self._each("cast_column", column, feature)

    def shuffle(self, seeds: Any = None, seed: int | None = None, **_: Any) -> DatasetDict:
        """Shuffle each split; ``seeds`` may be a dict of split name to seed."""
        if seed is not None and seeds is not None:
            raise ValueError("give seed or seeds, not both")
        table = (
            seeds if isinstance(seeds, dict) else dict.fromkeys(self, seeds if seeds is not None else seed)
        )
        return DatasetDict({name: dset.shuffle(table.get(name)) for name, dset in self.items()})

    def with_format(self, *args: Any, **kwargs: Any) -> DatasetDict:
        """Apply :meth:`Dataset.with_format` to each split."""
        return self._each("with_format", *args, **kwargs)

    def set_format(self, *args: Any, **kwargs: Any) -> None:
        """Apply :meth:`Dataset.set_format` to each split, in place."""
        for dset in self.values():
            dset.set_format(*args, **kwargs)

    def reset_format(self) -> None:
        """Apply :meth:`Dataset.reset_format` to each split, in place."""
        for dset in self.values():
            dset.reset_format()

    def __repr__(self) -> str:
        body = "\n".join(f"{name}: {dset!r}" for name, dset in self.items()).replace("\n", "\n    ")
        return f"DatasetDict({{\n    {body}\n}})"
