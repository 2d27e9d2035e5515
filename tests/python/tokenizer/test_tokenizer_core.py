"""What the C core promises beyond the oracle's rows: equal tiers, arrays of both widths, memory that goes
round without being shared, eight threads with different options."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import smhf_native as smhf
from smhf_native.tokenizer import _tokenizer

TIERS = ("scalar", "avx2", "avx512")


def texts_of(seed: int, count: int) -> list[str]:
    """Words of one to forty letters in several scripts, with marks, control characters and emoji."""
    rng = random.Random(seed)
    alphabets = ["abcdefgh", "ABCDEFGH", "0123", ".,!?[]#", "éüñçÀ", "абвгд", "ሀለሐመ", "اببت", "中文字", "가각갂",
                 "😀🎉", "\u0301\u0323", "\x00\x07\u200d\ufffd", "ẹọṣ"]  # fmt: skip
    made = []
    for _ in range(count):
        words = []
        for _ in range(rng.randrange(30)):
            letters = "".join(rng.choices(alphabets, weights=[9, 3, 1, 2, *[1] * 10], k=rng.randrange(1, 4)))
            words.append("".join(rng.choices(letters, k=rng.choice([1, 2, 3, 5, 8, 9, 16, 17, 31, 32, 40]))))
        made.append(rng.choice([" ", "  ", "\t", "\u3000"]).join(words))
    return made


def digest(tokenizer: smhf.Tokenizer, seed: int, count: int) -> str:
    enc = tokenizer(texts_of(seed, count), details=True)
    total = hashlib.sha256()
    for name in ("ids", "cu_seqlens", "offsets", "word_ids", "special_mask", "sequence_ids"):
        total.update(np.ascontiguousarray(enc.packed_field(name)).tobytes())
    return total.hexdigest()


def vocabulary() -> list[str]:
    """Pieces of one to forty bytes, so that every kind of key is there."""
    rng = random.Random(5)
    words = [w.lower() for text in texts_of(9, 80) for w in text.split()]
    pieces = {w[: rng.randrange(1, len(w) + 1)] for w in words if w}
    letters = {c for w in words for c in w}
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(pieces | letters)]
    tokens += ["##" + t for t in sorted({w[1:][: rng.randrange(1, 20)] for w in words if len(w) > 1} | letters)]
    return list(dict.fromkeys(tokens))


PROGRAM = """
import sys
sys.path[:0] = [{folder!r}]
import test_tokenizer_core as core
import smhf_native as smhf
from smhf_native.tokenizer import _tokenizer
cased = smhf.Tokenizer.from_vocab(core.vocabulary(), do_lower_case=False)
print(_tokenizer.tier(), core.digest(smhf.Tokenizer.from_vocab(core.vocabulary()), 3, 600), core.digest(cased, 4, 600))
"""


def test_tiers_agree(repo_root: Path) -> None:
    found: dict[str, str] = {}
    for tier in TIERS:
        program = PROGRAM.format(folder=str(Path(__file__).parent))
        env = {**os.environ, "SMHF_CPU_TIER": tier, "PYTHONPATH": str(repo_root)}
        done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        name, *digests = done.stdout.split()
        found.setdefault(name, " ".join(digests))
    best = TIERS.index(_tokenizer.tier()) if "SMHF_CPU_TIER" not in os.environ else len(found) - 1
    assert set(found) >= set(TIERS[: best + 1])
    assert len(set(found.values())) == 1, found


def test_int32_arrays(small: smhf.Tokenizer) -> None:
    texts = ["hello world", "", "a b c unaffable , hello", *["ab"] * 300]
    draws: list[dict[str, Any]] = [
        {"padding": True}, {"padding": "max_length", "max_length": 12}, {"padding_side": "left", "padding": True}, {},
    ]  # fmt: skip
    for options in draws:
        wide = small(texts, details=True, **options)
        narrow = small(texts, details=True, dtype="int32", **options)
        for name in ("input_ids", "attention_mask", "token_type_ids", "offsets", "word_ids", "special_tokens_mask"):
            expected, actual = wide[name], narrow[name]
            for a, b in zip(expected, actual, strict=True):
                assert (a.dtype, b.dtype) == (np.int64, np.int32)
                np.testing.assert_array_equal(a, b, name)
    assert small("a", dtype=np.int32).offsets.dtype == np.int32  # the second pass shows the same items
    for wrong in ("float32", np.uint32, "int16"):
        with pytest.raises(ValueError, match="dtype"):
            small("a", dtype=wrong)


def test_short_way_equals_long_way(small: smhf.Tokenizer) -> None:
    for texts in ("hello a", ["hello a"], ["", "a b", "world ! unaffable"], [], ["ab c"] * 2000):
        for padding in (True, False):
            short = small(texts, padding=padding)
            long = small(texts, padding=padding, truncation="do_not_truncate", max_length=5000)
            for name in ("input_ids", "attention_mask", "token_type_ids", "offsets", "word_ids"):
                assert type(short[name]) is type(long[name])
                assert len(short[name]) == len(long[name])
                for a, b in zip(short[name], long[name], strict=True):
                    np.testing.assert_array_equal(a, b, name)
            assert short.input_ids is short.input_ids
            assert len(short) == len(long)


def test_arrays_outlive_everything() -> None:
    tokenizer = smhf.Tokenizer.from_vocab(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b"])
    kept = []
    for round_ in range(12):  # arrays of 64 kB and more lie in memory that goes from batch to batch
        enc = tokenizer(["a b " * (20 + round_), "b"] * 400, padding=True)
        kept.append((round_, enc.input_ids, enc.attention_mask, enc.packed()[0]))
    del enc, tokenizer
    for round_, ids, mask, packed in kept:
        width = 2 * (20 + round_) + 2
        assert ids.shape == (800, width)
        assert ids.flags.writeable
        assert ids[0].tolist() == [2, *[5, 6] * (20 + round_), 3]
        assert ids[799].tolist() == [2, 6, 3] + [0] * (width - 3)
        assert int(mask.sum()) == 400 * (width + 3) == packed.size


def test_foreign_classes_are_refused(small: smhf.Tokenizer) -> None:
    with pytest.raises(TypeError, match="cls"):
        small._core.encode(["a"], cls=dict)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        _tokenizer.Encoding()
    with pytest.raises(TypeError):
        smhf.tokenizer.Encoding()


def test_eight_threads_with_different_options(small: smhf.Tokenizer) -> None:
    texts = texts_of(21, 200)
    pairs = texts[::-1]
    draws: list[dict[str, Any]] = [
        {"padding": True},
        {"truncation": True, "max_length": 9, "padding": "max_length", "dtype": "int32"},
        {"details": True},
        {"pairs": pairs, "truncation": "only_first", "max_length": 600, "padding": True, "padding_side": "left"},
        {"truncation": True, "max_length": 7, "stride": 2, "return_overflowing_tokens": True, "padding": True},
        {"add_special_tokens": False, "padding": True, "pad_to_multiple_of": 8},
        {"pairs": pairs, "details": True},
        {"truncation": True, "max_length": 5, "truncation_side": "left"},
    ]

    def run(options: dict[str, Any]) -> list[bytes]:
        enc = small(texts, **options)
        fields = [enc.input_ids, enc.attention_mask, enc.offsets, enc.word_ids]
        return [np.ascontiguousarray(a).tobytes() for rows in fields for a in rows]

    expected = [run(options) for options in draws]
    wrong: list[str] = []

    def work(which: int) -> None:
        try:
            for turn in range(12):
                at = (which + turn) % len(draws)
                if run(draws[at]) != expected[at]:
                    wrong.append(f"options {at} in thread {which}")
        except Exception as error:  # a thread's exception would be lost otherwise
            wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
