"""``AutoModel`` and ``AutoModelFor…``: the class that a checkpoint's ``model_type`` asks for."""

from __future__ import annotations

import os
from typing import Any

from smhf_native.transformers import modeling
from smhf_native.transformers.configuration import PretrainedConfig
from smhf_native.transformers.modeling import PreTrainedModel, class_for, load_pretrained

__all__ = [
    "AutoModel",
    "AutoModelForMaskedLM",
    "AutoModelForQuestionAnswering",
    "AutoModelForSequenceClassification",
    "AutoModelForTokenClassification",
]


class _Auto:
    """Common to all: the classes differ in what stands on the encoder."""

    classes: dict[str, type[PreTrainedModel]] = {}

    def __init__(self) -> None:
        raise OSError(
            f"{type(self).__name__} is made by from_pretrained(folder or name) or from_config(config)"
        )

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *_args: Any, **options: Any
    ) -> Any:
        """Return the model of a folder or hub name; weights that a checkpoint lacks are made anew and named.

        Parameters
        ----------
        options : ``config`` (replaces the checkpoint's), ``revision``, ``cache_dir``, ``local_files_only``,
            ``token``, and keys of the configuration: ``num_labels``, ``id2label``, ``label2id``,
            ``problem_type``, ``dropout`` …

        Raises
        ------
        smhf_native.hub.ModelNotFoundError, smhf_native.errors.ParseError, ValueError
        """
        return load_pretrained(cls.classes, pretrained_model_name_or_path, **options)

    @classmethod
    def from_config(cls, config: PretrainedConfig, **_: Any) -> Any:
        """Return a model with fresh weights (normal, 0.02; seed of :func:`set_seed`)."""
        return class_for(cls.classes, config)(config)


class AutoModel(_Auto):
    """An encoder without a head."""

    classes = {"distilbert": modeling.DistilBertModel, "bert": modeling.BertModel}


class AutoModelForSequenceClassification(_Auto):
    """One label, several labels at once, or numbers (``problem_type``) for each row."""

    classes = {
        "distilbert": modeling.DistilBertForSequenceClassification,
        "bert": modeling.BertForSequenceClassification,
    }


class AutoModelForTokenClassification(_Auto):
    """One label for each token."""

    classes = {
        "distilbert": modeling.DistilBertForTokenClassification,
        "bert": modeling.BertForTokenClassification,
    }


class AutoModelForQuestionAnswering(_Auto):
    """Where the answer begins and ends."""

    classes = {
        "distilbert": modeling.DistilBertForQuestionAnswering,
        "bert": modeling.BertForQuestionAnswering,
    }


class AutoModelForMaskedLM(_Auto):
    """Words of the vocabulary for each token: pre-training, or adapting to texts of one's own."""

    classes = {"distilbert": modeling.DistilBertForMaskedLM, "bert": modeling.BertForMaskedLM}
