"""AutoTokenizer of the mirror: shapes and values of transformers' own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smhf_native import transformers as hf
from smhf_native.datasets import Dataset

TEXTS = ["The dress is soft, very soft", "it was awful", "", "color " * 90]


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return hf.AutoTokenizer.from_pretrained(tiny_model)


@pytest.mark.peers
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": True},
        {"padding": "max_length", "truncation": True},
        {"padding": "max_length", "truncation": True, "max_length": 16},
        {"truncation": True, "max_length": 8},
        {"padding": "longest", "truncation": True, "pad_to_multiple_of": 8},
        {"add_special_tokens": False, "truncation": True},
        {"truncation": True, "padding": True, "return_tensors": "np"},
        {"truncation": True, "return_special_tokens_mask": True, "return_token_type_ids": True},
        {"truncation": True, "return_attention_mask": False, "return_offsets_mapping": True},
    ],
)
def test_calls_equal_transformers(
    peer: Any, tiny_model: Path, tokenizer: Any, options: dict[str, Any]
) -> None:
    theirs = peer("transformers").AutoTokenizer.from_pretrained(tiny_model, use_fast=True)

    def plain(encoding: Any) -> dict[str, Any]:
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in encoding.items()}

    texts = TEXTS if options.get("truncation") else TEXTS[:3]
    assert plain(tokenizer(texts, **options)) == plain(theirs(texts, **options))
    if "return_tensors" not in options:
        assert dict(tokenizer(texts[0], **options)) == dict(theirs(texts[0], **options))
    pairs = tokenizer(texts, texts[::-1], **{**options, "truncation": True})
    assert plain(pairs) == plain(theirs(texts, texts[::-1], **{**options, "truncation": True}))


@pytest.mark.peers
def test_attributes_decode_and_pad_equal_transformers(peer: Any, tiny_model: Path, tokenizer: Any) -> None:
    theirs = peer("transformers").AutoTokenizer.from_pretrained(tiny_model, use_fast=True)
    for name in (
        "vocab_size",
        "model_max_length",
        "padding_side",
        "pad_token_id",
        "cls_token_id",
        "sep_token",
        "unk_token_id",
    ):
        assert getattr(tokenizer, name) == getattr(theirs, name), name
    assert tokenizer.get_vocab() == theirs.get_vocab() and len(tokenizer) == len(theirs)
    ids = tokenizer(TEXTS[0])["input_ids"]
    assert tokenizer.decode(ids) == theirs.decode(ids)
    assert tokenizer.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    assert tokenizer.tokenize(TEXTS[0]) == theirs.tokenize(TEXTS[0])
    assert tokenizer.convert_ids_to_tokens(ids) == theirs.convert_ids_to_tokens(ids)
    assert tokenizer.convert_tokens_to_ids(["soft", "nope"]) == theirs.convert_tokens_to_ids(["soft", "nope"])
    rows = [{**tokenizer(text), "label": i} for i, text in enumerate(TEXTS[:3])]
    assert dict(tokenizer.pad(rows)) == dict(theirs.pad(rows))
    ours = hf.DataCollatorWithPadding(tokenizer)([dict(row) for row in rows])
    expected = peer("transformers").DataCollatorWithPadding(theirs, return_tensors="np")(
        [dict(row) for row in rows]
    )
    assert {k: v.tolist() for k, v in ours.items()} == {k: v.tolist() for k, v in expected.items()}


def test_mapping_makes_compact_columns_and_lists_on_demand(tokenizer: Any) -> None:
    data = Dataset.from_dict({"text": TEXTS}).map(
        lambda b: tokenizer(b["text"], padding="max_length", truncation=True), batched=True
    )
    ids, mask = data.packed_rows("input_ids"), data.packed_rows("attention_mask")
    assert ids.flat.nbytes + mask.flat.nbytes <= 4 * 64 * 2
    assert data[1]["input_ids"] == tokenizer(TEXTS[1], padding="max_length")["input_ids"]

    def shifted(batch: Any) -> Any:
        encoding = tokenizer(batch["text"], truncation=True)
        encoding["input_ids"][0][0] = 7  # changed in place: it must count
        encoding["labels"] = [1] * len(batch["text"])
        return encoding

    changed = Dataset.from_dict({"text": TEXTS}).map(shifted, batched=True)
    assert changed[0]["input_ids"][0] == 7 and changed[3]["labels"] == 1


def test_files_written_are_read_back_and_by_transformers(
    tokenizer: Any, tmp_path: Path, tiny_model: Path
) -> None:
    written = tokenizer.save_pretrained(tmp_path)
    assert {Path(path).name for path in written} >= {"vocab.txt", "tokenizer_config.json"}
    again = hf.AutoTokenizer.from_pretrained(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab() and again.model_max_length == 64
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["model_max_length"] == 64
    assert hf.DistilBertTokenizerFast.from_pretrained(str(tiny_model)).vocab_size == tokenizer.vocab_size


def test_errors_name_the_matter(tokenizer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TypeError, match=r"'truncaton'.*'truncation'"):
        tokenizer("a", truncaton=True)
    with pytest.raises(ValueError, match=r"'input_ids' differ in length"):
        tokenizer(["a", "dress is"], return_tensors="pt")
    with pytest.raises((TypeError, ValueError), match="1"):
        tokenizer(["a", None])
    with pytest.raises(ValueError, match="return_tensors='tf'"):
        tokenizer("a", return_tensors="tf")
    tokenizer(["color " * 90])
    tokenizer(["color " * 90])
    assert capsys.readouterr().err.count("longer than the specified maximum sequence length") == 1
