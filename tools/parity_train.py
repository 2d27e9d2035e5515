"""Does our Trainer train like transformers' Trainer?  One script, run by both, compared loss by loss.

    python tools/parity_train.py                    100 steps without dropout: losses must agree
    python tools/parity_train.py --faults           four planted faults on torch's side must be noticed
    python tools/parity_train.py --dropout          5 seeds a side with dropout: mean eval_loss must agree
    python tools/parity_train.py --full-size        the 66-million-parameter model instead of a small one

The bounds: first 20 losses within 1e-5, all within 1e-3, the loss falls by at least 0.1; with dropout
|difference of the mean eval_loss| <= 2 standard errors.  The checkpoint, head included, is made once by
torch and read by both.  Faults are planted in the torch run only; the product has no such switches.

Needs torch, transformers, datasets, and the review data below SMHF_TEST_DATA (default ../shared).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FAULTS = ("no-clipping", "decay-on-biases", "eps-inside-root", "missing-gradient")
FIRST, FIRST_BOUND, ALL_BOUND, LEAST_FALL = 20, 1e-5, 1e-3, 0.1


# -- the script that both sides run ---------------------------------------------------------------


def train(options: argparse.Namespace, fault: str = "none") -> dict[str, Any]:
    """Fine-tune with whatever ``transformers`` means in this process; return losses and eval_loss."""
    from datasets import load_dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

    data = load_dataset("csv", data_files={"train": options.train, "test": options.test})
    tokenizer = AutoTokenizer.from_pretrained(options.model)

    def tokenize(batch: Any) -> Any:
        return tokenizer(batch["text"], padding="max_length", truncation=True, max_length=options.max_length)

    data = data.map(tokenize, batched=True).rename_column("label", "labels")
    data.set_format("torch", columns=["input_ids", "attention_mask", "labels"])
    model = AutoModelForSequenceClassification.from_pretrained(options.model)
    extra: dict[str, Any] = {}
    if options.engine == "torch":
        extra = {"report_to": "none", "use_cpu": True, "dataloader_pin_memory": False}
    args = TrainingArguments(
        output_dir=options.output,
        max_steps=options.steps,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=64,
        gradient_accumulation_steps=options.accumulation,
        learning_rate=5e-5,
        warmup_steps=0,
        weight_decay=options.weight_decay,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        seed=options.seed,
        **extra,
    )
    trainer = Trainer(model=model, args=args, train_dataset=data["train"], eval_dataset=data["test"])
    if options.engine == "torch":
        # transformers 5 takes the loss of a DistilBERT for one that is already divided by the accumulation,
        # which it is not; this is its own switch to divide it, as version 4 did.
        trainer.loss_is_scaled_for_ga = False
    if fault != "none":
        plant(trainer, fault)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {
        "losses": [entry["loss"] for entry in logged],
        "grad_norms": [float(entry["grad_norm"]) for entry in logged],
        "learning_rates": [entry["learning_rate"] for entry in logged],
        "eval_loss": trainer.evaluate()["eval_loss"] if options.evaluate else None,
    }


def plant(trainer: Any, fault: str) -> None:
    """Break torch's side in one of the ways that a wrong engine could be broken."""
    import torch

    if fault == "no-clipping":
        trainer.args.max_grad_norm = 0.0
    elif fault == "decay-on-biases":
        trainer.get_decay_parameter_names = lambda model: [name for name, _ in model.named_parameters()]
    elif fault == "missing-gradient":
        weight = dict(trainer.model.named_parameters())["distilbert.transformer.layer.0.ffn.lin1.weight"]
        weight.register_hook(torch.zeros_like)
    elif fault == "eps-inside-root":
        trainer.optimizer = _eps_inside(trainer)
    else:
        raise ValueError(fault)


def _eps_inside(trainer: Any) -> Any:
    """AdamW with sqrt(v + eps) in place of sqrt(v) + eps."""
    import torch

    decayed = set(trainer.get_decay_parameter_names(trainer.model))
    named = list(trainer.model.named_parameters())
    groups = [
        {"params": [p for n, p in named if n in decayed], "weight_decay": trainer.args.weight_decay},
        {"params": [p for n, p in named if n not in decayed], "weight_decay": 0.0},
    ]

    class Faulty(torch.optim.Optimizer):
        @torch.no_grad()
        def step(self, closure: Any = None) -> None:
            for group in self.param_groups:
                for p in group["params"]:
                    if p.grad is None:
                        continue
                    state = self.state[p]
                    if not state:
                        state.update(t=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
                    state["t"] += 1
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    state["m"].mul_(0.9).add_(p.grad, alpha=0.1)
                    state["v"].mul_(0.999).addcmul_(p.grad, p.grad, value=0.001)
                    m = state["m"] / (1 - 0.9 ** state["t"])
                    v = state["v"] / (1 - 0.999 ** state["t"])
                    p.sub_(group["lr"] * m / (v + 1e-8).sqrt())

    return Faulty(groups, {"lr": trainer.args.learning_rate})


# -- the driver -----------------------------------------------------------------------------------


def make_checkpoint(folder: Path, vocabulary: Path, options: argparse.Namespace, dropout: bool) -> None:
    """Save a DistilBERT classifier, head included, with biases away from zero so that decay on them shows."""
    import shutil

    import torch
    import transformers

    torch.manual_seed(1234)
    dim = options.dim
    sizes = {} if options.full_size else {"dim": dim, "n_heads": 4, "n_layers": 2, "hidden_dim": 2 * dim}
    rates = {} if dropout else {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
    config = transformers.DistilBertConfig(num_labels=5, **sizes, **rates)
    model = transformers.DistilBertForSequenceClassification(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias"):
                p.normal_(0.0, 0.2)
    model.save_pretrained(folder)
    shutil.copyfile(vocabulary, folder / "vocab.txt")
    settings = {"tokenizer_class": "DistilBertTokenizer", "do_lower_case": True, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def launch(
    engine: str, work: Path, model: Path, options: argparse.Namespace, **settings: Any
) -> dict[str, Any]:
    """Run this file as the training script of one side in its own process; return fault -> result."""
    result = work / "result.json"
    result.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--engine", engine, "--result", str(result), "--model", str(model)]
    command += [
        "--output",
        str(work / "out"),
        "--steps",
        str(options.steps),
        "--max-length",
        str(options.max_length),
    ]
    command += ["--batch-size", str(options.batch_size), "--weight-decay", str(options.weight_decay)]
    command += ["--accumulation", str(options.accumulation)]
    for name, value in settings.items():
        command += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }
    environment["OMP_WAIT_POLICY"] = (
        "PASSIVE"  # torch's idle threads must not take the processor on a busy machine
    )
    environment["HF_DATASETS_CACHE"] = str(work / "cache")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"the {engine} side failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    answer: dict[str, Any] = json.loads(result.read_text())
    return answer


def compare(ours: list[float], theirs: list[float]) -> dict[str, Any]:
    """Return the largest differences and whether every bound holds."""
    gaps = [abs(a - b) for a, b in zip(ours, theirs, strict=True)]
    tail = max(1, len(ours) // 10)
    fall = statistics.mean(ours[:tail]) - statistics.mean(ours[-tail:])
    first, whole = max(gaps[:FIRST]), max(gaps)
    return {
        "steps": len(gaps),
        "first": first,
        "all": whole,
        "fall": fall,
        "agrees": first <= FIRST_BOUND and whole <= ALL_BOUND,
        "falls": fall >= LEAST_FALL,
    }


def data_files(folder: Path, work: Path, rows: int) -> dict[str, Path]:
    """Write the first rows of the review data as the two CSV files of a run."""
    import csv

    paths: dict[str, Path] = {}
    for part, source in (("train", "train.csv"), ("test", "validate.csv")):
        with open(folder / "reviews" / source, newline="", encoding="utf-8") as file:
            lines = [line for line, _ in zip(csv.reader(file), range(rows + 1), strict=False)]
        paths[part] = work / f"{part}.csv"
        with open(paths[part], "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(lines)
    return paths


def drive(options: argparse.Namespace) -> int:
    """Run the asked comparison; print one line per result; 0 when all hold."""
    base = Path(os.environ.get("SMHF_TEST_DATA", ROOT.parent / "shared")) / "data"
    good = True
    with tempfile.TemporaryDirectory(prefix="smhf-parity-") as name:
        work = Path(name)
        files = data_files(base, work, options.rows)
        vocabulary = base / "vocab" / "bert-base-uncased" / "vocab.txt"
        model = work / "model"
        make_checkpoint(model, vocabulary, options, options.dropout)
        if options.dropout:
            return 0 if _dropout(work, model, files, options) else 1
        ours = launch("native", work, model, options, **files)["none"]
        faults = FAULTS if options.faults else ()
        runs = launch("torch", work, model, options, fault=",".join(["none", *faults]), **files)
        theirs = runs["none"]
        result = compare(ours["losses"], theirs["losses"])
        rates = max(abs(a - b) for a, b in zip(ours["learning_rates"], theirs["learning_rates"], strict=True))
        norms = max(abs(a / b - 1) for a, b in zip(ours["grad_norms"], theirs["grad_norms"], strict=True))
        good = result["agrees"] and result["falls"] and rates < 1e-12
        print(
            f"{'ok  ' if good else 'FAIL'} losses: first {FIRST} within {result['first']:.2e}, all {result['steps']} "
            f"within {result['all']:.2e}, loss falls by {result['fall']:.3f} "
            f"({ours['losses'][0]:.4f} -> {ours['losses'][-1]:.4f}); grad_norm within {norms:.1e}"
        )
        for fault in faults:
            result = compare(ours["losses"], runs[fault]["losses"])
            noticed = not result["agrees"]
            good = good and noticed
            print(
                f"{'ok  ' if noticed else 'FAIL'} fault {fault}: "
                f"{'noticed' if noticed else 'NOT noticed'} (first {result['first']:.2e}, all {result['all']:.2e})"
            )
    return 0 if good else 1


def _dropout(work: Path, model: Path, files: dict[str, Path], options: argparse.Namespace) -> bool:
    values: dict[str, list[float]] = {"native": [], "torch": []}
    for seed in range(1, options.seeds + 1):
        for engine in values:
            answer = launch(engine, work, model, options, seed=seed, evaluate=True, **files)["none"]
            values[engine].append(float(answer["eval_loss"]))
    means = {engine: statistics.mean(v) for engine, v in values.items()}
    error = math.sqrt(sum(statistics.variance(v) / len(v) for v in values.values()))
    gap = abs(means["native"] - means["torch"])
    good = gap <= 2 * error
    print(
        f"{'ok  ' if good else 'FAIL'} dropout, {options.seeds} seeds a side: mean eval_loss "
        f"{means['native']:.5f} and {means['torch']:.5f}, difference {gap:.5f}, 2 standard errors {2 * error:.5f}"
    )
    return good


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run one side or the driver."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--faults", action="store_true", help="also plant the faults; each must be noticed")
    parser.add_argument("--dropout", action="store_true", help="compare eval_loss over seeds with dropout")
    parser.add_argument("--full-size", action="store_true", help="DistilBERT-base sizes")
    parser.add_argument("--dim", type=int, default=256, help="width of the small model")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--rows", type=int, default=400, help="rows of the review data on each side")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--weight-decay", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=42)
    for name in ("engine", "model", "train", "test", "output", "result", "fault"):
        parser.add_argument(f"--{name}", default=None, help=argparse.SUPPRESS)
    parser.add_argument("--evaluate", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.engine is None:
        return drive(options)
    if options.engine == "native":
        from smhf_native.mirrors import activate

        activate(("transformers", "datasets"), announce=False)
    faults = str(options.fault or "none").split(",")
    Path(options.result).write_text(json.dumps({fault: train(options, fault) for fault in faults}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
