"""Live comparison with the package ``tokenizers``: 0 differences allowed."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from tokenizer_rows import (
    differences,
    draw_options,
    fuzz_text,
    mutated,
    oracle_options,
    oracle_padded,
    oracle_rows,
    our_padded,
    our_rows,
)

import smhf_native as smhf

STRATEGIES = ["longest_first", "only_first", "only_second"]


def test_every_row_of_the_data(both: tuple[Any, smhf.Tokenizer], real_texts: list[str]) -> None:
    theirs, ours = both
    expected = oracle_rows(theirs.encode_batch(real_texts))
    assert differences(real_texts, our_rows(ours(real_texts, details=True)), expected) == []


def test_pairs_and_truncation_of_the_data(both: tuple[Any, smhf.Tokenizer], real_texts: list[str]) -> None:
    """Blocks of rows, each with its own draw of pairs, strategy, direction, length and stride."""
    theirs, ours = both
    rng = random.Random(11)
    texts = rng.sample(real_texts, 5000)
    refused = 0
    for begin in range(0, len(texts), 250):
        overflow = begin % 1250 == 0
        part = texts[begin : begin + (60 if overflow else 250)]
        pairs = rng.sample(real_texts, len(part)) if rng.random() < 0.6 else None
        max_length = rng.randrange(16, 70)
        # A row too long for only_first or only_second is refused, and with it the reference's batch.
        strategy = "longest_first" if begin % 500 else rng.choice(STRATEGIES)
        stride = rng.choice([0, 1, 2]) if strategy == "longest_first" else 0
        direction, specials = rng.choice(["left", "right"]), rng.random() < 0.8
        theirs.enable_truncation(max_length, stride=stride, strategy=strategy, direction=direction)
        expected = None
        try:
            inputs = part if pairs is None else list(zip(part, pairs, strict=True))
            encoded = theirs.encode_batch(inputs, add_special_tokens=specials)
            expected = oracle_rows(encoded, overflow)
        except Exception:
            refused += 1
        finally:
            theirs.no_truncation()
        options = {
            "truncation": strategy, "max_length": max_length, "stride": stride, "truncation_side": direction,
            "add_special_tokens": specials, "return_overflowing_tokens": overflow, "details": True,
        }  # fmt: skip
        if expected is None:
            with pytest.raises(ValueError, match="truncat"):
                ours(part, pairs, **options)
        else:
            assert differences(part, our_rows(ours(part, pairs, **options)), expected) == []
    assert refused < 8


def test_small_lengths(both: tuple[Any, smhf.Tokenizer]) -> None:
    """Every strategy at the lengths where arithmetic is delicate."""
    theirs, ours = both
    rng = random.Random(3)
    words = ["a", "the", "tokenization", "unbelievable", "x", "é"]
    compared = 0
    for _ in range(500):
        texts = [" ".join(rng.choice(words) for _ in range(rng.randrange(16))) for _ in range(6)]
        pairs = [" ".join(rng.choice(words) for _ in range(rng.randrange(16))) for _ in range(6)]
        paired, specials = rng.random() < 0.6, rng.random() < 0.8
        least = (3 if paired else 2) if specials else 0
        max_length, stride = rng.randrange(1, 20), rng.choice([0, 0, 0, 1, 2])
        strategy, side = rng.choice(STRATEGIES), rng.choice(["left", "right"])
        if stride > 0:
            strategy = "longest_first"
        if max_length < least or (stride > 0 and stride >= (max_length - 3) // 2):
            continue  # where the reference wraps around or panics, ours raises
        theirs.enable_truncation(max_length, stride=stride, strategy=strategy, direction=side)
        try:
            encoded = theirs.encode_batch(
                list(zip(texts, pairs, strict=True)) if paired else texts, add_special_tokens=specials
            )
            expected: Any = oracle_rows(encoded, overflow=True)
        except Exception as failure:
            expected = failure
        finally:
            theirs.no_truncation()
        try:
            actual: Any = our_rows(
                ours(
                    texts, pairs if paired else None, truncation=strategy, max_length=max_length, stride=stride,
                    truncation_side=side, add_special_tokens=specials, return_overflowing_tokens=True,
                    details=True,
                )
            )  # fmt: skip
        except ValueError as failure:
            actual = failure
        if isinstance(expected, Exception):
            assert isinstance(actual, ValueError), (max_length, stride, strategy, expected)
        else:
            assert not isinstance(actual, Exception), (max_length, stride, strategy, actual)
            assert differences(texts, actual, expected) == []
            compared += 1
    assert compared > 200


def test_padding(both: tuple[Any, smhf.Tokenizer], real_texts: list[str]) -> None:
    theirs, ours = both
    rng = random.Random(5)
    for _ in range(12):
        texts = rng.sample(real_texts, 50)
        side, multiple = rng.choice(["left", "right"]), rng.choice([None, 8, 13])
        length = rng.choice([None, 64])
        theirs.enable_truncation(64)
        theirs.enable_padding(
            direction=side, pad_id=0, pad_token="[PAD]", length=length, pad_to_multiple_of=multiple
        )
        try:
            expected = theirs.encode_batch(texts)
        finally:
            theirs.no_truncation()
            theirs.no_padding()
        enc = ours(
            texts, truncation=True, max_length=64, padding="max_length" if length else True,
            padding_side=side, pad_to_multiple_of=multiple,
        )  # fmt: skip
        for name, attribute in (
            ("input_ids", "ids"), ("attention_mask", "attention_mask"), ("token_type_ids", "type_ids"),
            ("special_tokens_mask", "special_tokens_mask"), ("offsets", "offsets"),
        ):  # fmt: skip
            array = getattr(enc, name)
            assert array.dtype == np.int64
            np.testing.assert_array_equal(array, np.array([getattr(e, attribute) for e in expected]), name)
        words = [[-1 if w is None else w for w in e.word_ids] for e in expected]
        np.testing.assert_array_equal(enc.word_ids, np.array(words))


def test_fuzzed_strings(both: tuple[Any, smhf.Tokenizer]) -> None:
    theirs, ours = both
    rng = random.Random(17)
    texts = [fuzz_text(rng) for _ in range(12_000)]
    expected = oracle_rows(theirs.encode_batch(texts))
    assert differences(texts, our_rows(ours(texts, details=True)), expected) == []


def test_drawn_options(both: tuple[Any, smhf.Tokenizer], real_texts: list[str]) -> None:
    """A small fixed part of tools/tokenizer_differential.py: padding, overflow, words, sides, every strategy."""
    theirs, ours = both
    for block in range(24):
        rng = random.Random(f"drawn {block}")
        texts = [mutated(rng, real_texts) if rng.random() < 0.5 else fuzz_text(rng) for _ in range(100)]
        drawn = draw_options(rng, texts)
        with oracle_options(theirs, drawn):
            expected = oracle_padded(theirs, texts, drawn)
        assert differences(texts, our_padded(ours, texts, drawn), expected) == [], drawn


def test_scalar_values_in_four_contexts(both: tuple[Any, smhf.Tokenizer]) -> None:
    """Every 17th of them; the whole is in tools/tokenizer_differential.py."""
    theirs, ours = both
    values = [c for c in range(0, 0x110000, 17) if not 0xD800 <= c < 0xE000]
    texts = [
        "".join(f"a{chr(c)}b {chr(c)} {chr(c)}x x{chr(c)} " for c in values[at : at + 64])
        for at in range(0, len(values), 64)
    ]
    expected = oracle_rows(theirs.encode_batch(texts))
    assert differences(texts, our_rows(ours(texts, details=True)), expected) == []


def test_words_and_decode(both: tuple[Any, smhf.Tokenizer]) -> None:
    theirs, ours = both
    rng = random.Random(23)
    rows = [[fuzz_text(rng)[:12] for _ in range(rng.randrange(1, 6))] for _ in range(400)]
    encoded = theirs.encode_batch(rows, is_pretokenized=True)
    actual = our_rows(ours(rows, is_split_into_words=True, details=True))
    assert differences(rows, actual, oracle_rows(encoded)) == []
    top = ours.vocab_size + 50  # unknown ids are left out
    ids = [[rng.randrange(top) for _ in range(rng.randrange(12))] for _ in range(1500)]
    ids += [e.ids for e in encoded]
    for skip in (True, False):
        expected = theirs.decode_batch(ids, skip_special_tokens=skip)
        assert ours.batch_decode(ids, skip_special_tokens=skip) == expected


def test_added_tokens_and_options(both: tuple[Any, smhf.Tokenizer], tokenizers_peer: Any) -> None:
    """Random added tokens under random normalizer options, through the reference's own file."""
    theirs, _ = both
    added_token, normalizers = tokenizers_peer.AddedToken, tokenizers_peer.normalizers
    contents = [
        "<x>", " y ", "foo bar", "New York", "[ent]", "ÉCOLE", "ab", "abc", "abcd", "b", "中", "##ing", "\u0301x",
        "a\u0344", "  z", "!", "[CLS]", "hello", "ﬁ", "I\u0307", "한", "ß", "_q_", "don't",
    ]  # fmt: skip
    pieces = [
        *contents, " ", "  ", "a", "b", "x", "1", "é", "É", "\u3000", "\u0301", "\u200d", "word", "\t", "中文",
        "가", "I", "\u0130", "\u1b44", "\u0334", "\u302e", "!", ".",
    ]  # fmt: skip
    rng = random.Random(29)
    plain = json.loads(theirs.to_str())
    vocab = plain["model"]["vocab"]
    keep = set(rng.sample(list(vocab), 3000)) | {"[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "!", "b", "hello"}
    tokens = [t for t in vocab if t in keep]
    plain["model"]["vocab"] = {t: i for i, t in enumerate(tokens)}
    for token in plain["added_tokens"]:
        token["id"] = plain["model"]["vocab"][token["content"]]
    special = plain["post_processor"].get("special_tokens")
    if special:
        for name, entry in special.items():
            entry["ids"] = [plain["model"]["vocab"][name]]
    else:
        for side in ("sep", "cls"):
            plain["post_processor"][side][1] = plain["model"]["vocab"][plain["post_processor"][side][0]]
    for _ in range(50):
        reference = tokenizers_peer.Tokenizer.from_str(json.dumps(plain))
        reference.normalizer = normalizers.BertNormalizer(
            clean_text=rng.random() < 0.7, handle_chinese_chars=rng.random() < 0.7,
            strip_accents=rng.choice([None, True, False]), lowercase=rng.random() < 0.5,
        )  # fmt: skip
        flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
        reference.add_tokens([
            added_token(content, **{flag: rng.random() < 0.4 for flag in flags})
            for content in rng.sample(contents, rng.randrange(1, 8))
        ])  # fmt: skip
        text = reference.to_str()
        reference = tokenizers_peer.Tokenizer.from_str(text)
        split = rng.random() < 0.3
        reference.encode_special_tokens = split
        ours = smhf.Tokenizer.from_json(text)
        texts = ["".join(rng.choice(pieces) for _ in range(rng.randrange(14))) for _ in range(60)]
        encoded = reference.encode_batch(texts)
        actual = our_rows(ours(texts, split_special_tokens=split, details=True))
        assert differences(texts, actual, oracle_rows(encoded)) == []
        assert ours.get_vocab() == reference.get_vocab()
        assert (ours.vocab_size, len(ours)) == (reference.get_vocab_size(False), reference.get_vocab_size(True))
        ids = [e.ids for e in encoded]
        for skip in (True, False):
            expected = reference.decode_batch(ids, skip_special_tokens=skip)
            assert ours.batch_decode(ids, skip_special_tokens=skip) == expected
        known = sorted({i for row in ids for i in row})
        assert ours.convert_ids_to_tokens(known) == [reference.id_to_token(i) for i in known]


def test_special_tokens_are_reported_alike(both: tuple[Any, smhf.Tokenizer]) -> None:
    theirs, ours = both
    decoder = theirs.get_added_tokens_decoder()
    assert sorted(decoder) == ours.all_special_ids
    assert [decoder[i].content for i in sorted(decoder)] == ours.all_special_tokens
    assert ours.num_special_tokens_to_add() == theirs.num_special_tokens_to_add(False)
    assert ours.num_special_tokens_to_add(pair=True) == theirs.num_special_tokens_to_add(True)
