"""What a model call takes, what it refuses by name, and that rows do not see each other or padding."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_model

from smhf_native.model import Model


@pytest.fixture
def model(tiny_folder):
    return Model.from_pretrained(tiny_folder)


@pytest.fixture
def rows(model, rng):
    """Rows of 1 to 40 ids."""
    lengths = [40, 1, 7, 16, 17, 33, 2, 25]
    return [rng.integers(1, model.info["vocab"], length).tolist() for length in lengths]


def pad(rows, width=None, dtype=np.int64):
    width = width or max(map(len, rows))
    ids, mask = np.zeros((2, len(rows), width), dtype)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, 1
    return ids, mask


def pack(rows):
    ids = np.array([i for row in rows for i in row], np.int32)
    return ids, np.cumsum([0, *map(len, rows)], dtype=np.int32)


def test_padded_packed_and_single_rows_agree(model, rows):
    ids, mask = pad(rows)
    logits = model(ids, mask)
    assert logits.shape == (len(rows), 5) and logits.dtype == np.float32
    wide_ids, wide_mask = pad(rows, 64)
    np.testing.assert_allclose(model(wide_ids, wide_mask), logits, atol=1e-6)
    flat, offsets = pack(rows)
    np.testing.assert_allclose(model._core.forward(flat, cu_seqlens=offsets), logits, atol=1e-6)
    for i, row in enumerate(rows):
        np.testing.assert_allclose(model([row]), logits[i : i + 1], atol=1e-6)


def test_what_stands_in_padded_cells_does_not_matter(model, rows):
    ids, mask = pad(rows)
    garbage = np.where(mask == 1, ids, 10**9)
    np.testing.assert_array_equal(model(garbage, mask), model(ids, mask))


def test_a_row_does_not_see_its_neighbours(model, rows):
    ids, mask = pad(rows)
    before = model(ids, mask)
    ids[3] = np.where(mask[3] == 1, (ids[3] + 11) % 90 + 1, 0)
    after = model(ids, mask)
    assert np.abs(after[3] - before[3]).max() > 1e-3
    others = [i for i in range(len(rows)) if i != 3]
    np.testing.assert_allclose(after[others], before[others], atol=1e-6)


def test_order_of_rows_follows_input(model, rows):
    logits = model(*pad(rows))
    np.testing.assert_allclose(model(*pad(rows[::-1])), logits[::-1], atol=1e-6)


def test_large_batches_run_in_pieces(model, rng):
    """About 26,000 tokens: more than one piece; every row as if alone."""
    rows = [rng.integers(1, 90, rng.integers(1, 64)).tolist() for _ in range(800)]
    logits = model(*pad(rows))
    for i in (0, 137, 400, 799):
        np.testing.assert_allclose(model([rows[i]]), logits[i : i + 1], atol=1e-6)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.int16, np.uint8])
def test_integer_dtypes_and_masks(model, rows, dtype):
    ids, mask = pad(rows)
    expected = model(ids, mask)
    np.testing.assert_array_equal(model(ids.astype(dtype), mask.astype(dtype)), expected)
    np.testing.assert_array_equal(model(ids.astype(dtype), mask.astype(bool)), expected)
    np.testing.assert_array_equal(model(ids.T.copy().T, mask), expected)  # Fortran order


def test_mapping_and_encoding_like_objects(model, rows):
    ids, mask = pad(rows)

    class Like:
        input_ids, attention_mask, token_type_ids = ids, mask, np.zeros_like(ids)

    expected = model(ids, mask)
    np.testing.assert_array_equal(model({"input_ids": ids, "attention_mask": mask}), expected)
    np.testing.assert_array_equal(model(Like()), expected)


def test_encoding_of_the_tokenizer_is_taken_packed(tiny_folder, model):
    tokenizer = pytest.importorskip("smhf_native.tokenizer").Tokenizer.from_pretrained(tiny_folder)
    texts = ["a very good dress", "bad", "i love this color, it is great and comfortable!"]
    padded, ragged = tokenizer(texts, padding="max_length", max_length=32), tokenizer(texts)
    expected = model(padded.input_ids, padded.attention_mask)
    np.testing.assert_array_equal(model(padded), expected)
    np.testing.assert_array_equal(model(ragged), expected)
    with pytest.raises(TypeError, match="belong to arrays"):
        model(padded, padded.attention_mask)


def test_empty_batch(model):
    assert model(np.zeros((0, 8), np.int64)).shape == (0, 5)
    assert model(np.zeros((0, 0), np.int64)).shape == (0, 5)


def test_token_types_are_read_by_bert_and_not_by_distilbert(model, tmp_path, rng):
    ids = rng.integers(1, 60, (2, 6))
    types = np.array([[0, 0, 0, 1, 1, 1]] * 2)
    np.testing.assert_array_equal(model(ids, None, types), model(ids))
    bert = Model.from_config({
        "model_type": "bert", "vocab_size": 60, "hidden_size": 16, "num_attention_heads": 2,
        "num_hidden_layers": 2, "intermediate_size": 24, "initializer_range": 0.1,
    })  # fmt: skip
    assert np.abs(bert(ids, None, types) - bert(ids)).max() > 1e-4
    with pytest.raises(ValueError, match=r"token_type_ids row 1, position 5: 2 is outside 0 to 1"):
        types[1, 5] = 2
        bert(ids, None, types)


REFUSED = [
    ([[1, 2, 10**6]], None, ValueError, r"row 0, position 2: id 1000000 .* vocabulary of \d+"),
    ([[1, 2], [3, -1]], None, ValueError, r"row 1, position 1: id -1 "),
    ([[1, 2], [3, 4]], [[1, 1], [0, 0]], ValueError, r"row 1 has no tokens \(its mask is all zeros\)"),
    ([[1] * 65], None, ValueError, r"row 0 has 65 tokens, the model takes at most 64"),
    ([[0, 2, 3]], [[0, 1, 1]], ValueError, r"attention_mask row 0, position 1: a token behind padding"),
    ([[1, 2, 3]], [[1, 0, 1]], ValueError, r"attention_mask row 0, position 2: a token behind padding"),
    ([[1, 2, 3]], [[1, 2, 1]], ValueError, r"attention_mask row 0, position 1: expected 0 or 1, found 2"),
    ([[1, 2, 3]], [[1, 1]], ValueError, r"attention_mask: expected shape \(1, 3\)"),
    ([1, 2, 3], None, TypeError, r"input_ids: expected a 2-dimensional array of integers"),
    ([[1.5, 2.0]], None, TypeError, r"got dtype float64"),
    ([[1, 2], [3]], None, ValueError, r"rows of different lengths"),
    (["a text"], None, TypeError, r"expected a 2-dimensional array of integers"),
]


@pytest.mark.parametrize(("ids", "mask", "error", "sentence"), REFUSED)
def test_bad_input_is_refused_by_name(model, ids, mask, error, sentence):
    with pytest.raises(error, match=sentence):
        model(ids, mask)


@pytest.mark.parametrize(
    ("ids", "offsets", "sentence"),
    [
        ([1, 2, 3], [0, 2], "expected to end with the 3 tokens"),
        ([1, 2, 3], [1, 3], r"cu_seqlens\[0\]: expected 0, found 1"),
        ([1, 2, 3], [0, 2, 2, 3], "row 1 has no tokens"),
        ([1, 2, 3], [0, 3, 2, 3], r"cu_seqlens\[2\]: expected 3 or more, found 2"),
        ([1, 2, 3], [0, 5, 3], "outside|takes at most|expected"),
        ([1, 2, 3], [], "expected to end with"),
    ],
)
def test_bad_packed_offsets_are_refused(model, ids, offsets, sentence):
    with pytest.raises(ValueError, match=sentence):
        model._core.forward(np.array(ids, np.int32), cu_seqlens=np.array(offsets, np.int32))


def test_results_do_not_alias_and_the_model_goes_on_after_an_error(model, rows):
    ids, mask = pad(rows)
    first = model(ids, mask)
    copy = first.copy()
    with pytest.raises(ValueError):
        model([[10**6]])
    second = model(ids, mask)
    second[:] = 0
    np.testing.assert_array_equal(first, copy)


def test_labels_and_config(tmp_path):
    folder = tiny_model.build_tiny_model(tmp_path / "m", labels=["bad", "so so", "gut ✓"])
    model = Model.from_pretrained(folder)
    assert model.id2label == {0: "bad", 1: "so so", 2: "gut ✓"}
    assert model.num_labels == 3 and model.config["dim"] == 32
    model.id2label = {0: "a", 1: "b", 2: "c"}
    model.save_pretrained(tmp_path / "n")
    again = Model.from_pretrained(tmp_path / "n")
    assert again.config["label2id"] == {"a": 0, "b": 1, "c": 2}
    assert again._core.labels() == ("a", "b", "c")
    with pytest.raises(ValueError, match="expected the ids 0 to 2 once each"):
        model.id2label = {0: "a", 1: "b"}
