"""A small classifier and a small review corpus, made here; no peer and no data folder needed."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import pytest

GOOD = ["love", "perfect", "soft", "comfortable", "flattering", "great"]
BAD = ["awful", "scratchy", "returned", "tight", "cheap", "thin"]
FILLER = ["the", "dress", "fabric", "is", "and", "color", "size", "sleeve", "a", "very", "it", "was", "fits"]


def review(rng: random.Random, good: bool, words: int) -> str:
    pool = GOOD if good else BAD
    text = " ".join(rng.choice(pool) if rng.random() < 0.4 else rng.choice(FILLER) for _ in range(words))
    return text + ', said "she"\nand so on' if rng.random() < 0.2 else text


@pytest.fixture(scope="session")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """train.csv (64 rows) and validate.csv (24 rows) with the columns text and label (0 or 1)."""
    folder = tmp_path_factory.mktemp("reviews")
    rng = random.Random(7)
    paths = {}
    for name, rows in (("train", 64), ("validate", 24)):
        paths[name] = folder / f"{name}.csv"
        with open(paths[name], "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for i in range(rows):
                writer.writerow([review(rng, i % 2 == 0, rng.randint(3, 20)), int(i % 2 == 0)])
    return paths


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, reviews: dict[str, Path]) -> Path:
    """A folder with a two-layer DistilBERT classifier (2 labels) and its WordPiece vocabulary."""
    from smhf_native.model import Model
    from smhf_native.tokenizer import Tokenizer

    folder = tmp_path_factory.mktemp("tiny") / "model"
    words = sorted({*GOOD, *BAD, *FILLER, "said", "she", "so", "on", ",", '"', "'", "."})
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    config = {
        "model_type": "distilbert", "vocab_size": len(tokens), "dim": 32, "n_heads": 2, "n_layers": 2,
        "hidden_dim": 64, "max_position_embeddings": 64, "dropout": 0.1, "attention_dropout": 0.1,
        "seq_classif_dropout": 0.2, "id2label": {"0": "bad", "1": "good"}, "label2id": {"bad": 0, "good": 1},
    }  # fmt: skip
    Model.from_config(config, seed=3).save_pretrained(folder)
    Tokenizer.from_vocab(tokens, model_max_length=64).save_pretrained(folder)
    return folder
