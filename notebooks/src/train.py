"""Fine-tune a DistilBERT classifier on CSV files; runs as a SageMaker training script, locally too."""

import argparse
import os

from datasets import load_dataset
from sklearn.metrics import accuracy_score, f1_score
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=float, default=3)
parser.add_argument("--learning_rate", type=float, default=5e-4)
parser.add_argument("--batch_size", type=int, default=16)
parser.add_argument("--logging_steps", type=int, default=10)
parser.add_argument("--num_labels", type=int, default=5)
args = parser.parse_args()

base = os.environ["SM_CHANNEL_MODEL"]
data = load_dataset(
    "csv",
    data_files={
        "train": os.path.join(os.environ["SM_CHANNEL_TRAIN"], "train.csv"),
        "validate": os.path.join(os.environ["SM_CHANNEL_VALIDATE"], "validate.csv"),
    },
)
tokenizer = AutoTokenizer.from_pretrained(base)
data = data.map(lambda rows: tokenizer(rows["text"], truncation=True), batched=True)
data = data.rename_column("label", "labels")


def metrics(prediction):
    """Accuracy and weighted F1."""
    guess = prediction.predictions.argmax(-1)
    return {
        "accuracy": accuracy_score(prediction.label_ids, guess),
        "f1": f1_score(prediction.label_ids, guess, average="weighted"),
    }


trainer = Trainer(
    model=AutoModelForSequenceClassification.from_pretrained(base, num_labels=args.num_labels),
    args=TrainingArguments(
        output_dir="/opt/ml/checkpoints",
        num_train_epochs=args.epochs,
        learning_rate=args.learning_rate,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=64,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=1,
        logging_steps=args.logging_steps,
        report_to="none",
    ),
    train_dataset=data["train"],
    eval_dataset=data["validate"],
    processing_class=tokenizer,
    data_collator=DataCollatorWithPadding(tokenizer),
    compute_metrics=metrics,
)
trainer.train()
trainer.save_model(os.environ["SM_MODEL_DIR"])
