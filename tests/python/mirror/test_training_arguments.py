"""TrainingArguments: spellings old and new, defaults of transformers, refusals by name."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from smhf_native.transformers import IntervalStrategy, TrainingArguments
from smhf_native.transformers.training_args import _RENAMED, _WITHOUT_EFFECT


def test_old_and_new_spellings_mean_the_same(tmp_path: Path) -> None:
    old = TrainingArguments(str(tmp_path), evaluation_strategy="epoch", per_gpu_train_batch_size=4)
    new = TrainingArguments(
        output_dir=tmp_path, eval_strategy=IntervalStrategy.EPOCH, per_device_train_batch_size=4
    )
    assert old.eval_strategy == new.eval_strategy == "epoch"
    assert old.evaluation_strategy == IntervalStrategy.EPOCH and old.do_eval
    assert old.train_batch_size == new.train_batch_size == 4
    with pytest.raises(TypeError, match="both 'evaluation_strategy' and its new spelling 'eval_strategy'"):
        TrainingArguments("x", evaluation_strategy="no", eval_strategy="no")


def test_arguments_of_the_2021_script_are_taken(tmp_path: Path) -> None:
    args = TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=1,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=64,
        warmup_steps=500,
        evaluation_strategy="epoch",
        logging_dir=f"{tmp_path}/logs",
        overwrite_output_dir=True,
        report_to="tensorboard",
        dataloader_num_workers=4,
    )
    assert args.logging_dir == f"{tmp_path}/logs" and args.get_warmup_steps(100) == 500


@pytest.mark.parametrize(
    ("name", "closest"),
    [("learning_rte", "learning_rate"), ("eval_stategy", "eval_strategy"), ("warm_up_steps", "warmup_steps")],
)
def test_unknown_arguments_are_refused_with_the_closest(name: str, closest: str) -> None:
    with pytest.raises(TypeError, match=f"'{name}'; the closest supported one is '{closest}'"):
        TrainingArguments("x", **{name: 1})


@pytest.mark.parametrize(
    "settings",
    [
        {"push_to_hub": True},
        {"optim": "adafactor"},
        {"deepspeed": "ds.json"},
        {"train_sampling_strategy": "batch_rebalance"},
        {"fsdp": "full_shard"},
    ],
)
def test_what_would_change_the_result_is_refused_by_name(settings: dict[str, Any]) -> None:
    with pytest.raises(NotImplementedError, match=next(iter(settings))):
        TrainingArguments("x", **settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"learning_rate": "fast"}, "learning_rate='fast' is not a number"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size=0"),
        ({"logging_steps": 2.5}, "logging_steps=2.5"),
        ({"eval_strategy": "sometimes"}, "'sometimes' is not a valid IntervalStrategy"),
        ({"lr_scheduler_type": "polynomial"}, "select one of"),
        ({"load_best_model_at_end": True}, "save and eval strategy to match"),
        (
            {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 3, "save_steps": 10},
            "multiple",
        ),
        ({"warmup_ratio": 1.5}, "warmup_ratio=1.5"),
    ],
)
def test_bad_values_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TrainingArguments("x", **settings)


def test_half_precision_on_a_processor_says_what_runs(capsys: pytest.CaptureFixture[str]) -> None:
    TrainingArguments("x", fp16=True)
    assert capsys.readouterr().err.count("runs in fp32") == 1
    logging.getLogger("smhf_native.transformers")  # the level of the mirror's logger is left alone


def test_text_hyperparameters_become_numbers() -> None:
    args = TrainingArguments("x", learning_rate="5e-5", num_train_epochs="2", seed="7", warmup_steps="10")
    assert (args.learning_rate, args.num_train_epochs, args.seed, args.warmup_steps) == (5e-5, 2.0, 7, 10)


@pytest.mark.peers
def test_every_argument_of_transformers_is_known_and_defaults_agree(peer: Any, tmp_path: Path) -> None:
    import dataclasses

    transformers = peer("transformers")
    peer("torch")
    theirs = transformers.TrainingArguments(str(tmp_path), use_cpu=True)
    ours = TrainingArguments(str(tmp_path))
    different = {"optim", "disable_tqdm", "use_cpu", "bf16", "warmup_steps"}
    unknown = [field.name for field in dataclasses.fields(theirs) if not hasattr(ours, field.name)]
    assert unknown == []
    for field in dataclasses.fields(theirs):
        value = getattr(theirs, field.name)
        if field.name in _WITHOUT_EFFECT or field.name in different:
            continue
        mine = getattr(ours, field.name)
        if type(value) in (bool, int, float, str) and mine is not None:
            assert mine == value, field.name
    for old, new in _RENAMED.items():
        assert hasattr(ours, new), old
