"""``AutoConfig`` and ``PretrainedConfig``: a model's ``config.json`` as attributes."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

from smhf_native.hub import CONFIG_FILES, resolve

__all__ = ["AutoConfig", "BertConfig", "DistilBertConfig", "PretrainedConfig"]


class PretrainedConfig:
    """The keys of ``config.json`` as attributes; ``num_labels`` and ``id2label`` follow each other."""

    model_type = ""
    defaults: dict[str, Any] = {}

    def __init__(self, **values: Any):
        num_labels = values.pop("num_labels", None)
        merged = {**copy.deepcopy(self.defaults), **values}
        if self.model_type:
            merged.setdefault("model_type", self.model_type)
        labels = merged.pop("id2label", None)
        label2id = merged.pop("label2id", None)
        self._name_or_path = merged.pop("_name_or_path", "")
        for name, value in merged.items():
            setattr(self, name, value)
        if labels is not None and (num_labels is None or len(labels) == int(num_labels)):
            self.id2label = {int(key): str(value) for key, value in labels.items()}
            self.label2id = {str(k): int(v) for k, v in (label2id or {}).items()} or {
                value: key for key, value in self.id2label.items()
            }
        else:
            self.num_labels = int(num_labels) if num_labels is not None else 2

    @property
    def num_labels(self) -> int:
        """Return the number of classes; setting it makes fresh names LABEL_0 …"""
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, value: int) -> None:
        if getattr(self, "id2label", None) is None or len(self.id2label) != value:
            self.id2label = {i: f"LABEL_{i}" for i in range(value)}
            self.label2id = {name: i for i, name in self.id2label.items()}

    @property
    def name_or_path(self) -> str:
        """Return where the configuration came from."""
        return str(self._name_or_path)

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as it is written to ``config.json`` (integer label keys)."""
        values = {k: copy.deepcopy(v) for k, v in self.__dict__.items() if not k.startswith("_")}
        return values

    def to_json_string(self, use_diff: bool = True) -> str:
        """Return the configuration as sorted, indented JSON."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"

    def save_pretrained(self, save_directory: str | os.PathLike[str], **_: Any) -> None:
        """Write ``config.json`` into a folder."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(self.to_json_string(), encoding="utf-8")

    def update(self, values: dict[str, Any]) -> None:
        """Set several attributes."""
        for name, value in values.items():
            setattr(self, name, value)

    @classmethod
    def from_dict(cls, values: dict[str, Any], **overrides: Any) -> PretrainedConfig:
        """Build from a dict with overrides on top."""
        return _class_of(str(values.get("model_type", "")))(**{**values, **overrides})

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **kwargs: Any) -> PretrainedConfig:
        """Read the configuration of a folder or hub name; see :class:`AutoConfig`."""
        return AutoConfig.from_pretrained(name, **kwargs)

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.to_json_string()}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PretrainedConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]


class DistilBertConfig(PretrainedConfig):
    """DistilBERT; defaults are the base model's (66 million parameters)."""

    model_type = "distilbert"
    defaults = {
        "vocab_size": 30522, "max_position_embeddings": 512, "sinusoidal_pos_embds": False, "n_layers": 6,
        "n_heads": 12, "dim": 768, "hidden_dim": 3072, "dropout": 0.1, "attention_dropout": 0.1,
        "activation": "gelu", "initializer_range": 0.02, "qa_dropout": 0.1, "seq_classif_dropout": 0.2,
        "pad_token_id": 0,
    }  # fmt: skip


class BertConfig(PretrainedConfig):
    """BERT; defaults are the base model's."""

    model_type = "bert"
    defaults = {
        "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1, "max_position_embeddings": 512, "type_vocab_size": 2,
        "initializer_range": 0.02, "layer_norm_eps": 1e-12, "pad_token_id": 0,
    }  # fmt: skip


def _class_of(model_type: str) -> type[PretrainedConfig]:
    return {"distilbert": DistilBertConfig, "bert": BertConfig}.get(model_type, PretrainedConfig)


class AutoConfig:
    """Read ``config.json`` of a folder or hub name."""

    @staticmethod
    def from_pretrained(
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | None = None,
        local_files_only: bool = False,
        token: str | bool | None = None,
        **overrides: Any,
    ) -> PretrainedConfig:
        """Return the configuration, with ``overrides`` (``num_labels=5``, ``dropout=0.0`` …) on top."""
        for name in ("use_auth_token", "force_download", "trust_remote_code", "resume_download", "proxies"):
            overrides.pop(name, None)
        folder = resolve(
            pretrained_model_name_or_path,
            revision,
            needs=CONFIG_FILES,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
        )
        values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if "num_labels" in overrides and "id2label" not in overrides:
            count = int(overrides["num_labels"])
            if len(values.get("id2label") or {}) != count:
                values.pop("id2label", None)
                values.pop("label2id", None)
        elif "id2label" in overrides:
            values.pop("label2id", None)
        config = PretrainedConfig.from_dict(values, **overrides)
        config._name_or_path = os.fspath(pretrained_model_name_or_path)
        return config

    @staticmethod
    def for_model(model_type: str, **values: Any) -> PretrainedConfig:
        """Return a default configuration of a model type ("distilbert" or "bert")."""
        return _class_of(model_type)(**values)
