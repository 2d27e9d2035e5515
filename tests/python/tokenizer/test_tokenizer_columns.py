"""Texts from pandas, pyarrow and generators: the same rows as from a list, and faults by row."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tokenizer_rows import fuzz_text

import smhf_native as smhf
from smhf_native.tokenizer import _tokenizer


@pytest.fixture(scope="module")
def texts() -> list[str]:
    rng = random.Random(53)
    return ["", "a", "hello world", "b" * 12, "b" * 13, "é中\U0001f600", *(fuzz_text(rng) for _ in range(500))]


def same(small: smhf.Tokenizer, column: Any, texts: list[str]) -> None:
    expected, actual = small(texts, details=True), small(column, details=True)
    for name in ("ids", "cu_seqlens", "offsets", "word_ids"):
        np.testing.assert_array_equal(actual.packed_field(name), expected.packed_field(name), name)
    lazily = small(column)
    np.testing.assert_array_equal(lazily.packed_field("offsets"), expected.packed_field("offsets"))


@pytest.mark.parametrize("kind", ["string", "large_string", "string_view"])
def test_arrow_arrays(small: smhf.Tokenizer, texts: list[str], peer: Any, kind: str) -> None:
    pa = peer("pyarrow")
    array = pa.array(texts, getattr(pa, kind)())
    same(small, array, texts)
    same(small, array[100:200], texts[100:200])  # an offset into the buffers
    same(small, pa.chunked_array([array[:3], array[3:3], array[3:]]), texts)
    same(small, pa.chunked_array([array, array[7:11]]), texts + texts[7:11])
    same(small, pa.array([], getattr(pa, kind)()), [])
    first = small(texts, texts[::-1])
    second = small(array, pa.chunked_array([pa.array(texts[::-1], getattr(pa, kind)())]))
    np.testing.assert_array_equal(first.packed()[0], second.packed()[0])
    with_null = pa.array([*texts[:5], None], getattr(pa, kind)())
    with pytest.raises(TypeError, match=r"texts\[5\]: expected str or bytes, got null"):
        small(with_null)
    with pytest.raises(TypeError, match=r"texts\[3\]: .* null"):
        small(with_null[2:])
    with pytest.raises(TypeError, match=r"pairs\[5\]: .* null"):
        small(texts[:6], with_null)


def test_arrow_dictionaries_and_other_columns(small: smhf.Tokenizer, texts: list[str], peer: Any) -> None:
    pa = peer("pyarrow")
    for index in (pa.int8(), pa.int16(), pa.uint32(), pa.int64()):
        few = texts[:100]
        coded = pa.array(few).dictionary_encode().cast(pa.dictionary(index, pa.string()))
        same(small, coded, few)
        same(small, coded[40:60], few[40:60])
    with pytest.raises(TypeError, match=r"texts\[1\]: .* null"):
        small(pa.array(["a", None, "b"]).dictionary_encode())
    for wrong, name in (
        (pa.array([1, 2]), '"l"'), (pa.array([b"x"]), '"z"'), (pa.table({"a": texts[:2]}), r'"\+s"'),
        (pa.array([1.5]).dictionary_encode(), "Arrow format"),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=f"texts: expected a column of strings, got .*{name}"):
            small(wrong)


def test_arrow_memory_is_read_in_place_and_let_go(small: smhf.Tokenizer, peer: Any) -> None:
    pa = peer("pyarrow")
    gc.collect()
    before = pa.total_allocated_bytes()
    array = pa.array(["hello world " * 50] * 20_000)
    held = pa.total_allocated_bytes()
    encoding = small(array)
    assert pa.total_allocated_bytes() == held  # nothing was copied over there
    del array
    assert pa.total_allocated_bytes() == held  # a second pass may need it
    assert encoding.packed_field("word_ids").max() == 99
    del encoding
    gc.collect()
    assert pa.total_allocated_bytes() == before
    for _ in range(3):
        with pytest.raises(TypeError):
            small(pa.chunked_array([["x" * 1000] * 100, [None]]))
    gc.collect()
    assert pa.total_allocated_bytes() == before


def test_pandas_series(small: smhf.Tokenizer, texts: list[str], peer: Any) -> None:
    pd = peer("pandas")
    dtypes: list[Any] = [object, "str", "string", "string[python]", "string[pyarrow]"]
    dtypes.append(pd.ArrowDtype(peer("pyarrow").string()))
    for dtype in dtypes:
        series = pd.Series(texts, dtype=dtype)
        same(small, series, texts)
        same(small, series[series.index > 450], texts[451:])
        same(small, series.iloc[::-1], texts[::-1])
        same(small, pd.Index(series), texts)
        holed = pd.Series([*texts[:3], None], dtype=dtype)
        with pytest.raises(TypeError, match=r"texts\[3\]: expected str or bytes, got (null|NoneType|float|NAType)"):
            small(holed)
    same(small, pd.Series(texts).astype("category"), texts)
    with pytest.raises(TypeError, match=r"texts\[0\]: .* (int|float)"):
        small(pd.Series([1, 2]))


def test_other_holders(small: smhf.Tokenizer, texts: list[str]) -> None:
    same(small, tuple(texts), texts)
    same(small, np.array(texts, dtype=object), texts)
    plain = [text.rstrip("\0") for text in texts]  # numpy's own strings end where NULs begin
    same(small, np.array(plain), plain)
    expected = small(texts)
    np.testing.assert_array_equal(small(text for text in texts).packed()[0], expected.packed()[0])
    with pytest.raises(ValueError, match="one dimension"):
        small(np.array([["a", "b"]]))
    with pytest.raises(TypeError, match="got dict"):
        small({"a": 1})


def test_a_broken_producer_is_refused(small: smhf.Tokenizer) -> None:
    class Odd:
        def __init__(self, method: str, value: Any) -> None:
            self.value = value
            setattr(type(self), method, lambda self, schema=None: self.value)

    for method, value in (
        ("__arrow_c_array__", (1, 2)), ("__arrow_c_array__", None), ("__arrow_c_stream__", "no capsule"),
    ):  # fmt: skip
        kind = type("Odd", (Odd,), {})
        with pytest.raises(TypeError, match=f"texts: {method} gave no"):
            small(kind(method, value))

    class Failing:
        def __arrow_c_stream__(self, schema: Any = None) -> Any:
            raise RuntimeError("out of order")

    with pytest.raises(RuntimeError, match="out of order"):
        small(Failing())


def test_a_stream_that_fails_says_why(small: smhf.Tokenizer, peer: Any) -> None:
    pa = peer("pyarrow")

    def batches() -> Iterator[Any]:
        yield pa.record_batch({"": ["a"]})
        raise OSError("the disk is gone")

    reader = pa.RecordBatchReader.from_batches(pa.schema([("", pa.string())]), batches())
    with pytest.raises(TypeError, match=r'Arrow format "\+s"'):
        small(reader)


def test_streams_read_no_further_than_needed(small: smhf.Tokenizer, texts: list[str]) -> None:
    read = []

    def reading() -> Iterator[str]:
        for i, text in enumerate(texts):
            read.append(i)
            yield text

    parts = []
    for encoding in small.stream(reading(), chunk=64, truncation=True, max_length=9):
        assert len(read) == min(len(texts), 64 * (len(parts) + 1))
        parts.append(encoding.packed()[0])
    whole = small(texts, truncation=True, max_length=9)
    np.testing.assert_array_equal(np.concatenate(parts), whole.packed()[0])
    paired = list(small.stream(iter(texts), iter(texts), chunk=100))
    np.testing.assert_array_equal(
        np.concatenate([e.packed()[0] for e in paired]), small(texts, texts).packed()[0]
    )
    assert list(small.stream([])) == []
    with pytest.raises(TypeError, match=r"texts\[7\]: expected str or bytes, got int"):
        list(small.stream([*"abcdefg", 5], chunk=3))
    with pytest.raises(ValueError, match=r"texts\[4\]: lone surrogate"):
        list(small.stream([*"abcd", "\ud800"], chunk=2))
    with pytest.raises(ValueError, match="as many"):
        list(small.stream(["a", "b"], ["a"], chunk=1))
    with pytest.raises(ValueError, match="chunk"):
        list(small.stream(["a"], chunk=0))
    with pytest.raises(TypeError, match="one str"):
        list(small.stream("abc"))


def test_training_takes_columns(texts: list[str], peer: Any) -> None:
    pa, pd = peer("pyarrow"), peer("pandas")
    expected = smhf.train_wordpiece(texts, 300).get_vocab()
    for column in (pa.array(texts), pa.chunked_array([texts[:9], texts[9:]]), pd.Series(texts), iter(texts)):
        assert smhf.train_wordpiece(column, 300).get_vocab() == expected
    assert _tokenizer.tier() in ("scalar", "avx2", "avx512")
