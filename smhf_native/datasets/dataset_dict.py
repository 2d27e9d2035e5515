"""``datasets.dataset_dict``: :class:`DatasetDict` under its deep path."""

from __future__ import annotations

from smhf_native.datasets.dataset import DatasetDict

__all__ = ["DatasetDict"]
