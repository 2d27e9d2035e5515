"""Masked LM against transformers: logits, gradients into the tied table, twenty losses, files both ways."""

from __future__ import annotations

import json

import golden_file
import numpy as np
import pytest

from smhf_native.errors import BackendError
from smhf_native.model import Model, Trainer, _model

KINDS = ["distilbert", "bert"]
SIZES = {
    "distilbert": dict(dim=48, n_heads=4, n_layers=3, hidden_dim=96),
    "bert": dict(hidden_size=48, num_attention_heads=4, num_hidden_layers=3, intermediate_size=96),
}
VOCAB = 90


@pytest.fixture
def batch(rng):
    """Odd lengths, one row of a single token."""
    lengths = np.array([1, 3, 7, 13, 31, 33])
    mask = (np.arange(33)[None] < lengths[:, None]).astype(np.int64)
    return {"input_ids": rng.integers(1, VOCAB, mask.shape) * mask, "attention_mask": mask}


@pytest.fixture
def labels(batch, rng):
    """A few tokens of most rows; the second row has none."""
    picked = (rng.random(batch["input_ids"].shape) < 0.3) & (batch["attention_mask"] == 1)
    picked[1] = False
    picked[0, 0] = picked[5, 32] = True
    return np.where(picked, rng.integers(0, VOCAB, picked.shape), -100)


def make(peer, folder, kind):
    torch, transformers = peer("torch"), peer("transformers")
    torch.set_num_threads(1)
    config = transformers.AutoConfig.for_model(
        kind, vocab_size=VOCAB, max_position_embeddings=40, initializer_range=0.2, **SIZES[kind]
    )
    torch.manual_seed(6)
    model = transformers.AutoModelForMaskedLM.from_config(config)
    with torch.no_grad():  # biases and LayerNorm as after some training
        for _, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    model.save_pretrained(folder)
    return model.double().eval()


def arrays(torch, batch, labels=None):
    given = {key: torch.tensor(value) for key, value in batch.items()}
    return given if labels is None else {**given, "labels": torch.tensor(labels)}


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
def test_logits(peer, tmp_path, batch, labels, kind):
    torch = peer("torch")
    theirs = make(peer, tmp_path, kind)
    with torch.no_grad():
        expected = theirs(**arrays(torch, batch)).logits.numpy()
    ours = Model.from_pretrained(tmp_path, task="masked-lm")
    assert ours.task == "masked-lm" and ours.load_report.missing == []
    assert ours.load_report.unexpected == []
    there = batch["attention_mask"] == 1
    mine = ours(batch)
    assert mine.shape == expected.shape and (mine[~there] == 0).all()
    assert np.abs(mine - expected)[there].max() <= 2e-5
    where = labels != -100
    some = ours.logits_at(where, batch)
    assert some.shape == (where.sum(), VOCAB)
    assert np.abs(some - mine[where]).max() <= 1e-6
    assert ours.logits_at(np.zeros_like(where), batch).shape == (0, VOCAB)
    everything = ours.logits_at(np.ones_like(where), batch)  # behind the tokens nothing is
    np.testing.assert_allclose(everything, mine[there], atol=1e-6)


def named_gradients(theirs):
    return {name: p.grad.numpy() for name, p in theirs.named_parameters() if p.grad is not None}


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_and_losses(peer, tmp_path, batch, labels, kind):
    torch = peer("torch")
    theirs = make(peer, tmp_path, kind)
    options = dict(learning_rate=1e-3, total_steps=20, dropout=False, max_grad_norm=1.0, weight_decay=0.01)
    model = Model.from_pretrained(tmp_path, task="masked-lm")
    trainer = Trainer(model, **options)
    loss = trainer.forward_backward(**batch, labels=labels)
    expected = theirs(**arrays(torch, batch, labels)).loss
    expected.backward()
    assert abs(loss - expected.item()) <= 1e-5
    other = named_gradients(theirs)
    mine = trainer.gradients()
    assert set(mine) == set(other)
    for name, gradient in mine.items():
        assert np.abs(gradient - other[name]).max() <= 1e-5 * max(1.0, np.abs(other[name]).max()), name
    word = next(name for name in mine if "word_embeddings" in name)
    unseen = np.setdiff1d(np.arange(VOCAB), batch["input_ids"])
    assert np.abs(mine[word][unseen]).max() > 0  # through the head alone

    theirs.zero_grad()
    trainer = Trainer(Model.from_pretrained(tmp_path, task="masked-lm"), **options)
    decays = [p for _, p in theirs.named_parameters() if p.ndim == 2]
    rest = [p for _, p in theirs.named_parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decays, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}], lr=1e-3
    )
    for step in range(20):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (20 - step) / 20
        value = theirs(**arrays(torch, batch, labels)).loss
        value.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        assert abs(trainer.step(**batch, labels=labels)["loss"] - value.item()) <= 1e-5, step
    assert (
        abs(trainer.evaluate_loss(**batch, labels=labels) - theirs(**arrays(torch, batch, labels)).loss)
        <= 1e-5
    )


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
def test_files_go_both_ways(peer, tmp_path, batch, labels, kind):
    torch, transformers = peer("torch"), peer("transformers")
    make(peer, tmp_path / "theirs", kind)
    ours = Model.from_pretrained(tmp_path / "theirs", task="masked-lm")
    Trainer(ours, learning_rate=1e-2, total_steps=2).step(**batch, labels=labels)
    ours.save_pretrained(tmp_path / "ours")
    saved = set(golden_file.read(tmp_path / "ours" / "model.safetensors")[0])
    assert saved == set(golden_file.read(tmp_path / "theirs" / "model.safetensors")[0])
    again, report = transformers.AutoModelForMaskedLM.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"]
    with torch.no_grad():
        expected = again.double().eval()(**arrays(torch, batch)).logits.numpy()
    there = batch["attention_mask"] == 1
    assert np.abs(ours(batch) - expected)[there].max() <= 2e-5
    reloaded = Model.from_pretrained(tmp_path / "ours", task="masked-lm")
    np.testing.assert_array_equal(reloaded(batch), ours(batch))
    classifier = Model.from_pretrained(tmp_path / "ours", num_labels=3)  # what people fine-tune from it
    assert (
        classifier.task == "sequence-classification" and "classifier.weight" in classifier.load_report.missing
    )
    encoder = Model.from_pretrained(tmp_path / "ours", task="embedding")
    encoder.save_pretrained(tmp_path / "encoder")
    bare = Model.from_pretrained(tmp_path / "encoder", task="masked-lm")
    assert len(bare.load_report.missing) == 5  # the head, made anew


def tiny(folder=None, **more):
    config = {"model_type": "distilbert", "vocab_size": VOCAB, "dim": 16, "n_heads": 2, "n_layers": 2}
    config |= {"hidden_dim": 32, "max_position_embeddings": 40, "initializer_range": 0.2, **more}
    model = Model.from_config(config, task="masked-lm", seed=3)
    if folder is not None:
        model.save_pretrained(folder)
    return model


def test_a_second_copy_of_the_table_must_be_one(tmp_path, batch):
    model = tiny(tmp_path)
    tensors, metadata = golden_file.read(tmp_path / "model.safetensors")
    word = tensors["distilbert.embeddings.word_embeddings.weight"]

    def write(copy):
        whole = {**tensors, "vocab_projector.weight": copy}
        path = tmp_path / "model.safetensors"
        golden_file.write(path, {name: ("F32", value) for name, value in whole.items()}, metadata)

    write(word)
    same = Model.from_pretrained(tmp_path, task="masked-lm")
    assert same.load_report.unexpected == []
    np.testing.assert_array_equal(same(batch), model(batch))
    write(word + 1)
    with pytest.raises(
        BackendError, match=r'"vocab_projector\.weight" differs from "distilbert\.embeddings\.word'
    ):
        Model.from_pretrained(tmp_path, task="masked-lm")
    with pytest.raises(BackendError, match="tie_word_embeddings: a masked-LM head of its own weights"):
        tiny(tie_word_embeddings=False)


def test_only_picked_tokens_take_memory(rng):
    """A row in fifty has a label: the plan grows by what a few logits take, not by tokens x vocabulary."""
    config = dict(vocab_size=20000, dim=32, n_heads=2)
    ids = rng.integers(1, 20000, (16, 40))
    labels = np.full(ids.shape, -100)
    labels[::2, 7] = 5
    trainer = Trainer(tiny(**config), total_steps=4)
    trainer.step(ids, labels=labels)
    few = trainer.activation_bytes
    assert few < 32 * 20000 * 4 + (16 << 20) < ids.size * 20000 * 4
    labels[:] = 5
    trainer.step(ids, labels=labels)
    assert trainer.activation_bytes > few + (ids.size - 64) * 20000 * 4


def test_full_logits_are_computed_in_pieces(rng):
    """Ask for the logits of many tokens: beside the result only a few MB are held."""
    model = tiny(vocab_size=20000, dim=32, n_heads=2)
    ids = rng.integers(1, 20000, (200, 40))
    before = _model.memory()[2]
    whole = model(ids)
    assert _model.memory()[2] - before < 100 << 20 < whole.nbytes
    one = np.concatenate([model(row[None]) for row in ids[[0, 77, 199]]])
    assert np.abs(whole[[0, 77, 199]] - one).max() <= 1e-6


def test_labels_that_do_not_fit_are_named(batch, labels):
    trainer = Trainer(tiny(), total_steps=4)
    for bad in (VOCAB, -1):
        wrong = labels.copy()
        wrong[4, 7] = bad
        with pytest.raises(
            ValueError, match=rf"labels row 4, position 7: expected 0 to 89 or -100, found {bad}"
        ):
            trainer.step(**batch, labels=wrong)
    with pytest.raises(ValueError, match="labels: all 88 are -100: the batch has no masked token"):
        trainer.step(**batch, labels=np.full_like(labels, -100))
    with pytest.raises(ValueError, match=r"labels: expected shape \(6, 33\), got \(6, 1\)"):
        trainer.step(**batch, labels=labels[:, 0])
    with pytest.raises(ValueError, match="class_weights: only a loss over single classes"):
        Trainer(tiny(), total_steps=4, class_weights=[1, 1])
    with pytest.raises(ValueError, match=r"where: expected shape \(6, 33\), got \(6, 32\)"):
        tiny().logits_at(labels[:, 1:] != -100, batch)
    other = Model.from_config({**tiny().config}, task="token-classification")
    with pytest.raises(BackendError, match='picks: the model was opened for "token-classification"'):
        other.logits_at(labels != -100, batch)
    with pytest.raises(ValueError, match=r"picks\[1\]: expected 4 to 87, found 3"):
        tiny()._core.forward(
            batch["input_ids"], batch["attention_mask"], None, None, np.array([3, 3], np.int32)
        )
    assert trainer.global_step == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bits_do_not_depend_on_threads_or_checkpointing(batch, labels, precision):
    before = _model.threads()
    results = []
    try:
        for threads, checkpointing in ((1, False), (2, True), (3, False)):
            _model.threads(threads)
            model = tiny(dim=32)
            trainer = Trainer(
                model,
                learning_rate=1e-2,
                total_steps=9,
                precision=precision,
                gradient_checkpointing=checkpointing,
            )
            losses = [trainer.step(**batch, labels=labels)["loss"] for _ in range(5)]
            results.append((losses, model.parameters()))
    finally:
        _model.threads(before)
    assert results[0][0][-1] < results[0][0][0]
    for losses, weights in results[1:]:
        assert losses == results[0][0]
        assert all(np.array_equal(weights[name], results[0][1][name]) for name in weights)


@pytest.mark.parametrize(
    "freeze", [["embeddings"], ["distilbert"], ["distilbert", "vocab_transform"], ["vocab_projector"]]
)
def test_freezing_around_the_tie(batch, labels, freeze):
    """The word table is an embedding: frozen as one it is frozen in the head too."""
    whole, part = Trainer(tiny(), total_steps=4, dropout=False), None
    model = tiny()
    before = model.parameters()
    part = Trainer(model, total_steps=4, dropout=False, freeze=freeze)
    whole.forward_backward(**batch, labels=labels)
    part.forward_backward(**batch, labels=labels)
    expected = whole.gradients()
    for name, gradient in part.gradients().items():
        np.testing.assert_array_equal(gradient, expected[name], err_msg=name)
    part.optimizer_step()
    after = model.parameters()
    for name in before:
        assert np.array_equal(after[name], before[name]) == (name not in part.trained), name


def test_low_precision_agrees(tmp_path, batch):
    model = tiny(tmp_path)
    exact = model(batch)
    for precision, bound in (("bf16", 0.05), ("int8", 0.15)):
        low = Model.from_pretrained(tmp_path, task="masked-lm", precision=precision)(batch)
        assert 0 < np.abs(low - exact).max() <= bound * np.abs(exact).max()


def test_adaptation_lowers_the_loss(tmp_path):
    """Texts of one word again and again: a masked word can be told from its neighbours."""
    from smhf_native.model.masking import mask_tokens

    rng = np.random.default_rng(1)
    model = tiny(tmp_path, dim=32, hidden_dim=64, initializer_range=0.05)
    trainer = Trainer(model, learning_rate=1e-2, schedule="constant", dropout=False)
    losses = []
    for _ in range(250):
        starts = rng.integers(5, 70, (16, 1))
        ids = np.repeat(starts, 12, axis=1)
        inputs, labels = mask_tokens(ids, np.ones_like(ids), mask_id=4, vocab_size=VOCAB, rng=rng)
        labels[0, 0] = ids[0, 0]  # one at least
        losses.append(trainer.step(inputs, labels=labels)["loss"])
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:20])
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["DistilBertForMaskedLM"]
