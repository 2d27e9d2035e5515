"""``datasets.arrow_dataset``: :class:`Dataset` under its deep path (nothing here is Arrow)."""

from __future__ import annotations

from smhf_native.datasets.dataset import Dataset, concatenate_datasets

__all__ = ["Dataset", "concatenate_datasets"]
