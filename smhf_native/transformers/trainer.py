"""``transformers.Trainer`` over smhf_native's engine.

The loop itself is in ``training_loop.py``; this class holds the model, the data and the callbacks, and
evaluates, predicts, logs and saves.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smhf_native.transformers import engine
from smhf_native.transformers.batches import BatchLoader, check_labels, check_tokens
from smhf_native.transformers.data_collator import DataCollatorWithPadding, default_data_collator
from smhf_native.transformers.losses import IGNORE, Target
from smhf_native.transformers.modeling import PreTrainedModel
from smhf_native.transformers.recorder import StopRequested, StopSignals
from smhf_native.transformers.trainer_callback import (
    CallbackHandler,
    DefaultFlowCallback,
    PrinterCallback,
    ProgressCallback,
    TrainerControl,
    TrainerState,
)
from smhf_native.transformers.trainer_utils import (
    EvalLoopOutput,
    EvalPrediction,
    PredictionOutput,
    TrainOutput,
    denumpify_detensorize,
    set_seed,
    speed_metrics,
)
from smhf_native.transformers.training_args import TrainingArguments
from smhf_native.transformers.training_loop import NonFiniteLossError, TrainingRun
from smhf_native.transformers.utils import logging

__all__ = ["NonFiniteLossError", "Trainer"]

logger = logging.get_logger(__name__)

_TORCH_ONLY = ("compute_loss", "training_step", "create_optimizer", "create_scheduler", "prediction_step")


class Trainer:
    """Fine-tune, evaluate and predict.

    Parameters
    ----------
    model : a model of the mirror; or None with ``model_init`` (a function that returns one)
    args : TrainingArguments
    data_collator : rows to batch; default: padding with the tokenizer when one is given, else stacking
    train_dataset, eval_dataset : Dataset of the mirror, or anything with ``len`` and indexing;
        ``eval_dataset`` may be a dict of name to dataset
    processing_class (or tokenizer) : saved beside the model, used for padding
    compute_metrics : takes an EvalPrediction, returns a dict of numbers
    callbacks : TrainerCallback instances or classes
    preprocess_logits_for_metrics : function (logits, labels) -> array kept for metrics

    Raises
    ------
    NotImplementedError
        Options that need torch (own losses, optimizers or schedulers), named.
    """

    def __init__(
        self,
        model: PreTrainedModel | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[[], Any] | None = None,
        compute_loss_func: Any = None,
        compute_metrics: Callable[[Any], dict[str, Any]] | None = None,
        callbacks: list[Any] | None = None,
        optimizers: Any = (None, None),
        optimizer_cls_and_kwargs: Any = None,
        preprocess_logits_for_metrics: Callable[[Any, Any], Any] | None = None,
        tokenizer: Any = None,
        **unknown: Any,
    ):
        if unknown:
            from smhf_native.datasets.mapping import reject_unknown

            reject_unknown("Trainer", unknown, _PARAMETERS)
        self.args = args if args is not None else TrainingArguments("tmp_trainer")
        self._refuse_torch(compute_loss_func, optimizers, optimizer_cls_and_kwargs)
        if tokenizer is not None and processing_class is not None:
            raise ValueError("give processing_class or tokenizer (its old name), not both")
        self.processing_class = processing_class if processing_class is not None else tokenizer
        set_seed(self.args.seed)
        os.makedirs(self.args.output_dir, exist_ok=True)
        self.model_init = model_init
        if model is None:
            if model_init is None:
                raise RuntimeError("Trainer requires either a model or model_init argument")
            model = model_init()
        if not isinstance(model, PreTrainedModel):
            raise TypeError(
                f"Trainer: the model is a {type(model).__module__}.{type(model).__name__}; it must come from "
                "AutoModelForSequenceClassification or another AutoModelFor… of smhf_native.transformers"
            )
        self.model = model
        self.model_wrapped = model
        self.train_dataset = train_dataset
        self.eval_dataset = eval_dataset
        self.compute_metrics = compute_metrics
        self.preprocess_logits_for_metrics = preprocess_logits_for_metrics
        if data_collator is None:
            padder = self.processing_class is not None and hasattr(self.processing_class, "pad")
            data_collator = (
                DataCollatorWithPadding(self.processing_class) if padder else default_data_collator
            )
        self.data_collator = data_collator
        defaults: list[Any] = [DefaultFlowCallback(), ProgressCallback(), PrinterCallback()]
        self.callback_handler = CallbackHandler([*defaults, *(callbacks or [])], model, self.processing_class)
        self.state = TrainerState()
        self.control = TrainerControl()
        self.is_in_train = False
        self.stop_signals: StopSignals | None = None  # set while train() runs
        self._call("on_init_end")

    def _refuse_torch(self, compute_loss_func: Any, optimizers: Any, optimizer_class: Any) -> None:
        given = {
            "compute_loss_func": compute_loss_func is not None,
            "optimizers": tuple(optimizers or ()) not in ((None, None), ()),
            "optimizer_cls_and_kwargs": optimizer_class is not None,
        }
        for name, present in given.items():
            if present:
                raise NotImplementedError(
                    f"Trainer: {name} needs torch; this engine has cross-entropy and AdamW with linear, cosine "
                    "or constant schedules (TrainingArguments)"
                )
        for name in _TORCH_ONLY:
            if hasattr(type(self), name):
                raise NotImplementedError(
                    f"{type(self).__name__}.{name}: overriding it needs torch; this engine runs the step itself"
                )

    def _call(self, event: str, **kwargs: Any) -> None:
        self.control = self.callback_handler.call(event, self.args, self.state, self.control, **kwargs)

    @property
    def tokenizer(self) -> Any:
        """Return the processing class under its old name."""
        return self.processing_class

    @tokenizer.setter
    def tokenizer(self, value: Any) -> None:
        self.processing_class = value

    # -- callbacks ----------------------------------------------------------------------------

    def add_callback(self, callback: Any) -> None:
        """Add a callback instance or class."""
        self.callback_handler.add_callback(callback)

    def pop_callback(self, callback: Any) -> Any:
        """Remove and return a callback (an instance, or the first one of a class)."""
        return self.callback_handler.pop_callback(callback)

    def remove_callback(self, callback: Any) -> None:
        """Remove a callback (an instance, or the first one of a class)."""
        self.callback_handler.pop_callback(callback)

    def is_world_process_zero(self) -> bool:
        """Return True: there is one process."""
        return True

    def is_local_process_zero(self) -> bool:
        """Return True: there is one process."""
        return True

    # -- data ---------------------------------------------------------------------------------

    def _loader(
        self, dataset: Any, batch_size: int, what: str, needs_labels: bool, drop_last: bool
    ) -> BatchLoader:
        return BatchLoader(
            dataset,
            batch_size,
            self.data_collator,
            drop_last=drop_last,
            label_names=self.args.label_names,
            target=self._target(),
            needs_labels=needs_labels,
            remove_unused=self.args.remove_unused_columns,
            what=what,
        )

    def _target(self) -> Target:
        """Return what the model is trained on; the smoothing of labels must fit it."""
        target = Target.of(self.model)
        if (
            target.problem in ("regression", "multi_label_classification")
            and self.args.label_smoothing_factor
        ):
            raise ValueError(
                f"label_smoothing_factor={self.args.label_smoothing_factor} smooths class numbers; the model's "
                f"problem_type is {target.problem!r}"
            )
        return target

    def _check(self, dataset: Any, what: str) -> None:
        """Refuse labels, token ids and row lengths that the model cannot take, named by row."""
        config = self.model.config
        check_labels(dataset, self._target(), self.args.label_names, what)
        sizes = (getattr(config, "vocab_size", None), getattr(config, "max_position_embeddings", None))
        check_tokens(dataset, *sizes, what)

    def get_train_dataloader(self) -> BatchLoader:
        """Return the training batches; the loop sets their order before each epoch."""
        if self.train_dataset is None:
            raise ValueError("Trainer: training requires a train_dataset.")
        args = self.args
        return self._loader(
            self.train_dataset, args.train_batch_size, "train_dataset", True, args.dataloader_drop_last
        )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> BatchLoader:
        """Return the evaluation batches in row order."""
        dataset = self._pick_eval(eval_dataset)
        return self._loader(dataset, self.args.eval_batch_size, "eval_dataset", False, False)

    def get_test_dataloader(self, test_dataset: Any) -> BatchLoader:
        """Return the batches of a dataset to predict, in row order."""
        return self._loader(test_dataset, self.args.eval_batch_size, "test_dataset", False, False)

    def num_examples(self, dataloader: Any) -> int:
        """Return the number of rows behind a loader."""
        return len(dataloader.dataset)

    def _pick_eval(self, dataset: Any) -> Any:
        if isinstance(dataset, str) and isinstance(self.eval_dataset, dict):
            return self.eval_dataset[dataset]
        chosen = dataset if dataset is not None else self.eval_dataset
        if chosen is None:
            raise ValueError("Trainer: evaluation requires an eval_dataset.")
        return chosen

    # -- train --------------------------------------------------------------------------------

    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: Any = None,
        **kwargs: Any,
    ) -> TrainOutput:
        """Fine-tune the model.

        Parameters
        ----------
        resume_from_checkpoint : True (last whole checkpoint of ``output_dir``), a ``checkpoint-N`` folder, or
            a folder that holds such folders (its last whole one)

        Returns
        -------
        TrainOutput (global_step, training_loss, metrics).

        Raises
        ------
        ValueError
            A label out of range, named by row and value, before the first step.
        NonFiniteLossError
            NaN or infinite loss, with step and learning rate.
        """
        if "model_path" in kwargs:  # the name before 4.0
            resume_from_checkpoint = kwargs.pop("model_path")
        if kwargs:
            raise TypeError(
                f"train() received got unexpected keyword arguments: {', '.join(sorted(kwargs))}."
            )
        if resume_from_checkpoint is None:
            resume_from_checkpoint = self.args.resume_from_checkpoint
        if self.model_init is not None and self.state.global_step > 0:
            self.model = self.model_wrapped = self.model_init()
            self.callback_handler.model = self.model
        return TrainingRun(self, resume_from_checkpoint).run()

    # -- evaluate and predict -----------------------------------------------------------------

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return loss, metrics and speed on a dataset; a dict of datasets gives ``eval_NAME_…`` metrics."""
        chosen = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(chosen, Mapping):
            merged: dict[str, float] = {}
            for name in chosen:
                merged.update(self.evaluate(chosen[name], ignore_keys, f"{metric_key_prefix}_{name}"))
            return merged
        loader = self.get_eval_dataloader(eval_dataset)
        start = time.time()
        output = self.evaluation_loop(
            loader,
            "Evaluation",
            True if self.compute_metrics is None else None,  # nobody looks at the predictions
            metric_key_prefix=metric_key_prefix,
        )
        metrics = output.metrics or {}
        rows = len(loader.order)
        metrics.update(
            speed_metrics(metric_key_prefix, start, rows, math.ceil(rows / self.args.eval_batch_size))
        )
        self.log(metrics)
        self._call("on_evaluate", metrics=metrics)
        return metrics

    def predict(
        self, test_dataset: Any, ignore_keys: Any = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Return predictions (float32: logits, or start and end), labels (or None) and metrics of a dataset.

        Rows of tokens are as wide as the widest batch; what is behind a narrower one is -100.
        """
        loader = self.get_test_dataloader(test_dataset)
        start = time.time()
        output = self.evaluation_loop(loader, "Prediction", metric_key_prefix=metric_key_prefix)
        metrics = output.metrics or {}
        rows = len(loader.order)
        metrics.update(
            speed_metrics(metric_key_prefix, start, rows, math.ceil(rows / self.args.eval_batch_size))
        )
        self._call("on_predict", metrics=metrics)
        return PredictionOutput(output.predictions, output.label_ids, metrics)

    def evaluation_loop(
        self,
        dataloader: BatchLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: Any = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Run the model over all batches without dropout; collect logits, labels and the mean loss."""
        logger.info("***** Running %s: %d rows *****", description, len(dataloader.order))
        self.callback_handler.eval_dataloader = dataloader
        self._check(dataloader.dataset, dataloader.what)
        target = self._target()
        lonely = self.args.prediction_loss_only if prediction_loss_only is None else prediction_loss_only
        predictions: list[Any] = []
        labels: list[Any] = []
        losses: list[tuple[float, int]] = []
        for batch in dataloader:
            if self.stop_signals is not None and self.stop_signals.received is not None:
                raise StopRequested
            known = batch.get("labels")
            results, loss = self._evaluate_batch(target, batch, known, lonely)
            if known is not None:
                losses.append((loss, len(known)))
                labels.append(known if target.task != "question-answering" else (known[:, 0], known[:, 1]))
            if results is None:
                self._call("on_prediction_step")
                continue
            if self.preprocess_logits_for_metrics is not None:
                results = self.preprocess_logits_for_metrics(results, labels[-1] if labels else None)
            predictions.append(results)
            self._call("on_prediction_step")
        all_predictions, all_labels = _join(predictions), _join(labels)
        metrics: dict[str, Any] = {}
        if losses:
            mean = sum(loss * rows for loss, rows in losses) / sum(rows for _, rows in losses)
            metrics[f"{metric_key_prefix}_loss"] = float(np.float32(mean))
        if self.compute_metrics is not None and all_labels is not None and all_predictions is not None:
            own = denumpify_detensorize(self.compute_metrics(EvalPrediction(all_predictions, all_labels)))
            for name, value in own.items():
                full = name if name.startswith(f"{metric_key_prefix}_") else f"{metric_key_prefix}_{name}"
                metrics[full] = value
        return EvalLoopOutput(all_predictions, all_labels, metrics, len(dataloader.order))

    def _evaluate_batch(
        self, target: Target, batch: dict[str, Any], known: Any, loss_only: bool
    ) -> tuple[Any, float]:
        """Results (None when only the loss is asked for) and loss of one batch."""
        native, smoothing = self.model.native, self.args.label_smoothing_factor
        if loss_only and known is not None and target.task == "masked-lm":
            # A row of logits for every token would be 120 KB each; only those with a label count.
            return None, target.loss_at(engine.logits_at(native, batch, known != IGNORE), known, smoothing)
        results = engine.results_of(native, batch)
        loss = math.nan if known is None else target.loss(results, known, smoothing)
        return (None if loss_only and known is not None else results), loss

    # -- logs ---------------------------------------------------------------------------------

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """Add the epoch, append to ``state.log_history`` and hand the entry to the callbacks."""
        if self.state.epoch is not None:
            logs["epoch"] = self.state.epoch
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self._call("on_log", logs=logs)

    def log_metrics(self, split: str, metrics: dict[str, Any]) -> None:
        """Print metrics as an aligned table."""
        print(f"***** {split} metrics *****", flush=True)
        width = max((len(name) for name in metrics), default=0)
        for name in sorted(metrics):
            value = metrics[name]
            print(
                f"  {name:<{width}} = {value:.4f}"
                if isinstance(value, float)
                else f"  {name:<{width}} = {value}"
            )

    def save_metrics(self, split: str, metrics: dict[str, Any], combined: bool = True) -> None:
        """Write ``{split}_results.json`` (and merge into ``all_results.json``) in the output folder."""
        folder = Path(self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{split}_results.json").write_text(
            json.dumps(metrics, indent=4, sort_keys=True), encoding="utf-8"
        )
        if combined:
            path = folder / "all_results.json"
            merged = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            merged.update(metrics)
            path.write_text(json.dumps(merged, indent=4, sort_keys=True), encoding="utf-8")

    # -- save ---------------------------------------------------------------------------------

    def save_model(
        self, output_dir: str | os.PathLike[str] | None = None, _internal_call: bool = False
    ) -> None:
        """Write model, configuration, training arguments and (when given) the tokenizer into a folder."""
        folder = Path(output_dir if output_dir is not None else self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self._write_model(folder)

    def _write_model(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        if self.processing_class is not None and hasattr(self.processing_class, "save_pretrained"):
            self.processing_class.save_pretrained(folder)
        (folder / "training_args.json").write_text(self.args.to_json_string() + "\n", encoding="utf-8")

    def save_state(self) -> None:
        """Write ``trainer_state.json`` into the output folder."""
        folder = Path(self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        self.state.save_to_json(folder / "trainer_state.json")

    def push_to_hub(self, *_: Any, **__: Any) -> None:
        """Refuse: nothing is uploaded from here."""
        raise NotImplementedError(
            "push_to_hub: smhf_native never uploads; use huggingface_hub on the saved folder"
        )

    def hyperparameter_search(self, *_: Any, **__: Any) -> None:
        """Refuse: not supported."""
        raise NotImplementedError("hyperparameter_search is not supported; call train() in a loop")

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Do nothing: no model card is written."""


def _join(parts: list[Any]) -> Any:
    """Put batches under one another; of tuples each member; narrower ones are filled with -100."""
    if not parts:
        return None
    if isinstance(parts[0], (tuple, list)):
        return tuple(_join([part[i] for part in parts]) for i in range(len(parts[0])))
    arrays = [np.asarray(part) for part in parts]
    if arrays[0].ndim < 2 or len({array.shape[1:] for array in arrays}) == 1:
        return np.concatenate(arrays)
    width = max(array.shape[1] for array in arrays)
    rows = sum(len(array) for array in arrays)
    joined = np.full((rows, width, *arrays[0].shape[2:]), IGNORE, dtype=arrays[0].dtype)
    at = 0
    for array in arrays:
        joined[at : at + len(array), : array.shape[1]] = array
        at += len(array)
    return joined


_PARAMETERS = {
    "model", "args", "data_collator", "train_dataset", "eval_dataset", "processing_class", "model_init",
    "compute_loss_func", "compute_metrics", "callbacks", "optimizers", "optimizer_cls_and_kwargs",
    "preprocess_logits_for_metrics", "tokenizer",
}  # fmt: skip
