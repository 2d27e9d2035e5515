"""The part of the ``datasets`` package that training scripts use, in memory and without pyarrow.

``load_dataset`` for local CSV, JSON and text files; :class:`Dataset` and :class:`DatasetDict` with map,
filter, select, shuffle, train_test_split, columns and formats.  Seeded orders equal the package's own.
"""

from __future__ import annotations

from smhf_native.datasets.dataset import Dataset, DatasetDict, concatenate_datasets
from smhf_native.datasets.features import ClassLabel, Features, Sequence, Value
from smhf_native.datasets.load import load_dataset
from smhf_native.datasets.utils import disable_progress_bar, disable_progress_bars, logging

__all__ = [
    "ClassLabel",
    "Dataset",
    "DatasetDict",
    "Features",
    "Sequence",
    "Value",
    "concatenate_datasets",
    "disable_progress_bar",
    "disable_progress_bars",
    "enable_caching",
    "disable_caching",
    "load_dataset",
    "logging",
]


def enable_caching() -> None:
    """Do nothing: there is no cache."""


def disable_caching() -> None:
    """Do nothing: there is no cache."""
