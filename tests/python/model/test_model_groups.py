"""Freezing, learning rates by layer, gradient checkpointing: against torch's parameter groups, and bit by bit."""

from __future__ import annotations

import time

import numpy as np
import pytest
import tiny_model

from smhf_native.model import Model, Trainer
from smhf_native.model.groups import layer_of, matching

KINDS = ["distilbert", "bert"]
SIZES = {
    "distilbert": dict(dim=48, n_heads=4, n_layers=3, hidden_dim=96),
    "bert": dict(hidden_size=48, num_attention_heads=4, num_hidden_layers=3, intermediate_size=96),
}
TASKS = ["SequenceClassification", "TokenClassification"]


@pytest.fixture
def batch(rng):
    lengths = np.array([1, 3, 7, 13, 31, 33])
    mask = (np.arange(33)[None] < lengths[:, None]).astype(np.int64)
    return {"input_ids": rng.integers(1, 90, mask.shape) * mask, "attention_mask": mask}


def labels_of(task, batch, rng):
    if task == "TokenClassification":
        return np.where(batch["attention_mask"] == 1, rng.integers(0, 5, batch["attention_mask"].shape), -100)
    return rng.integers(0, 5, len(batch["input_ids"]))


def make(peer, folder, kind, task):
    torch, transformers = peer("torch"), peer("transformers")
    torch.set_num_threads(1)  # two spin against each other on a busy machine
    config = transformers.AutoConfig.for_model(
        kind, vocab_size=90, max_position_embeddings=40, initializer_range=0.2, num_labels=5, **SIZES[kind]
    )
    torch.manual_seed(6)
    model = getattr(transformers, f"AutoModelFor{task}").from_config(config)
    model.save_pretrained(folder)
    return model.double().eval()


def small_model(**overrides):
    return Model.from_config(tiny_model.tiny_config(90, num_labels=5, n_layers=4, **overrides), seed=11)


def same(a, b):
    return all(np.array_equal(a[name], b[name]) for name in a)


FROZEN = {
    "embeddings": ["embeddings"],
    "two layers": ["embeddings", "layer.0", "layer.1"],
    "all but the head": ["embeddings", "layer"],
    "holes": [
        "embeddings.word_embeddings", "layer.0.{q}.bias", "layer.1.{k}", "layer.2.{v}.weight", "layer.2.{lin1}",
        "layer.1.{norm}", "classifier.bias",
    ],
    "only some inside": ["embeddings", "layer.0", "layer.1.{lin1}", "layer.1.{norm}", "classifier.weight"],
}  # fmt: skip
PARTS = {
    "distilbert": dict(
        q="attention.q_lin", k="attention.k_lin", v="attention.v_lin", lin1="ffn.lin1", norm="sa_layer_norm"
    ),
    "bert": dict(
        q="attention.self.query", k="attention.self.key", v="attention.self.value", lin1="intermediate",
        norm="attention.output.LayerNorm",
    ),
}  # fmt: skip


def prefixes_of(case, kind):
    return [prefix.format(**PARTS[kind]) for prefix in FROZEN[case]]


def torch_groups(torch, theirs, frozen, rate_of, decay):
    groups = []
    for name, parameter in theirs.named_parameters():
        parameter.requires_grad_(name not in frozen)
        if name not in frozen:
            wd = decay if parameter.ndim == 2 else 0.0
            groups.append({"params": [parameter], "lr": rate_of(name), "weight_decay": wd})
    optimizer = torch.optim.AdamW(groups)
    for group in optimizer.param_groups:
        group["base"] = group["lr"]
    return optimizer


def compare(peer, folder, theirs, batch, labels, rate_of, **options):
    """Twenty losses, and every weight after them."""
    torch = peer("torch")
    model = Model.from_pretrained(folder)
    before = model.parameters()
    trainer = Trainer(model, learning_rate=1e-3, total_steps=20, dropout=False, weight_decay=0.01, **options)
    frozen = set(before) - set(trainer.trained)
    optimizer = torch_groups(torch, theirs, frozen, rate_of, 0.01)
    arrays = {key: torch.tensor(value) for key, value in batch.items()}
    for step in range(20):
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * (20 - step) / 20
        loss = theirs(**arrays, labels=torch.tensor(labels)).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_([p for p in theirs.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        report = trainer.step(**batch, labels=labels)
        assert abs(report["loss"] - loss.item()) <= 1e-5, step
        assert report["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    after, other = model.parameters(), dict(theirs.named_parameters())
    for name in before:
        if name in frozen:
            np.testing.assert_array_equal(after[name], before[name], err_msg=name)
        else:
            assert not np.array_equal(after[name], before[name]), name
        if name.endswith(("k_lin.bias", "key.bias")):
            continue  # its gradient is 0 but for rounding, which Adam makes as large as any other
        assert np.median(np.abs(after[name] - other[name].detach().numpy())) <= 1e-5, name
    assert set(trainer.gradients()) == set(before) - frozen
    return trainer


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", list(FROZEN))
def test_frozen_as_torch_has_it(peer, tmp_path, batch, rng, kind, case):
    task = TASKS[case in ("two layers", "holes")]
    theirs = make(peer, tmp_path, kind, task)
    prefixes = prefixes_of(case, kind)
    trainer = compare(
        peer, tmp_path, theirs, batch, labels_of(task, batch, rng), lambda name: 1e-3, freeze=prefixes
    )
    expected = {n for p in prefixes for n in matching(p, list(trainer.model.parameters()))}
    assert set(trainer.model.parameters()) - set(trainer.trained) == expected


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
def test_rates_by_layer_as_torchs_groups(peer, tmp_path, batch, rng, kind):
    task = "SequenceClassification"
    theirs = make(peer, tmp_path, kind, task)
    q = PARTS[kind]["q"]
    given = {"classifier": 5e-3, "layer.1": 2e-4, f"layer.1.{q}": 0.0, "embeddings.LayerNorm.bias": 3e-3}

    def rate_of(name):
        if name.startswith("classifier"):
            return 5e-3
        if ".layer.1." in name:
            return 0.0 if q in name else 2e-4
        if name.endswith("embeddings.LayerNorm.bias"):
            return 3e-3
        depth = 3
        if "embeddings" in name:
            depth = -1
        elif ".layer." in name:
            depth = int(name.split(".layer.")[1].split(".")[0])
        return 1e-3 * 0.8 ** (3 - depth)

    labels = labels_of(task, batch, rng)
    # a rate of 0 leaves a weight where it is, but its gradient counts for the norm
    with pytest.raises(AssertionError, match=q):
        compare(peer, tmp_path, theirs, batch, labels, rate_of, layer_lr_decay=0.8, learning_rates=given)
    del given[f"layer.1.{q}"]
    q = "nothing"
    theirs = make(peer, tmp_path, kind, task)
    compare(
        peer, tmp_path, theirs, batch, labels, rate_of, layer_lr_decay=0.8, learning_rates=given,
        gradient_checkpointing=True,
    )  # fmt: skip


def test_a_frozen_run_resumes_to_the_same_bytes(batch, rng, tmp_path):
    labels = labels_of("SequenceClassification", batch, rng)
    options = dict(
        learning_rate=1e-3, total_steps=8, weight_decay=0.01, freeze=["embeddings", "layer.0", "layer.2.ffn"],
        layer_lr_decay=0.9, seed=3,
    )  # fmt: skip
    model = small_model()
    trainer = Trainer(model, **options)
    for step in range(8):
        if step == 3:
            model.save_pretrained(tmp_path)
            trainer.save_state(tmp_path / "state")
        trainer.step(**batch, labels=labels)
    again = Model.from_pretrained(tmp_path)
    resumed = Trainer(again, **options)
    resumed.load_state(tmp_path / "state")
    for _ in range(5):
        resumed.step(**batch, labels=labels)
    assert same(again.parameters(), model.parameters())

    whole = Trainer(small_model(), total_steps=8)
    with pytest.raises(
        ValueError, match=r"m\.distilbert\.embeddings\.word.*or of a trainer that had it frozen"
    ):
        whole.load_state(tmp_path / "state")
    whole.step(**batch, labels=labels)
    whole.save_state(tmp_path / "whole")
    before = resumed.global_step
    with pytest.raises(ValueError, match=r"m\.distilbert\.embeddings\.word.*has that parameter frozen"):
        resumed.load_state(tmp_path / "whole")
    assert resumed.global_step == before


def test_names_that_fit_nothing_are_refused():
    model = small_model()
    for options, sentence in (
        ({"freeze": "layer.4"}, r'freeze: "layer\.4": no parameter of this model begins with it'),
        ({"freeze": ["layer.1", "layers.0"]}, r'freeze: "layers\.0"'),
        ({"freeze": [""]}, 'freeze: "": no parameter'),
        ({"freeze": ["distilbert", "pre_classifier", "classifier"]}, "all 72 parameters are frozen"),
        ({"learning_rates": {"head": 1.0}}, 'learning_rates: "head"'),
        ({"learning_rates": {"classifier": -1.0}}, r'learning_rates\["classifier"\]: expected 0 or more'),
        ({"learning_rates": {"classifier": 1.0}, "learning_rate": 0.0}, "needs a learning_rate above 0"),
        ({"layer_lr_decay": 0.0}, "layer_lr_decay: expected a number above 0, got 0"),
    ):
        with pytest.raises(ValueError, match=sentence):
            Trainer(model, total_steps=5, **options)


def test_whole_words_only():
    names = [f"bert.encoder.layer.{i}.attention.self.query.weight" for i in range(12)]
    assert matching("layer.1", names) == [names[1]]
    assert matching("bert", names) == matching("encoder", names) == matching("layer", names) == names
    assert [layer_of(name, 12) for name in names] == list(range(12))
    assert layer_of("distilbert.embeddings.LayerNorm.bias", 6) == -1
    assert layer_of("pre_classifier.bias", 6) == layer_of("bert.pooler.dense.bias", 6) == 6


# --- gradient checkpointing -----------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("task", ["sequence-classification", "token-classification", "question-answering"])
@pytest.mark.parametrize("freeze", [(), ("embeddings", "layer.0")])
def test_checkpointing_has_the_same_bits(batch, rng, task, freeze, precision):
    """With dropout at every place: it is drawn from counters, so what is computed again is the same."""
    labels = {
        "sequence-classification": labels_of("SequenceClassification", batch, rng),
        "token-classification": labels_of("TokenClassification", batch, rng),
        "question-answering": np.zeros((6, 2), int),
    }[task]
    config = tiny_model.tiny_config(90, num_labels=2 if task == "question-answering" else 5, n_layers=4)
    results = []
    for checkpointing in (False, True):
        trainer = Trainer(
            Model.from_config(config, seed=11, task=task),
            learning_rate=1e-3,
            total_steps=10,
            gradient_checkpointing=checkpointing,
            freeze=freeze,
            precision=precision,
        )
        losses = [trainer.forward_backward(**batch, labels=labels) for _ in range(2)]  # accumulated
        gradients = trainer.gradients()
        trainer.optimizer_step()
        losses += [trainer.step(**batch, labels=labels)["loss"] for _ in range(3)]
        results.append((losses, gradients, trainer.model.parameters(), trainer.activation_bytes))
    plain, light = results
    assert plain[0] == light[0]
    assert same(plain[1], light[1]) and same(plain[2], light[2])
    assert any(np.abs(gradient).max() > 0 for gradient in light[1].values())
    assert light[3] < plain[3]


def test_checkpointing_plans_a_fraction_of_the_memory(rng):
    """DistilBERT's proportions: 16 H a layer and token are kept, of which 1 H stays: below 0.36 of six layers."""
    config = tiny_model.tiny_config(90, num_labels=5, n_layers=6, dim=64, n_heads=1, hidden_dim=256)
    batch = {"input_ids": rng.integers(1, 90, (16, 60)), "labels": rng.integers(0, 5, 16)}
    planned = []
    for checkpointing in (False, True):
        trainer = Trainer(Model.from_config(config), total_steps=5, gradient_checkpointing=checkpointing)
        assert trainer.activation_bytes == 0
        trainer.step(**batch)
        planned.append(trainer.activation_bytes)
    assert planned[1] <= 0.36 * planned[0]


def test_frozen_layers_keep_nothing(rng):
    """Of twelve layers eight are frozen: their activations, gradients and moments take no memory."""
    from smhf_native.model import _model

    config = tiny_model.tiny_config(90, num_labels=5, n_layers=12, dim=64, n_heads=1, hidden_dim=256)
    batch = {"input_ids": rng.integers(1, 90, (16, 60)), "labels": rng.integers(0, 5, 16)}
    planned, state = [], []
    for freeze in ([], ["embeddings", *(f"layer.{i}" for i in range(8))], ["distilbert"]):
        model = Model.from_config(config)
        Trainer(model, total_steps=5).step(**batch)  # what prepares the weights
        before = _model.memory()[2]
        trainer = Trainer(model, total_steps=5, freeze=freeze)
        state.append(_model.memory()[2] - before)
        trainer.step(**batch)
        planned.append(trainer.activation_bytes)
        del trainer, model
    assert planned[1] < 0.5 * planned[0] and planned[2] < 0.15 * planned[0]
    assert state[1] < 0.45 * state[0] and state[2] < 0.15 * state[0]


def test_frozen_layers_take_no_time(rng):
    """A backward pass is twice a forward pass: with all but the head frozen a step is a third (processor time)."""
    config = tiny_model.tiny_config(90, num_labels=5, n_layers=6, dim=128, n_heads=2, hidden_dim=512)
    batch = {"input_ids": rng.integers(1, 90, (16, 60)), "labels": rng.integers(0, 5, 16)}
    best = []
    for freeze in ([], ["distilbert"]):
        trainer = Trainer(Model.from_config(config), total_steps=100, freeze=freeze)
        seconds = []
        for _ in range(8):
            start = time.process_time()
            trainer.step(**batch)
            seconds.append(time.process_time() - start)
        best.append(min(seconds))
    assert best[1] < 0.65 * best[0]
