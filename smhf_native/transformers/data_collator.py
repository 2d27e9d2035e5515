"""``transformers.data.data_collator``: rows (dicts) to a batch (dict of arrays)."""

from __future__ import annotations

from typing import Any

import numpy as np

from smhf_native.datasets.tensors import as_tensor

__all__ = [
    "DataCollatorForTokenClassification",
    "DataCollatorWithPadding",
    "DefaultDataCollator",
    "default_data_collator",
]


def _labels_of(first: Any) -> str | None:
    for name in ("label", "label_ids"):
        if name in first and first[name] is not None:
            return name
    return None


def _stack(values: list[Any], name: str) -> Any:
    try:
        array = np.stack([np.asarray(value) for value in values])
    except ValueError:
        lengths = sorted({len(value) for value in values if hasattr(value, "__len__")})
        raise ValueError(
            f"the rows of a batch differ in length in {name!r} ({lengths[0]} to {lengths[-1]}): use "
            "DataCollatorWithPadding(tokenizer), or pad when tokenizing"
        ) from None
    if array.dtype.kind in "iub":
        array = array.astype(np.int64)
    return as_tensor(array)


def default_data_collator(features: list[Any], return_tensors: str = "pt") -> dict[str, Any]:
    """Stack rows of equal length; ``label`` and ``label_ids`` become ``labels``; texts are dropped.

    Returns
    -------
    dict of arrays with the batch as first dimension, integers int64, floats float32.
    """
    rows = [dict(row) for row in features]
    first = rows[0]
    batch: dict[str, Any] = {}
    label = _labels_of(first)
    if label is not None:
        batch["labels"] = _stack([row[label] for row in rows], label)
    for name, value in first.items():
        if name in ("label", "label_ids") or value is None or isinstance(value, str):
            continue
        batch[name] = _stack([row[name] for row in rows], name)
    return batch


class DefaultDataCollator:
    """:func:`default_data_collator` as an object."""

    def __init__(self, return_tensors: str = "pt"):
        self.return_tensors = return_tensors

    def __call__(self, features: list[Any], return_tensors: str | None = None) -> dict[str, Any]:
        """Stack the rows."""
        return default_data_collator(features)


class _Padding:
    """What collators that pad have in common."""

    def __init__(
        self,
        tokenizer: Any,
        padding: bool | str = True,
        max_length: int | None = None,
        pad_to_multiple_of: int | None = None,
        *,
        return_tensors: str = "pt",
    ):
        self.tokenizer = tokenizer
        self.padding = padding
        self.max_length = max_length
        self.pad_to_multiple_of = pad_to_multiple_of
        self.return_tensors = return_tensors

    def _pad(self, rows: list[Any]) -> dict[str, Any]:
        return dict(
            self.tokenizer.pad(
                rows,
                padding=self.padding,
                max_length=self.max_length,
                pad_to_multiple_of=self.pad_to_multiple_of,
                return_tensors="smhf",  # the engine's arrays, whatever is asked for
            )
        )


class DataCollatorWithPadding(_Padding):
    """Pad the rows of a batch to its longest row (or to ``max_length``) with the tokenizer's padding.

    Parameters
    ----------
    tokenizer : a tokenizer of the mirror
    padding, max_length, pad_to_multiple_of : as in ``tokenizer.pad``
    """

    def __call__(self, features: list[Any]) -> dict[str, Any]:
        """Pad and stack the rows."""
        batch = self._pad(features)
        for name in ("label", "label_ids"):
            if name in batch:
                batch["labels"] = batch.pop(name)
        return batch


class DataCollatorForTokenClassification(_Padding):
    """Pad the rows of a batch and the labels of their tokens.

    Parameters
    ----------
    tokenizer : a tokenizer of the mirror
    padding, max_length, pad_to_multiple_of : as in ``tokenizer.pad``
    label_pad_token_id : what stands behind a row's labels; -100 counts for nothing in the loss
    """

    def __init__(self, tokenizer: Any, *args: Any, label_pad_token_id: int = -100, **options: Any):
        super().__init__(tokenizer, *args, **options)
        self.label_pad_token_id = label_pad_token_id

    def __call__(self, features: list[Any], return_tensors: str | None = None) -> dict[str, Any]:
        """Pad and stack the rows and their labels."""
        name = "label" if "label" in features[0] else "labels"
        batch = self._pad([{key: value for key, value in row.items() if key != name} for row in features])
        if name in features[0]:
            width = np.shape(batch["input_ids"])[1]
            labels = np.full((len(features), width), self.label_pad_token_id, dtype=np.int64)
            for i, row in enumerate(features):
                values = np.asarray(row[name])
                if getattr(self.tokenizer, "padding_side", "right") == "right":
                    labels[i, : len(values)] = values
                else:
                    labels[i, width - len(values) :] = values
            batch[name] = as_tensor(labels)
        return batch
