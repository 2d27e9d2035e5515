"""The order of a training epoch under train_sampling_strategy, against transformers' own sampler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smhf_native.datasets import Dataset
from smhf_native.transformers import TrainingArguments
from smhf_native.transformers.batches import epoch_order, group_by_length, row_lengths


@pytest.mark.peers
@pytest.mark.parametrize("rows", [1, 3, 31, 64, 1000])
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_the_order_is_that_of_transformers(peer: Any, rows: int, batch_size: int) -> None:
    torch, helpers = peer("torch"), peer("transformers.trainer_pt_utils")
    lengths = np.random.default_rng(rows).integers(1, 40, rows)
    for seed in (0, 42):
        generator = torch.Generator().manual_seed(seed)
        expected = helpers.get_length_grouped_indices(lengths.tolist(), batch_size, generator=generator)
        ours = group_by_length(epoch_order(rows, seed, 0), lengths, batch_size)
        assert ours.tolist() == [int(i) for i in expected]


def test_lengths_come_from_the_column_or_from_the_rows() -> None:
    rows = {"input_ids": [[1, 2], [1], [1, 2, 3]]}
    assert row_lengths(Dataset.from_dict(rows), "length", "train_dataset").tolist() == [2, 1, 3]
    given = Dataset.from_dict(rows | {"length": [9, 8, 7]})
    assert row_lengths(given, "length", "train_dataset").tolist() == [9, 8, 7]
    assert row_lengths([{"input_ids": [4, 5]}], "length", "train_dataset").tolist() == [2]
    with pytest.raises(ValueError, match="train_dataset: row 1 has no input_ids"):
        row_lengths([{"input_ids": [4]}, {"text": "x"}], "length", "train_dataset")


@pytest.mark.parametrize(
    ("settings", "strategy"),
    [
        ({}, "random"),
        ({"group_by_length": True}, "group_by_length"),
        ({"train_sampling_strategy": "group_by_length"}, "group_by_length"),
        ({"train_sampling_strategy": "sequential"}, "sequential"),
    ],
)
def test_training_takes_the_rows_in_that_order(
    tmp_path: Path, settings: dict[str, Any], strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smhf_native import transformers
    from smhf_native.transformers.batches import BatchLoader

    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 12, 40)
    rows = [{"input_ids": rng.integers(1, 50, n).tolist(), "label": int(n % 2)} for n in lengths]
    taken: list[list[int]] = []
    whole = BatchLoader.batches

    def watched(self: Any, start: int) -> Any:
        taken.append(self.order.tolist())
        return whole(self, start)

    monkeypatch.setattr(BatchLoader, "batches", watched)
    config = transformers.DistilBertConfig(
        vocab_size=50, dim=16, n_heads=2, n_layers=1, hidden_dim=32, max_position_embeddings=16
    )
    arguments = TrainingArguments(
        tmp_path, num_train_epochs=2, per_device_train_batch_size=4, save_strategy="no", disable_tqdm=True,
        seed=7, **settings,
    )  # fmt: skip
    assert arguments.train_sampling_strategy == strategy
    trainer = transformers.Trainer(
        model=transformers.DistilBertForSequenceClassification(config),
        args=arguments,
        train_dataset=rows,
        data_collator=lambda batch: {
            "input_ids": np.array([row["input_ids"] + [0] * (12 - len(row["input_ids"])) for row in batch]),
            "attention_mask": np.array(
                [[1] * len(row["input_ids"]) + [0] * (12 - len(row["input_ids"])) for row in batch]
            ),
            "labels": np.array([row["label"] for row in batch]),
        },
    )
    trainer.train()
    for epoch in range(2):
        expected = epoch_order(40, 7, epoch)
        if strategy == "group_by_length":
            expected = group_by_length(expected, lengths, 4)
        if strategy == "sequential":
            expected = np.arange(40)
        assert taken[epoch] == expected.tolist()
