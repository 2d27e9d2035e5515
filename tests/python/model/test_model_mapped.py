"""Weights used from the mapped file: little memory, and the same values whatever happens to the file."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from smhf_native.model import Model, Trainer, _model

CONFIG = {
    "model_type": "distilbert", "vocab_size": 20000, "dim": 256, "n_heads": 4, "n_layers": 2, "hidden_dim": 512,
    "max_position_embeddings": 128, "num_labels": 3,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    Model.from_config(CONFIG, seed=3).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def ids(rng):
    return rng.integers(1, 20000, (4, 17))


def test_opening_copies_the_matrices_alone(folder, ids):
    """The word table (20 MB of the file's 25) stays in the file; matrices are kept once, as panels."""
    matrices = sum(
        value.size * 4
        for name, value in Model.from_pretrained(folder).parameters().items()
        if ".layer." in name
    )
    before = _model.memory()[2]
    model = Model.from_pretrained(folder)
    opened = _model.memory()[2] - before
    assert matrices * 0.9 < opened < matrices * 1.25, (opened, matrices)
    assert (folder / "model.safetensors").stat().st_size > 4 * opened
    exact = 2 * 256 * 256 * 4  # rows of k and v of the last layer, whose first tokens attend in fp32
    model.set_precision("int8")
    rests = 0.5 / 4  # half a byte for each weight: what rounding took, for near ties
    assert _model.memory()[2] - before < exact + (0.35 + rests) * (opened - exact)
    assert model(ids).shape == (4, 3)
    del model
    before = _model.memory()[2]
    encoder = Model.from_pretrained(folder, task="embedding", precision="int8")
    assert _model.memory()[2] - before < 0.35 * opened  # no labels, no rests
    assert encoder.encode(ids).shape[0] == 4


def test_the_file_may_be_replaced(folder, ids):
    model = Model.from_pretrained(folder)
    first, weights = model(ids), model.parameters()
    Model.from_config(CONFIG, seed=4).save_pretrained(folder)
    np.testing.assert_array_equal(model(ids), first)
    for name, value in model.parameters().items():
        np.testing.assert_array_equal(value, weights[name])
    assert not np.array_equal(Model.from_pretrained(folder)(ids), first)


def test_saved_over_its_own_file(folder, ids):
    model = Model.from_pretrained(folder)
    first = model(ids)
    model.save_pretrained(folder)
    np.testing.assert_array_equal(model(ids), first)
    np.testing.assert_array_equal(Model.from_pretrained(folder)(ids), first)


def test_written_and_trained_after_opening(folder, ids, rng):
    """A first write moves the values into memory of the model's own; the file stays what it was."""
    original = (folder / "model.safetensors").read_bytes()
    copy = folder.parent / "copy"
    shutil.copytree(folder, copy)
    model, twin = Model.from_pretrained(folder), Model.from_pretrained(copy)
    bias = np.array([1, 2, 3], np.float32)
    before = model(ids)
    model.set_parameter("classifier.bias", bias)
    np.testing.assert_allclose(model(ids), before + bias, atol=1e-5)
    twin.set_parameter("classifier.bias", bias)
    labels = np.array([0, 1, 2, 0])
    reports = [Trainer(m, total_steps=5, dropout=False).step(ids, labels=labels) for m in (model, twin)]
    assert reports[0] == reports[1] and np.abs(model(ids) - before - bias).max() > 1e-6
    assert (folder / "model.safetensors").read_bytes() == original


def test_training_from_a_mapped_model_equals_training_from_memory(folder, ids):
    labels = np.array([0, 1, 2, 0])
    losses = []
    for fresh in (Model.from_pretrained(folder), Model.from_config(CONFIG, seed=3)):
        trainer = Trainer(fresh, total_steps=5, learning_rate=1e-3, dropout=False)
        losses.append([trainer.step(ids, labels=labels)["loss"] for _ in range(5)])
    assert losses[0] == losses[1]


def test_memory_stays_flat_over_random_shapes(folder):
    """Ten thousand shapes would not fit a test; what grows per shape shows in five hundred."""
    program = textwrap.dedent(
        f"""
        import numpy as np
        from smhf_native.model import Model
        model = Model.from_pretrained({str(folder)!r})
        rng = np.random.default_rng(1)
        peak = []

        def peak_memory():  # not getrusage: it starts from what the parent was
            return int(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])

        for step in range(600):
            rows, width = int(rng.integers(1, 9)), int(rng.integers(1, 129))
            model(rng.integers(1, 20000, (rows, width)))
            peak.append(peak_memory())
        print(peak[99], peak[-1])
        """
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    early, late = map(int, result.stdout.split())
    assert late - early < 4096, (early, late)


def test_words_leave_no_pages_behind(folder):
    """All 20,000 words occur, one by one; the word table (20 MB) does not become this process's memory."""
    program = textwrap.dedent(
        f"""
        import numpy as np
        from smhf_native.model import Model

        def file_memory():
            return int(open('/proc/self/status').read().partition('RssFile:')[2].split()[0])

        model = Model.from_pretrained({str(folder)!r})
        model(np.arange(1, 101)[None])
        before = file_memory()
        for first in range(0, 20000, 100):
            model(np.arange(first, first + 100)[None])
        print(file_memory() - before)
        """
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 4096  # KiB


def test_a_file_cut_short_in_place_is_an_error(folder):
    model = Model.from_pretrained(folder)
    with open(folder / "model.safetensors", "r+b") as stream:
        stream.truncate(4096)
    with pytest.raises(OSError, match=r"word_embeddings.*ends before byte \d+; was it changed in place"):
        model(np.arange(19000, 19010)[None])
