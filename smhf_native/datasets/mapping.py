"""``Dataset.map`` and ``Dataset.filter``: run a user's function over rows or batches.

Results are moved into compact columns batch by batch, so that a tokenizer with
``padding="max_length"`` never leaves more than one batch of Python lists behind.  A batch encoding of
the ``transformers`` mirror hands over its packed arrays and makes no lists at all.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from smhf_native.datasets.columns import Column, concat, make_column

if TYPE_CHECKING:
    from smhf_native.datasets.dataset import Dataset

__all__ = ["filter_rows", "map_rows", "reject_unknown"]

# Options of the datasets package that change nothing here: there is no cache and one process.
_IGNORED = {
    "keep_in_memory", "load_from_cache_file", "cache_file_name", "writer_batch_size", "features",
    "disable_nullable", "num_proc", "suffix_template", "new_fingerprint", "desc", "with_rank",
    "cache_file_names", "try_original_type",
}  # fmt: skip
_MAP = {
    "with_indices", "input_columns", "batched", "batch_size", "drop_last_batch", "remove_columns", "fn_kwargs",
}  # fmt: skip
_FILTER = {"with_indices", "input_columns", "batched", "batch_size", "fn_kwargs"}


def reject_unknown(what: str, given: Mapping[str, Any], known: set[str]) -> None:
    """Raise TypeError for the first option that ``what`` does not have, naming the closest one."""
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)
            raise TypeError(
                f"{what} got an unexpected option {name!r}; the closest supported one is {close[0]!r}"
            )


def _inputs(batch: dict[str, Any], input_columns: Any) -> list[Any]:
    if input_columns is None:
        return [batch]
    names = [input_columns] if isinstance(input_columns, str) else list(input_columns)
    return [batch[name] for name in names]


def _call(function: Callable[..., Any], where: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    try:
        return function(*args, **kwargs)
    except Exception as error:
        error.add_note(f"raised in the function given to {where}")
        raise


def map_rows(dataset: Dataset, function: Callable[..., Any] | None, options: dict[str, Any]) -> Dataset:
    """Run ``function`` over the dataset.

    Parameters
    ----------
    function : takes a row dict (or a dict of columns with ``batched=True``; with ``input_columns`` those
        columns as arguments; with ``with_indices`` also the row numbers) and returns a dict of new or
        changed columns, or None for no change.
    options : ``batched=False, batch_size=1000, remove_columns=None, with_indices=False,
        input_columns=None, fn_kwargs=None, drop_last_batch=False``; cache and process options of the
        ``datasets`` package are accepted and change nothing.

    Raises
    ------
    ValueError
        The function returns columns of unequal length, or another row count without ``remove_columns``.
    """
    reject_unknown("Dataset.map", options, _MAP | _IGNORED)
    if function is None:

        def function(batch: Any) -> Any:
            return batch

    removed = options.get("remove_columns") or []
    removed = [removed] if isinstance(removed, str) else list(removed)
    for name in removed:
        if name not in dataset.column_names:
            raise ValueError(
                f"Column to remove {[name]} not in the dataset. Current columns in the dataset: {dataset.column_names}"
            )
    if options.get("batched", False):
        produced, rows = _map_batches(dataset, function, options)
    else:
        produced, rows = _map_single(dataset, function, options)
    if produced is None:
        return dataset.remove_columns(removed) if removed else dataset
    kept = {n: c for n, c in dataset._columns.items() if n not in removed}
    if rows != len(dataset) and any(name not in produced for name in kept):
        left = sorted(name for name in kept if name not in produced)
        raise ValueError(
            f"the function returned {rows} rows for {len(dataset)}; the columns {left} keep their length: "
            "name them in remove_columns"
        )
    merged: dict[str, Column] = {}
    for name in dataset.column_names:
        if name in produced:
            merged[name] = produced[name]
        elif name in kept:
            merged[name] = kept[name]
    merged.update({name: column for name, column in produced.items() if name not in merged})
    other = dataset._like(merged)
    if dataset._shown is not None:  # new columns show, as in the datasets package
        fresh = [name for name in merged if name not in dataset._columns]
        other._shown = [*(other._shown or []), *fresh]
    return other


def _columns_of(output: Mapping[str, Any], where: str) -> dict[str, Column]:
    packed = getattr(output, "packed_columns", None)  # a BatchEncoding of our transformers mirror
    ready: dict[str, Column] = packed() if packed is not None else {}
    columns = {str(n): ready[n] if n in ready else make_column(output[n]) for n in output.keys()}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{where}: the function returned columns of unequal length: {lengths}")
    return columns


def _map_batches(
    dataset: Dataset, function: Callable[..., Any], options: dict[str, Any]
) -> tuple[dict[str, Column] | None, int]:
    size = options.get("batch_size", 1000)
    size = len(dataset) if size is None or size <= 0 else size
    kwargs = dict(options.get("fn_kwargs") or {})
    parts: dict[str, list[Column]] = {}
    rows = 0
    for start in range(0, len(dataset), max(size, 1)):
        stop = min(start + size, len(dataset))
        if stop - start < size and options.get("drop_last_batch", False):
            break
        args = _inputs(dataset[start:stop], options.get("input_columns"))
        if options.get("with_indices", False):
            args.append(list(range(start, stop)))
        where = f"Dataset.map (rows {start} to {stop - 1})"
        output = _call(function, where, args, kwargs)
        if output is None:
            continue
        if not isinstance(output, Mapping):
            if hasattr(output, "to_dict"):
                output = output.to_dict("list")  # a DataFrame
            else:
                raise TypeError(
                    f"{where}: the function returned {type(output).__name__}, expected a dict or None"
                )
        columns = _columns_of(output, where)
        if parts and set(parts) != set(columns):
            raise ValueError(
                f"{where}: the function returned columns {sorted(columns)}, before {sorted(parts)}"
            )
        rows += len(next(iter(columns.values()), []))
        for name, column in columns.items():
            parts.setdefault(name, []).append(column)
    if not parts:
        return None, len(dataset)
    return {name: concat(pieces) for name, pieces in parts.items()}, rows


def _map_single(
    dataset: Dataset, function: Callable[..., Any], options: dict[str, Any]
) -> tuple[dict[str, Column] | None, int]:
    kwargs = dict(options.get("fn_kwargs") or {})
    parts: dict[str, list[Column]] = {}
    pending: dict[str, list[Any]] = {}

    def flush() -> None:
        for name, values in pending.items():
            parts.setdefault(name, []).append(make_column(values))
        pending.clear()

    for index in range(len(dataset)):
        args = _inputs(dataset[index], options.get("input_columns"))
        if options.get("with_indices", False):
            args.append(index)
        where = f"Dataset.map (row {index})"
        output = _call(function, where, args, kwargs)
        if output is None:
            if pending or parts:
                raise ValueError(f"{where}: the function returned None after returning columns before")
            continue
        if not isinstance(output, Mapping):
            raise TypeError(
                f"{where}: the function returned {type(output).__name__}, expected a dict or None"
            )
        names = [str(name) for name in output.keys()]
        before = list(pending) or list(parts)
        if (before and set(before) != set(names)) or (index > 0 and not before):
            raise ValueError(
                f"{where}: the function returned columns {sorted(names)}, before {sorted(before)}"
            )
        for name in names:
            pending.setdefault(name, []).append(output[name])
        if index % 1000 == 999:
            flush()
    flush()
    if not parts:
        return None, len(dataset)
    return {name: concat(pieces) for name, pieces in parts.items()}, len(dataset)


def filter_rows(dataset: Dataset, function: Callable[..., Any] | None, options: dict[str, Any]) -> Dataset:
    """Return the rows for which ``function`` answers true (with ``batched=True``: a list of booleans)."""
    reject_unknown("Dataset.filter", options, _FILTER | _IGNORED)
    if function is None:
        return dataset
    kwargs = dict(options.get("fn_kwargs") or {})
    keep = np.zeros(len(dataset), dtype=np.bool_)
    if options.get("batched", False):
        size = options.get("batch_size", 1000) or len(dataset)
        for start in range(0, len(dataset), max(size, 1)):
            stop = min(start + size, len(dataset))
            args = _inputs(dataset[start:stop], options.get("input_columns"))
            if options.get("with_indices", False):
                args.append(list(range(start, stop)))
            answer = list(_call(function, f"Dataset.filter (rows {start} to {stop - 1})", args, kwargs))
            if len(answer) != stop - start:
                raise ValueError(
                    f"Dataset.filter (rows {start} to {stop - 1}): the function returned {len(answer)} answers"
                )
            keep[start:stop] = [bool(value) for value in answer]
    else:
        for index in range(len(dataset)):
            args = _inputs(dataset[index], options.get("input_columns"))
            if options.get("with_indices", False):
                args.append(index)
            keep[index] = bool(_call(function, f"Dataset.filter (row {index})", args, kwargs))
    return dataset.select(np.flatnonzero(keep))
