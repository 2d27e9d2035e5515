"""DataCollatorForLanguageModeling: shares, special tokens, the same seed; and the native Trainer takes its batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smhf_native import transformers as hf


@pytest.fixture
def tokenizer(tiny_model: Path) -> Any:
    return hf.AutoTokenizer.from_pretrained(tiny_model)


def rows_of(tokenizer: Any) -> list[dict[str, Any]]:
    texts = ["good nice dress", "bad shirt", "very small size and a very large color " * 3] * 60
    return [{"input_ids": tokenizer(text)["input_ids"], "label": 1} for text in texts]


def test_batches(tokenizer: Any) -> None:
    rows = rows_of(tokenizer)
    batch = hf.DataCollatorForLanguageModeling(tokenizer, seed=3)(rows)
    ids, labels = np.asarray(batch["input_ids"]), np.asarray(batch["labels"])
    mask = np.asarray(batch["attention_mask"])
    assert set(batch) >= {"input_ids", "attention_mask", "labels"} and ids.shape == labels.shape == mask.shape
    for row, original in enumerate(rows):
        whole = np.array(original["input_ids"])
        picked = labels[row] != -100
        assert not picked[len(whole) :].any()
        special = np.isin(whole, tokenizer.all_special_ids)
        assert not picked[: len(whole)][special].any()
        assert np.array_equal(labels[row][picked], whole[picked[: len(whole)]])
        assert np.array_equal(ids[row][: len(whole)][~picked[: len(whole)]], whole[~picked[: len(whole)]])
    words = sum((~np.isin(row["input_ids"], tokenizer.all_special_ids)).sum() for row in rows)
    assert abs((labels != -100).sum() / words - 0.15) < 4 * np.sqrt(0.15 * 0.85 / words)
    hidden = ids[labels != -100] == tokenizer.mask_token_id
    assert 0.7 < hidden.mean() < 0.9
    again = hf.DataCollatorForLanguageModeling(tokenizer, seed=3)(rows)
    assert all(np.array_equal(batch[name], again[name]) for name in batch)
    always = hf.DataCollatorForLanguageModeling(
        tokenizer, mlm_probability=1.0, mask_replace_prob=1.0, random_replace_prob=0.0
    )(rows[:3])
    assert (
        np.asarray(always["input_ids"])[np.asarray(always["labels"]) != -100] == tokenizer.mask_token_id
    ).all()


def test_marks_of_the_rows_count(tokenizer: Any) -> None:
    ids = tokenizer("good nice dress")["input_ids"]
    marks = [1] * len(ids)
    marks[2] = 0
    collator = hf.DataCollatorForLanguageModeling(tokenizer, mlm_probability=1.0)
    labels = np.asarray(collator([{"input_ids": ids, "special_tokens_mask": marks}])["labels"])
    assert (labels[0] != -100).tolist() == [mark == 0 for mark in marks]


def test_the_engine_trains_on_them(tiny_model: Path, tokenizer: Any) -> None:
    from smhf_native.model import Model, Trainer

    model = Model.from_pretrained(tiny_model, task="masked-lm")
    trainer = Trainer(model, learning_rate=1e-2, schedule="constant")
    collator = hf.DataCollatorForLanguageModeling(tokenizer, seed=1)
    rows = rows_of(tokenizer)[:24]
    losses = [trainer.step(**collator(rows))["loss"] for _ in range(60)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_refusals(tokenizer: Any) -> None:
    with pytest.raises(NotImplementedError, match="mlm=False"):
        hf.DataCollatorForLanguageModeling(tokenizer, mlm=False)
    with pytest.raises(ValueError, match="mask_replace_prob"):
        hf.DataCollatorForLanguageModeling(tokenizer, mask_replace_prob=0.9, random_replace_prob=0.3)
