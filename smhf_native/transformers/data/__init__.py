"""``transformers.data``: the data collators."""

from __future__ import annotations

from smhf_native.transformers.data_collator import (
    DataCollatorWithPadding,
    DefaultDataCollator,
    default_data_collator,
)

__all__ = ["DataCollatorWithPadding", "DefaultDataCollator", "default_data_collator"]
