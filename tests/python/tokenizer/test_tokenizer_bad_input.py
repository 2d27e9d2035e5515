"""What a tokenizer refuses: the sentence names row, word, character, line or byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import smhf_native as smhf
from smhf_native import transformers as hf
from smhf_native.errors import BackendError, ParseError

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b"]


@pytest.mark.parametrize(
    ("texts", "options", "sentence"),
    [
        (["a", b"b\xff"], {}, r"texts\[1\]: invalid UTF-8 at byte 1"),
        (["a", b"\xed\xa0\x80"], {}, r"texts\[1\]: invalid UTF-8 at byte 0"),
        (["a", bytearray(b"a")], {}, r"texts\[1\]: expected str or bytes, got bytearray"),
        ({"a"}, {}, "texts: expected str or a sequence of str, got set"),
        (["\ud83d\ude00"], {}, r"texts\[0\]: lone surrogate U\+D83D at character 0"),  # two code points, no pair
        (["a" * 70 + "\udfff"], {}, r"texts\[0\]: lone surrogate U\+DFFF at character 70"),
        ([["a", "b"], ["a", None]], {"is_split_into_words": True}, r"texts\[1\]\[1\]: expected str or bytes, got N"),
        ([["a"], [], ["b", "\ud800"]], {"is_split_into_words": True}, r"texts\[2\]\[1\]: lone surrogate U\+D800"),
        ([["a"], "b"], {"is_split_into_words": True}, r"texts\[1\]: expected a list of words, got str"),
        ([["a"], None], {"is_split_into_words": True}, r"texts\[1\]: expected a list of words, got NoneType"),
        (np.array(["a", np.nan], dtype=object), {}, r"texts\[1\]: expected str or bytes, got float"),
        (np.array([1, 2]), {}, r"texts\[0\]: expected str or bytes, got int"),
    ],
)
def test_rows(small: smhf.Tokenizer, texts: Any, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises((TypeError, ValueError), match=sentence):
        small(texts, **options)
    with pytest.raises((TypeError, ValueError), match=sentence.replace("texts", "pairs", 1)):
        small([["a"] if options else "a"] * len(texts), texts, **options)
    assert small(["a"]).input_ids.tolist() == [[2, 5, 3]]  # nothing is left of the failure


def test_utf8_bytes_are_texts(small: smhf.Tokenizer) -> None:
    texts = ["hello é中\U0001f600", "", "a\0b"]
    encoded = small([text.encode() for text in texts], details=True)
    expected = small(texts, details=True)
    for name in ("ids", "offsets"):
        np.testing.assert_array_equal(encoded.packed_field(name), expected.packed_field(name))


@pytest.mark.parametrize(
    ("lines", "sentence", "offset"),
    [
        (b"", "vocabulary is empty", 0),
        (b"a\nb\n", r'no unknown token "\[UNK\]"', None),
        (b"[UNK]\na\n", r'no token "\[CLS\]"', None),
        (b"[UNK]\n[CLS]\n[SEP]\nab\xff\n", "vocabulary line 4, byte 20: not UTF-8", 20),
        (b"[UNK]\n[CLS]\n[SEP]\n\xed\xa0\x80\n", "vocabulary line 4, byte 18: not UTF-8", 18),
        (b"[UNK]\n[CLS]\n[SEP]\na\0\n", "vocabulary line 4, byte 19: unexpected NUL", 19),
        (b"[UNK]\n[CLS]\n[SEP]\n" + b"x" * 70_000, "token 3 has 70000 bytes", None),
    ],
)
def test_vocabularies(tmp_path: Path, lines: bytes, sentence: str, offset: int | None) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(lines)
    for load in (smhf.Tokenizer.from_pretrained, hf.AutoTokenizer.from_pretrained):
        with pytest.raises(ParseError, match=sentence) as failure:
            load(path if load == smhf.Tokenizer.from_pretrained else tmp_path)
        assert failure.value.offset == offset and str(failure.value).startswith(str(tmp_path))


def tokenizer_file() -> dict[str, Any]:
    """The fields of a small tokenizer.json."""
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": i, "content": TOKENS[i], "special": True} for i in range(5)],
        "normalizer": {"type": "BertNormalizer", "lowercase": True}, "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": {token: i for i, token in enumerate(TOKENS)}},
    }  # fmt: skip


CHANGES: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda f: f["model"].update(type="BPE", merges=[]), 'model "BPE" is not supported, only WordPiece'),
    (lambda f: f.update(model={"type": "Unigram", "vocab": [["a", -1.0]]}), 'model "Unigram" is not supported'),
    (lambda f: f["model"].update(type="WordLevel"), 'model "WordLevel" is not supported'),
    (lambda f: f.update(normalizer={"type": "NFKC"}), 'normalizer "NFKC" is not supported'),
    (lambda f: f.update(pre_tokenizer={"type": "ByteLevel"}), 'pre_tokenizer "ByteLevel" is not supported'),
    (lambda f: f.update(decoder={"type": "Metaspace"}), 'decoder "Metaspace" is not supported'),
    (lambda f: f["post_processor"].update(type="RobertaProcessing"), '"RobertaProcessing" is not supported'),
]
FAULTS: list[tuple[Callable[[dict[str, Any]], object], str, str]] = [
    (lambda f: f["model"]["vocab"].update(a=-1), "model vocab id at byte {}: -1 is outside", ": -1"),
    (lambda f: f["model"]["vocab"].update(a="5"), "model vocab id: expected number, found string at byte {}", ': "5"'),
    (lambda f: f["model"]["vocab"].update(a=1.5), "found 1.5 at byte {}", ": 1.5"),
    (lambda f: f["model"]["vocab"].update(a=10**12), "byte {}: 1000000000000 is outside", ": 1000000000000"),
    (lambda f: f["added_tokens"][2].update(id="x"), "added_tokens id: .* found string at byte {}", ': "x"'),
    (lambda f: f["normalizer"].update(lowercase=5), "lowercase at byte {}: expected true or false", ": 5}"),
    (lambda f: f.update(normalizer=[]), "normalizer at byte {}: expected an object or null, found array", ": []"),
    (lambda f: f["model"].update(unk_token=7), "found number at byte {}", ": 7"),
]


@pytest.mark.parametrize(("change", "sentence"), CHANGES)
def test_other_kinds_are_refused_by_name(tmp_path: Path, change: Any, sentence: str) -> None:
    file = tokenizer_file()
    change(file)
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    for load in (smhf.Tokenizer.from_pretrained, hf.AutoTokenizer.from_pretrained):
        with pytest.raises(BackendError, match=sentence):
            load(tmp_path)


@pytest.mark.parametrize(("change", "sentence", "at"), FAULTS)
def test_faults_of_tokenizer_json(tmp_path: Path, change: Any, sentence: str, at: str) -> None:
    file = tokenizer_file()
    change(file)
    text = json.dumps(file)
    place = text.rindex(at) + 2  # of the value, behind ": "
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ParseError, match=rf"tokenizer\.json: .*{sentence.format(place)}") as failure:
        smhf.Tokenizer.from_pretrained(tmp_path)
    assert failure.value.offset == place


def test_tokenizer_json_cut_anywhere(tmp_path: Path) -> None:
    text = json.dumps(tokenizer_file())
    assert smhf.Tokenizer.from_json(text)("a").input_ids.tolist() == [[2, 5, 3]]
    for cut in range(len(text)):
        with pytest.raises(ParseError, match="JSON: expected ") as failure:
            smhf.Tokenizer.from_json(text[:cut])
        # At the cut, or where a literal that it hurts begins.
        assert cut - 4 <= failure.value.offset <= cut and f"at byte {failure.value.offset}" in str(failure.value)
    with pytest.raises(ParseError, match=f"expected the end of input, found 'x' at byte {len(text)}"):
        smhf.Tokenizer.from_json(text + "x")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("tokenizer_config.json", "{", "found the end of input at byte 1"),
        ("tokenizer_config.json", "[1]", "expected object, found array at byte 0"),
        ("tokenizer_config.json", '{"do_lower_case": "x"}', "do_lower_case at byte 18"),
        ("tokenizer_config.json", '{"model_max_length": "x"}', "model_max_length at byte 21"),
        ("tokenizer_config.json", '{"unk_token": 5}', "unk_token at byte 14"),
        ("special_tokens_map.json", '{"unk_token": ]', r"found '\]' at byte 14"),
    ],
)
def test_settings(tmp_path: Path, name: str, text: str, sentence: str) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    (tmp_path / name).write_text(text)
    for load in (smhf.Tokenizer.from_pretrained, hf.AutoTokenizer.from_pretrained):
        with pytest.raises(ParseError, match=rf"{name}: .*{sentence}"):
            load(tmp_path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("merges.txt", "BPE"), ("spiece.model", "SentencePiece"), ("sentencepiece.bpe.model", "SentencePiece")],
)
def test_folders_of_other_kinds(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_text("")
    (tmp_path / "vocab.json").write_text("{}")
    for load in (smhf.Tokenizer.from_pretrained, hf.AutoTokenizer.from_pretrained):
        with pytest.raises(BackendError, match=rf"{name} says that this is a {kind} tokenizer.*only BERT's WordPiece"):
            load(tmp_path)


def test_the_mirror_takes_no_bytes(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(TOKENS) + "\n")
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match=r"texts\[1\]: expected str, got bytes"):
        tokenizer(["a", b"a"])
    with pytest.raises(TypeError, match=r"pairs\[0\]: expected str, got bytes"):
        tokenizer(["a"], [b"a"])
