"""Whole model folders in a moment: random weights, a small vocabulary, no other library.

folder = build_tiny_model(tmp_path / "model", num_labels=5)
smhf_native.Model.from_pretrained(folder); smhf_native.Tokenizer.from_pretrained(folder)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smhf_native.model import Model

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
LETTERS = [chr(c) for c in range(ord("a"), ord("z") + 1)]
WORDS = (
    "the a is was not very good bad nice soft dress shirt size small large fit fabric color love hate "
    "great poor return bought wear comfortable cheap quality perfect too and but i it this"
).split()


def tiny_vocab(words: Sequence[str] = WORDS) -> list[str]:
    """Specials, letters (as words and as pieces), digits, punctuation, whole words."""
    pieces = [f"##{letter}" for letter in LETTERS]
    return [*SPECIALS, *LETTERS, *pieces, *"0123456789", *".,!?'-", *(w for w in words if len(w) > 1)]


def tiny_config(vocab_size: int, **overrides: Any) -> dict[str, Any]:
    """A DistilBERT of two layers of 32."""
    config: dict[str, Any] = {
        "model_type": "distilbert", "architectures": ["DistilBertForSequenceClassification"],
        "activation": "gelu", "attention_dropout": 0.1, "dim": 32, "dropout": 0.1, "hidden_dim": 64,
        "initializer_range": 0.1, "max_position_embeddings": 64, "n_heads": 4, "n_layers": 2,
        "pad_token_id": 0, "seq_classif_dropout": 0.2, "sinusoidal_pos_embds": False,
        "vocab_size": vocab_size,
    }  # fmt: skip
    config.update(overrides)
    return config


def build_tiny_model(
    folder: Path, num_labels: int = 5, seed: int = 7, labels: Sequence[str] | None = None, **overrides: Any
) -> Path:
    """Write config.json, model.safetensors, vocab.txt and tokenizer_config.json; return the folder."""
    vocab = tiny_vocab()
    config = tiny_config(len(vocab), **overrides)
    names = list(labels) if labels is not None else [f"LABEL_{i}" for i in range(num_labels)]
    config["id2label"] = {str(i): name for i, name in enumerate(names)}
    config["label2id"] = {name: i for i, name in enumerate(names)}
    folder.mkdir(parents=True, exist_ok=True)
    Model.from_config(config, seed=seed).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocab) + "\n", encoding="utf-8")
    limits = {"do_lower_case": True, "model_max_length": config["max_position_embeddings"]}
    tokenizer = {"tokenizer_class": "DistilBertTokenizer", **limits}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return folder
