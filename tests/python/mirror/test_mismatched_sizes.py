"""A head of another size than the checkpoint's: refused with a hint, or newly made, as transformers does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smhf_native import transformers

SIZES: dict[str, Any] = {
    "vocab_size": 50, "dim": 16, "n_heads": 2, "n_layers": 1, "hidden_dim": 32, "max_position_embeddings": 16,
}  # fmt: skip
HEAD = ["classifier.bias", "classifier.weight"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = transformers.DistilBertForSequenceClassification(transformers.DistilBertConfig(num_labels=3, **SIZES))
    model.save_pretrained(tmp_path / "three")
    return tmp_path / "three"


def test_it_is_refused_with_a_hint(folder: Path) -> None:
    with pytest.raises(ValueError, match=r'"classifier.weight".*\[5, 16\].*\[3, 16\].*ignore_mismatched_sizes=True'):
        transformers.DistilBertForSequenceClassification.from_pretrained(folder, num_labels=5)


def test_the_head_alone_is_made_anew(folder: Path) -> None:
    before = transformers.DistilBertForSequenceClassification.from_pretrained(folder).native.parameters()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=5, ignore_mismatched_sizes=True
    )
    after = model.native.parameters()
    assert after["classifier.weight"].shape == (5, 16) and after["classifier.bias"].shape == (5,)
    assert sorted(model.native.load_report.missing) == HEAD and sorted(model.native.load_report.unexpected) == HEAD
    for name in set(after) - set(HEAD):
        assert np.array_equal(after[name], before[name]), name
    assert model(np.array([[3, 4]])).logits.shape == (1, 5)


def test_nothing_but_the_head_may_differ(folder: Path) -> None:
    config = transformers.DistilBertConfig(num_labels=3, **{**SIZES, "hidden_dim": 48})
    with pytest.raises(ValueError, match=r"ffn\.lin1.*asks for shape \[48"):
        transformers.DistilBertForSequenceClassification.from_pretrained(
            folder, config=config, ignore_mismatched_sizes=True
        )


@pytest.mark.peers
def test_transformers_keeps_the_same_weights(peer: Any, folder: Path) -> None:
    theirs = peer("transformers").DistilBertForSequenceClassification.from_pretrained(
        folder, num_labels=5, ignore_mismatched_sizes=True
    )
    ours = transformers.DistilBertForSequenceClassification.from_pretrained(
        folder, num_labels=5, ignore_mismatched_sizes=True
    ).native.parameters()
    for name, value in theirs.state_dict().items():
        assert ours[name].shape == tuple(value.shape), name
        if name not in HEAD:
            assert np.array_equal(ours[name], value.numpy()), name
