"""Batches as callers have them, made ready for the core: encodings, mappings, arrays, lists."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Batch", "as_batch", "as_labels", "unpack"]

IntArray = npt.NDArray[Any]


class Batch(NamedTuple):
    """Arguments of one core call: padded 2-D arrays, or packed 1-D ones with ``cu_seqlens``."""

    ids: Any
    mask: Any = None
    type_ids: Any = None
    cu_seqlens: Any = None


def _integers(value: Any, name: str, ndim: int) -> IntArray:
    """Return a C-contiguous int32 or int64 array (bool for masks stays), without a copy where possible."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: rows of different lengths; pad them or pass an Encoding") from error
    if array.dtype.kind not in "iub" or array.ndim != ndim:
        raise TypeError(
            f"{name}: expected a {ndim}-dimensional array of integers, "
            f"got dtype {array.dtype} with shape {array.shape}"
        )
    if array.dtype not in (np.int32, np.int64) and not (name == "attention_mask" and array.dtype == np.bool_):
        array = array.astype(np.int64)
    return np.ascontiguousarray(array)


def _packed(encoding: Any) -> Batch | None:
    """Packed arrays of an Encoding (int32, no padding), or None for anything else."""
    field = getattr(encoding, "packed_field", None)
    if not callable(field):
        return None
    return Batch(field("ids"), None, field("type_ids"), field("cu_seqlens"))


def as_batch(input_ids: Any, attention_mask: Any = None, token_type_ids: Any = None) -> Batch:
    """Take an Encoding, a mapping with ``input_ids``, or arrays of shape (rows, columns)."""
    packed = _packed(input_ids)
    if packed is not None:
        if attention_mask is not None or token_type_ids is not None:
            raise TypeError("attention_mask and token_type_ids belong to arrays, not to an Encoding")
        return packed
    if isinstance(input_ids, Mapping):
        attention_mask = input_ids.get("attention_mask") if attention_mask is None else attention_mask
        token_type_ids = input_ids.get("token_type_ids") if token_type_ids is None else token_type_ids
        input_ids = input_ids["input_ids"]
    elif not isinstance(input_ids, np.ndarray) and hasattr(input_ids, "input_ids"):
        encoding = input_ids
        input_ids = encoding.input_ids
        attention_mask = getattr(encoding, "attention_mask", None)
        token_type_ids = getattr(encoding, "token_type_ids", None)
    return Batch(
        _integers(input_ids, "input_ids", 2),
        None if attention_mask is None else _integers(attention_mask, "attention_mask", 2),
        None if token_type_ids is None else _integers(token_type_ids, "token_type_ids", 2),
    )


def unpack(results: npt.NDArray[np.float32], batch: Batch, behind: float) -> npt.NDArray[np.float32]:
    """Results of tokens, packed (tokens, width), as (rows, columns, width); ``behind`` where no token is."""
    if batch.cu_seqlens is None:
        shape = np.shape(batch.ids)
        if batch.mask is None:
            return results.reshape(*shape, results.shape[1])
        there = np.asarray(batch.mask, bool)
    else:
        lengths = np.diff(batch.cu_seqlens)
        there = np.arange(lengths.max(initial=0))[None] < lengths[:, None]
    padded = np.full((*there.shape, results.shape[1]), behind, np.float32)
    padded[there] = results
    return padded


def as_labels(labels: Any) -> npt.NDArray[Any]:
    """Class numbers (int32 or int64), or numbers (float32), of one or two dimensions."""
    if labels is None:
        raise TypeError("labels: expected one for each row, got None")
    array = np.asarray(labels)
    if array.dtype.kind == "f" and array.ndim in (1, 2):
        array = array.astype(np.float32, copy=False)
        return np.ascontiguousarray(array.reshape(len(array), -1))
    return _integers(labels, "labels", 2 if array.ndim == 2 else 1)
