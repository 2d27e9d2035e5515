"""bf16, int8 and auto: how far from a float64 forward, what is chosen, what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from smhf_native.errors import BackendError, BusyError
from smhf_native.model import Model, Trainer, backends

SIZES = dict(dim=128, n_heads=4, n_layers=3, hidden_dim=512, vocab_size=300, max_position_embeddings=128)


@pytest.fixture
def batch(rng):
    lengths = rng.integers(1, 100, 64)
    mask = (np.arange(100)[None] < lengths[:, None]).astype(np.int64)
    return rng.integers(1, 300, (64, 100)) * mask, mask


@pytest.fixture
def folder(tmp_path):
    """Weights ten times as large as new ones: the logits of neighbouring rows then differ visibly."""
    config = {"model_type": "distilbert", "num_labels": 3, "initializer_range": 0.1, **SIZES}
    Model.from_config(config, seed=7).save_pretrained(tmp_path)
    return tmp_path


def torch_logits(peer, folder, batch, dtype):
    torch, transformers = peer("torch"), peer("transformers")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval().to(dtype)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(batch[0]), attention_mask=torch.tensor(batch[1])).logits
    return logits.double().numpy()


@pytest.mark.peers
def test_bf16_is_as_near_to_float64_as_torchs(peer, folder, batch):
    torch = peer("torch")
    exact = torch_logits(peer, folder, batch, torch.float64)
    theirs = np.abs(torch_logits(peer, folder, batch, torch.bfloat16) - exact)
    ours = np.abs(Model.from_pretrained(folder, precision="bf16")(*batch) - exact)
    assert ours.max() > 1e-4, "bf16 was not used at all"
    assert ours.max() <= 2 * theirs.max() and ours.mean() <= 2 * theirs.mean()


@pytest.mark.peers
def test_bf16_gradients_are_as_near_to_float64_as_torchs(peer, folder, batch):
    torch, transformers = peer("torch"), peer("transformers")
    labels = np.arange(64) % 3

    def gradients(dtype, autocast):
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval().to(dtype)
        arrays = {"input_ids": batch[0], "attention_mask": batch[1], "labels": labels}
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(**{key: torch.tensor(value) for key, value in arrays.items()}).loss
        loss.backward()
        return {name: p.grad.double().numpy() for name, p in model.named_parameters()}

    exact, theirs = gradients(torch.float64, False), gradients(torch.float32, True)
    trainer = Trainer(Model.from_pretrained(folder), total_steps=1, dropout=False, precision="bf16")
    trainer.forward_backward(*batch, labels)
    for name, ours in trainer.gradients().items():
        if name.endswith("k_lin.bias"):
            continue  # exactly zero in theory: both sides hold rounding noise
        error = np.linalg.norm(ours - exact[name])
        assert error <= 3 * np.linalg.norm(theirs[name] - exact[name]) + 1e-7, name


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_row_does_not_depend_on_its_batch(folder, batch, precision):
    model = Model.from_pretrained(folder, precision=precision)
    whole = model(*batch)
    for row in (0, 13, 63):
        alone = model(batch[0][row : row + 1], batch[1][row : row + 1])
        np.testing.assert_array_equal(alone[0], whole[row])


def test_int8_agrees_with_fp32(folder, batch):
    """Random weights have no margins between labels; what counts here is the size of the error."""
    exact = Model.from_pretrained(folder)(*batch)
    ours = Model.from_pretrained(folder, precision="int8")(*batch)
    error = np.abs(ours - exact).max()
    tier = backends()["cpu"]["tier"]
    bits = 7 if tier in ("avx2", "avx512") else 8  # of activations: spec 2.3, no saturation without VNNI
    assert 0 < error <= 0.05 * 2 ** (8 - bits) * np.abs(exact).max()


def test_bf16_training_follows_fp32(folder, batch):
    losses = {}
    for precision in ("fp32", "bf16"):
        model = Model.from_pretrained(folder)
        trainer = Trainer(model, learning_rate=5e-4, total_steps=20, dropout=False, precision=precision)
        losses[precision] = [trainer.step(*batch, np.arange(64) % 3)["loss"] for _ in range(20)]
        assert model.precision == precision
    assert losses["fp32"] != losses["bf16"]
    np.testing.assert_allclose(losses["bf16"], losses["fp32"], atol=0.02)
    assert losses["bf16"][-1] < losses["bf16"][0] - 0.1


def test_switching_keeps_the_weights(folder, batch):
    model = Model.from_pretrained(folder)
    first, weights = model(*batch), model.parameters()
    for precision in ("int8", "bf16"):
        model.set_precision(precision)
        assert not np.array_equal(model(*batch), first) and model.precision == precision
    model.set_precision("fp32")
    np.testing.assert_array_equal(model(*batch), first)
    for name, value in model.parameters().items():
        np.testing.assert_array_equal(value, weights[name])


def test_int8_is_for_inference(folder):
    model = Model.from_pretrained(folder, precision="int8")
    with pytest.raises(BackendError, match=r'"int8" is for inference; train in "fp32" or "bf16"'):
        Trainer(model, total_steps=1)
    trainer = Trainer(model, total_steps=1, precision="fp32")
    with pytest.raises(BusyError, match="a trainer holds this model"):
        model.set_precision("int8")
    del trainer
    model.set_precision("int8")


def test_environment_and_wrong_names(folder, monkeypatch):
    monkeypatch.setenv("SMHF_PRECISION", "bf16")
    assert Model.from_pretrained(folder).precision == "bf16"
    assert Model.from_pretrained(folder, precision="fp32").precision == "fp32"
    monkeypatch.setenv("SMHF_PRECISION", "fp8")
    with pytest.raises(ValueError, match=r'SMHF_PRECISION "fp8": expected one of fp32, bf16, int8, auto'):
        Model.from_pretrained(folder)
    with pytest.raises(ValueError, match=r'precision "half"'):
        Model.from_pretrained(folder, precision="half")


def test_auto_says_what_it_chose_and_why(folder, batch):
    without = Model.from_pretrained(folder, precision="auto")
    assert without.precision == "fp32" and "no calibration texts" in without.precision_report["reason"]

    model = Model.from_pretrained(
        folder, precision="auto", calibration=dict(zip(("input_ids", "attention_mask"), batch, strict=True))
    )
    report = model.precision_report
    assert report["rows"] == 64 and set(report["tried"]) == {"fp32", "bf16", "int8"}
    assert model.precision == report["chosen"] and report["reason"].startswith(report["chosen"])
    fast = [tried["seconds"] for tried in report["tried"].values() if tried["agreement"] >= 0.999]
    assert report["tried"][report["chosen"]]["seconds"] == min(fast)
    labels = Model.from_pretrained(folder)(*batch).argmax(-1)
    agreement = (model(*batch).argmax(-1) == labels).mean()
    assert agreement == report["tried"][report["chosen"]]["agreement"] >= 0.999


def test_auto_falls_back_when_labels_disagree(folder, batch):
    """A classifier whose logits are all but equal: rounding decides its labels."""
    model = Model.from_pretrained(folder)
    weight = model.parameters()["classifier.weight"]
    model.set_parameter("classifier.weight", np.repeat(weight[:1], 3, axis=0) + 1e-6 * weight)
    rows = [[int(token) for token in row[: mask.sum()]] for row, mask in zip(*batch, strict=True)]
    model.save_pretrained(folder, calibration=rows)
    auto = Model.from_pretrained(folder, precision="auto")
    assert auto.precision == "fp32" and "nothing faster agrees" in auto.precision_report["reason"]
    assert auto.precision_report["rows"] == 64
    (folder / "calibration.json").write_text(json.dumps({"ids": []}))
    with pytest.raises(ValueError, match=r"calibration.json: expected"):
        Model.from_pretrained(folder, precision="auto")
