"""``transformers.trainer_callback``: state, control, hooks, early stopping, progress and log lines."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from dataclasses import dataclass
from typing import Any

from smhf_native.transformers.trainer_utils import IntervalStrategy, SaveStrategy
from smhf_native.transformers.utils import logging

__all__ = [
    "CallbackHandler",
    "DefaultFlowCallback",
    "EarlyStoppingCallback",
    "ExportableState",
    "PrinterCallback",
    "ProgressCallback",
    "TrainerCallback",
    "TrainerControl",
    "TrainerState",
]

logger = logging.get_logger(__name__)


@dataclass
class TrainerState:
    """Where a run stands; saved as ``trainer_state.json`` in each checkpoint.

    ``epoch`` is fractional, ``global_step`` counts optimizer steps, ``log_history`` holds every logged
    dict with its ``step``.
    """

    epoch: float | None = 0.0
    global_step: int = 0
    max_steps: int = 0
    logging_steps: int = 500
    eval_steps: int = 500
    save_steps: int = 500
    train_batch_size: int | None = None
    num_train_epochs: int = 0
    num_input_tokens_seen: int = 0
    total_flos: float = 0.0
    log_history: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    best_metric: float | None = None
    best_global_step: int | None = None
    best_model_checkpoint: str | None = None
    is_local_process_zero: bool = True
    is_world_process_zero: bool = True
    is_hyper_param_search: bool = False
    trial_name: str | None = None
    trial_params: dict[str, Any] | None = None
    stateful_callbacks: dict[str, Any] = dataclasses.field(default_factory=dict)

    def save_to_json(self, json_path: str | os.PathLike[str]) -> None:
        """Write the state as sorted, indented JSON."""
        text = json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"
        with open(json_path, "w", encoding="utf-8") as file:
            file.write(text)

    @classmethod
    def load_from_json(cls, json_path: str | os.PathLike[str]) -> TrainerState:
        """Read a state; keys this version does not know are dropped."""
        with open(json_path, encoding="utf-8") as file:
            values = json.load(file)
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})

    def compute_steps(self, args: Any, max_steps: int) -> None:
        """Turn interval settings below 1 (shares of the run) into steps."""
        for kind in ("logging", "eval", "save"):
            steps = getattr(args, f"{kind}_steps")
            if steps is not None:
                if steps < 1:
                    steps = math.ceil(max_steps * steps)
                setattr(self, f"{kind}_steps", int(steps))


class ExportableState:
    """A callback whose state is stored in checkpoints: ``state()`` and ``from_state``."""

    def state(self) -> dict[str, Any]:
        """Return ``{"args": …, "attributes": …}``."""
        raise NotImplementedError("a stateful callback defines state()")

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Any:
        """Build an instance from what ``state()`` returned."""
        instance = cls(**state["args"])
        for name, value in state["attributes"].items():
            setattr(instance, name, value)
        return instance


@dataclass
class TrainerControl(ExportableState):
    """Switches that callbacks set to steer the loop."""

    should_training_stop: bool = False
    should_epoch_stop: bool = False
    should_save: bool = False
    should_evaluate: bool = False
    should_log: bool = False

    def state(self) -> dict[str, Any]:
        """Return the switches for a checkpoint."""
        return {"args": dataclasses.asdict(self), "attributes": {}}


class TrainerCallback:
    """Base of callbacks: override the hooks you need.

    Every hook is called as ``hook(args, state, control, **kwargs)``; kwargs hold ``model``,
    ``processing_class``, ``tokenizer``, ``train_dataloader``, ``eval_dataloader``, and ``logs`` or
    ``metrics`` where they apply.  A hook may return the control it changed.
    """

    def on_init_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Run when the Trainer has been made."""

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Run before the first step."""

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Run after the last step."""

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Run before each epoch."""

    def on_epoch_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Run after each epoch."""

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Run before the first batch of an optimizer step."""

    def on_pre_optimizer_step(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any:
        """Run when the gradients of a step are complete."""

    def on_optimizer_step(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any:
        """Run after the weights have moved."""

    def on_substep_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Run after a batch that only accumulates gradients."""

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Run after each optimizer step."""

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Run after an evaluation (``metrics``)."""

    def on_predict(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Run after a prediction (``metrics``)."""

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Run after a checkpoint is durable."""

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Run after each log entry (``logs``)."""

    def on_prediction_step(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Any:
        """Run after each evaluation batch."""

    def on_push_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Any:
        """Run before a push to the hub (never happens here)."""


class CallbackHandler:
    """Call the hooks of all callbacks in order and carry the control along."""

    def __init__(self, callbacks: list[Any], model: Any, processing_class: Any):
        self.callbacks: list[Any] = []
        self.model = model
        self.processing_class = processing_class
        self.train_dataloader: Any = None
        self.eval_dataloader: Any = None
        for callback in callbacks:
            self.add_callback(callback)

    def add_callback(self, callback: Any) -> None:
        """Add an instance, or a class to instantiate."""
        self.callbacks.append(callback() if isinstance(callback, type) else callback)

    def pop_callback(self, callback: Any) -> Any:
        """Remove and return an instance, or the first one of a class."""
        for candidate in self.callbacks:
            same = isinstance(candidate, callback) if isinstance(callback, type) else candidate is callback
            if same:
                self.callbacks.remove(candidate)
                return candidate
        return None

    def call(
        self, event: str, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Call hook ``event`` of every callback; return the control that results."""
        if event == "on_train_begin":
            control.should_training_stop = False
        elif event == "on_epoch_begin":
            control.should_epoch_stop = False
        elif event == "on_step_begin":
            control.should_log = control.should_evaluate = control.should_save = False
        elif event == "on_evaluate":
            control.should_evaluate = False
        elif event == "on_save":
            control.should_save = False
        elif event == "on_log":
            control.should_log = False
        for callback in list(self.callbacks):
            hook = getattr(callback, event, None)
            if hook is None:
                continue
            answer = hook(
                args,
                state,
                control,
                model=self.model,
                processing_class=self.processing_class,
                tokenizer=self.processing_class,
                optimizer=None,
                lr_scheduler=None,
                train_dataloader=self.train_dataloader,
                eval_dataloader=self.eval_dataloader,
                **kwargs,
            )
            if answer is not None:
                control = answer
        return control


class DefaultFlowCallback(TrainerCallback):
    """Decide from the arguments when to log, evaluate, save and stop."""

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Set the switches after a step."""
        step = state.global_step
        if step == 1 and args.logging_first_step:
            control.should_log = True
        if args.logging_strategy == IntervalStrategy.STEPS and step % state.logging_steps == 0:
            control.should_log = True
        by_steps = args.eval_strategy == IntervalStrategy.STEPS and args.eval_delay <= step
        if by_steps and step % state.eval_steps == 0:
            control.should_evaluate = True
        saving = args.save_strategy == SaveStrategy.STEPS
        if saving and state.save_steps > 0 and step % state.save_steps == 0:
            control.should_save = True
        if step >= state.max_steps:
            control.should_training_stop = True
            if by_steps:
                control.should_evaluate = True
            if saving:
                control.should_save = True
        return control

    def on_epoch_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Set the switches after an epoch."""
        if args.logging_strategy == IntervalStrategy.EPOCH:
            control.should_log = True
        if args.eval_strategy == IntervalStrategy.EPOCH and args.eval_delay <= (state.epoch or 0):
            control.should_evaluate = True
        if args.save_strategy == SaveStrategy.EPOCH:
            control.should_save = True
        return control


def log_line(logs: dict[str, Any]) -> str:
    """Return a log dict as the line that metric expressions read.

    A Python dict display with plain numbers; ``loss`` rounded to 4 and ``epoch`` to 2 decimals, as the
    transformers 4 printed them (version 5 prints quoted strings, which ``'loss': ([0-9]…`` cannot read).
    """
    shown = {key: value for key, value in logs.items() if key != "total_flos"}
    if isinstance(shown.get("loss"), float):
        shown["loss"] = round(shown["loss"], 4)
    if isinstance(shown.get("epoch"), (int, float)):
        shown["epoch"] = round(float(shown["epoch"]), 2)
    return str(shown)


class PrinterCallback(TrainerCallback):
    """Print each log dict on one line of stdout."""

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Print the line and flush it, so that whoever tails the job sees it at once."""
        if logs is not None:
            print(log_line(logs), flush=True)


class ProgressCallback(TrainerCallback):
    """A bar on a terminal: tqdm when installed, else steps/s and time left now and then; nothing elsewhere."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._shown_at = 0.0
        self._terminal = False
        self._began = 0.0
        self._first = 0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Open the bar."""
        self._terminal = sys.stderr.isatty() and not args.disable_tqdm
        if not self._terminal:
            return
        self._began, self._first = time.monotonic(), state.global_step
        try:
            from tqdm.auto import tqdm
        except ImportError:
            return
        self._bar = tqdm(total=state.max_steps, initial=state.global_step, dynamic_ncols=True)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Advance the bar, or print a count at most every two seconds."""
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)
        elif self._terminal:
            now = time.monotonic()
            if now - self._shown_at > 2.0:
                self._shown_at = now
                rate = (state.global_step - self._first) / max(now - self._began, 1e-9)
                left = (state.max_steps - state.global_step) / max(rate, 1e-9)
                print(
                    f"step {state.global_step} of {state.max_steps}, {rate:.3g} steps/s, {left:.0f} s left",
                    file=sys.stderr,
                    flush=True,
                )

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Clear the line for the log entry; the next step draws the bar again."""
        if self._bar is not None:
            self._bar.clear()

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class EarlyStoppingCallback(TrainerCallback, ExportableState):
    """Stop when ``metric_for_best_model`` has not improved for ``early_stopping_patience`` evaluations.

    Needs ``metric_for_best_model`` and evaluation during training, and ``load_best_model_at_end=True`` for
    the best weights to be loaded at the end.
    """

    def __init__(self, early_stopping_patience: int = 1, early_stopping_threshold: float | None = 0.0):
        self.early_stopping_patience = early_stopping_patience
        self.early_stopping_threshold = early_stopping_threshold or 0.0
        self.early_stopping_patience_counter = 0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Check that the arguments make early stopping possible."""
        if args.metric_for_best_model is None:
            raise ValueError("EarlyStoppingCallback requires metric_for_best_model to be defined")
        if args.eval_strategy == IntervalStrategy.NO:
            raise ValueError("EarlyStoppingCallback requires eval_strategy 'steps' or 'epoch'")
        if not args.load_best_model_at_end:
            logger.warning("EarlyStoppingCallback without load_best_model_at_end=True keeps the last weights")

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Count evaluations without improvement and stop after too many."""
        name = args.metric_for_best_model
        name = name if name.startswith("eval_") else f"eval_{name}"
        value = (metrics or {}).get(name)
        if value is None:
            logger.warning(
                "early stopping is off: the metric %s is not among %s", name, sorted(metrics or {})
            )
            return
        better = state.best_metric is None or (
            (value > state.best_metric if args.greater_is_better else value < state.best_metric)
            and abs(value - state.best_metric) > self.early_stopping_threshold
        )
        self.early_stopping_patience_counter = 0 if better else self.early_stopping_patience_counter + 1
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True

    def state(self) -> dict[str, Any]:
        """Return patience, threshold and the count for a checkpoint."""
        return {
            "args": {
                "early_stopping_patience": self.early_stopping_patience,
                "early_stopping_threshold": self.early_stopping_threshold,
            },
            "attributes": {"early_stopping_patience_counter": self.early_stopping_patience_counter},
        }
