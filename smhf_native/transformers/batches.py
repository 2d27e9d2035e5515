"""Rows in order, collated into batches whose padded tail is cut off before anything is computed.

The order of a training epoch is torch's: ``randperm`` of mt19937 seeded with seed + epoch, as accelerate's
seedable sampler draws it for transformers' Trainer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from smhf_native.datasets.columns import Objects, Rows, Values
from smhf_native.datasets.dataset import Dataset
from smhf_native.transformers.data_collator import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    DefaultDataCollator,
    default_data_collator,
)
from smhf_native.transformers.losses import IGNORE, LABEL_COLUMNS, SPAN_COLUMNS, Target

__all__ = ["BatchLoader", "check_labels", "check_tokens", "epoch_order", "group_by_length", "row_lengths"]

_MODEL_COLUMNS = ("input_ids", "attention_mask", "token_type_ids")
_OWN_COLLATORS = (DefaultDataCollator, DataCollatorWithPadding, DataCollatorForTokenClassification)


def epoch_order(rows: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the row numbers of a training epoch (int64, ``rows``)."""
    from smhf_native.model import torch_randperm

    return np.asarray(torch_randperm(rows, seed + epoch), dtype=np.int64)


def group_by_length(
    order: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], batch_size: int
) -> npt.NDArray[np.int64]:
    """Return ``order`` with rows of like length together: transformers' ``group_by_length``.

    The shuffled rows are cut into pieces of up to 50 batches, each sorted by falling length; the longest row
    of all comes first, so that a batch too large for memory is met at once.

    Parameters
    ----------
    order : int64, (rows,), a shuffle
    lengths : int64, (rows,), tokens of each row
    batch_size : rows that are used together
    """
    if len(order) == 0:
        return order
    piece = max(1, min(len(order) // (batch_size * 4), 50)) * batch_size
    pieces = [order[at : at + piece] for at in range(0, len(order), piece)]
    pieces = [part[np.argsort(-lengths[part], kind="stable")] for part in pieces]
    longest = int(np.argmax([lengths[part[0]] for part in pieces]))
    pieces[0][0], pieces[longest][0] = pieces[longest][0], pieces[0][0]
    return np.concatenate(pieces)


def row_lengths(dataset: Any, column: str, what: str) -> npt.NDArray[np.int64]:
    """Return the tokens of each row: the column's numbers where there is one, else the lengths of input_ids.

    Raises
    ------
    ValueError
        Names the first row without ``input_ids``.
    """
    if isinstance(dataset, Dataset):
        if column in dataset.column_names:
            return np.asarray(dataset[column], dtype=np.int64)
        packed = dataset.packed_rows("input_ids")
        if packed is not None:
            return np.asarray(packed.lengths, dtype=np.int64)
    found = []
    for number in range(len(dataset)):
        row = dataset[number]
        if "input_ids" not in row:
            raise ValueError(f"{what}: row {number} has no input_ids, group_by_length sorts by their count")
        found.append(len(row["input_ids"]))
    return np.asarray(found, dtype=np.int64)


def check_labels(dataset: Any, target: Target, label_names: list[str] | None, what: str) -> None:
    """Check every label of a dataset of the mirror before training; others are checked batch by batch.

    Raises
    ------
    ValueError
        A label is not what the head is trained on; the sentence names row and value.
    """
    if isinstance(dataset, Dataset):
        found = target.columns(dataset._visible(), label_names)
        ids = dataset.packed_rows("input_ids")
        columns = {key: dataset._columns[name] for key, name in found.items()}
        target.check_dataset(columns, None if ids is None else ids.lengths, what)


def check_tokens(dataset: Any, vocab_size: int | None, positions: int | None, what: str) -> None:
    """Check that every token id and row length of a dataset of the mirror fits the model.

    Raises
    ------
    ValueError
        Tokenizer and weights do not belong together, or a row is too long; names the first such row.
    """
    if not isinstance(dataset, Dataset):
        return
    ids, mask = dataset.packed_rows("input_ids"), dataset.packed_rows("attention_mask")
    if ids is None or len(ids.flat) == 0:
        return
    if vocab_size is not None:
        bad = np.flatnonzero((ids.flat < 0) | (ids.flat >= vocab_size))
        if len(bad):
            row = int(np.searchsorted(ids.offsets, bad[0], side="right")) - 1
            raise ValueError(
                f"{what}: row {row} holds the token id {int(ids.flat[bad[0]])}, but the model's vocabulary has "
                f"{vocab_size} entries: tokenizer and weights do not belong together"
            )
    if positions is not None:
        lengths = ids.lengths
        if mask is not None and len(mask) == len(ids):
            attended = np.concatenate([[0], np.cumsum(mask.flat != 0)])
            lengths = attended[mask.offsets[1:]] - attended[mask.offsets[:-1]]
        long = np.flatnonzero(lengths > positions)
        if len(long):
            raise ValueError(
                f"{what}: row {int(long[0])} has {int(lengths[long[0]])} tokens, the model takes {positions}: "
                "tokenize with truncation=True"
            )


class BatchLoader:
    """Iterate over batches: dicts of int32 arrays ``input_ids``, ``attention_mask`` …, and ``labels``.

    Parameters
    ----------
    dataset : a Dataset of the mirror, or anything with ``len`` and integer indexing that gives dicts
    collator : turns rows into a batch; the mirror's own collators are done on packed rows directly
    order : row numbers in the order of use
    target : what the model is trained on; ``labels`` are as the engine takes them
    needs_labels : raise when the dataset has none
    remove_unused : drop columns that the model does not take before collating
    what : the dataset's role, for errors
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        collator: Callable[[list[Any]], Any],
        order: npt.NDArray[np.int64] | None = None,
        *,
        drop_last: bool = False,
        label_names: list[str] | None = None,
        target: Target,
        needs_labels: bool = False,
        remove_unused: bool = True,
        what: str = "dataset",
    ):
        self.dataset = dataset
        self.batch_size = batch_size
        self.collator = collator
        self.order = np.arange(len(dataset), dtype=np.int64) if order is None else order
        self.drop_last = drop_last
        self.label_names = label_names
        self.target = target
        self.needs_labels = needs_labels
        self.remove_unused = remove_unused
        self.what = what
        self._packed = self._plan()

    def __len__(self) -> int:
        rows = len(self.order)
        return rows // self.batch_size if self.drop_last else -(-rows // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, npt.NDArray[Any]]]:
        return self.batches(0)

    def batches(self, start: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
        """Yield batches from number ``start`` on; skipped ones are not read."""
        for number in range(start, len(self)):
            index = self.order[number * self.batch_size : (number + 1) * self.batch_size]
            batch = self._collate_packed(index) if self._packed is not None else self._collate_rows(index)
            yield self._finish(batch, index)

    # -- packed way ---------------------------------------------------------------------------

    def _plan(self) -> dict[str, str] | None:
        """Return model input -> dataset column when the rows can be taken packed, else None."""
        dataset = self.dataset
        own = self.collator is default_data_collator or type(self.collator) in _OWN_COLLATORS
        if not isinstance(dataset, Dataset):
            return None
        names = dataset._visible()
        labels = self.target.columns(names, self.label_names)
        if self.remove_unused and "input_ids" not in names:
            raise ValueError(
                f"{self.what}: no column input_ids among {names}; tokenize it first "
                "(dataset.map(lambda batch: tokenizer(batch['text'], truncation=True), batched=True))"
            )
        if not own:
            return None
        if self.needs_labels and not labels:
            raise ValueError(f"{self.what}: {self.target.wanted} among {names}")
        plan = {name: name for name in _MODEL_COLUMNS if name in names}
        plan |= labels
        for key, name in plan.items():
            column = dataset._columns[name]
            listed = key in _MODEL_COLUMNS or self.target.per_token
            if not isinstance(column, Rows if listed else (Rows, Values, Objects)):
                return None
        return plan

    def _collate_packed(self, index: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
        assert self._packed is not None
        columns = {name: self.dataset._columns[source].take(index) for name, source in self._packed.items()}
        ids = columns["input_ids"]
        lengths = ids.lengths
        uniform = bool((lengths == lengths[0]).all())
        pads: tuple[type, ...] = (DataCollatorForTokenClassification,)
        pads += () if self.target.per_token and "labels" in columns else (DataCollatorWithPadding,)
        if not uniform and not isinstance(self.collator, pads):
            raise ValueError(
                f"{self.what}: the rows of a batch differ in length ({lengths.min()} to {lengths.max()} tokens): "
                f"pass data_collator={pads[-1].__name__}(tokenizer), or pad when tokenizing"
            )
        mask = columns.get("attention_mask")
        width = _used_width(mask, lengths) if mask is not None else int(lengths.max())
        batch: dict[str, npt.NDArray[Any]] = {}
        for name, column in columns.items():
            if name in _MODEL_COLUMNS:
                batch[name] = _square(column, width, 0)
            elif self.target.per_token:
                batch[name] = _square(column, width, IGNORE).astype(np.int64)
            else:
                batch[name] = _as_array(column)
        if mask is None and not uniform:
            batch["attention_mask"] = (np.arange(width) < lengths[:, None]).astype(np.int32)
        return batch

    # -- general way --------------------------------------------------------------------------

    def _collate_rows(self, index: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
        rows = [self.dataset[int(i)] for i in index]
        if self.remove_unused and isinstance(self.dataset, Dataset):
            keep = {
                *_MODEL_COLUMNS,
                "special_tokens_mask",
                *LABEL_COLUMNS,
                *SPAN_COLUMNS,
                *(self.label_names or []),
            }
            rows = [{name: value for name, value in row.items() if name in keep} for row in rows]
        collated = self.collator(rows)
        labels = self.target.columns(list(collated), self.label_names)
        if "input_ids" not in collated:
            raise ValueError(f"{self.what}: the collator returned {list(collated)} without input_ids")
        if self.needs_labels and not labels:
            raise ValueError(f"{self.what}: the collator returned {list(collated)} without labels")
        batch = {name: np.asarray(collated[name]) for name in _MODEL_COLUMNS if name in collated}
        batch |= {key: np.asarray(collated[name]) for key, name in labels.items()}
        mask = batch.get("attention_mask")
        if mask is not None and mask.ndim == 2:
            used = np.flatnonzero(mask.any(axis=0))
            width = int(used[-1]) + 1 if len(used) else 1
            cut = (*_MODEL_COLUMNS, "labels") if self.target.per_token else _MODEL_COLUMNS
            for name in cut:
                if name in batch and batch[name].ndim == 2:
                    batch[name] = batch[name][:, :width]
        return batch

    def _finish(
        self, batch: dict[str, npt.NDArray[Any]], index: npt.NDArray[np.int64]
    ) -> dict[str, npt.NDArray[Any]]:
        for name in _MODEL_COLUMNS:
            if name in batch:
                batch[name] = np.ascontiguousarray(batch[name], dtype=np.int32)
        labels = self.target.labels(batch, index, self.what)
        for name in ("labels", *SPAN_COLUMNS):
            batch.pop(name, None)
        if labels is not None:
            batch["labels"] = labels
        return batch


def _used_width(mask: Rows, lengths: npt.NDArray[np.int64]) -> int:
    """Return one past the last position that any row attends to."""
    width = 1
    for i in range(len(lengths)):
        used = np.flatnonzero(mask.row(i))
        if len(used):
            width = max(width, int(used[-1]) + 1)
    return width


def _as_array(column: Any) -> npt.NDArray[Any]:
    """Return one label, or one row of labels, for each row."""
    if isinstance(column, Values):
        return column.array
    whole = column.matrix() if isinstance(column, Rows) else None
    return np.array(column.tolist(), dtype=object) if whole is None else whole


def _square(column: Rows, width: int, fill: int) -> npt.NDArray[Any]:
    """Return (rows, width): rows cut at ``width`` or filled (zero is the pad id and mask of BERT)."""
    whole = column.matrix()
    if whole is not None and whole.shape[1] >= width:
        return whole[:, :width]
    result = np.full((len(column), width), fill, dtype=np.int32)
    for i in range(len(column)):
        row = column.row(i)[:width]
        result[i, : len(row)] = row
    return result
