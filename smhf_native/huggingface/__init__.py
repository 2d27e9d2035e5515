"""The names of ``sagemaker.huggingface``; each loads its module when first used."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "HuggingFace": "smhf_native.huggingface.estimator",
    "HuggingFaceModel": "smhf_native.huggingface.model",
    "HuggingFacePredictor": "smhf_native.huggingface.predictor",
}

__all__ = ["HuggingFace", "HuggingFaceModel", "HuggingFacePredictor"]


def __getattr__(name: str) -> Any:
    """Load a class on first use (PEP 562)."""
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'smhf_native.huggingface' has no attribute {name!r}")
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
