"""The Python face: inputs, outputs, errors, files, threads."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import smhf_native as smhf
from smhf_native.errors import BackendError, ParseError
from smhf_native.tokenizer import AddedToken

ROWS = ["Hello world", "a b c", "", "unaffable, ab!"]


def test_inputs_of_every_kind(small: smhf.Tokenizer, peer: Any) -> None:
    pandas = peer("pandas")
    expected = small(ROWS, padding=True).input_ids
    series = pandas.Series(ROWS, index=[9, 3, 5, 7])
    for texts in (
        tuple(ROWS), np.array(ROWS), np.array(ROWS, dtype=object), series, series.astype("string"),
        series.astype("category"), iter(ROWS), [t.encode() for t in ROWS], dict.fromkeys(ROWS).keys(),
    ):  # fmt: skip
        np.testing.assert_array_equal(small(texts, padding=True).input_ids, expected)
    one = small("Hello world")
    assert one.input_ids.tolist() == [[2, 11, 12, 3]]
    np.testing.assert_array_equal(small(np.array("Hello world")).input_ids, one.input_ids)


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (["a", None], r"texts\[1\]: expected str or bytes, got NoneType"),
        (["a", "b", float("nan")], r"texts\[2\]: expected str or bytes, got float"),
        ([["a", "b"]], r"texts\[0\]: expected str or bytes, got list"),
        (None, "texts: expected str or a sequence of str, got None"),
        (17, "texts: expected str or a sequence of str, got int"),
    ],
)
def test_wrong_types_name_the_row(small: smhf.Tokenizer, texts: Any, sentence: str) -> None:
    with pytest.raises(TypeError, match=sentence):
        small(texts)


def test_wrong_values(small: smhf.Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"texts\[1\]: lone surrogate U\+D800 at character 2"):
        small(["fine", "ab\ud800"])
    with pytest.raises(ValueError, match=r"pairs\[0\]: lone surrogate"):
        small(["a"], ["\udfff"])
    with pytest.raises(ValueError, match="pairs: expected as many as texts, got 1 and 2"):
        small(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="max_length 1: expected at least 2"):
        small(["a"], truncation=True, max_length=1)
    with pytest.raises(ValueError, match="max_length 2: expected at least 3"):
        small(["a"], ["b"], truncation=True, max_length=2)
    with pytest.raises(ValueError, match="stride 2"):
        small(["a b c a b c"], truncation=True, max_length=4, stride=2)
    with pytest.raises(ValueError, match="truncation: expected"):
        small(["a"], truncation="shortest")
    with pytest.raises(ValueError, match="padding: expected"):
        small(["a"], padding="longst")
    with pytest.raises(ValueError, match="give max_length"):
        small(["a"], padding="max_length")
    with pytest.raises(ValueError, match="padding_side"):
        small(["a"], padding=True, padding_side="up")
    with pytest.raises(ValueError, match="one dimension"):
        small(np.array([["a"]]))
    with pytest.raises(ValueError, match=r"texts\[0\]: .* second text.* has just 1"):
        small(["a b c a b c"], ["a"], truncation="only_second", max_length=6)


def test_shapes_and_views(small: smhf.Tokenizer) -> None:
    enc = small(ROWS)
    assert [row.tolist() for row in enc.input_ids] == [[2, 11, 12, 3], [2, 5, 6, 7, 3], [2, 3],
                                                      [2, 15, 16, 17, 13, 8, 14, 3]]  # fmt: skip
    assert all(row.dtype == np.int64 for row in enc.input_ids)
    assert enc.lengths.tolist() == [4, 5, 2, 8]
    ids, cu = enc.packed()
    assert (ids.dtype, cu.dtype, ids.flags.writeable) == (np.int32, np.int32, False)
    assert cu.tolist() == [0, 4, 9, 11, 19]
    del enc  # views keep the memory
    assert ids[:4].tolist() == [2, 11, 12, 3]
    padded = small(ROWS, padding="max_length", max_length=10, padding_side="left")
    assert padded.input_ids.shape == (4, 10)
    assert padded.attention_mask.sum(axis=1).tolist() == [4, 5, 2, 8]
    assert padded.attention_mask[2].tolist() == [0] * 8 + [1, 1]
    assert padded.input_ids is padded["input_ids"]
    assert small(ROWS, padding=True, pad_to_multiple_of=16).input_ids.shape == (4, 16)
    empty = small([], padding=True)
    assert (len(empty), empty.input_ids.shape) == (0, (0, 0))
    assert small([]).input_ids == []


def test_details_come_later_or_at_once(small: smhf.Tokenizer) -> None:
    texts = list(ROWS)
    lazy, eager = small(texts, padding=True), small(texts, padding=True, details=True)
    texts[0] = "changed afterwards"
    for name in ("offsets", "word_ids", "sequence_ids", "special_tokens_mask", "input_ids"):
        np.testing.assert_array_equal(getattr(lazy, name), getattr(eager, name))


def test_truncation_is_told(small: smhf.Tokenizer) -> None:
    enc = small(ROWS, truncation=True, max_length=5, padding=True)
    assert enc.truncated.tolist() == [False, False, False, True]
    assert enc.truncated_count == 1
    parts = small(ROWS, truncation=True, max_length=5, stride=1, return_overflowing_tokens=True, padding=True)
    assert parts.overflow_to_sample_mapping.tolist() == [0, 1, 2, 3, 3, 3]


def test_vocabulary(small: smhf.Tokenizer) -> None:
    vocab = small.get_vocab()
    assert len(small) == small.vocab_size == len(vocab) == 18
    assert small.convert_tokens_to_ids(["ab", "nope", "[SEP]"]) == [8, 1, 3]
    assert small.convert_ids_to_tokens([2, 8, 99], skip_special_tokens=True) == ["ab", None]
    assert (small.token_to_id("nope"), small.id_to_token(99), small.id_to_token(-1)) == (None, None, None)
    assert small.tokenize("unaffable abc") == ["un", "##aff", "##able", "ab", "##c"]
    assert (small.cls_token, small.sep_token_id, small.mask_token_id) == ("[CLS]", 3, 4)
    assert small.decode(np.array([2, 15, 16, 17, 14, 3]), skip_special_tokens=True) == "unaffable!"
    assert small.decode(8) == "ab"
    assert small.decode([2**40, 8]) == "ab"
    with pytest.raises(TypeError, match="integers"):
        small.decode([0.5])
    more = small.with_tokens(["<x>"], special=True)
    assert more.token_to_id("<x>") == 18 and small.token_to_id("<x>") is None
    assert more.tokenize("a<x>b") == ["a", "<x>", "b"]
    assert more.added_tokens[18] == AddedToken("<x>", normalized=False, special=True)


def test_broken_files(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(b"[UNK]\n[CLS]\n[SEP]\nab\xff\n")
    with pytest.raises(ParseError, match=r"vocab\.txt: vocabulary line 4, byte 20: not UTF-8") as failure:
        smhf.Tokenizer.from_pretrained(path)
    assert failure.value.offset == 20
    path.write_text("a\nb\n")
    with pytest.raises(ParseError, match=r"no unknown token \"\[UNK\]\""):
        smhf.Tokenizer.from_pretrained(path)
    file = tmp_path / "tokenizer.json"
    file.write_text('{"model": {"type": "BPE", "vocab": {}, "merges": []}}')
    with pytest.raises(BackendError, match='model "BPE" is not supported, only WordPiece'):
        smhf.Tokenizer.from_pretrained(tmp_path)
    file.write_text('{"model": {"type": "WordPiece", "vocab": {"a": }}}')
    with pytest.raises(ParseError, match="byte 47") as failure:
        smhf.Tokenizer.from_pretrained(file)
    assert failure.value.offset == 47
    with pytest.raises(FileNotFoundError):
        smhf.Tokenizer.from_pretrained(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(OSError, match=r"expected tokenizer\.json or vocab\.txt"):
        smhf.Tokenizer.from_pretrained(tmp_path / "empty")
    with pytest.raises(TypeError):
        smhf.Tokenizer.from_pretrained(path, no_such_option=True)


def test_missing_unknown_token_is_an_error_of_the_row() -> None:
    text = json.dumps({
        "normalizer": {"type": "BertNormalizer", "lowercase": True}, "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "vocab": {"a": 0}},
    })  # fmt: skip
    tokenizer = smhf.Tokenizer.from_json(text)
    assert tokenizer(["a A"]).input_ids.tolist() == [[0, 0]]
    with pytest.raises(ValueError, match=r'texts\[1\]: the word at character 2 .* "\[UNK\]"'):
        tokenizer(["a", "a b"])


def test_configuration_files(tmp_path: Path, small: smhf.Tokenizer) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(small.get_vocab()) + "\n")
    config: dict[str, Any] = {
        "do_lower_case": False, "strip_accents": None, "tokenize_chinese_chars": False, "model_max_length": 6,
        "padding_side": "left", "truncation_side": "left", "cls_token": {"content": "[SEP]"},
        "added_tokens_decoder": {"18": {"content": "<x>", "special": True, "normalized": False}},
    }  # fmt: skip
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = smhf.Tokenizer.from_pretrained(tmp_path)
    assert (loaded.do_lower_case, loaded.strip_accents, loaded.tokenize_chinese_chars) == (False, False, False)
    assert (loaded.model_max_length, loaded.padding_side, loaded.truncation_side) == (6, "left", "left")
    assert (loaded.cls_token_id, loaded.token_to_id("<x>")) == (3, 18)
    # the last four tokens between the class token that the file names and the separator
    assert loaded(["a b c un hello"], truncation=True).input_ids.tolist() == [[3, 6, 7, 15, 11, 3]]
    config["model_max_length"] = 1e30
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert smhf.Tokenizer.from_pretrained(tmp_path).model_max_length is None
    overridden = smhf.Tokenizer.from_pretrained(tmp_path, do_lower_case=True, model_max_length=8)
    assert (overridden.do_lower_case, overridden.model_max_length) == (True, 8)
    config["padding_side"] = "top"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(ParseError, match=r"tokenizer_config\.json: padding_side at byte"):
        smhf.Tokenizer.from_pretrained(tmp_path)


def test_hub_name_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: smhf.Tokenizer) -> None:
    model = tmp_path / "hub" / "models--some--tokenizer"
    small.save_pretrained(model / "snapshots" / "abc")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("abc")
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert smhf.Tokenizer.from_pretrained("some/tokenizer").get_vocab() == small.get_vocab()
    with pytest.raises(OSError, match="no/such"):
        smhf.Tokenizer.from_pretrained("no/such")


def test_old_added_tokens_file(tmp_path: Path, small: smhf.Tokenizer) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(small.get_vocab()) + "\n")
    (tmp_path / "added_tokens.json").write_text('{"<y>": 19, "<x>": 18}')
    loaded = smhf.Tokenizer.from_pretrained(tmp_path)
    assert (loaded.token_to_id("<x>"), loaded.token_to_id("<y>")) == (18, 19)
    assert loaded.tokenize("a<y>b") == ["a", "<y>", "b"]


def test_saved_files_load_everywhere(tmp_path: Path, small: smhf.Tokenizer, tokenizers_peer: Any) -> None:
    tokenizer = small.with_tokens([AddedToken("<x>", special=True), AddedToken("New York", lstrip=True)])
    paths = tokenizer.save_pretrained(tmp_path / "saved")
    assert sorted(Path(p).name for p in paths) == [
        "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt",
    ]  # fmt: skip
    texts = ["a <x> b  New York!", "Hello [SEP] unaffable", "é\u0301"]
    theirs = tokenizers_peer.Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    expected = [e.ids for e in theirs.encode_batch(texts)]
    again = smhf.Tokenizer.from_pretrained(tmp_path / "saved")
    for loaded in (tokenizer, again, pickle.loads(pickle.dumps(tokenizer))):
        assert [row.tolist() for row in loaded(texts).input_ids] == expected
    assert theirs.get_vocab() == tokenizer.get_vocab()


@pytest.mark.peers
def test_saved_files_load_in_transformers(tmp_path: Path, small: smhf.Tokenizer, peer: Any) -> None:
    transformers = peer("transformers")
    tokenizer = smhf.Tokenizer.from_vocab(list(small.get_vocab()), do_lower_case=False, model_max_length=9)
    tokenizer.save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    texts = ["a b Hello hello", "unaffable, é ab! [MASK]"]
    expected = theirs(texts, padding=True, truncation=True, return_tensors="np")
    enc = tokenizer(texts, padding=True, truncation=True)
    np.testing.assert_array_equal(enc.input_ids, expected["input_ids"])
    np.testing.assert_array_equal(enc.attention_mask, expected["attention_mask"])
    assert theirs.model_max_length == 9
    theirs.save_pretrained(str(tmp_path / "theirs"))
    back = smhf.Tokenizer.from_pretrained(tmp_path / "theirs")
    assert (back.do_lower_case, back.model_max_length) == (False, 9)
    np.testing.assert_array_equal(back(texts, padding=True, truncation=True).input_ids, enc.input_ids)


def test_threads_share_one_tokenizer(small: smhf.Tokenizer) -> None:
    """Eight threads with different options: truncation and padding are no state."""
    texts = ROWS * 30
    wanted = {n: small(texts, truncation=True, max_length=n, padding="max_length").input_ids for n in range(3, 11)}
    wrong: list[int] = []

    def work(length: int) -> None:
        for _ in range(40):
            enc = small(texts, truncation=True, max_length=length, padding="max_length", details=True)
            if not np.array_equal(enc.input_ids, wanted[length]):
                wrong.append(length)

    threads = [threading.Thread(target=work, args=(n,)) for n in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def _encode_in_child(queue: Any, tokenizer: smhf.Tokenizer) -> None:
    queue.put(tokenizer(ROWS * 100, padding=True).input_ids.sum())


def test_fork_after_threads(small: smhf.Tokenizer) -> None:
    expected = small(ROWS * 100, padding=True).input_ids.sum()  # starts the pool
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_encode_in_child, args=(queue, small))
    child.start()
    assert queue.get(timeout=30) == expected
    child.join(10)
    assert child.exitcode == 0


def test_capsule_outlives_the_tokenizer() -> None:
    tokenizer = smhf.Tokenizer.from_vocab(["[UNK]", "[CLS]", "[SEP]", "a"])
    capsule = tokenizer._capsule()
    assert '"smhf.tokenizer"' in repr(capsule)
    del tokenizer
    del capsule


def test_long_texts(small: smhf.Tokenizer) -> None:
    assert small(["a" * 1_000_000]).lengths.tolist() == [3]
    assert small(["ab " * 100_000]).lengths.tolist() == [100_002]
    marks = "e" + "\u0301\u1b44" * 50_000  # a run of marks that needs canonical ordering
    assert small([marks]).lengths.tolist() == [3]
