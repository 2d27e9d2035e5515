"""pipeline("text-classification"): shapes and scores of transformers, truncation, tables."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import smhf_native as smhf

LONG = "color " * 200


@pytest.fixture
def clf(tiny_model: Path) -> Any:
    return smhf.pipeline("text-classification", model=str(tiny_model))


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(equal, a, b))
    return a["label"] == b["label"] and abs(a["score"] - b["score"]) <= 1e-6


@pytest.mark.peers
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 1},
        {"top_k": 2},
        {"top_k": None},
        {"function_to_apply": "sigmoid"},
        {"function_to_apply": "none"},
    ],
)
def test_every_form_equals_transformers(
    peer: Any, tiny_model: Path, clf: Any, options: dict[str, Any]
) -> None:
    peer("torch")
    theirs = peer("transformers").pipeline("text-classification", model=str(tiny_model), device="cpu")
    pair = {"text": "the dress", "text_pair": "is soft"}
    for inputs in ("soft dress", ["soft dress"], ["soft dress", "awful", "tight it was"], pair, [pair, pair]):
        assert equal(clf(inputs, **options), theirs(inputs, **options)), (inputs, options)


def test_long_texts_are_cut_counted_and_announced_once(clf: Any) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answers = clf(["soft", LONG, LONG])
        clf(LONG)
    assert len(answers) == 3 and clf.truncated == 3
    assert len(caught) == 1 and "row 1 is longer than 64 tokens" in str(caught[0].message)
    with pytest.raises(ValueError, match="row 2 has 202 tokens, the model takes 64"):
        clf(["a", "b", LONG], truncation=False)
    assert clf.truncated == 3
    exact = clf("color " * 62, truncation=False)
    assert len(exact) == 1


def test_results_do_not_depend_on_the_batch(clf: Any) -> None:
    texts = [("soft " * (i % 60)).strip() or "a" for i in range(300)]
    together = clf.scores(texts)
    small = smhf.pipeline(model=clf.model, tokenizer=clf.tokenizer, token_budget=64)
    assert np.abs(together - small.scores(texts)).max() <= 1e-6
    assert np.abs(together - clf.scores(texts, batch_size=7)).max() <= 1e-6
    assert np.abs(together[::-1] - clf.scores(texts[::-1])).max() <= 1e-6
    assert clf([]) == [] and clf.scores([]).shape == (0, 2)


def test_predict_keeps_index_and_order_and_names_rows_without_text(clf: Any) -> None:
    pandas = pytest.importorskip("pandas")
    column = pandas.Series(
        ["soft dress", None, "awful", float("nan"), "", 7], index=list("fedcba"), dtype=object
    )
    frame = clf.predict(column)
    assert list(frame.index) == list("fedcba") and list(frame.columns) == ["label", "score", "error"]
    assert frame["error"].tolist() == [
        None, "no text (missing value)", None, "no text (missing value)", None, "no text (int)",
    ]  # fmt: skip
    good = frame[frame["error"].isna()]
    assert good["label"].tolist() == [a["label"] for a in clf(["soft dress", "awful", ""])]
    assert frame["score"].isna().tolist() == [False, True, False, True, False, True]
    with pytest.raises(ValueError, match=r"row 1: no text \(missing value\) \(3 of 6 rows"):
        clf.predict(column, errors="raise")
    whole = clf.predict(column.dropna().iloc[:3])
    assert list(whole.columns) == ["label", "score"]
    with pytest.raises(TypeError, match=r"one column.*'text'"):
        clf.predict(pandas.DataFrame({"text": ["a"]}))
    assert len(clf.predict(pandas.Series([], dtype=object))) == 0


def test_many_rows(clf: Any) -> None:
    pytest.importorskip("pandas")
    texts = ["soft dress", "awful color it was"] * 10_000
    frame = clf.predict(texts)
    assert len(frame) == 20_000 and frame["label"].nunique() <= 2
    two = clf(texts[:2])
    assert np.allclose(frame["score"].to_numpy()[:2], [a["score"] for a in two], atol=1e-6)
    assert np.allclose(frame["score"].to_numpy().reshape(-1, 2), frame["score"].to_numpy()[:2], atol=1e-6)


def test_a_vocabulary_that_is_not_the_models_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    from smhf_native.tokenizer import Tokenizer

    tokens = (tiny_model / "vocab.txt").read_text().splitlines()
    Tokenizer.from_vocab([*tokens, "extra"]).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=f"tokenizer has {len(tokens) + 1} tokens, the model's vocabulary {len(tokens)}"
    ):
        smhf.pipeline(model=str(tiny_model), tokenizer=str(tmp_path))


def test_wrong_use_is_named(clf: Any, tiny_model: Path) -> None:
    with pytest.raises(TypeError, match="row 1 is NoneType, expected str"):
        clf(["a", None])
    with pytest.raises(ValueError, match="task 'translation' is not supported"):
        smhf.pipeline("translation", model=str(tiny_model))
    with pytest.raises(TypeError, match=r"'topk'.*'top_k'"):
        clf("a", topk=1)
    with pytest.raises(ValueError, match="function_to_apply='relu'"):
        clf("a", function_to_apply="relu")
    with pytest.raises(TypeError, match="row 0: expected a dict with text"):
        clf([{"txt": "a"}])
    with pytest.raises(OSError, match="nowhere"):
        smhf.pipeline("text-classification", model="./nowhere")
