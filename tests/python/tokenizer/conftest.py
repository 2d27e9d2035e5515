"""Vocabularies, texts and the reference library for tokenizer tests."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import smhf_native as smhf

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))

@pytest.fixture(scope="session")
def vocab_folder(shared_data: Path) -> Path:
    return shared_data / "vocab"


@pytest.fixture(scope="session")
def real_texts(shared_data: Path) -> list[str]:
    """Every row of the reviews and of the text folder."""
    texts = []
    for path in sorted([*shared_data.glob("reviews/*.csv"), *shared_data.glob("text/*.csv")]):
        with path.open(newline="", encoding="utf-8") as file:
            texts += [row[0] for row in csv.reader(file)]
    for path in sorted(shared_data.glob("text/*.tsv")):
        texts += [line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(texts) > 16_000
    return texts


@pytest.fixture(scope="session")
def tokenizers_peer(peer: Callable[[str], Any]) -> Any:
    return peer("tokenizers")


@pytest.fixture(scope="session", params=["uncased", "cased", "multilingual-cased"])
def both(request: pytest.FixtureRequest, vocab_folder: Path, tokenizers_peer: Any) -> tuple[Any, smhf.Tokenizer]:
    """(reference, ours) of one of the three vocabularies."""
    path = vocab_folder / f"bert-base-{request.param}"
    if request.param == "cased":  # only a vocab.txt exists
        implementations = __import__("tokenizers.implementations", fromlist=["BertWordPieceTokenizer"])
        made = implementations.BertWordPieceTokenizer.from_file(str(path / "vocab.txt"), lowercase=False)
        theirs = made._tokenizer
        ours = smhf.Tokenizer.from_pretrained(path / "vocab.txt", do_lower_case=False)
    else:
        theirs = tokenizers_peer.Tokenizer.from_file(str(path / "tokenizer.json"))
        ours = smhf.Tokenizer.from_pretrained(path / "tokenizer.json")
    return theirs, ours


@pytest.fixture(scope="session")
def small() -> smhf.Tokenizer:
    """A handmade uncased tokenizer."""
    return smhf.Tokenizer.from_vocab(
        "[PAD] [UNK] [CLS] [SEP] [MASK] a b c ab ##b ##c hello world , ! un ##aff ##able".split()
    )
