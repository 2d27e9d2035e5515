"""Models: DistilBERT and BERT sequence classifiers, run and fine-tuned in C.

:class:`Model` opens a folder with ``config.json`` and ``model.safetensors`` under the names of
`transformers`, computes logits and saves; :class:`Trainer` fine-tunes one.  Padding is dropped
before anything is computed.  The module also hands out what other parts need from the core:
archives, torch's shuffle order, and the list of compute backends.
"""

from __future__ import annotations

from smhf_native.model._model import create_archive, extract_archive, torch_randperm
from smhf_native.model.backends import backends
from smhf_native.model.classifier import LoadReport, Model
from smhf_native.model.training import Trainer

__all__ = [
    "LoadReport",
    "Model",
    "Trainer",
    "backends",
    "create_archive",
    "extract_archive",
    "torch_randperm",
]
