"""The trainer: options, schedule, failures that leave the weights alone, resume to the same bytes, dropout."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading

import golden_file
import numpy as np
import pytest
import tiny_model

from smhf_native.errors import BusyError, ParseError
from smhf_native.model import Model, Trainer, _model


@pytest.fixture
def batch(rng):
    """Eight padded rows with labels."""
    lengths = rng.integers(3, 30, 8)
    ids = rng.integers(5, 90, (8, 30))
    mask = (np.arange(30)[None] < lengths[:, None]).astype(np.int64)
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": rng.integers(0, 5, 8)}


def small_model(seed=11, **overrides):
    return Model.from_config(tiny_model.tiny_config(120, num_labels=5, **overrides), seed=seed)


def snapshot(model):
    return {name: value.copy() for name, value in model.parameters().items()}


def same(a, b):
    return all(np.array_equal(a[name], b[name]) for name in a)


# --- schedule and options -----------------------------------------------------------------------------


def expected_factor(schedule, k, warmup, total):
    if schedule == "constant":
        return 1.0
    if k < warmup:
        return k / max(1, warmup)
    if schedule == "constant_with_warmup":
        return 1.0
    progress = (k - warmup) / max(1, total - warmup)
    if schedule == "cosine":
        return max(0.0, 0.5 * (1.0 + math.cos(math.pi * 2.0 * 0.5 * progress)))
    return max(0.0, (total - k) / max(1, total - warmup))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant", "constant_with_warmup"])
@pytest.mark.parametrize("warmup", [0, 3])
def test_learning_rates(batch, schedule, warmup):
    trainer = Trainer(
        small_model(), learning_rate=1e-3, total_steps=6, warmup_steps=warmup, schedule=schedule
    )
    for k in range(8):  # past the end too
        want = 1e-3 * expected_factor(schedule, k, warmup, 6)
        assert trainer.learning_rate == pytest.approx(want, rel=1e-12, abs=1e-15)
        report = trainer.step(**batch)
        assert report["learning_rate"] == pytest.approx(want, rel=1e-12, abs=1e-15)
        assert report["step"] == k + 1 == trainer.global_step


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("learning_rate", -1.0), ("learning_rate", math.nan), ("betas", (1.0, 0.9)), ("betas", (0.9, -0.1)),
        ("eps", -1.0), ("weight_decay", -0.1), ("max_grad_norm", math.inf), ("warmup_steps", -1),
        ("gradient_accumulation_steps", 0), ("total_steps", 0), ("schedule", "polynomial"),
        ("label_smoothing", 1.0),
    ],
)  # fmt: skip
def test_bad_options_are_named(option, value):
    with pytest.raises(ValueError, match=option):
        Trainer(small_model(), **{"total_steps": 10, option: value})


def test_weight_decay_spares_biases_and_layernorm(batch):
    model = small_model()
    before = snapshot(model)
    trainer = Trainer(
        model, learning_rate=1e-3, weight_decay=0.5, total_steps=10**6, betas=(0.0, 0.0), eps=1e9
    )
    trainer.step(**batch)  # a huge eps silences the gradient: what moves is decay
    for name, value in model.parameters().items():
        if value.ndim == 2:
            np.testing.assert_allclose(value, before[name] * (1 - 1e-3 * 0.5), rtol=2e-7, err_msg=name)
        else:
            np.testing.assert_allclose(value, before[name], atol=1e-11, err_msg=name)


def test_clipping_scales_to_the_norm(batch):
    """With betas 0 and a huge eps AdamW is a plain gradient step of lr / eps."""
    moved = {}
    for limit in (0.0, 0.01):
        model = small_model()
        before = snapshot(model)
        trainer = Trainer(
            model,
            learning_rate=1e12,
            total_steps=10**6,
            betas=(0.0, 0.0),
            eps=1e12,
            max_grad_norm=limit,
            dropout=False,
        )
        norm = trainer.step(**batch)["grad_norm"]
        gradients = trainer.gradients()
        total = math.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in gradients.values()))
        assert norm == pytest.approx(total, rel=1e-6) and norm > 0.1
        moved[limit] = {n: v.astype(np.float64) - before[n] for n, v in model.parameters().items()}
    scale = 0.01 / (norm + 1e-6)
    for name, free in moved[0.0].items():
        np.testing.assert_allclose(
            moved[0.01][name], free * scale, atol=1.3e-7, err_msg=name
        )  # one unit at 1.0


# --- failures -----------------------------------------------------------------------------------------


def test_label_outside_names_row_and_value(batch):
    trainer = Trainer(small_model(), total_steps=10)
    for bad in (5, -1, -100, 2**40):
        labels = batch["labels"].copy()
        labels[6] = bad
        with pytest.raises(ValueError, match=rf"labels row 6: expected 0 to 4 .* found {bad}"):
            trainer.step(**{**batch, "labels": labels})
    with pytest.raises(ValueError, match="labels: expected one for each of the 8 rows, got 7"):
        trainer.step(**{**batch, "labels": batch["labels"][:7]})
    with pytest.raises(TypeError, match="labels: expected one for each row, got None"):
        trainer.step(batch["input_ids"])
    with pytest.raises(
        ValueError, match=r"labels: floats are one number for each of the 5 labels .* \(8, 1\)"
    ):
        trainer.step(**{**batch, "labels": batch["labels"].astype(np.float32)})
    assert trainer.global_step == 0


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_loss_that_is_not_finite_stops_before_the_weights(batch, poison):
    model = small_model()
    trainer = Trainer(model, learning_rate=3e-4, total_steps=10)
    trainer.step(**batch)
    name = "distilbert.transformer.layer.0.ffn.lin2.bias"
    good = model.parameters()[name]
    model.set_parameter(name, np.full_like(good, poison))
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"the loss is -?nan at step 2 \(learning rate 0\.00027\)"):
        trainer.step(**batch)
    with pytest.raises(ValueError, match="there are no gradients"):
        trainer.optimizer_step()
    after = model.parameters()
    assert all(np.array_equal(after[n], before[n], equal_nan=True) for n in before)
    model.set_parameter(name, good)
    assert math.isfinite(trainer.step(**batch)["grad_norm"])  # nothing of the bad pass is left


def test_gradient_norm_that_is_not_finite_stops_before_the_weights(batch):
    """Finite loss and gradients whose norm no float32 holds: 1e-38 enters a classifier of 5e37."""
    model = small_model(**OFF)
    values = model.parameters()
    model.set_parameter("pre_classifier.weight", values["pre_classifier.weight"] * 0)
    model.set_parameter("pre_classifier.bias", values["pre_classifier.bias"] * 0 + 1.2e-38)
    classifier = values["classifier.weight"] * 0
    classifier[0] = 5e37
    model.set_parameter("classifier.weight", classifier)
    trainer = Trainer(model, total_steps=10)
    loss = trainer.forward_backward(**{**batch, "labels": np.full(8, 1)})
    assert math.isfinite(loss)
    assert all(np.isfinite(g).all() for g in trainer.gradients().values())
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"the gradient norm is inf at step 1 \(learning rate 5e-05\)"):
        trainer.optimizer_step()
    assert same(snapshot(model), before) and trainer.global_step == 0


def test_optimizer_step_without_gradients(batch):
    trainer = Trainer(small_model(), total_steps=10)
    with pytest.raises(ValueError, match="optimizer step 1: there are no gradients"):
        trainer.optimizer_step()
    trainer.step(**batch)
    with pytest.raises(ValueError, match="optimizer step 2"):
        trainer.optimizer_step()


def test_evaluation_leaves_gradients_and_dropout_counter_alone(batch):
    one, two = (Trainer(small_model(), learning_rate=1e-3, total_steps=10) for _ in range(2))
    one.forward_backward(**batch)
    two.forward_backward(**batch)
    assert one.evaluate_loss(**batch) == one.evaluate_loss(**batch)
    assert one.optimizer_step() == two.optimizer_step()
    one.evaluate_loss(**batch)
    assert one.step(**batch) == two.step(**batch)


# --- the same bits ------------------------------------------------------------------------------------


def run_steps(trainer, batches):
    return [trainer.step(**b)["loss"] for b in batches]


@pytest.fixture
def batches(rng):
    """Twelve batches of changing shapes."""
    result = []
    for _ in range(12):
        rows, columns = int(rng.integers(1, 9)), int(rng.integers(4, 40))
        lengths = rng.integers(1, columns + 1, rows)
        mask = (np.arange(columns)[None] < lengths[:, None]).astype(np.int64)
        ids = rng.integers(1, 120, (rows, columns)) * mask
        result.append({"input_ids": ids, "attention_mask": mask, "labels": rng.integers(0, 5, rows)})
    return result


OPTIONS = {"learning_rate": 1e-3, "weight_decay": 0.01, "warmup_steps": 2, "total_steps": 12, "seed": 5}


def test_resume_is_byte_identical_from_every_kind_of_step(batches, tmp_path):
    model = small_model()
    trainer = Trainer(model, **OPTIONS)
    losses = []
    for i, b in enumerate(batches):
        if i in (1, 2, 7):
            model.save_pretrained(tmp_path / str(i))
            trainer.save_state(tmp_path / str(i) / "optimizer.safetensors")
        losses.append(trainer.step(**b)["loss"])
    final = snapshot(model)
    for i in (1, 2, 7):
        again = Model.from_pretrained(tmp_path / str(i))
        resumed = Trainer(again, **{**OPTIONS, "seed": 999})  # the file's seed counts
        resumed.load_state(tmp_path / str(i) / "optimizer.safetensors")
        assert resumed.global_step == i
        assert run_steps(resumed, batches[i:]) == losses[i:]
        assert same(snapshot(again), final), i


def test_threads_do_not_change_a_bit(batches):
    before = _model.threads()
    results = []
    try:
        for count in (1, 2, 3):
            _model.threads(count)
            model = small_model()
            losses = run_steps(Trainer(model, **OPTIONS), batches)
            results.append(
                (losses, snapshot(model), model(batches[0]["input_ids"], batches[0]["attention_mask"]))
            )
    finally:
        _model.threads(before)
    for losses, weights, logits in results[1:]:
        assert losses == results[0][0]
        assert same(weights, results[0][1])
        np.testing.assert_array_equal(logits, results[0][2])


def test_steady_state_allocates_nothing(batches):
    model = small_model()
    trainer = Trainer(model, **{**OPTIONS, "total_steps": 1000})
    run_steps(trainer, batches)
    for b in batches:
        model(b["input_ids"], b["attention_mask"])
        trainer.evaluate_loss(**b)
    count, live, size = _model.memory()
    for i in range(100):
        b = batches[i % len(batches)]
        trainer.step(**b)
        model(b["input_ids"], b["attention_mask"])
    assert _model.memory() == (count, live, size)


def test_nothing_is_left_when_objects_go(batches):
    import gc

    gc.collect()
    model = small_model()  # warms what stays for good: pool, matmul library
    run_steps(Trainer(model, **OPTIONS), batches)
    model(batches[0]["input_ids"])
    del model
    gc.collect()
    live = _model.memory()[1]
    for _ in range(3):
        model = small_model()
        trainer = Trainer(model, **OPTIONS)
        run_steps(trainer, batches[:3])
        model(batches[0]["input_ids"])
        with pytest.raises(ValueError):
            model([[10**6]])
        del model, trainer
        gc.collect()
        assert _model.memory()[1] == live


# --- state files --------------------------------------------------------------------------------------


def test_state_file_is_safetensors_with_both_moments(batches, tmp_path):
    model = small_model()
    trainer = Trainer(model, **OPTIONS)
    run_steps(trainer, batches[:2])
    path = tmp_path / "state.safetensors"
    trainer.save_state(path)
    tensors, metadata = golden_file.read(path)
    assert metadata["step"] == "2" and metadata["seed"] == "5" and metadata["dropout_step"] == "2"
    assert set(tensors) == {f"{k}.{n}" for k in "mv" for n in model.parameters()}
    assert all((tensors[n] >= 0).all() for n in tensors if n.startswith("v."))
    assert os.listdir(tmp_path) == ["state.safetensors"]
    trainer.forward_backward(**batches[3])
    with pytest.raises(ValueError, match="1 micro-batches wait"):
        trainer.save_state(path)


def test_state_that_does_not_fit_changes_nothing(batches, tmp_path):
    model = small_model()
    trainer, twin = Trainer(model, **OPTIONS), Trainer(small_model(), **OPTIONS)
    trainer.step(**batches[0])
    twin.step(**batches[0])
    other = Trainer(small_model(n_layers=1), **OPTIONS)
    other.step(**batches[0])
    other.save_state(tmp_path / "other")
    with pytest.raises(ValueError, match=r"m\.distilbert\.transformer\.layer\.1\..*another model"):
        trainer.load_state(tmp_path / "other")
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="expected a saved trainer state"):
        trainer.load_state(tmp_path / "model.safetensors")
    raw = (tmp_path / "other").read_bytes()
    (tmp_path / "torn").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ParseError, match="torn"):
        trainer.load_state(tmp_path / "torn")
    with pytest.raises(OSError, match="absent"):
        trainer.load_state(tmp_path / "absent")
    for key, value in (("step", "-3"), ("step", "x"), ("dropout_step", str(2**32)), ("smhf_version", "2")):
        tensors, metadata = golden_file.read(tmp_path / "other")
        golden_file.write(
            tmp_path / "bad", {n: ("F32", v) for n, v in tensors.items()}, {**metadata, key: value}
        )
        with pytest.raises(Exception, match=key if key != "smhf_version" else "version 2"):
            trainer.load_state(tmp_path / "bad")
    assert trainer.step(**batches[1]) == twin.step(**batches[1])


def test_killed_while_saving_leaves_a_whole_file(tmp_path):
    """kill -9 at random moments of a saving loop: what stands under the name is always loadable."""
    code = """
import sys
sys.path.insert(0, sys.argv[2])
import tiny_model
from smhf_native.model import Model, Trainer
model = Model.from_config(tiny_model.tiny_config(2000, dim=64, num_labels=5))
trainer = Trainer(model, total_steps=10)
print("ready", flush=True)
while True:
    trainer.save_state(sys.argv[1] + "/state.safetensors")
"""
    support = os.path.dirname(tiny_model.__file__)
    trainer = Trainer(Model.from_config(tiny_model.tiny_config(2000, dim=64, num_labels=5)), total_steps=10)
    rng = np.random.default_rng(3)
    for _ in range(4):
        run = [sys.executable, "-c", code, str(tmp_path), support]
        with subprocess.Popen(run, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None and child.stdout.readline() == b"ready\n"
            threading.Event().wait(0.05 + 0.1 * rng.random())
            child.kill()
        if (tmp_path / "state.safetensors").exists():
            trainer.load_state(tmp_path / "state.safetensors")
    assert (tmp_path / "state.safetensors").exists()


# --- dropout ------------------------------------------------------------------------------------------

OFF = {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}


def test_without_dropout_training_loss_is_evaluation_loss(batch):
    silent = Trainer(small_model(), total_steps=10, dropout=False)
    assert silent.forward_backward(**batch) == silent.evaluate_loss(**batch)
    zero = Trainer(small_model(**OFF), total_steps=10)
    assert zero.forward_backward(**batch) == zero.evaluate_loss(**batch)


@pytest.mark.parametrize("place", list(OFF))
def test_every_place_drops_and_each_pass_anew(batch, place):
    trainer = Trainer(small_model(**{**OFF, place: 0.4}), total_steps=10)
    base = trainer.evaluate_loss(**batch)
    losses = [trainer.forward_backward(**batch) for _ in range(4)]
    assert len({base, *losses}) == 5
    again = Trainer(small_model(**{**OFF, place: 0.4}), total_steps=10)
    assert [again.forward_backward(**batch) for _ in range(4)] == losses
    reseeded = Trainer(small_model(**{**OFF, place: 0.4}), total_steps=10, seed=43)
    assert reseeded.forward_backward(**batch) != losses[0]


def test_head_dropout_keep_rate_and_scale():
    """Of one row, grad classifier.weight = dlogits x dropped and grad classifier.bias = dlogits: their ratio
    is the dropped vector, whose features are 0 or 1 / (1 - p) of what they are without dropout."""
    p = 0.3
    model = small_model(dim=512, hidden_dim=32, **{**OFF, "seq_classif_dropout": p})
    model.set_parameter("pre_classifier.bias", np.full(512, 40.0))  # keeps ReLU open
    model.set_parameter("classifier.weight", model.parameters()["classifier.weight"] * 1e-3)
    one = {"input_ids": [[2, 7, 9, 3]], "labels": [1]}

    def dropped(**options):
        trainer = Trainer(model, total_steps=100, **options)
        trainer.forward_backward(**one)
        gradients = trainer.gradients()
        return gradients["classifier.weight"][0].astype(np.float64) / gradients["classifier.bias"][0]

    plain = dropped(dropout=False)
    assert (plain > 1).all()
    ratio = np.array([dropped(seed=seed) for seed in range(20)]) / plain
    kept = ratio > 0.5
    np.testing.assert_allclose(ratio[kept], 1 / (1 - p), rtol=1e-5)
    np.testing.assert_array_equal(ratio[~kept], 0)
    assert abs(kept.mean() - (1 - p)) < 4 * math.sqrt(p * (1 - p) / kept.size)
    # draws of different seeds are independent: they agree as often as chance has it
    agree = (kept[0::2] == kept[1::2]).mean()
    chance = p * p + (1 - p) * (1 - p)
    assert abs(agree - chance) < 4 * math.sqrt(chance * (1 - chance) / (kept.size / 2))


def test_dropout_does_not_depend_on_padding(batch):
    narrow, wide = (Trainer(small_model(), total_steps=10) for _ in range(2))
    longest = int(batch["attention_mask"].sum(1).max())
    cut = {k: v[:, :longest] if v.ndim == 2 else v for k, v in batch.items()}
    assert narrow.forward_backward(**cut) == wide.forward_backward(**batch)


# --- threads ------------------------------------------------------------------------------------------


def test_second_thread_in_a_trainer_is_refused(rng):
    model = small_model(dim=128, hidden_dim=512)
    trainer = Trainer(model, total_steps=10)
    ids = rng.integers(1, 120, (32, 60))
    batch = {"input_ids": ids, "labels": rng.integers(0, 5, 32)}
    outcomes: list[str] = []
    barrier = threading.Barrier(4)

    def work():
        barrier.wait()
        for _ in range(6):
            try:
                trainer.forward_backward(**batch)
                outcomes.append("done")
            except BusyError as error:
                assert "another thread" in str(error)
                outcomes.append("busy")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("busy") > 0 and outcomes.count("done") > 0
    assert trainer.optimizer_step()["step"] == 1


def test_calls_from_eight_threads_while_training(batches):
    """Readers see the weights before or after a step, never in between: all rows of one call agree."""
    model = small_model(**OFF)
    trainer = Trainer(model, **{**OPTIONS, "total_steps": 1000})
    row = [[2, 7, 9, 30, 3]]
    done = threading.Event()
    faults: list[str] = []
    calls = []

    def read():
        while not done.is_set():
            logits = model(row * 4)
            calls.append(1)
            if np.abs(logits - logits[0]).max() > 1e-6 or not np.isfinite(logits).all():
                faults.append(str(logits))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    run_steps(trainer, batches * 3)
    done.set()
    for thread in threads:
        thread.join()
    assert not faults and len(calls) >= 8
    alone = Trainer(small_model(**OFF), **{**OPTIONS, "total_steps": 1000})
    run_steps(alone, batches * 3)
    assert same(snapshot(model), snapshot(alone.model))
