"""Small models with a real vocabulary and seeded weights, for the pipelines' tests and their golden file."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

LABELS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]


def build(folder: Path, vocab: Path, kind: str, task: str, **config: Any) -> Path:
    """Save a model of ``kind`` for a floor-3 ``task`` and the tokenizer of a vocabulary file."""
    from smhf_native.model import Model
    from smhf_native.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_vocab(str(vocab), model_max_length=96)
    sizes: dict[str, Any] = {
        "distilbert": {"dim": 48, "n_heads": 4, "n_layers": 2, "hidden_dim": 96},
        "bert": {
            "hidden_size": 48,
            "num_attention_heads": 4,
            "num_hidden_layers": 2,
            "intermediate_size": 96,
        },
    }[kind]
    values = {
        "model_type": kind,
        "vocab_size": tokenizer.vocab_size,
        "max_position_embeddings": 96,
        "initializer_range": 0.3,
        **sizes,
        **config,
    }
    Model.from_config(values, seed=11, task=task).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    # By this class transformers decides whether a model takes token_type_ids.
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["tokenizer_class"] = {"distilbert": "DistilBertTokenizer", "bert": "BertTokenizer"}[kind]
    path.write_text(json.dumps(settings), encoding="utf-8")
    return folder


def texts(data: Path) -> list[str]:
    """Real texts: reviews short and long, customers' questions, tweets in Yoruba with accents and emoji."""

    def column(path: Path, name: str, delimiter: str = ",") -> list[str]:
        with open(path, newline="", encoding="utf-8") as file:
            return [row[name] for row in csv.DictReader(file, delimiter=delimiter)]

    reviews = column(data / "reviews" / "validate.csv", "text")[:12]
    questions = column(data / "text" / "banking77_test.csv", "text")[:8]
    tweets = column(data / "text" / "afrisenti_yor_dev.tsv", "tweet", "\t")[:8]
    return [*reviews, *questions, *tweets]


def examples(data: Path) -> list[dict[str, str]]:
    """Questions with contexts: of one row, of several, and one that is nearly as short as its question."""
    found = texts(data)
    contexts = [found[0], " ".join(found[1:5]), " ".join(found[5:12]), found[13], found[21]]
    return [{"question": question, "context": c} for question, c in zip(found[12:17], contexts, strict=True)]
