"""``transformers.modeling_outputs``: what models of the mirror return; by key, attribute or position."""

from __future__ import annotations

from typing import Any

__all__ = [
    "BaseModelOutput",
    "BaseModelOutputWithPooling",
    "BaseModelOutputWithPoolingAndCrossAttentions",
    "MaskedLMOutput",
    "ModelOutput",
    "QuestionAnsweringModelOutput",
    "SequenceClassifierOutput",
    "TokenClassifierOutput",
]


class ModelOutput(dict[str, Any]):
    """A dict whose keys are also attributes; fields that were not computed are None and have no key."""

    fields: tuple[str, ...] = ()

    def __init__(self, *args: Any, **values: Any):
        given = dict(*args, **values)
        unknown = [name for name in given if name not in self.fields]
        if unknown:
            raise TypeError(f"{type(self).__name__} has no {unknown[0]!r}; it has {', '.join(self.fields)}")
        super().__init__({name: given[name] for name in self.fields if given.get(name) is not None})

    def __getattr__(self, name: str) -> Any:
        if name in self.fields:
            return self.get(name)
        raise AttributeError(f"{type(self).__name__} has no {name!r}; it has {', '.join(self.fields)}")

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, (int, slice)):
            return self.to_tuple()[key]
        return super().__getitem__(key)

    def to_tuple(self) -> tuple[Any, ...]:
        """Return what was computed, in order."""
        return tuple(self.values())


class BaseModelOutput(ModelOutput):
    """``last_hidden_state``: (rows, columns, hidden)."""

    fields = ("last_hidden_state", "hidden_states", "attentions")


class BaseModelOutputWithPooling(ModelOutput):
    """``last_hidden_state`` and ``pooler_output`` (rows, hidden)."""

    fields = ("last_hidden_state", "pooler_output", "hidden_states", "attentions")


class BaseModelOutputWithPoolingAndCrossAttentions(BaseModelOutputWithPooling):
    """What BERT returns; there is no cross attention in an encoder."""


class SequenceClassifierOutput(ModelOutput):
    """``loss`` (when labels were given) and ``logits`` (rows, num_labels)."""

    fields = ("loss", "logits", "hidden_states", "attentions")


class TokenClassifierOutput(SequenceClassifierOutput):
    """``loss`` and ``logits`` (rows, columns, num_labels)."""


class MaskedLMOutput(SequenceClassifierOutput):
    """``loss`` and ``logits`` (rows, columns, vocab_size)."""


class QuestionAnsweringModelOutput(ModelOutput):
    """``loss``, ``start_logits`` and ``end_logits`` (rows, columns)."""

    fields = ("loss", "start_logits", "end_logits", "hidden_states", "attentions")
