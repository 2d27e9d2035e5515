"""The published training script's shape, for bench_model.py: 96 rows padded to 512, two evaluations of 64 rows.

    python benchmarks/script_2021.py ours|torch MODEL_FOLDER [--bf16]

Prints one JSON line: seconds of ``train()`` and the two ``evaluate()`` calls together, and the peak memory.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from typing import Any

import numpy as np
from model_engines import peak_memory

TRAIN, TEST, WIDTH = 96, 64, 512


def rows(count: int, seed: int) -> dict[str, Any]:
    """Texts of realistic lengths (log-normal, median 110 tokens as reviews have), padded to WIDTH."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(np.log(110), 0.7, count).astype(int), 8, WIDTH)
    ids = np.zeros((count, WIDTH), np.int64)
    mask = np.zeros_like(ids)
    for i, length in enumerate(lengths):
        ids[i, :length] = rng.integers(1000, 30000, length)
        mask[i, :length] = 1
    return {
        "input_ids": ids.tolist(),
        "attention_mask": mask.tolist(),
        "labels": rng.integers(0, 5, count).tolist(),
    }


def main() -> None:
    """Run on whatever ``transformers`` and ``datasets`` mean after the first argument."""
    engine, folder = sys.argv[1:3]
    if engine == "ours":
        import smhf_native.compat  # noqa: F401  transformers and datasets are the mirrors from here on
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

    train, test = (Dataset.from_dict(rows(count, seed)) for count, seed in ((TRAIN, 1), (TEST, 2)))
    for part in (train, test):
        part.set_format("torch", columns=["input_ids", "attention_mask", "labels"])
    extra: dict[str, Any] = {"bf16": True} if "--bf16" in sys.argv else {}
    if engine == "torch":
        extra |= {"report_to": "none", "use_cpu": True, "dataloader_pin_memory": False}
    with tempfile.TemporaryDirectory() as output:
        args = TrainingArguments(
            output_dir=output,
            num_train_epochs=1,
            per_device_train_batch_size=8,
            per_device_eval_batch_size=64,
            save_strategy="no",
            logging_steps=10**6,
            disable_tqdm=True,
            **extra,
        )
        model = AutoModelForSequenceClassification.from_pretrained(folder)
        trainer = Trainer(model=model, args=args, train_dataset=train, eval_dataset=test)
        start = time.perf_counter()
        trainer.train()
        trainer.evaluate()
        trainer.evaluate()
        took = time.perf_counter() - start
    peak = peak_memory()
    print(json.dumps({"seconds": took, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
