"""Models of the mirror: one class for each family and head, the faces of :class:`smhf_native.Model`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smhf_native.datasets.tensors import as_tensor
from smhf_native.hub import MODEL_FILES, resolve
from smhf_native.transformers import engine
from smhf_native.transformers.configuration import AutoConfig, PretrainedConfig
from smhf_native.transformers.losses import PROBLEMS, Target
from smhf_native.transformers.modeling_outputs import (
    BaseModelOutput,
    BaseModelOutputWithPoolingAndCrossAttentions,
    MaskedLMOutput,
    ModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from smhf_native.transformers.modules import Module, Parameter, parameters_under
from smhf_native.transformers.trainer_utils import current_seed
from smhf_native.transformers.utils import logging

__all__ = [
    "BertForMaskedLM",
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertModel",
    "DistilBertForMaskedLM",
    "DistilBertForQuestionAnswering",
    "DistilBertForSequenceClassification",
    "DistilBertForTokenClassification",
    "DistilBertModel",
    "PreTrainedModel",
]

logger = logging.get_logger(__name__)

# Arguments of from_pretrained that change nothing here.
_IGNORED = (
    "use_auth_token", "trust_remote_code", "force_download", "torch_dtype", "dtype", "device_map",
    "low_cpu_mem_usage", "attn_implementation", "use_safetensors", "return_dict",
    "output_attentions", "output_hidden_states", "resume_download",
)  # fmt: skip


class PreTrainedModel:
    """A model on smhf_native's engine with the methods that training scripts call.

    Attributes
    ----------
    native : the :class:`smhf_native.Model` that computes
    """

    main_input_name = "input_ids"
    base_model_prefix = ""
    model_type = ""
    task = ""
    config: PretrainedConfig

    def __init__(self, config: PretrainedConfig, native: Any = None):
        self._check(config)
        self.config = config
        if native is None:
            from smhf_native.model import Model

            native = Model.from_config(_plain(config), seed=current_seed(), task=self.task)
        self.native = native
        self.training = False
        self.frozen: set[str] = set()  # names of weights whose requires_grad is False
        self.gradient_checkpointing = False

    @classmethod
    def _check(cls, config: PretrainedConfig) -> None:
        kind = str(getattr(config, "model_type", ""))
        if kind != cls.model_type:
            raise ValueError(
                f"{cls.__name__} is a model of type {cls.model_type!r}, the configuration says {kind!r}"
            )
        problem = getattr(config, "problem_type", None)
        if problem is not None and problem not in PROBLEMS:
            raise ValueError(f"problem_type={problem!r} is not one of {', '.join(PROBLEMS)}")

    # -- what scripts call on a torch module ----------------------------------------------------

    def __call__(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        labels: Any = None,
        token_type_ids: Any = None,
        *,
        start_positions: Any = None,
        end_positions: Any = None,
        return_dict: bool | None = None,
        **_: Any,
    ) -> Any:
        """Return the head's output object: what was computed, and the loss where labels were given.

        Parameters
        ----------
        input_ids, attention_mask, token_type_ids : array_like of int, (rows, columns); or one mapping with them
        labels : by head: class numbers (rows,) or (rows, columns), or numbers (rows, num_labels)
        start_positions, end_positions : (rows,), where answers begin and end
        return_dict : False gives a tuple

        Returns
        -------
        ModelOutput of float32 arrays; behind a row's tokens hidden states and logits are zero, and the logits
        of answers the smallest float.
        """
        if isinstance(input_ids, Mapping):
            return self(**{str(key): value for key, value in input_ids.items()})
        batch: dict[str, Any] = {"input_ids": np.asarray(input_ids, dtype=np.int32)}
        if attention_mask is not None:
            batch["attention_mask"] = np.asarray(attention_mask, dtype=np.int32)
        if token_type_ids is not None:
            batch["token_type_ids"] = np.asarray(token_type_ids, dtype=np.int32)
        results = engine.results_of(self.native, batch)
        given = {"labels": labels, "start_positions": start_positions, "end_positions": end_positions}
        batch.update({name: value for name, value in given.items() if value is not None})
        output = self._output(results, self._loss(results, batch))
        return output if return_dict is not False else output.to_tuple()

    def _loss(self, results: Any, batch: Mapping[str, Any]) -> Any:
        target = Target.of(self)
        labels = target.labels(batch, range(len(batch["input_ids"])), type(self).__name__)
        return None if labels is None else as_tensor(np.float32(target.loss(results, labels)))

    def _output(self, results: Any, loss: Any) -> ModelOutput:
        """Name what the engine returned."""
        raise NotImplementedError

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

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield (name, parameter) of every weight: copies that can be frozen (``requires_grad = False``)."""
        return parameters_under(self, "")

    def parameters(self) -> Iterator[Parameter]:
        """Yield every weight (copies)."""
        for _, parameter in self.named_parameters():
            yield parameter

    def requires_grad_(self, requires_grad: bool = True) -> PreTrainedModel:
        """Freeze or thaw every weight; the Trainer refuses a model that has nothing left to train."""
        self.frozen.clear()
        self.frozen.update(() if requires_grad else self.native.parameter_names)
        return self

    @property
    def base_model(self) -> Module:
        """Return the encoder's weights, as ``model.distilbert`` or ``model.bert`` does."""
        return Module(self, self.base_model_prefix)

    def __getattr__(self, name: str) -> Any:
        """Return a module of the network (``model.distilbert``, ``model.classifier``): its weights, to freeze."""
        if not name.startswith("_") and "native" in self.__dict__:
            if any(other.startswith(f"{name}.") for other in self.native.parameter_names):
                return Module(self, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Return the number of weights."""
        return sum(
            int(np.prod(array.shape))
            for name, array in self.native.parameters().items()
            if not (exclude_embeddings and "embeddings.word" in name)
            and not (only_trainable and name in self.frozen)
        )

    def gradient_checkpointing_enable(self, *_: Any, **__: Any) -> None:
        """Compute the inside of layers again in the backward pass instead of keeping it."""
        self.gradient_checkpointing = True

    def gradient_checkpointing_disable(self) -> None:
        """Keep the inside of layers for the backward pass."""
        self.gradient_checkpointing = False

    # -- files ----------------------------------------------------------------------------------

    def save_pretrained(self, save_directory: str | os.PathLike[str], **_: Any) -> None:
        """Write ``config.json`` and ``model.safetensors`` under Hugging Face's names."""
        target = Path(save_directory)
        target.mkdir(parents=True, exist_ok=True)
        self.native.save_pretrained(str(target))
        self.config.update({"architectures": [type(self).__name__]})
        self.config.save_pretrained(target)

    def reload(self, folder: Path) -> None:
        """Replace the weights by those of a folder that :meth:`save_pretrained` wrote."""
        expected = self.config.num_labels
        with engine.model_folder(folder, None) as source:
            native = engine.reload_model(source, self.task)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        count = len(config.get("id2label") or {}) or 2
        if count != expected:
            raise ValueError(f"{folder} has {count} labels, the model has {expected}")
        if native.precision != self.native.precision:
            native.set_precision(self.native.precision)
        self.native = native

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *_: Any, **options: Any
    ) -> Any:
        """Load from a folder or hub name; see :func:`load_pretrained` for the options."""
        return load_pretrained({cls.model_type: cls}, pretrained_model_name_or_path, **options)

    @classmethod
    def from_config(cls, config: PretrainedConfig, **_: Any) -> Any:
        """Return a model with fresh weights (normal, 0.02; seed of :func:`set_seed`)."""
        return cls(config)


# -- heads --------------------------------------------------------------------------------------


class _Encoder(PreTrainedModel):
    """No head: the last hidden states."""

    task = "embedding"

    def _loss(self, results: Any, batch: Mapping[str, Any]) -> Any:
        return None

    def _output(self, results: Any, loss: Any) -> ModelOutput:
        return BaseModelOutput(last_hidden_state=as_tensor(results))


class _SequenceClassifier(PreTrainedModel):
    """One label, several labels at once, or numbers, for each row."""

    task = "sequence-classification"

    def _output(self, results: Any, loss: Any) -> ModelOutput:
        return SequenceClassifierOutput(loss=loss, logits=as_tensor(results))


class _TokenClassifier(PreTrainedModel):
    """One label for each token."""

    task = "token-classification"

    def _output(self, results: Any, loss: Any) -> ModelOutput:
        return TokenClassifierOutput(loss=loss, logits=as_tensor(results))


class _QuestionAnswerer(PreTrainedModel):
    """Where the answer begins and ends."""

    task = "question-answering"

    def _output(self, results: Any, loss: Any) -> ModelOutput:
        start, end = map(as_tensor, results)
        return QuestionAnsweringModelOutput(loss=loss, start_logits=start, end_logits=end)


class _MaskedLM(PreTrainedModel):
    """A word of the vocabulary for each token."""

    task = "masked-lm"

    def _output(self, results: Any, loss: Any) -> ModelOutput:
        return MaskedLMOutput(loss=loss, logits=as_tensor(results))


class DistilBertModel(_Encoder):
    """DistilBERT without a head."""

    model_type = base_model_prefix = "distilbert"


class DistilBertForSequenceClassification(_SequenceClassifier):
    """DistilBERT with a classification head."""

    model_type = base_model_prefix = "distilbert"


class DistilBertForTokenClassification(_TokenClassifier):
    """DistilBERT that labels tokens."""

    model_type = base_model_prefix = "distilbert"


class DistilBertForMaskedLM(_MaskedLM):
    """DistilBERT that fills masks."""

    model_type = base_model_prefix = "distilbert"


class DistilBertForQuestionAnswering(_QuestionAnswerer):
    """DistilBERT that finds answers."""

    model_type = base_model_prefix = "distilbert"


class BertModel(_Encoder):
    """BERT without a head; with the pooler of its checkpoint, where that has one.

    The engine's encoder has no pooler (nothing is trained through it here), so it is kept beside it.
    """

    model_type = base_model_prefix = "bert"
    _pooler: tuple[Any, Any] | None = None  # weight (hidden, hidden) and bias (hidden)

    def _output(self, results: Any, loss: Any) -> ModelOutput:
        pooled = None
        if self._pooler is not None:
            weight, bias = self._pooler
            pooled = as_tensor(np.tanh(results[:, 0] @ weight.T + bias))
        return BaseModelOutputWithPoolingAndCrossAttentions(
            last_hidden_state=as_tensor(results), pooler_output=pooled
        )

    def state_dict(self) -> dict[str, Any]:
        """Return weight name to array (copies)."""
        own = dict(zip(_POOLER, self._pooler, strict=True)) if self._pooler is not None else {}
        return {**super().state_dict(), **{name: as_tensor(array.copy()) for name, array in own.items()}}

    def save_pretrained(self, save_directory: str | os.PathLike[str], **options: Any) -> None:
        """Write ``config.json`` and ``model.safetensors``, the pooler included."""
        super().save_pretrained(save_directory, **options)
        if self._pooler is not None:
            extra = dict(zip(_POOLER, self._pooler, strict=True))
            engine.add_tensors(Path(save_directory) / "model.safetensors", extra)

    def _take_extra(self, folder: Path, unused: list[str]) -> list[str]:
        """Keep the pooler of a checkpoint; return what is still unused."""
        found = [name for end in _POOLER for name in unused if name.removeprefix("bert.") == end]
        if len(found) == len(_POOLER):
            tensors = engine.read_tensors(folder, found)
            self._pooler = (tensors[found[0]], tensors[found[1]])
            unused = [name for name in unused if name not in found]
        return unused


_POOLER = ("pooler.dense.weight", "pooler.dense.bias")


class BertForSequenceClassification(_SequenceClassifier):
    """BERT with a classification head."""

    model_type = base_model_prefix = "bert"


class BertForTokenClassification(_TokenClassifier):
    """BERT that labels tokens."""

    model_type = base_model_prefix = "bert"


class BertForMaskedLM(_MaskedLM):
    """BERT that fills masks."""

    model_type = base_model_prefix = "bert"


class BertForQuestionAnswering(_QuestionAnswerer):
    """BERT that finds answers."""

    model_type = base_model_prefix = "bert"


# -- loading ------------------------------------------------------------------------------------


def _plain(config: PretrainedConfig) -> dict[str, Any]:
    """Return the configuration with string keys, as a ``config.json`` holds it."""
    values: dict[str, Any] = json.loads(config.to_json_string())
    return values


def class_for(
    classes: Mapping[str, type[PreTrainedModel]], config: PretrainedConfig
) -> type[PreTrainedModel]:
    """Return the class of a configuration's ``model_type``."""
    kind = str(getattr(config, "model_type", ""))
    if kind not in classes:
        task = next(iter(classes.values())).task
        raise ValueError(
            f"models of type {kind!r} are not supported for {task}; supported: {sorted(classes)}"
        )
    return classes[kind]


def load_pretrained(
    classes: Mapping[str, type[PreTrainedModel]],
    name: str | os.PathLike[str],
    *,
    config: PretrainedConfig | None = None,
    revision: str | None = None,
    cache_dir: str | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    ignore_mismatched_sizes: bool = False,
    **overrides: Any,
) -> PreTrainedModel:
    """Load a model; weights that the checkpoint lacks are made anew and named.

    Parameters
    ----------
    classes : ``model_type`` to the class that may be made of it
    name : folder or hub name
    config : replaces the checkpoint's configuration
    ignore_mismatched_sizes : a head of another size than the checkpoint's is made anew instead of refused
    overrides : ``num_labels``, ``id2label``, ``label2id``, ``problem_type`` and other keys of the configuration
        (``dropout``, ``attention_dropout``, ``seq_classif_dropout`` …)

    Raises
    ------
    smhf_native.hub.ModelNotFoundError, smhf_native.errors.ParseError, ValueError
    """
    for ignored in _IGNORED:
        overrides.pop(ignored, None)
    folder = resolve(
        name,
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
        for key, value in overrides.items():
            setattr(config, key, value)
    config._name_or_path = os.fspath(name)
    kind = class_for(classes, config)
    kind._check(config)
    values = _plain(config)
    changed = any(original.get(key) != value for key, value in values.items())
    native = engine.load_model(
        folder,
        values if changed else None,
        config.num_labels,
        current_seed(),
        kind.task,
        ignore_mismatched_sizes,
    )
    model = kind(config, native)
    unused = sorted(native.load_report.unexpected)
    if isinstance(model, BertModel):
        unused = model._take_extra(folder, unused)
    _report(unused, sorted(native.load_report.missing), kind.__name__, os.fspath(name))
    return model


def _report(unused: list[str], fresh: list[str], kind: str, name: str) -> None:
    """Say which weights were unused and which are new, as transformers does."""
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
