"""``AutoModelForSequenceClassification``: the mirror's face of :class:`smhf_native.Model`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smhf_native.datasets.tensors import Tensor, as_tensor
from smhf_native.hub import MODEL_FILES, resolve
from smhf_native.transformers import engine
from smhf_native.transformers.configuration import AutoConfig, PretrainedConfig
from smhf_native.transformers.trainer_utils import current_seed
from smhf_native.transformers.utils import logging

__all__ = [
    "AutoModelForSequenceClassification",
    "BertForSequenceClassification",
    "DistilBertForSequenceClassification",
    "PreTrainedModel",
    "SequenceClassifierOutput",
]

logger = logging.get_logger(__name__)


class SequenceClassifierOutput(dict[str, Any]):
    """``loss`` (when labels were given) and ``logits``; by key, attribute or position."""

    def __getattr__(self, name: str) -> Any:
        if name in ("loss", "logits"):
            return self.get(name)
        raise AttributeError(name)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, (int, slice)):
            return tuple(self.values())[key]
        return super().__getitem__(key)


class PreTrainedModel:
    """A sequence classifier on smhf_native's engine with the methods that training scripts call."""

    main_input_name = "input_ids"
    base_model_prefix = ""
    config: PretrainedConfig

    def __init__(self, config: PretrainedConfig, native: Any = None):
        self.config = config
        if native is None:
            from smhf_native.model import Model

            native = Model.from_config(_plain(config), seed=current_seed())
        self.native = native
        self.training = False

    # -- what scripts call on a torch module ----------------------------------------------------

    def __call__(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        labels: Any = None,
        token_type_ids: Any = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Return logits (float32, rows x num_labels) and, with ``labels``, the mean cross-entropy."""
        if isinstance(input_ids, Mapping):
            return self(**{str(key): value for key, value in input_ids.items()})
        batch = {"input_ids": np.asarray(input_ids, dtype=np.int32)}
        if attention_mask is not None:
            batch["attention_mask"] = np.asarray(attention_mask, dtype=np.int32)
        if token_type_ids is not None:
            batch["token_type_ids"] = np.asarray(token_type_ids, dtype=np.int32)
        logits = engine.logits_of(self.native, batch)
        result: dict[str, Any] = {}
        if labels is not None:
            result["loss"] = as_tensor(np.float32(cross_entropy(logits, np.asarray(labels)).mean()))
        result["logits"] = as_tensor(logits)
        return SequenceClassifierOutput(result)

    def train(self, mode: bool = True) -> PreTrainedModel:
        """Mark the model as training; dropout is the Trainer's business."""
        self.training = mode
        return self

    def eval(self) -> PreTrainedModel:
        """Mark the model as not training."""
        return self.train(False)

    def to(self, *_args: Any, **_kwargs: Any) -> PreTrainedModel:
        """Return the model itself: there is one device."""
        return self

    def cpu(self) -> PreTrainedModel:
        """Return the model itself."""
        return self

    def float(self) -> PreTrainedModel:
        """Return the model itself: weights are fp32."""
        return self

    @property
    def device(self) -> str:
        """Return the device name."""
        return "cpu"

    @property
    def num_labels(self) -> int:
        """Return the number of classes."""
        return self.config.num_labels

    def state_dict(self) -> dict[str, Any]:
        """Return weight name to array (copies)."""
        return {name: as_tensor(array) for name, array in self.native.parameters().items()}

    def named_parameters(self) -> Iterator[tuple[str, Any]]:
        """Yield (name, array) of every weight (copies)."""
        for name, array in self.native.parameters().items():
            yield name, as_tensor(array).view(Parameter)

    def parameters(self) -> Iterator[Any]:
        """Yield every weight (copies)."""
        for _, parameter in self.named_parameters():
            yield parameter

    def requires_grad_(self, requires_grad: bool = True) -> PreTrainedModel:
        """Return the model; ``False`` is refused, because every weight is trained."""
        if not requires_grad:
            raise NotImplementedError(_NO_FREEZING)
        return self

    def __getattr__(self, name: str) -> Any:
        """Refuse modules by name: the network is one piece of C, not a tree of modules."""
        if name in ("distilbert", "bert", "classifier", "pre_classifier", "base_model"):
            raise AttributeError(
                f"model.{name}: the modules of the network cannot be reached one by one (to freeze some: "
                "not supported yet, every weight is trained); weights are in state_dict()"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Return the number of weights."""
        return sum(
            int(np.prod(array.shape))
            for name, array in self.native.parameters().items()
            if not (exclude_embeddings and "embeddings.word" in name)
        )

    def gradient_checkpointing_enable(self, *_: Any, **__: Any) -> None:
        """Do nothing: activations of a batch fit."""

    def save_pretrained(self, save_directory: str | os.PathLike[str], **_: Any) -> None:
        """Write ``config.json`` and ``model.safetensors`` under Hugging Face's names."""
        target = Path(save_directory)
        target.mkdir(parents=True, exist_ok=True)
        self.native.save_pretrained(str(target))
        self.config.update({"architectures": [type(self).__name__]})
        self.config.save_pretrained(target)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> Any:
        """Load from a folder or hub name; see :class:`AutoModelForSequenceClassification`."""
        return AutoModelForSequenceClassification.from_pretrained(
            pretrained_model_name_or_path, *args, **kwargs
        )


_NO_FREEZING = "freezing weights (requires_grad=False) is not supported yet: every weight is trained"


class Parameter(Tensor):
    """A weight as scripts look at it: a copy that says that it is trained, and cannot be told otherwise."""

    @property
    def requires_grad(self) -> bool:
        """Return True: every weight is trained."""
        return True

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if not value:
            raise NotImplementedError(_NO_FREEZING)

    def requires_grad_(self, requires_grad: bool = True) -> Parameter:
        """Return the weight; ``False`` is refused."""
        self.requires_grad = requires_grad
        return self


class DistilBertForSequenceClassification(PreTrainedModel):
    """DistilBERT with a classification head."""

    base_model_prefix = "distilbert"


class BertForSequenceClassification(PreTrainedModel):
    """BERT with a classification head."""

    base_model_prefix = "bert"


_CLASSES = {"distilbert": DistilBertForSequenceClassification, "bert": BertForSequenceClassification}


def cross_entropy(logits: Any, labels: Any, smoothing: float = 0.0) -> Any:
    """Return the loss of each row in float64: log(sum(exp(z))) - z[label], smoothed over all labels."""
    z = logits.astype(np.float64)
    top = z.max(axis=1)
    total = top + np.log(np.exp(z - top[:, None]).sum(axis=1))
    picked = total - z[np.arange(len(z)), labels.astype(np.int64)]
    return picked if not smoothing else (1.0 - smoothing) * picked + smoothing * (total - z.mean(axis=1))


def _plain(config: PretrainedConfig) -> dict[str, Any]:
    """Return the configuration with string keys, as a ``config.json`` holds it."""
    values: dict[str, Any] = json.loads(config.to_json_string())
    return values


def _class_for(config: PretrainedConfig) -> type[PreTrainedModel]:
    kind = str(getattr(config, "model_type", ""))
    if kind not in _CLASSES:
        raise ValueError(
            f"models of type {kind!r} are not supported for sequence classification; supported: {sorted(_CLASSES)}"
        )
    problem = getattr(config, "problem_type", None)
    if problem not in (None, "single_label_classification"):
        raise NotImplementedError(
            f"problem_type={problem!r} is not supported: only single_label_classification"
        )
    return _CLASSES[kind]


class AutoModelForSequenceClassification:
    """Load a sequence classifier from a folder or hub name."""

    @staticmethod
    def from_pretrained(
        pretrained_model_name_or_path: str | os.PathLike[str],
        *_args: Any,
        config: PretrainedConfig | None = None,
        revision: str | None = None,
        cache_dir: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **overrides: Any,
    ) -> PreTrainedModel:
        """Return the model; weights that a masked-LM checkpoint lacks are made anew and named.

        Parameters
        ----------
        config : replaces the checkpoint's configuration
        overrides : ``num_labels``, ``id2label``, ``label2id`` and keys of the configuration (``dropout``,
            ``attention_dropout``, ``seq_classif_dropout`` …)

        Raises
        ------
        smhf_native.hub.ModelNotFoundError, smhf_native.errors.ParseError
        """
        for name in (
            "use_auth_token", "trust_remote_code", "force_download", "torch_dtype", "dtype", "device_map",
            "low_cpu_mem_usage", "ignore_mismatched_sizes", "attn_implementation", "use_safetensors", "return_dict",
            "output_attentions", "output_hidden_states", "resume_download",
        ):  # fmt: skip
            overrides.pop(name, None)
        folder = resolve(
            pretrained_model_name_or_path,
            revision,
            needs=MODEL_FILES,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
        )
        original = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if config is None:
            config = AutoConfig.from_pretrained(folder, **overrides)
        else:
            for name, value in overrides.items():
                setattr(config, name, value)
        config._name_or_path = os.fspath(pretrained_model_name_or_path)
        kind = _class_for(config)
        values = _plain(config)
        changed = any(original.get(key) != value for key, value in values.items())
        native = engine.load_model(folder, values if changed else None, config.num_labels, current_seed())
        _report(native, kind.__name__, os.fspath(pretrained_model_name_or_path))
        return kind(config, native)

    @staticmethod
    def from_config(config: PretrainedConfig, **_: Any) -> PreTrainedModel:
        """Return a model with fresh weights (normal, 0.02; seed of :func:`set_seed`)."""
        return _class_for(config)(config)


def _report(native: Any, kind: str, name: str) -> None:
    """Say which weights were unused and which are new, as transformers does."""
    unused = sorted(native.load_report.unexpected)
    fresh = sorted(native.load_report.missing)
    if unused:
        logger.warning(
            "Some weights of the model checkpoint at %s were not used when initializing %s: %s",
            name,
            kind,
            unused,
        )
    if fresh:
        logger.warning(
            "Some weights of %s were not initialized from the model checkpoint at %s and are newly initialized: %s\n"
            "You should probably TRAIN this model on a down-stream task to be able to use it for predictions and "
            "inference.",
            kind,
            name,
            fresh,
        )
