"""The mirror's tokenizer against transformers' fast one: real data, options drawn at random, every question."""

from __future__ import annotations

import copy
import csv
import json
import pickle
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smhf_native import transformers as hf
from smhf_native.errors import MissingExtraError

pytestmark = pytest.mark.peers
VOCABULARIES = ("uncased", "cased", "multilingual-cased")


@pytest.fixture(scope="module", params=VOCABULARIES)
def both(request: pytest.FixtureRequest, shared_data: Path, peer: Any, tmp_path_factory: Any) -> tuple[Any, Any]:
    """(transformers' tokenizer, the mirror's) of one folder."""
    folder = tmp_path_factory.mktemp(request.param)
    shutil.copyfile(shared_data / "vocab" / f"bert-base-{request.param}" / "vocab.txt", folder / "vocab.txt")
    settings = {
        "tokenizer_class": "BertTokenizer", "do_lower_case": request.param == "uncased", "model_max_length": 128,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return peer("transformers").AutoTokenizer.from_pretrained(folder), hf.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def rows(shared_data: Path) -> list[str]:
    """Real texts of several languages, some empty."""
    texts = []
    for path in sorted([*shared_data.glob("reviews/*.csv"), *shared_data.glob("text/*.csv")]):
        with path.open(newline="", encoding="utf-8") as file:
            texts += [row[0] for row in csv.reader(file)]
    for path in sorted(shared_data.glob("text/*.tsv")):
        texts += [line.split("\t")[0] for line in path.read_text(encoding="utf-8").splitlines()]
    return [*texts, "", " ", "[CLS] odd [SEP][MASK]", "ﬁne\u200d wörds"]


def call_both(theirs: Any, ours: Any, *args: Any, **options: Any) -> tuple[Any, Any]:
    """(theirs, ours), or twice the exception's class when they refuse; sides are attributes over there."""
    side = options.pop("truncation_side", "right")
    results = []
    for tokenizer in (theirs, ours):
        tokenizer.truncation_side = side
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                results.append(tokenizer(*copy.deepcopy(args), **options))
        except BaseException as failure:  # the reference panics where ours raises
            results.append(failure)
        finally:
            tokenizer.truncation_side = "right"
    return results[0], results[1]


def plain(encoding: Any) -> dict[str, Any]:
    """Lists of the columns; rows of an object array too."""
    return {
        name: [v.tolist() if hasattr(v, "tolist") else v for v in value] for name, value in encoding.items()
    }


def draw(rng: random.Random) -> dict[str, Any]:
    options: dict[str, Any] = {
        "padding": rng.choice([False, False, True, "longest", "max_length"]),
        "truncation": rng.choice([None, True, True, "longest_first", "only_first", False]),
        "max_length": rng.choice([None, 24, 40, 64]),
        "add_special_tokens": rng.random() < 0.8,
        "padding_side": rng.choice([None, "left", "right"]),
        "truncation_side": rng.choice(["left", "right"]),
        "return_token_type_ids": rng.choice([None, True, False]),
        "return_attention_mask": rng.choice([None, True, False]),
    }
    options["pad_to_multiple_of"] = rng.choice([None, None, 8])
    for name in (
        "return_overflowing_tokens", "return_special_tokens_mask", "return_offsets_mapping", "return_length",
        "split_special_tokens",
    ):  # fmt: skip
        options[name] = rng.random() < 0.4
    if options["truncation"] and options["max_length"]:
        options["stride"] = rng.choice([0, 0, 3, 8])
    return options


def same_rows(expected: Any, actual: Any, count: int) -> None:
    """Tokens, words, texts and characters of the first rows."""
    assert actual.n_sequences == expected.n_sequences and len(actual.encodings) == len(expected.encodings)
    for i in range(min(count, len(expected.encodings))):
        assert actual.tokens(i) == expected.tokens(i)
        assert actual.word_ids(i) == expected.word_ids(i)
        assert actual.sequence_ids(i) == expected.sequence_ids(i)
        theirs, ours = expected[i], actual[i]
        for name in ("ids", "type_ids", "tokens", "offsets", "attention_mask", "special_tokens_mask",
                     "word_ids", "sequence_ids", "n_sequences"):  # fmt: skip
            assert getattr(ours, name) == getattr(theirs, name), name
        assert len(ours) == len(theirs)
        for token in range(len(theirs)):
            assert actual.token_to_chars(i, token) == expected.token_to_chars(i, token)
            assert actual.token_to_word(i, token) == expected.token_to_word(i, token)
            assert actual.token_to_sequence(i, token) == expected.token_to_sequence(i, token)
        for sequence in range(expected.n_sequences):
            words = {w for w, s in zip(theirs.word_ids, theirs.sequence_ids, strict=True) if s == sequence}
            for word in {*words, 0, max(words, default=0) + 1}:
                span = expected.word_to_tokens(i, word, sequence)
                assert actual.word_to_tokens(i, word, sequence) == span
                if span is not None:
                    assert actual.word_to_chars(i, word, sequence) == expected.word_to_chars(i, word, sequence)
            for char in range(max((end for _, end in theirs.offsets), default=0) + 2):
                assert actual.char_to_token(i, char, sequence) == expected.char_to_token(i, char, sequence)
                assert actual.char_to_word(i, char, sequence) == expected.char_to_word(i, char, sequence)


def test_drawn_options_over_real_data(both: tuple[Any, Any], rows: list[str]) -> None:
    theirs, ours = both
    rng = random.Random(41)
    refused = agreed = 0
    for turn in range(160):
        options = draw(rng)
        texts = [row[: rng.choice([20, 200, 1000])] for row in rng.sample(rows, rng.randrange(1, 24))]
        pairs: Any = None
        if rng.random() < 0.45:
            pairs = [row[: rng.choice([10, 100])] for row in rng.sample(rows, len(texts))]
        shape = rng.randrange(4)
        arguments: tuple[Any, ...] = (texts, pairs)
        if shape == 0:  # one text
            arguments = (texts[0], pairs[0] if pairs else None)
        elif shape == 1:  # words
            options["is_split_into_words"] = True
            arguments = ([t.split() or ["a"] for t in texts], pairs and [p.split() or ["b"] for p in pairs])
        elif shape == 2 and pairs:  # tuples
            arguments = (list(zip(texts, pairs, strict=True)), None)
        if options.get("is_split_into_words") and rng.random() < 0.3:  # one row of words
            arguments = (arguments[0][0], arguments[1] and arguments[1][0])
        if options["padding"] is not False and not options["return_offsets_mapping"]:
            options["return_tensors"] = rng.choice([None, None, "np"])
        expected, actual = call_both(theirs, ours, *arguments, **options)
        if isinstance(expected, BaseException) or isinstance(actual, BaseException):
            assert isinstance(expected, BaseException) and isinstance(actual, ValueError), (options, expected, actual)
            refused += 1
            continue
        assert list(actual) == list(expected), options
        assert plain(actual) == plain(expected), options
        if turn % 4 == 0:
            same_rows(expected, actual, 2)
        agreed += 1
    assert agreed > 100 and refused > 0


def test_rows_of_all_the_data(both: tuple[Any, Any], rows: list[str]) -> None:
    theirs, ours = both
    part = rows[::5]  # tools/tokenizer_differential.py has them all
    expected = theirs(part, truncation=True, return_offsets_mapping=True)
    actual = ours(part, truncation=True, return_offsets_mapping=True)
    for name in expected:
        assert actual[name] == expected[name], name


def test_questions_answering_windows(both: tuple[Any, Any], rows: list[str]) -> None:
    """The way of question-answering scripts: questions, long contexts cut into windows that overlap."""
    theirs, ours = both
    contexts = [" ".join(rows[i : i + 12]) for i in range(0, 240, 12)]
    questions = rows[1000:1020]
    options = {
        "truncation": "only_second", "max_length": 64, "stride": 16, "padding": "max_length",
        "return_overflowing_tokens": True, "return_offsets_mapping": True,
    }  # fmt: skip
    questions = [question[:40] for question in questions]
    expected, actual = theirs(questions, contexts, **options), ours(questions, contexts, **options)
    assert plain(actual) == plain(expected) and len(actual["input_ids"]) > 3 * len(questions)
    same_rows(expected, actual, 6)
    windows = expected["overflow_to_sample_mapping"].count(0)
    assert [row.ids for row in actual[0].overflowing] == [row.ids for row in expected[0].overflowing]
    assert [row.ids for row in actual[1:windows]] == expected["input_ids"][1:windows]


def test_tensors_attributes_and_indices(both: tuple[Any, Any], rows: list[str], peer: Any) -> None:
    theirs, ours = both
    torch = peer("torch")
    expected = theirs(rows[:9], padding=True, truncation=True, return_tensors="pt")
    actual = ours(rows[:9], padding=True, truncation=True, return_tensors="pt")
    for name in expected:
        assert isinstance(actual[name], torch.Tensor) and actual[name].dtype == torch.int64
        assert torch.equal(actual[name], expected[name])
    assert actual.to("cpu")["input_ids"].device.type == "cpu"
    arrays = ours(rows[0], return_tensors="np")
    assert arrays.input_ids.shape == (1, len(ours(rows[0]).input_ids)) and arrays.input_ids.dtype == np.int64
    assert ours.encode(rows[0], return_tensors="np").tolist() == [theirs.encode(rows[0])]
    again = pickle.loads(pickle.dumps(ours(rows[:3])))
    assert dict(again) == dict(theirs(rows[:3]))
    with pytest.raises(AttributeError, match="labels"):
        _ = again.labels
    with pytest.raises(KeyError, match="no rows"):
        again[0]
    with pytest.raises(IndexError, match="row 3 of"):
        ours(rows[:3])[3]
    assert ours(rows[:3])[-1].ids == theirs(rows[:3])[2].ids
    copied = pickle.loads(pickle.dumps(ours))
    assert copied(rows[:5])["input_ids"] == theirs(rows[:5])["input_ids"]


def test_pad(both: tuple[Any, Any], rows: list[str]) -> None:
    theirs, ours = both
    rng = random.Random(43)
    for _ in range(40):
        options: dict[str, Any] = {
            "padding": rng.choice([True, "longest", "max_length", False]), "max_length": rng.choice([None, 200]),
            "pad_to_multiple_of": rng.choice([None, 8]), "padding_side": rng.choice([None, "left", "right"]),
            "return_attention_mask": rng.choice([None, True]),
        }  # fmt: skip
        options["return_tensors"] = rng.choice([None, "np"]) if options["padding"] else None
        encoded = theirs(rng.sample(rows, 5), truncation=True, return_special_tokens_mask=rng.random() < 0.5)
        given: Any = {name: list(encoded[name]) for name in encoded}
        if rng.random() < 0.5:
            given = [{name: given[name][i] for name in given} | {"label": i} for i in range(5)]
        elif rng.random() < 0.3:
            given = {name: values[0] for name, values in given.items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = theirs.pad(copy.deepcopy(given), **options)
            actual = ours.pad(copy.deepcopy(given), **options)
        assert plain(actual) == plain(expected), options
    arrays = [{"input_ids": np.array([1, 2, 3])}, {"input_ids": np.array([4])}]
    expected, actual = theirs.pad(arrays), ours.pad(arrays)
    assert type(actual["input_ids"]) is type(expected["input_ids"]) and plain(actual) == plain(expected)
    with pytest.raises(ValueError, match="input_ids"):
        ours.pad([{"label": 1}])


def test_decode_and_convert(both: tuple[Any, Any], rows: list[str]) -> None:
    theirs, ours = both
    rng = random.Random(47)
    samples = rng.sample(rows, 300)
    ids = theirs(samples)["input_ids"]
    for skip in (False, True):
        for clean in (None, True, False):
            options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
            assert ours.batch_decode(ids, **options) == theirs.batch_decode(ids, **options)
            assert ours.decode(ids[3], **options) == theirs.decode(ids[3], **options)
    assert ours.decode(np.array(ids[5])) == theirs.decode(ids[5])
    assert ours.decode(ids[6][1]) == theirs.decode(ids[6][1])
    assert ours.decode(ids[:3]) == theirs.decode(ids[:3])
    for row, text in zip(ids, samples, strict=True):
        tokens = theirs.convert_ids_to_tokens(row)
        assert ours.convert_ids_to_tokens(row) == tokens
        assert ours.convert_ids_to_tokens(row, skip_special_tokens=True) == theirs.convert_ids_to_tokens(
            row, skip_special_tokens=True
        )
        assert ours.convert_tokens_to_ids(tokens) == row
        assert ours.convert_tokens_to_string(tokens) == theirs.convert_tokens_to_string(tokens)
        assert ours.tokenize(text) == theirs.tokenize(text)
    assert ours.tokenize("a b", pair="c", add_special_tokens=True) == theirs.tokenize(
        "a b", pair="c", add_special_tokens=True
    )
    assert ours.convert_tokens_to_ids("no such token") == theirs.convert_tokens_to_ids("no such token")
    assert ours.get_special_tokens_mask(ids[0], already_has_special_tokens=True) == theirs.get_special_tokens_mask(
        ids[0], already_has_special_tokens=True
    )


def test_properties_added_tokens_and_files(
    both: tuple[Any, Any], rows: list[str], tmp_path: Path, peer: Any
) -> None:
    theirs, ours = both
    theirs, ours = copy.deepcopy(theirs), copy.deepcopy(ours)
    for name in (
        "vocab_size", "model_max_length", "padding_side", "truncation_side", "model_input_names",
        "special_tokens_map", "all_special_tokens", "all_special_ids", "pad_token", "pad_token_id", "cls_token_id",
        "sep_token_id", "mask_token_id", "unk_token_id", "bos_token", "bos_token_id", "pad_token_type_id", "is_fast",
        "max_len_single_sentence", "max_len_sentences_pair", "added_tokens_encoder", "clean_up_tokenization_spaces",
    ):  # fmt: skip
        assert getattr(ours, name) == getattr(theirs, name), name
    assert len(ours) == len(theirs) and ours.get_vocab() == theirs.get_vocab()
    assert ours.num_special_tokens_to_add(pair=True) == theirs.num_special_tokens_to_add(pair=True)
    text = "<ent> new <mark>york the [unused1] wordy <ent><mark>"
    added_token = peer("tokenizers").AddedToken
    for tokenizer in (theirs, ours):
        assert tokenizer.add_tokens(["<ent>", "the", added_token("york", single_word=True)]) == 3
        assert tokenizer.add_special_tokens({"extra_special_tokens": ["<mark>"], "eos_token": "[SEP]"}) == 1
        tokenizer.padding_side, tokenizer.truncation_side, tokenizer.model_max_length = "left", "left", 20
    assert len(ours) == len(theirs) and ours.get_added_vocab() == theirs.get_added_vocab()
    assert ours.all_special_tokens == theirs.all_special_tokens and ours.eos_token_id == theirs.eos_token_id
    batch = [text, *rows[:50]]
    options: dict[str, Any] = {"padding": True, "truncation": True}
    assert plain(ours(batch, **options)) == plain(theirs(batch, **options))
    ids = theirs(text)["input_ids"]
    assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
    written = ours.save_pretrained(tmp_path)
    assert {Path(p).name for p in written} >= {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    loads: list[Callable[..., Any]] = [
        peer("transformers").AutoTokenizer.from_pretrained, hf.AutoTokenizer.from_pretrained,
    ]  # fmt: skip
    for load in loads:
        again = load(tmp_path)
        assert plain(again(batch, **options)) == plain(theirs(batch, **options))
        assert (again.model_max_length, again.padding_side, again.eos_token) == (20, "left", "[SEP]")
        assert len(again) == len(theirs)


def test_without_torch_pt_says_how(both: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"pip install torch.*return_tensors='np'"):
        both[1]("a text", return_tensors="pt")


def test_rows_that_are_no_texts_are_named(both: tuple[Any, Any]) -> None:
    ours = both[1]
    with pytest.raises(TypeError, match=r"texts\[1\]: expected str or bytes, got NoneType"):
        ours(["a", None])
    with pytest.raises(TypeError, match=r"texts\[2\]: expected str or bytes, got float"):
        ours(["a", "b", float("nan")])
    with pytest.raises(ValueError, match=r"texts\[1\]: lone surrogate U\+D800 at character 1"):
        ours(["a", "b\ud800"])
    with pytest.raises(ValueError, match="None"):
        ours(None)
    with pytest.raises(TypeError, match="int"):
        ours(5)
    with pytest.raises(TypeError, match=r"text\[1\]: expected a pair"):
        ours([("a", "b"), "c"])
    with pytest.raises(TypeError, match="text_pair"):
        ours(["a"], "b")
    with pytest.raises(ValueError, match=r"pairs: expected as many as texts"):
        ours(["a", "b"], ["c"])
    with pytest.raises(ValueError, match="contradict"):
        ours(["a"], padding=True, truncation=True, max_length=10, pad_to_multiple_of=8)
    with pytest.raises(ValueError, match="padding='most'"):
        ours(["a"], padding="most")
    with pytest.raises(ValueError, match="truncation='most'"):
        ours(["a"], truncation="most")
