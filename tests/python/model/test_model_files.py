"""Checkpoints: what is read, what is reported, what is refused, and that saving is whole or nothing."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys

import golden_file
import numpy as np
import pytest
import tiny_model

from smhf_native.errors import BackendError, ParseError
from smhf_native.model import Model

F32 = "F32"


def weights(folder):
    return golden_file.read(folder / "model.safetensors")[0]


def rewrite(folder, tensors, dtype=F32, metadata=None):
    named = {name: (dtype, value) for name, value in tensors.items()}
    golden_file.write(folder / "model.safetensors", named, metadata or {"format": "pt"})


def edit_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps({k: v for k, v in config.items() if v != "REMOVE"}))


# --- reading ------------------------------------------------------------------------------------------


def test_parameters_are_the_bytes_of_the_file(golden):
    stored = weights(golden.folder)
    loaded = Model.from_pretrained(golden.folder).parameters()
    assert set(loaded) == set(stored)
    for name, value in loaded.items():
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, stored[name], err_msg=name)


def test_saved_file_holds_the_same_bytes_and_names(golden, tmp_path):
    model = Model.from_pretrained(golden.folder)
    model.save_pretrained(tmp_path / "a" / "b")
    stored, metadata = golden_file.read(tmp_path / "a" / "b" / "model.safetensors")
    assert metadata == {"format": "pt"}
    for name, value in weights(golden.folder).items():
        np.testing.assert_array_equal(stored[name], value, err_msg=name)
    raw = (tmp_path / "a" / "b" / "model.safetensors").read_bytes()
    assert (8 + struct.unpack("<Q", raw[:8])[0]) % 8 == 0
    again = Model.from_pretrained(tmp_path / "a" / "b")
    np.testing.assert_array_equal(again(**golden.inputs()), model(**golden.inputs()))
    assert sorted(os.listdir(tmp_path / "a" / "b")) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("dtype", ["F64", "F16", "BF16"])
def test_other_float_types_are_converted_exactly(tiny_folder, dtype):
    stored = weights(tiny_folder)
    special = np.array([0.0, -0.0, 1.0, -2.5, 6.0e-8, 5.9604645e-08, 6.1e-05, 65504.0], np.float32)
    bias = stored["distilbert.transformer.layer.0.attention.q_lin.bias"].copy()
    bias[: len(special)] = special  # with subnormals of float16
    stored["distilbert.transformer.layer.0.attention.q_lin.bias"] = bias
    if dtype == "BF16":
        kept = {k: (v.view(np.uint32) >> 16).astype(np.uint16) for k, v in stored.items()}
        expected = {k: (v.astype(np.uint32) << 16).view(np.float32) for k, v in kept.items()}
    else:
        kept = {k: v.astype(golden_file.DTYPES[dtype]) for k, v in stored.items()}
        expected = {k: v.astype(np.float32) for k, v in kept.items()}
    rewrite(tiny_folder, kept, dtype)
    for name, value in Model.from_pretrained(tiny_folder).parameters().items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
        assert not np.logical_xor(np.signbit(value), np.signbit(expected[name])).any()


def test_masked_lm_checkpoint(tiny_folder):
    """Encoder taken, language head reported unread, classification head newly made from the seed."""
    stored = {k: v for k, v in weights(tiny_folder).items() if k.startswith("distilbert.")}
    head = ["vocab_layer_norm.bias", "vocab_projector.bias", "vocab_transform.weight"]
    stored.update({name: np.zeros(3, np.float32) for name in head})
    rewrite(tiny_folder, stored)
    model = Model.from_pretrained(tiny_folder, num_labels=7, seed=3)
    new = ["classifier.bias", "classifier.weight", "pre_classifier.bias", "pre_classifier.weight"]
    assert sorted(model.load_report.missing) == new
    assert sorted(model.load_report.unexpected) == head
    values = model.parameters()
    assert values["classifier.weight"].shape == (7, 32) and not values["classifier.bias"].any()
    assert 0.08 < values["pre_classifier.weight"].std() < 0.12  # initializer_range 0.1
    name = "distilbert.transformer.layer.1.ffn.lin1.weight"
    np.testing.assert_array_equal(values[name], stored[name])
    same = Model.from_pretrained(tiny_folder, num_labels=7, seed=3).parameters()
    other = Model.from_pretrained(tiny_folder, num_labels=7, seed=4).parameters()
    np.testing.assert_array_equal(same["classifier.weight"], values["classifier.weight"])
    assert (other["classifier.weight"] != values["classifier.weight"]).mean() > 0.9
    assert model.id2label == {i: f"LABEL_{i}" for i in range(7)}


def test_names_without_prefix_and_ignored_buffers(tiny_folder):
    expected = Model.from_pretrained(tiny_folder)([[2, 7, 9, 3]])
    stored = {k.removeprefix("distilbert."): v for k, v in weights(tiny_folder).items()}
    named = {name: (F32, value) for name, value in stored.items()}
    named["embeddings.position_ids"] = ("I64", np.arange(64)[None])
    golden_file.write(tiny_folder / "model.safetensors", named)
    model = Model.from_pretrained(tiny_folder)
    assert model.load_report == ([], [])
    np.testing.assert_array_equal(model([[2, 7, 9, 3]]), expected)


def test_old_layernorm_names_load(golden, tmp_path):
    """gamma and beta, as in checkpoints converted from TensorFlow."""
    shutil.copytree(golden.folder, tmp_path / "old")
    stored = weights(golden.folder)
    renamed = {
        k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
        for k, v in stored.items()
    }
    assert set(renamed) != set(stored)
    rewrite(tmp_path / "old", renamed)
    model = Model.from_pretrained(tmp_path / "old")
    assert model.load_report == ([], [])
    np.testing.assert_array_equal(
        model(**golden.inputs()), Model.from_pretrained(golden.folder)(**golden.inputs())
    )


def test_new_weights_follow_the_rules():
    model = Model.from_config(tiny_model.tiny_config(500, dim=64, initializer_range=0.02), seed=1)
    for name, value in model.parameters().items():
        if name.endswith(("LayerNorm.weight", "layer_norm.weight")):
            assert (value == 1).all(), name
        elif value.ndim == 1:
            assert not value.any(), name
        else:
            assert abs(value.mean()) < 0.002 and value.std() == pytest.approx(0.02, rel=0.08), name
    words = model.parameters()["distilbert.embeddings.word_embeddings.weight"]
    assert not words[0].any() and words[1].any()


# --- refusing -----------------------------------------------------------------------------------------


def entry(shape, begin, end, dtype=F32):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


BAD_FILES = {
    "empty": (b"", r"expected an 8-byte header size, found 0 bytes"),
    "seven bytes": (b"\0" * 7, r"found 7 bytes"),
    "header behind the end": (golden_file.pack({}, size=100), r"header size 100: .*truncated"),
    "header above 100 MB": (golden_file.pack({}, size=100_000_001), r"expected at most 100000000"),
    "header of 2^63": (golden_file.pack({}, size=2**63), r"header size 9223372036854775808"),
    "not JSON": (golden_file.pack(b"{garbage"), None),
    "not an object": (golden_file.pack(b"[1, 2]"), None),
    "two values": (golden_file.pack(b"{} {}"), None),
    "depth 9": (golden_file.pack(b'{"__metadata__":' + b'{"a":' * 8 + b"1" + b"}" * 9), None),
    "overlap": (golden_file.pack({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, b"\0" * 12), r"overlap"),
    "hole": (golden_file.pack({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, b"\0" * 12), r"hole"),
    "begins late": (golden_file.pack({"a": entry([1], 4, 8)}, b"\0" * 8), r"hole"),
    "bytes behind": (golden_file.pack({"a": entry([1], 0, 4)}, b"\0" * 8), r"end at byte 4 .* holds 8"),
    "past the end": (golden_file.pack({"a": entry([4], 0, 16)}, b"\0" * 8), r"do not lie in the 8 bytes"),
    "reversed": (golden_file.pack({"a": entry([1], 4, 0)}, b"\0" * 4), r"do not lie"),
    "negative": (golden_file.pack({"a": entry([1], -4, 0)}, b""), r"expected 0 or more"),
    "huge offset": (golden_file.pack({"a": entry([1], 0, 2**63)}, b""), None),
    "fraction": (golden_file.pack({"a": entry([1.5], 0, 4)}, b"\0" * 4), None),
    "shape is not bytes": (golden_file.pack({"a": entry([3], 0, 8)}, b"\0" * 8), r"need 12 bytes, .* hold 8"),
    "elements overflow": (golden_file.pack({"a": entry([2**62, 8], 0, 0)}), r"overflows"),
    "bytes overflow": (golden_file.pack({"a": entry([2**62], 0, 0, "F64")}), r"overflows"),
    "nine dimensions": (golden_file.pack({"a": entry([1] * 9, 0, 4)}, b"\0" * 4), r"at most 8 integers"),
    "unknown dtype": (golden_file.pack({"a": entry([1], 0, 4, "Q7")}, b"\0" * 4), r'unknown dtype "Q7"'),
    "no dtype": (golden_file.pack({"a": {"shape": [], "data_offsets": [0, 4]}}, b"\0" * 4), r"dtype is missing"),
    "no shape": (golden_file.pack({"a": {"dtype": F32, "data_offsets": [0, 4]}}, b"\0" * 4), r"shape is missing"),
    "extra key": (golden_file.pack({"a": {**entry([1], 0, 4), "x": 1}}, b"\0" * 4), r'found "x"'),
    "three offsets": (golden_file.pack(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}}', b"\0" * 4), None),
    "name twice": (
        golden_file.pack(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
                         b'"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}', b"\0" * 8),
        r'"a" appears twice',
    ),
    "name with NUL": (golden_file.pack({"a\0b": entry([1], 0, 4)}, b"\0" * 4), r"holds a NUL"),
    "metadata number": (golden_file.pack({"__metadata__": {"a": 1}}), None),
    "invalid UTF-8": (golden_file.pack(b'{"\xff": 1}'), None),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_FILES)
def test_broken_safetensors_are_refused(tiny_folder, name):
    raw, sentence = BAD_FILES[name]
    path = tiny_folder / "model.safetensors"
    path.write_bytes(raw)
    with pytest.raises((ParseError, BackendError), match=sentence) as caught:
        Model.from_pretrained(tiny_folder)
    assert str(path) in str(caught.value)
    if isinstance(caught.value, ParseError):
        assert caught.value.offset is None or 0 <= caught.value.offset <= len(raw)


def test_every_truncation_is_refused(tiny_folder):
    """Cut anywhere, the file says so: nothing is read past the end and nothing half-loaded."""
    path = tiny_folder / "model.safetensors"
    raw = path.read_bytes()
    header = 8 + struct.unpack("<Q", raw[:8])[0]
    for cut in [*range(0, 24), *range(24, header, 997), header - 1, header, header + 1, len(raw) - 1]:
        path.write_bytes(raw[:cut])
        with pytest.raises(ParseError):
            Model.from_pretrained(tiny_folder)


def test_shapes_and_names_that_do_not_fit(tiny_folder, tmp_path):
    edit_config(tiny_folder, vocab_size=1000)
    with pytest.raises(
        ValueError, match=r"word_embeddings\.weight.*asks for shape \[1000, 32\], .* has \[\d+, 32\]"
    ):
        Model.from_pretrained(tiny_folder)
    edit_config(tiny_folder, vocab_size=len(tiny_model.tiny_vocab()), n_layers=3)
    with pytest.raises(ValueError, match=r"transformer\.layer\.2\.attention\.q_lin\.weight\" is missing"):
        Model.from_pretrained(tiny_folder)
    edit_config(tiny_folder, n_layers=2)
    with pytest.raises(
        ValueError, match=r"classifier\.weight.*shape \[9, 32\], the checkpoint has \[5, 32\]"
    ):
        Model.from_pretrained(tiny_folder, num_labels=9)


def test_weights_of_another_model(tiny_folder, golden):
    if "bert.embeddings.word_embeddings.weight" not in weights(golden.folder):
        golden_file.write(tiny_folder / "model.safetensors", {"gpt.wte": (F32, np.zeros((2, 2)))})
        with pytest.raises(ValueError, match=r'none of its 1 tensors .* the first one is "gpt.wte"'):
            Model.from_pretrained(tiny_folder)
        return
    shutil.copy(golden.folder / "model.safetensors", tiny_folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"none of its \d+ tensors is a weight of this model"):
        Model.from_pretrained(tiny_folder)


def test_integer_weights_are_refused(tiny_folder):
    named = {name: (F32, value) for name, value in weights(tiny_folder).items()}
    named["classifier.bias"] = ("I32", np.zeros(5))
    golden_file.write(tiny_folder / "model.safetensors", named)
    with pytest.raises(BackendError, match=r"classifier\.bias.*expected F32, F16, BF16 or F64, found I32"):
        Model.from_pretrained(tiny_folder)


def test_missing_files(tiny_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a folder with config\.json"):
        Model.from_pretrained(tmp_path / "nothing")
    (tiny_folder / "model.safetensors").rename(tiny_folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is missing .*smhf convert"):
        Model.from_pretrained(tiny_folder)
    (tiny_folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        Model.from_pretrained(tiny_folder)


BAD_CONFIGS = [
    ({"model_type": "gpt2"}, BackendError, r'model_type: expected "distilbert" or "bert", found "gpt2"'),
    ({"model_type": "REMOVE"}, BackendError, r"found nothing"),
    ({"activation": "relu"}, BackendError, r'activation: only "gelu" is computed, found "relu"'),
    ({"sinusoidal_pos_embds": True}, BackendError, r"sinusoidal_pos_embds: this option is not supported"),
    (
        {"problem_type": "ranking"},
        BackendError,
        r'problem_type: expected .* or "regression", found "ranking"',
    ),
    ({"pruned_heads": {"0": [1]}}, BackendError, r"pruned_heads"),
    ({"quantization_config": {"bits": 4}}, BackendError, r"quantization_config"),
    ({"n_heads": 5}, ValueError, r"32 hidden features do not divide into 5 attention heads"),
    ({"dim": 0}, ValueError, r"dim: expected 1 to 32768, found 0"),
    ({"dim": 32.5}, ParseError, r"dim: expected an integer, found a fraction"),
    ({"dim": "32"}, ParseError, r"dim: expected an integer, found string"),
    ({"vocab_size": 2**40}, ValueError, r"vocab_size: expected 1 to"),
    ({"dropout": 1.0}, ValueError, r"dropout: expected 0 <= value < 1, found 1"),
    ({"pad_token_id": 100000}, ValueError, r"pad_token_id"),
    ({"id2label": {"0": "a", "2": "b"}}, ValueError, r"id2label: expected the ids 0 to 1 once each, found 2"),
    ({"id2label": {"x": "a"}}, ParseError, r'id2label: expected keys 0 to \d+, found "x"'),
    ({"id2label": ["a"]}, ParseError, r"id2label: expected an object"),
    ({"id2label": {"0": None}}, ParseError, r"id2label\[0\]: expected a string"),
]


@pytest.mark.parametrize(("changes", "error", "sentence"), BAD_CONFIGS)
def test_configurations_are_refused_by_key(tiny_folder, changes, error, sentence):
    edit_config(tiny_folder, **changes)
    with pytest.raises(error, match=sentence):
        Model.from_pretrained(tiny_folder)


def test_bert_options_are_refused_by_key():
    base = {"model_type": "bert", "vocab_size": 50, "hidden_size": 8, "num_attention_heads": 2,
            "num_hidden_layers": 1, "intermediate_size": 8}  # fmt: skip
    assert Model.from_config(base).info["architecture"] == "bert"
    for key, value in (("position_embedding_type", "relative_key"), ("is_decoder", True),
                       ("add_cross_attention", True), ("hidden_act", "gelu_new")):  # fmt: skip
        with pytest.raises(BackendError, match=key):
            Model.from_config({**base, key: value})


def test_broken_config_json_has_an_offset(tiny_folder):
    text = (tiny_folder / "config.json").read_text()
    for cut in (0, 1, 40, len(text) - 3):
        (tiny_folder / "config.json").write_text(text[:cut])
        with pytest.raises(ParseError) as caught:
            Model.from_pretrained(tiny_folder)
        assert caught.value.offset is not None and caught.value.offset <= cut


def test_unknown_device_and_precision(tiny_folder):
    with pytest.raises(BackendError, match="tpu"):
        Model.from_pretrained(tiny_folder, device="tpu")
    with pytest.raises(ValueError, match='precision "fp8"'):
        Model.from_pretrained(tiny_folder, precision="fp8")


# --- saving -------------------------------------------------------------------------------------------


def test_failed_save_leaves_the_old_file(tiny_folder, tmp_path):
    """A disk that is full half-way (here: a limit on file size, in a child process)."""
    code = """
import resource, signal, sys
from smhf_native.model import Model
model = Model.from_pretrained(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    model.save_pretrained(sys.argv[1])
except OSError as error:
    print("OSError", error)
"""
    before = (tiny_folder / "model.safetensors").read_bytes()
    assert len(before) > 20_000
    run = [sys.executable, "-c", code, str(tiny_folder)]
    result = subprocess.run(run, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("OSError") and "model.safetensors" in result.stdout, result
    assert (tiny_folder / "model.safetensors").read_bytes() == before
    assert not [name for name in os.listdir(tiny_folder) if ".tmp" in name]


def test_save_onto_a_file_is_refused(tiny_folder, tmp_path):
    target = tmp_path / "file"
    target.write_text("not a folder")
    with pytest.raises(OSError):
        Model.from_pretrained(tiny_folder).save_pretrained(target)
    assert target.read_text() == "not a folder"
