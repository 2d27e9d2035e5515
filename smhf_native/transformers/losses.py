"""What each head is trained on: the columns with its labels, their checks, and its loss in NumPy.

The losses are those of transformers' models, in float64.  Training does not come here (the engine has its own);
evaluation and ``model(..., labels=)`` do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from smhf_native.datasets.columns import Column, Objects, Rows, Values

__all__ = ["IGNORE", "Target", "cross_entropy"]

IGNORE = -100  #: a token's label that counts for nothing
LABEL_COLUMNS = ("labels", "label", "label_ids")
SPAN_COLUMNS = ("start_positions", "end_positions")
PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")

Array = npt.NDArray[Any]


def cross_entropy(logits: Any, labels: Any, smoothing: float = 0.0) -> Any:
    """Return the loss of each row in float64: log(sum(exp(z))) - z[label], smoothed over all labels."""
    z = logits.astype(np.float64)
    top = z.max(axis=1)
    total = top + np.log(np.exp(z - top[:, None]).sum(axis=1))
    picked = total - z[np.arange(len(z)), labels.astype(np.int64)]
    return picked if not smoothing else (1.0 - smoothing) * picked + smoothing * (total - z.mean(axis=1))


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else float("nan")  # as torch: nothing to average


def _is_class(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.bool_))


@dataclass(frozen=True)
class Target:
    """Labels of one head.

    Parameters
    ----------
    task : of the floor-3 model, e.g. "token-classification"
    num_labels : classes, or numbers a row
    problem : ``problem_type`` of the configuration; None is decided by the labels, as transformers does
    """

    task: str
    num_labels: int
    problem: str | None = None

    @classmethod
    def of(cls, model: Any) -> Target:
        """Return the target of a model of the mirror."""
        problem = getattr(model.config, "problem_type", None)
        task = str(model.native.task)
        if problem is None and task == "sequence-classification" and model.config.num_labels == 1:
            problem = "regression"
        width = model.config.num_labels if task != "masked-lm" else int(model.config.vocab_size)
        return cls(task, width, problem)

    @property
    def per_token(self) -> bool:
        """Return whether each token has a label."""
        return self.task in ("token-classification", "masked-lm")

    def columns(self, names: list[str], label_names: list[str] | None) -> dict[str, str]:
        """Return batch key -> column of a dataset with these names; empty when it has no labels."""
        if self.task == "question-answering":
            return {key: key for key in SPAN_COLUMNS} if all(key in names for key in SPAN_COLUMNS) else {}
        for name in [*(label_names or []), *LABEL_COLUMNS]:
            if name in names:
                return {"labels": name}
        return {}

    @property
    def wanted(self) -> str:
        """Name the columns, for errors."""
        if self.task == "question-answering":
            return "no columns start_positions and end_positions"
        return "no label column"

    # -- checks -------------------------------------------------------------------------------

    def _bad_class(self, row: int, value: Any, what: str, place: str = "") -> ValueError:
        last = self.num_labels - 1
        if _is_class(value):
            wanted = f"the model has num_labels={self.num_labels}: 0 to {last}"
            wanted += f", or {IGNORE} for a token without one" if self.per_token else ""
        else:
            wanted = f"expected an integer from 0 to {last}"
        return ValueError(f"{what}: the label of row {row}{place} is {value!r}; {wanted}")

    def check_dataset(self, columns: Mapping[str, Column], lengths: Any, what: str) -> None:
        """Check every label of a dataset of the mirror.

        Parameters
        ----------
        columns : batch key -> column, as :meth:`columns` found them
        lengths : tokens of each row (int64), or None when unknown

        Raises
        ------
        ValueError
            A label is not what the head is trained on; the sentence names row and value.
        """
        if not columns:
            return
        if self.task == "question-answering":
            for name, column in columns.items():
                if not (isinstance(column, Values) and column.array.dtype.kind in "iu"):
                    self._refuse_positions(name, column, what)
        elif self.per_token:
            self._check_tokens(columns["labels"], lengths, what)
        else:
            self._check_rows(columns["labels"], what)

    def _refuse_positions(self, name: str, column: Column, what: str) -> None:
        for row, value in enumerate(column.tolist()):
            if not _is_class(value):
                raise ValueError(f"{what}: {name} of row {row} is {value!r}; expected the number of a token")

    def _check_tokens(self, column: Column, lengths: Any, what: str) -> None:
        if not isinstance(column, Rows) or column.dtype != "int64":
            for row, value in enumerate(column.tolist()):
                if not isinstance(value, list) or not all(map(_is_class, value)):
                    raise ValueError(
                        f"{what}: the labels of row {row} are {value!r}; expected one integer for each token"
                    )
            return
        if lengths is not None:
            other = np.flatnonzero(column.lengths != lengths)
            if len(other):
                row = int(other[0])
                raise ValueError(
                    f"{what}: row {row} has {int(lengths[row])} tokens and {int(column.lengths[row])} labels"
                )
        flat = column.flat
        bad = np.flatnonzero((flat != IGNORE) & ((flat < 0) | (flat >= self.num_labels)))
        if len(bad):
            row = int(np.searchsorted(column.offsets, bad[0], side="right")) - 1
            place = f", token {int(bad[0] - column.offsets[row])},"
            raise self._bad_class(row, int(flat[bad[0]]), what, place)

    def _check_rows(self, column: Column, what: str) -> None:
        if self._takes_numbers(column):
            self._check_numbers(column, what)
            return
        if isinstance(column, Values) and column.array.dtype.kind in "iu":
            bad = np.flatnonzero((column.array < 0) | (column.array >= self.num_labels))
            if len(bad):
                raise self._bad_class(int(bad[0]), int(column.array[bad[0]]), what)
            return
        for row, value in enumerate(column.tolist()):
            if not _is_class(value) or not 0 <= value < self.num_labels:
                raise self._bad_class(row, value, what)

    def _takes_numbers(self, column: Column) -> bool:
        """Whether rows are trained on numbers: by name, or because each row has floats."""
        if self.problem is not None:
            return self.problem != "single_label_classification"
        return isinstance(column, Rows) and column.dtype.startswith("float")

    def _check_numbers(self, column: Column, what: str) -> None:
        kind = self.problem or "multi_label_classification"
        expected = f"{kind} expects {self.num_labels} number{'s' if self.num_labels > 1 else ''} a row"
        if isinstance(column, Objects):
            for row, value in enumerate(column.tolist()):
                if not isinstance(value, (int, float)) or isinstance(value, bool):
                    raise ValueError(f"{what}: the label of row {row} is {value!r}; {expected}")
        if isinstance(column, Rows):
            other = np.flatnonzero(column.lengths != self.num_labels)
            if len(other):
                found = int(column.lengths[other[0]])
                raise ValueError(f"{what}: row {int(other[0])} has {found} labels; {expected}")
            flat: Array = column.flat
        else:
            if self.num_labels != 1:
                raise ValueError(f"{what}: row 0 has one label; {expected}")
            flat = np.asarray(column.tolist(), dtype=np.float64)
        bad = np.flatnonzero(~np.isfinite(flat))
        if len(bad):
            raise ValueError(
                f"{what}: the label of row {int(bad[0]) // self.num_labels} is {flat[bad[0]]}; {expected}"
            )

    # -- batches ------------------------------------------------------------------------------

    def labels(self, batch: Mapping[str, Any], rows: Any, what: str) -> Array | None:
        """Return a batch's labels as the engine takes them, or None when it has none.

        Parameters
        ----------
        batch : collated arrays: ``labels``, or ``start_positions`` and ``end_positions``
        rows : numbers of the rows in the dataset, for errors
        """
        if self.task == "question-answering":
            if any(key not in batch for key in SPAN_COLUMNS):
                return None
            pair = [np.asarray(batch[key]).reshape(-1) for key in SPAN_COLUMNS]
            return np.stack(pair, axis=1).astype(np.int64)
        given = batch.get("labels")
        if given is None:
            return None
        labels = np.asarray(given)
        if self.per_token:
            shape = np.shape(batch["input_ids"])
            if labels.shape != shape or labels.dtype.kind not in "iu":
                raise ValueError(
                    f"{what}: labels of {labels.dtype} with shape {labels.shape} for tokens of shape {shape}; "
                    "DataCollatorForTokenClassification(tokenizer) pads them"
                )
            return labels.astype(np.int64)
        numbers = self.problem not in (None, "single_label_classification") or (
            self.problem is None and labels.dtype.kind == "f" and labels.ndim == 2
        )
        if numbers:
            values = labels.reshape(len(labels), -1)
            if values.dtype.kind not in "iufb" or values.shape[1] != self.num_labels:
                kind = self.problem or "multi_label_classification"
                raise ValueError(
                    f"{what}: labels of {labels.dtype} with shape {labels.shape}; {kind} expects {self.num_labels} "
                    "numbers a row"
                )
            return values.astype(np.float32)
        labels = labels.reshape(-1)
        whole = labels.dtype.kind in "iu"
        for row, value in zip(rows, labels.tolist(), strict=False):
            if not whole or not 0 <= value < self.num_labels:
                raise self._bad_class(int(row), value, what)
        return labels.astype(np.int64)

    # -- loss ---------------------------------------------------------------------------------

    def loss(self, results: Any, labels: Array, smoothing: float = 0.0) -> float:
        """Return the mean loss of a batch.

        Parameters
        ----------
        results : logits, or (start, end) logits
        labels : as :meth:`labels` returns them
        smoothing : of the cross-entropy over classes; answers and numbers have none
        """
        if self.task == "question-answering":
            start, end = results
            return (_span_loss(start, labels[:, 0]) + _span_loss(end, labels[:, 1])) / 2
        if self.per_token:
            counted = labels != IGNORE
            return _mean(cross_entropy(results[counted], labels[counted], smoothing))
        if labels.dtype.kind != "f":
            return _mean(cross_entropy(results, labels, smoothing))
        z, y = results.astype(np.float64), labels.astype(np.float64)
        if self.problem == "regression":
            return _mean(((z - y) ** 2).reshape(-1))
        return _mean((np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))).reshape(-1))

    def loss_at(self, logits: Array, labels: Array, smoothing: float = 0.0) -> float:
        """Return the mean loss of tokens: ``logits`` are of those whose label counts, in reading order."""
        return _mean(cross_entropy(logits, labels[labels != IGNORE], smoothing))


def _span_loss(logits: Array, positions: Array) -> float:
    """Mean over the rows whose position is a token; behind the tokens logits are the smallest float."""
    places = np.maximum(positions, 0)
    inside = places < (logits > np.finfo(np.float32).min).sum(axis=1)
    return _mean(cross_entropy(logits[inside], places[inside]))
