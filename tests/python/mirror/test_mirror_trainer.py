"""The Trainer of the mirror: logs, steps, callbacks, resume to the byte, stops, refusals."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smhf_native import transformers as hf
from smhf_native.datasets import Dataset, load_dataset
from smhf_native.transformers.trainer import NonFiniteLossError, Trainer
from smhf_native.transformers.trainer_utils import get_last_checkpoint


@pytest.fixture
def parts(tiny_model: Path, reviews: dict[str, Path]) -> dict[str, Any]:
    """Tokenizer, tokenized data and a fresh model."""
    tokenizer = hf.AutoTokenizer.from_pretrained(tiny_model)
    data = load_dataset("csv", data_files={name: str(path) for name, path in reviews.items()})
    data = data.map(lambda b: tokenizer(b["text"], padding="max_length", truncation=True), batched=True)
    data = data.rename_column("label", "labels")
    data.set_format("torch", columns=["input_ids", "attention_mask", "labels"])
    model = hf.AutoModelForSequenceClassification.from_pretrained(tiny_model)
    return {"tokenizer": tokenizer, "train": data["train"], "eval": data["validate"], "model": model}


def make(parts: dict[str, Any], folder: Path, *, callbacks: Any = None, **settings: Any) -> Trainer:
    defaults: dict[str, Any] = {"num_train_epochs": 2, "learning_rate": 1e-3, "logging_steps": 1}
    args = hf.TrainingArguments(str(folder), **{**defaults, **settings})
    return Trainer(
        model=parts["model"],
        args=args,
        train_dataset=parts["train"],
        eval_dataset=parts["eval"],
        compute_metrics=lambda p: {"accuracy": (p.predictions.argmax(-1) == p.label_ids).mean()},
        callbacks=callbacks,
    )


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


# What the notebook of 2021 gives as metric definitions.
REGEX = "'%s': ([0-9]+(.|e\\-)[0-9]+),?"


def test_log_lines_are_what_the_metric_expressions_read(
    parts: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMHF_SCALARS_PATH", str(tmp_path / "scalars.ndjson"))
    trainer = make(parts, tmp_path / "out", evaluation_strategy="epoch", per_device_train_batch_size=16)
    result = trainer.train()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    steps = [eval(line, {"nan": math.nan}) for line in lines if "'loss'" in line]
    assert [list(step) for step in steps] == [["loss", "grad_norm", "learning_rate", "epoch"]] * 8
    assert all(step["loss"] == round(step["loss"], 4) for step in steps)
    assert [step["epoch"] for step in steps] == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0]
    rates = [1e-3 * (8 - k) / 8 for k in range(8)]
    assert [step["learning_rate"] for step in steps] == pytest.approx(rates, rel=1e-12)
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [float(re.search(REGEX % "loss", line)[1]) for line in lines if "'loss'" in line] == pytest.approx(
        [round(entry["loss"], 4) for entry in history]
    )
    evaluations = [line for line in lines if "eval_loss" in line]
    assert len(evaluations) == 2
    for name in ("eval_loss", "eval_accuracy", "eval_runtime", "eval_samples_per_second", "epoch"):
        assert re.search(REGEX % name, evaluations[0]), name
    keys = list(eval(evaluations[0]))
    assert keys[0] == "eval_loss" and keys[1] == "eval_accuracy" and keys[-1] == "epoch"
    last = eval(lines[-1])
    assert list(last) == [
        "train_runtime",
        "train_samples_per_second",
        "train_steps_per_second",
        "train_loss",
        "epoch",
    ]
    assert last["train_loss"] == pytest.approx(np.mean([entry["loss"] for entry in history]))
    assert result.global_step == 8 and result.training_loss == last["train_loss"]
    scalars = [json.loads(line) for line in (tmp_path / "scalars.ndjson").read_text().splitlines()]
    losses = [s for s in scalars if s["MetricName"] == "loss"]
    assert [s["IterationNumber"] for s in losses] == list(range(1, 9))
    assert [s["Value"] for s in losses] == [entry["loss"] for entry in history]
    assert history[-1]["loss"] < history[0]["loss"]


def test_padding_changes_nothing(
    parts: dict[str, Any], tiny_model: Path, reviews: Any, tmp_path: Path
) -> None:
    padded = make(parts, tmp_path / "a")
    padded.train()
    tokenizer = parts["tokenizer"]
    raw = load_dataset("csv", data_files=str(reviews["train"]), split="train")
    short = raw.map(lambda b: tokenizer(b["text"], truncation=True), batched=True)
    other = dict(parts, train=short, model=hf.AutoModelForSequenceClassification.from_pretrained(tiny_model))
    packed = make(other, tmp_path / "b")
    packed.data_collator = hf.DataCollatorWithPadding(tokenizer)
    packed.train()
    plain = make(
        dict(
            parts,
            train=list(short.remove_columns("text")),
            model=hf.AutoModelForSequenceClassification.from_pretrained(tiny_model),
        ),
        tmp_path / "c",
    )
    plain.data_collator = lambda rows: tokenizer.pad(rows, padding="max_length", return_tensors="pt")
    plain.args.label_names = ["label"]
    plain.train()
    losses = [[e["loss"] for e in t.state.log_history if "loss" in e] for t in (padded, packed, plain)]
    assert losses[0] == losses[1] == losses[2] and len(losses[0]) == 16


def test_default_collator_says_that_rows_differ(parts: dict[str, Any], reviews: Any, tmp_path: Path) -> None:
    raw = load_dataset("csv", data_files=str(reviews["train"]), split="train")
    parts["train"] = raw.map(lambda b: parts["tokenizer"](b["text"]), batched=True)
    with pytest.raises(ValueError, match=r"differ in length.*DataCollatorWithPadding"):
        make(parts, tmp_path).train()


@pytest.mark.parametrize(
    "settings", [{}, {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 5}]
)
def test_resume_is_exact_to_the_byte(
    parts: dict[str, Any], tiny_model: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    """From any checkpoint, the rest of the run gives the same weights, moments and log entries."""
    common = {"save_steps": 1, "logging_steps": 3, "eval_strategy": "steps", "eval_steps": 4, **settings}
    whole = make(parts, tmp_path / "whole", **common)
    whole.train()
    total = whole.state.max_steps
    stamps = ("runtime", "per_second")

    def facts(trainer: Trainer) -> list[dict[str, Any]]:
        return [
            {k: v for k, v in e.items() if not k.endswith(stamps)}
            for e in trainer.state.log_history
            if "train_runtime" not in e
        ]

    for step in np.random.default_rng(0).choice(np.arange(1, total), size=5, replace=False):
        model = hf.AutoModelForSequenceClassification.from_pretrained(tiny_model)
        again = make(dict(parts, model=model), tmp_path / f"from-{step}", **common)
        again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        ours, theirs = (
            tmp_path / f"from-{step}" / f"checkpoint-{total}",
            tmp_path / "whole" / f"checkpoint-{total}",
        )
        for name in ("model.safetensors", "optimizer.safetensors"):
            assert (ours / name).read_bytes() == (theirs / name).read_bytes(), f"{name} from step {step}"
        assert facts(again) == facts(whole)


def test_resume_forms(parts: dict[str, Any], tiny_model: Path, tmp_path: Path, capsys: Any) -> None:
    trainer = make(parts, tmp_path / "out", max_steps=4, save_steps=2)
    trainer.train()
    assert get_last_checkpoint(tmp_path / "out") == str(tmp_path / "out" / "checkpoint-4")
    (tmp_path / "out" / "checkpoint-4" / "model.safetensors").write_bytes(b"torn")
    for resume in (True, str(tmp_path / "out"), str(tmp_path / "out" / "checkpoint-2")):
        model = hf.AutoModelForSequenceClassification.from_pretrained(tiny_model)
        again = make(dict(parts, model=model), tmp_path / "out", max_steps=4, save_strategy="no")
        again.train(resume_from_checkpoint=resume)
        assert [e["step"] for e in again.state.log_history if "loss" in e] == [1, 2, 3, 4]
    assert "checkpoint-4 is skipped: model.safetensors has 4 bytes" in capsys.readouterr().err
    with pytest.raises(OSError, match=r"checkpoint-4 cannot be resumed: model.safetensors has 4 bytes"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    with pytest.raises(ValueError, match="No valid checkpoint found in output directory"):
        make(parts, tmp_path / "empty").train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="Can't find a valid checkpoint at nowhere"):
        trainer.train(resume_from_checkpoint="nowhere")


class Recorder(hf.TrainerCallback):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("on_"):

            def note(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                assert kwargs["model"] is not None and "tokenizer" in kwargs
                self.calls.append(name)

            return note
        return super().__getattribute__(name)


def test_every_hook_is_called_in_order(parts: dict[str, Any], tmp_path: Path) -> None:
    recorder = Recorder()
    trainer = make(
        parts, tmp_path, callbacks=[recorder], max_steps=2, gradient_accumulation_steps=2,
        eval_strategy="steps", eval_steps=2, save_steps=2, per_device_eval_batch_size=24, logging_steps=2,
    )  # fmt: skip
    trainer.train()
    step = ["on_step_begin", "on_substep_end", "on_pre_optimizer_step", "on_optimizer_step", "on_step_end"]
    assert recorder.calls == [
        "on_init_end", "on_train_begin", "on_epoch_begin", *step, *step, "on_log", "on_prediction_step", "on_log",
        "on_evaluate", "on_save", "on_epoch_end", "on_log", "on_train_end",
    ]  # fmt: skip


def test_early_stopping_and_the_best_model(parts: dict[str, Any], tmp_path: Path) -> None:
    trainer = make(
        parts, tmp_path, num_train_epochs=30, learning_rate=3e-3, eval_strategy="epoch", save_strategy="epoch",
        load_best_model_at_end=True, metric_for_best_model="accuracy", save_total_limit=2,
        callbacks=[hf.EarlyStoppingCallback(early_stopping_patience=2)],
    )  # fmt: skip
    trainer.train()
    history = [e for e in trainer.state.log_history if "eval_accuracy" in e]
    best = max(e["eval_accuracy"] for e in history)
    assert len(history) < 30 and trainer.state.best_metric == best
    first = next(e["step"] for e in history if e["eval_accuracy"] == best)
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{first}")
    assert trainer.evaluate()["eval_accuracy"] == best
    assert len(list(tmp_path.glob("checkpoint-*"))) <= 2


def test_step_counts_follow_transformers(parts: dict[str, Any], tmp_path: Path) -> None:
    """64 rows: N = ceil(ceil(64 / B) / accumulation) * epochs; max_steps wins over epochs."""
    for batch, accumulation, epochs, drop in ((7, 1, 1, False), (7, 4, 1.5, False), (10, 2, 1, True)):
        trainer = make(
            parts, tmp_path, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation,
            num_train_epochs=epochs, dataloader_drop_last=drop, save_strategy="no", logging_strategy="no",
        )  # fmt: skip
        batches = 64 // batch if drop else math.ceil(64 / batch)
        assert trainer.train().global_step == math.ceil(math.ceil(batches / accumulation) * epochs)
    trainer = make(parts, tmp_path, max_steps=11, save_strategy="no", logging_strategy="no")
    assert trainer.train().global_step == 11 and trainer.state.epoch == 11 / 8


@pytest.mark.parametrize(
    ("row", "value", "said"),
    [
        (13, 2, "train_dataset: the label of row 13 is 2; the model has num_labels=2: 0 to 1"),
        (0, -1, "the label of row 0 is -1"),
        (5, None, "the label of row 5 is None; expected an integer from 0 to 1"),
        (5, 0.5, "the label of row 0 is .*; expected an integer"),
        (7, "good", "the label of row 7 is 'good'"),
    ],
)
def test_bad_labels_are_named_before_training(
    parts: dict[str, Any], tmp_path: Path, row: int, value: Any, said: str
) -> None:
    table = parts["train"].with_format(None).to_dict()
    table["labels"][row] = value
    parts["train"] = Dataset.from_dict(table)
    trainer = make(parts, tmp_path)
    with pytest.raises(ValueError, match=said):
        trainer.train()
    assert trainer.state.global_step == 0 and not list(tmp_path.glob("checkpoint*"))


def test_bad_labels_of_foreign_datasets_are_named_too(parts: dict[str, Any], tmp_path: Path) -> None:
    rows = [dict(row) for row in parts["train"]]
    rows[3]["labels"] = np.int64(9)
    parts["train"] = rows
    with pytest.raises(ValueError, match=r"label of row 3 is 9"):
        make(parts, tmp_path).train()


def test_tokens_that_do_not_fit_the_model_are_named(parts: dict[str, Any], tmp_path: Path) -> None:
    whole = parts["train"].with_format(None).to_dict()
    size = parts["model"].config.vocab_size
    table = {
        name: [list(row) if isinstance(row, list) else row for row in rows] for name, rows in whole.items()
    }
    table["input_ids"][5][1] = size
    trainer = make(dict(parts, train=Dataset.from_dict(table)), tmp_path)
    with pytest.raises(
        ValueError, match=rf"row 5 holds the token id {size}, but the model's vocabulary has {size}"
    ):
        trainer.train()
    table = {**whole, "input_ids": [row + [5] * 4 for row in whole["input_ids"]]}
    table["attention_mask"] = [row + [0] * 4 for row in whole["attention_mask"]]
    make(dict(parts, train=Dataset.from_dict(table)), tmp_path, max_steps=1, save_strategy="no").train()
    table["attention_mask"][9] = [1] * 68
    with pytest.raises(ValueError, match="row 9 has 68 tokens, the model takes 64"):
        make(dict(parts, train=Dataset.from_dict(table)), tmp_path).train()


def test_a_checkpoint_of_another_trainer_resumes_without_moments(
    parts: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As transformers writes them: no manifest, and an optimizer state that is a pickle."""
    make(parts, tmp_path, max_steps=4, save_steps=2).train()
    folder = tmp_path / "checkpoint-2"
    for name in ("MANIFEST.json", "optimizer.safetensors", "smhf_cursor.json"):
        (folder / name).unlink()
    (folder / "optimizer.pt").write_bytes(b"not read")
    trainer = make(parts, tmp_path / "again", max_steps=4, save_strategy="no")
    trainer.train(resume_from_checkpoint=str(folder))
    assert [e["step"] for e in trainer.state.log_history if "loss" in e] == [1, 2, 3, 4]
    rates = [e["learning_rate"] for e in trainer.state.log_history if "loss" in e]
    assert rates == pytest.approx([1e-3 * k / 4 for k in (4, 3, 2, 1)])
    assert "moments of AdamW start at zero" in capsys.readouterr().err


def test_empty_texts_are_rows_like_others(parts: dict[str, Any], tmp_path: Path) -> None:
    tokenizer = parts["tokenizer"]
    data = Dataset.from_dict({"text": ["", " ", "soft", "\n"] * 4, "label": [0, 1, 1, 0] * 4})
    parts["train"] = data.map(lambda b: tokenizer(b["text"], padding="max_length"), batched=True)
    assert sum(parts["train"][0]["attention_mask"]) == 2
    trainer = make(parts, tmp_path, num_train_epochs=1, save_strategy="no")
    assert trainer.train().global_step == 2
    missing = Dataset.from_dict({"text": ["soft", None], "label": [0, 1]})
    with pytest.raises((TypeError, ValueError), match="1"):
        missing.map(lambda b: tokenizer(b["text"]), batched=True)


def test_a_head_of_another_size_is_named_with_the_folder(tiny_model: Path) -> None:
    with pytest.raises(ValueError) as caught:
        hf.AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=5)
    said = str(caught.value)
    assert str(tiny_model) in said and "classifier" in said and "[5" in said and "[2" in said
    model = hf.AutoModelForSequenceClassification.from_pretrained(
        tiny_model, id2label={0: "no", 1: "yes"}, dropout=0.0
    )
    assert model.config.id2label == {0: "no", 1: "yes"} and model.config.dropout == 0.0
    assert model.native.config["dropout"] == 0.0 and model.num_labels == 2


def test_missing_columns_are_named(parts: dict[str, Any], tmp_path: Path) -> None:
    whole = parts["train"].with_format(None)
    parts["train"] = whole.remove_columns("input_ids")
    with pytest.raises(ValueError, match=r"no column input_ids among .*tokenize it first"):
        make(parts, tmp_path).train()
    parts["train"] = whole.remove_columns("labels")
    with pytest.raises(ValueError, match="no label column among"):
        make(parts, tmp_path).train()
    parts["train"] = whole.rename_column("labels", "stars")
    trainer = make(parts, tmp_path, label_names=["stars"], max_steps=1, save_strategy="no")
    assert trainer.train().global_step == 1


def test_nan_loss_stops_with_step_and_rate_and_keeps_the_checkpoint(
    parts: dict[str, Any], tmp_path: Path
) -> None:
    class Poison(hf.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step == 3:
                bias = model.native.parameters()["classifier.bias"]
                model.native.set_parameter("classifier.bias", np.full_like(bias, np.nan))

    trainer = make(parts, tmp_path, save_steps=2, callbacks=[Poison()])
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.train()
    said = str(caught.value)
    assert re.search(r"the loss is -?nan at step 4 \(learning rate 0\.0008", said)
    assert str(tmp_path / "checkpoint-2") in said
    assert get_last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")


def test_predict_evaluate_and_saved_model_agree(parts: dict[str, Any], tmp_path: Path) -> None:
    trainer = make(parts, tmp_path / "out", save_strategy="no")
    trainer.processing_class = parts["tokenizer"]
    trainer.train()
    output = trainer.predict(parts["eval"])
    metrics = trainer.evaluate()
    assert output.predictions.shape == (24, 2) and output.predictions.dtype == np.float32
    assert output.metrics["test_loss"] == metrics["eval_loss"]
    assert output.metrics["test_accuracy"] == metrics["eval_accuracy"]
    trainer.save_model(tmp_path / "model")
    clf = hf.pipeline("text-classification", model=str(tmp_path / "model"))
    texts = parts["eval"].with_format(None)["text"]
    e = np.exp(output.predictions - output.predictions.max(1, keepdims=True))
    best = (e / e.sum(1, keepdims=True)).max(1)
    assert [a["score"] for a in clf(texts)] == pytest.approx(best.tolist(), abs=1e-6)
    assert clf(texts)[0]["label"] in ("bad", "good")
    both = trainer.evaluate({"one": parts["eval"], "two": parts["eval"].select(range(3))})
    assert both["eval_one_loss"] == metrics["eval_loss"] and "eval_two_accuracy" in both
    unlabeled = parts["eval"].with_format(None).remove_columns("labels")
    blind = trainer.predict(unlabeled)
    assert blind.label_ids is None and np.array_equal(blind.predictions, output.predictions)


def test_what_needs_torch_or_the_hub_is_refused_by_name(parts: dict[str, Any], tmp_path: Path) -> None:
    class Custom(Trainer):
        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False) -> Any:
            return None

    args = hf.TrainingArguments(str(tmp_path))
    with pytest.raises(NotImplementedError, match=r"Custom\.compute_loss"):
        Custom(parts["model"], args)
    with pytest.raises(NotImplementedError, match="optimizers"):
        Trainer(parts["model"], args, optimizers=(object(), None))
    with pytest.raises(TypeError, match=r"'train_dataest'.*'train_dataset'"):
        Trainer(parts["model"], args, train_dataest=[])
    with pytest.raises(NotImplementedError, match="push_to_hub"):
        Trainer(parts["model"], args).push_to_hub()
    with pytest.raises(TypeError, match="AutoModelForSequenceClassification"):
        Trainer(object(), args)  # type: ignore[arg-type]


@pytest.mark.peers
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_equals_torch(peer: Any, smoothing: float) -> None:
    from smhf_native.transformers.losses import cross_entropy

    torch = peer("torch")
    rng = np.random.default_rng(1)
    logits, labels = (rng.normal(size=(50, 5)) * 30).astype(np.float32), rng.integers(0, 5, 50)
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits, dtype=torch.float64),
        torch.tensor(labels),
        reduction="none",
        label_smoothing=smoothing,
    )
    assert np.abs(cross_entropy(logits, labels, smoothing) - expected.numpy()).max() < 1e-12


def test_sigterm_during_an_evaluation_saves_first(
    parts: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Term(hf.TrainerCallback):
        seen = 0

        def on_prediction_step(self, *args: Any, **kwargs: Any) -> None:
            self.seen += 1
            if self.seen == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    term = Term()
    before = signal.getsignal(signal.SIGTERM)
    trainer = make(
        parts,
        tmp_path,
        eval_strategy="steps",
        eval_steps=2,
        per_device_eval_batch_size=4,
        save_steps=100,
        callbacks=[term],
    )
    with pytest.raises(SystemExit) as caught:
        trainer.train()
    assert caught.value.code == 0 and term.seen == 2 and signal.getsignal(signal.SIGTERM) is before
    assert get_last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    assert "SIGTERM: checkpoint-2 written" in capsys.readouterr().out


SCRIPT = """
import sys, time
from smhf_native import transformers as hf
from smhf_native.datasets import load_dataset
model, data, out = sys.argv[1:4]
tok = hf.AutoTokenizer.from_pretrained(model)
train = load_dataset("csv", data_files=data, split="train")
train = train.map(lambda b: tok(b["text"], padding="max_length"), batched=True)
class Slow(hf.TrainerCallback):
    def on_step_end(self, *a, **k):
        print("step", a[1].global_step, flush=True); time.sleep(0.05)
args = hf.TrainingArguments(out, num_train_epochs=100, save_steps=1000, logging_strategy="no")
hf.Trainer(hf.AutoModelForSequenceClassification.from_pretrained(model), args, train_dataset=train,
           callbacks=[Slow()]).train()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, -signal.SIGINT)])
def test_signals_end_with_a_checkpoint(
    tiny_model: Path, reviews: dict[str, Path], tmp_path: Path, number: int, code: int
) -> None:
    command = [sys.executable, "-c", SCRIPT, str(tiny_model), str(reviews["train"]), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line == "step 3\n":
                child.send_signal(number)
                break
        rest, errors = child.communicate(timeout=30)
    assert child.returncode == code, errors
    last = get_last_checkpoint(tmp_path)
    assert last is not None and f"{signal.Signals(number).name}: {Path(last).name} written" in rest
    steps = [int(text) for text in re.findall(r"step (\d+)", rest)] or [3]
    assert int(last.rsplit("-", 1)[1]) == max(steps), "the step in progress is finished, no other begins"


def test_bf16_trains_in_bf16_from_fp32_weights(
    parts: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    from smhf_native.model import Model
    from smhf_native.model import Trainer as Steps

    trainer = make(parts, tmp_path / "out", bf16=True, max_steps=1, logging_steps=1)
    trainer.train()
    assert trainer.model.native.precision == "bf16"
    batch = next(trainer.callback_handler.train_dataloader.batches(0))
    losses = {}
    for precision in ("fp32", "bf16"):
        steps = Steps(
            Model.from_pretrained(str(tiny_model)), learning_rate=1e-3, total_steps=1, precision=precision
        )
        losses[precision] = steps.step(batch["input_ids"], batch["attention_mask"], batch["labels"])["loss"]
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == trainer.state.log_history[0]["loss"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


def test_the_best_model_keeps_the_precision(parts: dict[str, Any], tmp_path: Path) -> None:
    trainer = make(
        parts, tmp_path, bf16=True, num_train_epochs=1, eval_strategy="epoch", save_strategy="epoch",
        load_best_model_at_end=True,
    )  # fmt: skip
    before = parts["model"].native
    trainer.train()
    assert trainer.model.native is not before and trainer.model.native.precision == "bf16"


def test_plain_progress_lines_name_pace_and_time_left(
    parts: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    trainer = make(parts, tmp_path, num_train_epochs=1)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    trainer.train()
    line = re.search(r"step (\d+) of 8, [0-9.e+]+ steps/s, (\d+) s left", capsys.readouterr().err)
    assert line and int(line[1]) >= 1
