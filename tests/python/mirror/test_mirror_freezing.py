"""requires_grad = False and gradient checkpointing, as scripts write them for models of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smhf_native import transformers as hf
from smhf_native.datasets import Dataset


@pytest.fixture
def model(tiny_model: Path) -> Any:
    return hf.AutoModelForSequenceClassification.from_pretrained(tiny_model)


@pytest.fixture
def rows() -> Dataset:
    rng = np.random.default_rng(4)
    ids = rng.integers(5, 38, (24, 12)).tolist()
    return Dataset.from_dict({"input_ids": ids, "labels": rng.integers(0, 2, 24).tolist()})


def train(model: Any, rows: Dataset, folder: Path, **settings: Any) -> Any:
    settings = {"num_train_epochs": 2, "learning_rate": 1e-2, "report_to": "none", **settings}
    trainer = hf.Trainer(model=model, args=hf.TrainingArguments(str(folder), **settings), train_dataset=rows)
    return trainer.train()


def by_parameter(model: Any) -> None:
    for name, parameter in model.named_parameters():
        if name.startswith("distilbert."):
            parameter.requires_grad = False


def by_base_model(model: Any) -> None:
    for parameter in model.base_model.parameters():
        parameter.requires_grad = False


def by_module(model: Any) -> None:
    model.distilbert.requires_grad_(False)


def by_layers(model: Any) -> None:
    model.distilbert.embeddings.requires_grad_(False)
    for layer in model.distilbert.transformer.layer[:1]:
        for parameter in layer.parameters():
            parameter.requires_grad = False


@pytest.mark.parametrize("freeze", [by_parameter, by_base_model, by_module, by_layers])
def test_what_scripts_freeze_stays_to_the_bit(model: Any, rows: Dataset, tmp_path: Path, freeze: Any) -> None:
    before = model.state_dict()
    freeze(model)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    expected = {name for name in before if name.startswith("distilbert.")}
    if freeze is by_layers:
        expected = {name for name in expected if ".embeddings." in name or ".layer.0." in name}
    assert frozen == expected == model.frozen
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert model.num_parameters(only_trainable=True) == trainable < model.num_parameters()
    train(model, rows, tmp_path)
    for name, value in model.state_dict().items():
        assert np.array_equal(value, before[name]) == (name in frozen), name


def test_thawing_and_names(model: Any) -> None:
    model.requires_grad_(False)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    model.classifier.requires_grad_(True)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        "classifier.weight",
        "classifier.bias",
    }
    model.classifier.bias.requires_grad = False
    assert not model.classifier.bias.requires_grad and model.classifier.weight.requires_grad
    assert model.requires_grad_(True) is model and not model.frozen
    assert len(model.distilbert.transformer.layer) == model.config.n_layers
    names = [name for name, _ in model.distilbert.transformer.layer[-1].named_parameters()]
    assert "attention.q_lin.weight" in names
    assert not hasattr(model, "score") and not hasattr(model.distilbert, "pooler")
    with pytest.raises(
        NotImplementedError, match=r"model\.distilbert\(\.\.\.\): parts of the network cannot be run"
    ):
        model.distilbert(input_ids=[[1, 2]])
    with pytest.raises(IndexError, match="has 2 parts, asked for 2"):
        model.distilbert.transformer.layer[2]
    with pytest.raises(RuntimeError, match="result of arithmetic"):
        (model.classifier.weight * 2).requires_grad = False


def test_nothing_left_to_train(model: Any, rows: Dataset, tmp_path: Path) -> None:
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="are frozen, nothing is left to train"):
        train(model, rows, tmp_path)


def test_a_frozen_run_resumes_to_the_byte(tiny_model: Path, rows: Dataset, tmp_path: Path) -> None:
    results = []
    for name, resume in (("whole", None), ("again", tmp_path / "whole" / "checkpoint-3")):
        model = hf.AutoModelForSequenceClassification.from_pretrained(tiny_model)
        by_layers(model)
        args = hf.TrainingArguments(
            str(tmp_path / name),
            num_train_epochs=2,
            learning_rate=1e-2,
            save_strategy="epoch",
            report_to="none",
        )
        trainer = hf.Trainer(model=model, args=args, train_dataset=rows)
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        results.append(trainer.model.state_dict())
    assert all(np.array_equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.parametrize("how", ["argument", "method"])
def test_gradient_checkpointing_has_an_effect_and_none_on_the_numbers(
    tiny_model: Path, rows: Dataset, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smhf_native import model as native

    made = []
    original = native.Trainer

    def record(*args: Any, **options: Any) -> Any:
        made.append(original(*args, **options))
        return made[-1]

    monkeypatch.setattr(native, "Trainer", record)
    results = []
    for name in ("plain", "light"):
        model = hf.AutoModelForSequenceClassification.from_pretrained(tiny_model)
        light = name == "light"
        if light and how == "method":
            model.gradient_checkpointing_enable()
        train(model, rows, tmp_path / name, gradient_checkpointing=light and how == "argument")
        results.append(model.state_dict())
    assert all(np.array_equal(results[0][name], results[1][name]) for name in results[0])
    assert made[1].activation_bytes < made[0].activation_bytes
