"""smhf_native: fine-tune, profile, deploy and predict on one machine, in C.

``import smhf_native as smhf`` costs milliseconds: each name below loads its room when first used.
"""

from __future__ import annotations

import importlib
import logging
from typing import Any

from smhf_native._version import __version__

# Public name -> module that defines it.
_EXPORTS = {
    "Tokenizer": "smhf_native.tokenizer",
    "Encoding": "smhf_native.tokenizer",
    "train_wordpiece": "smhf_native.tokenizer",
    "Model": "smhf_native.model",
    "Trainer": "smhf_native.model",
    "backends": "smhf_native.model",
    "config": "smhf_native.configuration",
    "pipeline": "smhf_native.pipelines",
    "serve": "smhf_native.serving",
    "Invoker": "smhf_native.invoker",
    "Trace": "smhf_native.trace",
    "Sampler": "smhf_native.trace",
    "errors": "smhf_native.errors",
}

__all__ = ["__version__", *sorted(_EXPORTS)]  # noqa: PLE0604

logging.getLogger("smhf_native").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    """Load the room of a public name on first use (PEP 562)."""
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'smhf_native' has no attribute {name!r}")
    loaded = importlib.import_module(module)
    value = loaded if name == "errors" else getattr(loaded, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
