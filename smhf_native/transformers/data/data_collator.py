"""``transformers.data.data_collator`` under its deep path."""

from __future__ import annotations

from smhf_native.transformers.data_collator import *  # noqa: F403
from smhf_native.transformers.data_collator import __all__ as __all__
