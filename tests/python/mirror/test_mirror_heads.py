"""AutoModel and AutoModelFor… of the mirror against transformers: outputs, losses, ten steps of both trainers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smhf_native import transformers as hf
from smhf_native.datasets import Dataset
from smhf_native.transformers.losses import Target

KINDS = ["distilbert", "bert"]
SIZES = {
    "distilbert": dict(
        dim=48, n_heads=4, n_layers=2, hidden_dim=96, dropout=0.0, attention_dropout=0.0, qa_dropout=0.0,
        seq_classif_dropout=0.0,
    ),
    "bert": dict(
        hidden_size=48, num_attention_heads=4, num_hidden_layers=2, intermediate_size=96,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    ),
}  # fmt: skip
VOCAB, ROWS, WIDTH = 90, 40, 24
# name: Auto class, options of the configuration
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "single": ("AutoModelForSequenceClassification", {"num_labels": 5}),
    "multi": (
        "AutoModelForSequenceClassification",
        {"num_labels": 4, "problem_type": "multi_label_classification"},
    ),
    "regression": ("AutoModelForSequenceClassification", {"num_labels": 1}),
    "regression of two": (
        "AutoModelForSequenceClassification",
        {"num_labels": 2, "problem_type": "regression"},
    ),
    "token": ("AutoModelForTokenClassification", {"num_labels": 5}),
    "answer": ("AutoModelForQuestionAnswering", {}),
    "masked": ("AutoModelForMaskedLM", {}),
    "encoder": ("AutoModel", {}),
}


def checkpoint(peer: Any, folder: Path, kind: str, head: str) -> Any:
    """A seeded model of transformers, saved; dropout 0, weights large enough that every layer matters."""
    torch, transformers = peer("torch"), peer("transformers")
    auto, options = HEADS[head]
    config = transformers.AutoConfig.for_model(
        kind, vocab_size=VOCAB, max_position_embeddings=40, initializer_range=0.2, **SIZES[kind], **options
    )
    torch.manual_seed(6)
    model = getattr(transformers, auto).from_config(config).eval()
    model.save_pretrained(folder)
    return model


def table(head: str, rng: np.random.Generator) -> dict[str, list[Any]]:
    """Rows of token ids with the head's labels; of answers all are equally long (theirs counts padding in)."""
    lengths = np.full(ROWS, WIDTH) if head == "answer" else rng.integers(1, WIDTH + 1, ROWS)
    columns: dict[str, list[Any]] = {
        "input_ids": [rng.integers(5, VOCAB, n).tolist() for n in lengths],
        "attention_mask": [[1] * int(n) for n in lengths],
    }
    if head == "single":
        columns["labels"] = rng.integers(0, 5, ROWS).tolist()
    elif head == "multi":
        columns["labels"] = rng.integers(0, 2, (ROWS, 4)).astype(float).tolist()
    elif head == "regression":
        columns["labels"] = rng.normal(size=ROWS).tolist()
    elif head == "regression of two":
        columns["labels"] = rng.normal(size=(ROWS, 2)).tolist()
    elif head == "token":
        labels = [rng.integers(0, 5, n) for n in lengths]
        for row in labels:
            row[0] = row[0] if len(row) == 1 else -100
        columns["labels"] = [row.tolist() for row in labels]
    elif head == "masked":
        rows = [np.where(rng.random(n) < 0.3, rng.integers(5, VOCAB, n), -100) for n in lengths]
        for row in rows:
            row[-1] = 7
        columns["labels"] = [row.tolist() for row in rows]
    elif head == "answer":
        start = rng.integers(0, WIDTH, ROWS)
        start[3] = WIDTH + 2  # an answer that is not in the text: both leave it out
        columns["start_positions"] = start.tolist()
        columns["end_positions"] = np.minimum(start + rng.integers(0, 4, ROWS), WIDTH + 2).tolist()
    return columns


def batch_of(columns: dict[str, list[Any]], rows: int) -> dict[str, np.ndarray]:
    """The first rows, padded."""
    width = max(map(len, columns["input_ids"][:rows]))
    batch = {}
    for name, values in columns.items():
        part = values[:rows]
        if name in ("input_ids", "attention_mask") or (
            name == "labels" and isinstance(part[0], list) and len({len(row) for row in part}) > 1
        ):
            fill = -100 if name == "labels" else 0
            part = [row + [fill] * (width - len(row)) for row in part]
        batch[name] = np.array(part)
    return batch


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", list(HEADS))
def test_calls_equal_transformers(peer: Any, tmp_path: Path, kind: str, head: str) -> None:
    torch = peer("torch")
    theirs = checkpoint(peer, tmp_path, kind, head).double()
    ours = getattr(hf, HEADS[head][0]).from_pretrained(tmp_path)
    assert type(ours).__name__ == type(theirs).__name__
    batch = batch_of(table(head, np.random.default_rng(5)), 9)
    tensors = {name: torch.tensor(value) for name, value in batch.items()}
    if head in ("multi", "regression", "regression of two"):
        tensors["labels"] = tensors["labels"].double()
    with torch.no_grad():
        expected = theirs(**tensors)
    output = ours(**batch)
    assert type(output).__name__ == type(expected).__name__ and list(output) == list(expected.keys())
    there = batch["attention_mask"] == 1
    for name, value in expected.items():
        mine, other = np.asarray(output[name]), value.numpy()
        assert mine.dtype == np.float32 and mine.shape == other.shape, name
        difference = np.abs(mine - other)
        assert (difference if mine.shape[:2] != there.shape else difference[there]).max() <= 2e-5, name
    assert output[0] is output[next(iter(output))] and getattr(output, next(iter(output))) is output[0]
    assert isinstance(ours(**batch, return_dict=False), tuple)
    assert ours(batch).keys() == output.keys()  # one mapping instead of arguments
    alone = ours(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    assert "loss" not in alone and (head == "encoder" or alone.loss is None)


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", list(HEADS))
def test_what_we_save_loads_there_and_here(peer: Any, tmp_path: Path, kind: str, head: str) -> None:
    transformers = peer("transformers")
    checkpoint(peer, tmp_path / "theirs", kind, head)
    auto = HEADS[head][0]
    ours = getattr(hf, auto).from_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    again, report = getattr(transformers, auto).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    first = transformers.AutoConfig.from_pretrained(tmp_path / "theirs")
    assert again.config.architectures == first.architectures
    assert again.config.problem_type == first.problem_type
    theirs = getattr(transformers, auto).from_pretrained(tmp_path / "theirs").state_dict()
    assert all((value == theirs[name]).all() for name, value in again.state_dict().items())
    named = getattr(hf, first.architectures[0]).from_pretrained(tmp_path / "ours")
    assert {n: a.tobytes() for n, a in named.state_dict().items()} == {
        n: a.tobytes() for n, a in ours.state_dict().items()
    }


def ten_steps(library: Any, model: Any, data: Any, collator: Any, folder: Path, **more: Any) -> Any:
    """The same run under either library."""
    args = library.TrainingArguments(
        output_dir=str(folder), max_steps=10, per_device_train_batch_size=6, per_device_eval_batch_size=7,
        learning_rate=2e-4, weight_decay=0.01, logging_steps=1, save_strategy="no", disable_tqdm=True, seed=3, **more,
    )  # fmt: skip
    trainer = library.Trainer(
        model=model,
        args=args,
        train_dataset=data,
        eval_dataset=data,
        data_collator=collator,
        compute_metrics=lambda p: {
            "labels": float(np.sum(p.label_ids[0] if type(p.label_ids) is tuple else p.label_ids))
        },
    )
    trainer.train()
    return trainer


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("head", [head for head in HEADS if head != "encoder"])
def test_ten_steps_equal_transformers(
    peer: Any, tmp_path: Path, kind: str, head: str, tiny_model: Path
) -> None:
    for name in ("torch", "datasets", "accelerate"):
        peer(name)
    transformers, datasets = peer("transformers"), peer("datasets")
    theirs = checkpoint(peer, tmp_path / "model", kind, head)
    ours = getattr(hf, HEADS[head][0]).from_pretrained(tmp_path / "model")
    columns = table(head, np.random.default_rng(8))
    collators = []
    for library in (transformers, hf):
        tokenizer = library.AutoTokenizer.from_pretrained(tiny_model)
        if head == "answer":
            collators.append(library.default_data_collator)
        elif head in ("token", "masked"):
            collators.append(library.DataCollatorForTokenClassification(tokenizer))
        else:
            collators.append(library.DataCollatorWithPadding(tokenizer))
    extra = {"label_smoothing_factor": 0.1} if head in ("single", "token", "answer") else {}
    first = ten_steps(
        transformers, theirs, datasets.Dataset.from_dict(columns), collators[0], tmp_path / "a",
        use_cpu=True, report_to="none", **extra,
    )  # fmt: skip
    second = ten_steps(hf, ours, Dataset.from_dict(columns), collators[1], tmp_path / "b", **extra)
    losses = [[e["loss"] for e in t.state.log_history if "loss" in e] for t in (first, second)]
    assert len(losses[1]) == 10 and np.abs(np.subtract(*losses)).max() <= 1e-5, losses
    assert losses[1][0] != losses[1][-1]
    metrics = [trainer.evaluate() for trainer in (first, second)]
    assert abs(metrics[0]["eval_loss"] - metrics[1]["eval_loss"]) <= 1e-5
    assert metrics[0]["eval_labels"] == pytest.approx(metrics[1]["eval_labels"])
    predictions = [trainer.predict(trainer.eval_dataset).predictions for trainer in (first, second)]
    if head == "answer":  # a number added to all logits of a row means nothing, and rounding trains the bias
        predictions = [[one - one.mean(1, keepdims=True) for one in pair] for pair in predictions]
    else:
        predictions = [(one,) for one in predictions]
    for other, mine in zip(*predictions, strict=True):
        assert mine.shape == other.shape
        there = np.ones(len(mine), bool)
        if head in ("token", "masked"):
            there = np.arange(WIDTH)[None] < np.array([len(row) for row in columns["input_ids"]])[:, None]
            assert ((mine == -100) == (other == -100)).all()  # behind the batches that are narrower
        assert np.abs(mine - other)[there].max() <= 2e-4  # after ten steps of float32 on both sides


def tiny(auto: str, **options: Any) -> Any:
    config = hf.DistilBertConfig(
        vocab_size=VOCAB, dim=16, n_heads=2, n_layers=1, hidden_dim=32, max_position_embeddings=40, **options
    )
    return getattr(hf, auto).from_config(config)


def run(model: Any, columns: dict[str, list[Any]], folder: Path, collator: Any = None, **more: Any) -> Any:
    args = hf.TrainingArguments(str(folder), max_steps=1, save_strategy="no", disable_tqdm=True, **more)
    trainer = hf.Trainer(model, args, collator, train_dataset=Dataset.from_dict(columns))
    trainer.train()
    return trainer


def test_labels_that_do_not_fit_are_named_before_training(tmp_path: Path, tiny_model: Path) -> None:
    rng = np.random.default_rng(2)
    pads = hf.DataCollatorForTokenClassification(hf.AutoTokenizer.from_pretrained(tiny_model))
    token = table("token", rng)
    longest = max(range(ROWS), key=lambda i: len(token["labels"][i]))
    wrong = [list(row) for row in token["labels"]]
    wrong[longest][2] = 7
    model = tiny("AutoModelForTokenClassification", num_labels=5)
    with pytest.raises(ValueError, match=rf"row {longest}, token 2, is 7; .*num_labels=5: 0 to 4, or -100"):
        run(model, {**token, "labels": wrong}, tmp_path, pads)
    short = [row[:-1] if i == longest else row for i, row in enumerate(token["labels"])]
    with pytest.raises(ValueError, match=rf"row {longest} has \d+ tokens and \d+ labels"):
        run(model, {**token, "labels": short}, tmp_path, pads)
    with pytest.raises(ValueError, match=r"labels of row 0 are 1; expected one integer for each token"):
        run(model, {**token, "labels": [1] * ROWS}, tmp_path, pads)
    with pytest.raises(ValueError, match=r"DataCollatorForTokenClassification\(tokenizer\)"):
        run(model, token, tmp_path, hf.DataCollatorWithPadding(pads.tokenizer))
    answer = table("answer", rng)
    model = tiny("AutoModelForQuestionAnswering")
    with pytest.raises(ValueError, match="no columns start_positions and end_positions among"):
        run(model, {name: answer[name] for name in ("input_ids", "start_positions")}, tmp_path)
    with pytest.raises(ValueError, match="start_positions of row 0 is None; expected the number of a token"):
        run(model, {**answer, "start_positions": [None] * ROWS}, tmp_path)
    multi = {
        **table("multi", rng),
        "input_ids": answer["input_ids"],
        "attention_mask": answer["attention_mask"],
    }
    model = tiny(
        "AutoModelForSequenceClassification", num_labels=3, problem_type="multi_label_classification"
    )
    with pytest.raises(ValueError, match=r"row 0 has 4 labels; multi_label_classification expects 3 numbers"):
        run(model, multi, tmp_path)
    with pytest.raises(ValueError, match=r"label_smoothing_factor=0.1 smooths class numbers"):
        run(model, multi, tmp_path, label_smoothing_factor=0.1)
    model = tiny("AutoModelForSequenceClassification", num_labels=1)
    nan = {**multi, "labels": [0.5] * 7 + [float("nan")] * (ROWS - 7)}
    with pytest.raises(ValueError, match=r"label of row 7 is nan; regression expects 1 number a row"):
        run(model, nan, tmp_path)
    with pytest.raises(ValueError, match="problem_type='ranking' is not one of regression"):
        tiny("AutoModelForSequenceClassification", problem_type="ranking")


def test_whole_numbers_train_regression_and_several_labels(tmp_path: Path) -> None:
    """CSV files have 0 and 1, not 0.0 and 1.0; problem_type says what is meant."""
    rng = np.random.default_rng(3)
    answer = table("answer", rng)
    rows = {name: answer[name] for name in ("input_ids", "attention_mask")}
    trainers = []
    for kind in (int, float):
        hf.set_seed(1)
        model = tiny(
            "AutoModelForSequenceClassification", num_labels=4, problem_type="multi_label_classification"
        )
        labels = np.random.default_rng(4).integers(0, 2, (ROWS, 4)).astype(kind).tolist()
        trainers.append(run(model, {**rows, "labels": labels}, tmp_path))
    losses = [trainer.state.log_history[-1]["train_loss"] for trainer in trainers]
    assert losses[0] == losses[1] and 0.5 < losses[0] < 1.0
    model = tiny("AutoModelForSequenceClassification", num_labels=1)
    stars = {**rows, "label": rng.integers(1, 6, ROWS).tolist()}
    assert run(model, stars, tmp_path).state.log_history[-1]["train_loss"] > 1


def test_checkpoints_of_other_heads_resume_to_the_byte(tmp_path: Path) -> None:
    answer = table("answer", np.random.default_rng(1))

    def trainer(folder: Path, steps: int) -> Any:
        hf.set_seed(5)
        args = hf.TrainingArguments(str(folder), max_steps=steps, save_steps=2, disable_tqdm=True)
        return hf.Trainer(
            tiny("AutoModelForQuestionAnswering"), args, hf.default_data_collator, Dataset.from_dict(answer)
        )

    trainer(tmp_path, 4).train()
    whole = (tmp_path / "checkpoint-4" / "model.safetensors").read_bytes()
    (tmp_path / "checkpoint-4").rename(tmp_path / "aside")
    trainer(tmp_path, 4).train(resume_from_checkpoint=True)
    assert (tmp_path / "checkpoint-4" / "model.safetensors").read_bytes() == whole
    config = json.loads((tmp_path / "checkpoint-4" / "config.json").read_text())
    assert config["architectures"] == ["DistilBertForQuestionAnswering"]


def test_classes_and_heads_are_named(tmp_path: Path) -> None:
    tiny("AutoModel").save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="BertModel is a model of type 'bert', the configuration says 'distilbert'"
    ):
        hf.BertModel(hf.AutoConfig.from_pretrained(tmp_path))
    with pytest.raises(ValueError, match="models of type 'distilbert' are not supported"):
        hf.BertForTokenClassification.from_pretrained(tmp_path)
    with pytest.raises(OSError, match="from_pretrained"):
        hf.AutoModel()
    model = hf.AutoModelForTokenClassification.from_pretrained(tmp_path, num_labels=3)
    assert model.native.load_report.missing == ["classifier.weight", "classifier.bias"]
    assert Target.of(model).per_token and model(np.array([[5, 6]])).logits.shape == (1, 2, 3)
    with pytest.raises(
        AttributeError, match=r"TokenClassifierOutput has no 'start_logits'; it has loss, logits"
    ):
        getattr(model(np.array([[5, 6]])), "start" + "_logits")


def test_words_are_hidden_and_learned(tmp_path: Path, tiny_model: Path) -> None:
    """The collator picks 15 % of the tokens, never special ones; the loss of an epoch falls below the start's."""
    tokenizer = hf.AutoTokenizer.from_pretrained(tiny_model)
    rng = np.random.default_rng(0)
    words = [token for token in tokenizer.get_vocab() if token.isalpha()]
    texts = [" ".join([words[i % len(words)]] * 6 + ["and"] * 6) for i in rng.integers(0, 4, 400)]
    data = Dataset.from_dict({"text": texts}).map(lambda b: tokenizer(b["text"]), batched=True)
    data = data.remove_columns("text")
    collator = hf.DataCollatorForLanguageModeling(tokenizer, seed=1)
    rows = [data[i] for i in range(400)]
    batch, again = collator(rows), hf.DataCollatorForLanguageModeling(tokenizer, seed=1)(rows)
    assert np.array_equal(batch["labels"], again["labels"])
    plain = np.array([row["input_ids"] for row in rows])
    picked = batch["labels"] != -100
    special = np.isin(plain, tokenizer.all_special_ids)
    assert not picked[special].any() and (batch["labels"][picked] == plain[picked]).all()
    assert 0.13 < picked[~special].mean() < 0.17 and (batch["input_ids"][~picked] == plain[~picked]).all()
    hidden = batch["input_ids"][picked] == tokenizer.mask_token_id
    assert 0.75 < hidden.mean() < 0.85
    config = hf.AutoConfig.from_pretrained(tiny_model, dropout=0.0, attention_dropout=0.0)
    model = hf.AutoModelForMaskedLM.from_config(config)
    args = hf.TrainingArguments(
        str(tmp_path), num_train_epochs=3, learning_rate=3e-3, per_device_train_batch_size=20, save_strategy="no",
        disable_tqdm=True,
    )  # fmt: skip
    trainer = hf.Trainer(model, args, collator, train_dataset=data, eval_dataset=data)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.7 * before
    with pytest.raises(NotImplementedError, match="mlm=False"):
        hf.DataCollatorForLanguageModeling(tokenizer, mlm=False)
