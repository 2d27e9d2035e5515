"""The loop behind ``Trainer.train``: steps, logs, evaluations, checkpoints, resume, polite stops.

Step counts, batch order, accumulation and log entries follow transformers' Trainer (5.x): an epoch has
ceil(batches / accumulation) optimizer steps, the last of which may hold fewer batches and divides by what
it holds; the logged loss is the mean over the steps since the last entry; the logged learning rate is the
one the step used.
"""

from __future__ import annotations

import json
import math
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smhf_native.errors import SmhfError
from smhf_native.transformers import checkpoints
from smhf_native.transformers.batches import BatchLoader, epoch_order, group_by_length, row_lengths
from smhf_native.transformers.checkpoints import CheckpointError
from smhf_native.transformers.engine import StepEngine
from smhf_native.transformers.recorder import Recorder, StopRequested, StopSignals
from smhf_native.transformers.trainer_callback import ExportableState, TrainerControl, TrainerState
from smhf_native.transformers.trainer_utils import SaveStrategy, TrainOutput, set_seed, speed_metrics
from smhf_native.transformers.utils import logging

if TYPE_CHECKING:
    from smhf_native.transformers.trainer import Trainer

__all__ = ["NonFiniteLossError", "TrainingRun", "find_resume_folder"]

logger = logging.get_logger(__name__)

_CURSOR = "smhf_cursor.json"


class NonFiniteLossError(SmhfError, FloatingPointError):
    """The training loss became NaN or infinite; weights and the last checkpoint are from before."""


def find_resume_folder(resume: Any, output_dir: str) -> Path | None:
    """Return the checkpoint that ``resume_from_checkpoint`` means, or None for a fresh start.

    ``True``: the last whole one in ``output_dir``; a path: that checkpoint, or the last whole one in it.

    Raises
    ------
    ValueError, CheckpointError
        Nothing there, or the named checkpoint is damaged.
    """
    if resume is None or resume is False:
        return None
    if resume is True:
        found = checkpoints.last_checkpoint(output_dir) if Path(output_dir).is_dir() else None
        if found is None:
            raise ValueError(f"No valid checkpoint found in output directory ({output_dir})")
        return Path(found)
    folder = Path(resume)
    if not folder.is_dir():
        raise ValueError(f"Can't find a valid checkpoint at {resume}")
    if (folder / "trainer_state.json").is_file() or (folder / checkpoints.MANIFEST_NAME).is_file():
        problem = checkpoints.checkpoint_problem(folder)
        if problem is not None:
            raise CheckpointError(f"the checkpoint {folder} cannot be resumed: {problem}")
        return folder
    found = checkpoints.last_checkpoint(folder)
    if found is None:
        raise ValueError(f"Can't find a valid checkpoint at {resume}")
    return Path(found)


class TrainingRun:
    """One call of ``Trainer.train``."""

    def __init__(self, trainer: Trainer, resume: Any):
        self.trainer = trainer
        self.args = trainer.args
        dataset = trainer.train_dataset
        if dataset is None:
            raise ValueError("Trainer: training requires a train_dataset.")
        if len(dataset) == 0:
            raise ValueError("Trainer: the train_dataset has no rows")
        trainer._check(dataset, "train_dataset")
        self.rows = len(dataset)
        self.lengths = None
        if self.args.train_sampling_strategy == "group_by_length":
            self.lengths = row_lengths(dataset, self.args.length_column_name, "train_dataset")
        self.folder = find_resume_folder(resume, self.args.output_dir)
        self._plan_steps()
        self.recorder = Recorder()
        # Loss since the last entry, loss before it, step of the last entry: survive in the checkpoint.
        self.pending_loss = 0.0
        self.logged_loss = 0.0
        self.last_logged = 0
        self.first_step = 0
        self._engine: StepEngine | None = None
        self._saved_at = -1

    def _plan_steps(self) -> None:
        args = self.args
        batches = self.rows // args.train_batch_size if args.dataloader_drop_last else 0
        if not args.dataloader_drop_last:
            batches = math.ceil(self.rows / args.train_batch_size)
        if batches == 0:
            raise ValueError(f"Trainer: {self.rows} rows make no batch of {args.train_batch_size}")
        self.batches = batches
        self.steps_per_epoch = max(math.ceil(batches / args.gradient_accumulation_steps), 1)
        total_batch = args.train_batch_size * args.gradient_accumulation_steps
        if args.max_steps > 0:
            self.max_steps = args.max_steps
            self.epochs = math.ceil(args.max_steps / self.steps_per_epoch)
            self.samples: float = args.max_steps * total_batch
        else:
            self.max_steps = math.ceil(args.num_train_epochs * self.steps_per_epoch)
            self.epochs = math.ceil(args.num_train_epochs)
            self.samples = self.rows * args.num_train_epochs

    # -- state --------------------------------------------------------------------------------

    def _stateful(self) -> list[Any]:
        trainer = self.trainer
        return [
            cb
            for cb in [*trainer.callback_handler.callbacks, trainer.control]
            if isinstance(cb, ExportableState)
        ]

    def _start_state(self) -> None:
        trainer = self.trainer
        state = TrainerState(train_batch_size=self.args.train_batch_size)
        state.compute_steps(self.args, self.max_steps)
        if self.folder is not None and (self.folder / "trainer_state.json").is_file():
            state = TrainerState.load_from_json(self.folder / "trainer_state.json")
            best = state.best_model_checkpoint
            if best is not None and not Path(best).is_dir():
                logger.warning("the best checkpoint %s of the resumed state is gone", best)
                state.best_model_checkpoint = None
            state.compute_steps(self.args, self.max_steps)
            if self.args.restore_callback_states_from_checkpoint:
                self._restore_callbacks(state)
        state.max_steps = self.max_steps
        state.num_train_epochs = self.epochs
        trainer.state = state

    def _restore_callbacks(self, state: TrainerState) -> None:
        for callback in self._stateful():
            saved = state.stateful_callbacks.get(type(callback).__name__)
            if isinstance(saved, dict) and not isinstance(callback, TrainerControl):
                callback.__dict__.update(type(callback).from_state(saved).__dict__)

    def _resume(self, engine: StepEngine) -> None:
        if self.folder is None:
            return
        if StepEngine.has_state(self.folder):
            engine.load(self.folder)
        elif self.trainer.state.global_step:
            logger.warning(
                "%s has no optimizer state of this engine: the weights and the step are restored, the moments of "
                "AdamW start at zero",
                self.folder,
            )
        cursor_file = self.folder / _CURSOR
        if not cursor_file.is_file():
            self.last_logged = self.trainer.state.global_step
            return
        cursor = json.loads(cursor_file.read_text(encoding="utf-8"))
        self.pending_loss = float(cursor["pending_loss"])
        self.logged_loss = float(cursor["logged_loss"])
        self.last_logged = int(cursor["last_logged"])
        now = self._identity()
        before = {name: cursor["identity"].get(name) for name in now}
        if before != now:
            changed = ", ".join(f"{n}: {before[n]} -> {now[n]}" for n in now if before[n] != now[n])
            logger.warning(
                "resumed with other settings, batches will differ from the first run (%s)", changed
            )

    def _identity(self) -> dict[str, Any]:
        args = self.args
        return {
            "rows": self.rows,
            "train_batch_size": args.train_batch_size,
            "gradient_accumulation_steps": args.gradient_accumulation_steps,
            "seed": args.seed,
            "data_seed": args.data_seed,
        }

    # -- the run ------------------------------------------------------------------------------

    def run(self) -> TrainOutput:
        """Train to the end (or to a stop) and return step, mean loss and metrics."""
        trainer, args = self.trainer, self.args
        set_seed(args.seed)
        self._start_state()
        if self.folder is not None:
            logger.info("resuming from %s", self.folder)
            trainer.model.reload(self.folder)
        stateless = self.folder is not None and not StepEngine.has_state(self.folder)
        engine = StepEngine(
            trainer.model.native,
            args,
            args.get_warmup_steps(self.max_steps),
            self.max_steps,
            done=trainer.state.global_step if stateless else 0,
            freeze=trainer.model.frozen,
            checkpointing=trainer.model.gradient_checkpointing,
        )
        self._engine = engine
        self._resume(engine)
        state = trainer.state
        self.first_step = state.global_step
        start = time.time()
        loader = trainer.get_train_dataloader()
        trainer.callback_handler.train_dataloader = loader
        trainer.is_in_train = True
        trainer.model.train()
        try:
            with StopSignals() as stop:
                trainer.stop_signals = stop
                trainer._call("on_train_begin")
                if args.eval_on_start:
                    self._evaluate()
                for epoch in range(state.global_step // self.steps_per_epoch, self.epochs):
                    trainer._call("on_epoch_begin")
                    self._epoch(epoch, loader, engine, stop)
                    if trainer.control.should_training_stop:
                        break
                return self._finish(start)
        finally:
            trainer.is_in_train = False
            trainer.stop_signals = None
            trainer.model.eval()
            self.recorder.close()

    def _epoch(self, epoch: int, loader: BatchLoader, engine: StepEngine, stop: StopSignals) -> None:
        trainer, args, state = self.trainer, self.args, self.trainer.state
        seed = args.data_seed if args.data_seed is not None else args.seed
        if args.train_sampling_strategy != "sequential":
            loader.order = epoch_order(self.rows, seed, epoch)
        if self.lengths is not None:
            together = args.per_device_train_batch_size * args.gradient_accumulation_steps
            loader.order = group_by_length(loader.order, self.lengths, together)
        done = state.global_step - epoch * self.steps_per_epoch
        position = done * args.gradient_accumulation_steps
        source = loader.batches(position)
        remainder = self.batches % args.gradient_accumulation_steps or args.gradient_accumulation_steps
        norm, rate = 0.0, 0.0
        for update in range(done, self.steps_per_epoch):
            began = time.time_ns()
            count = args.gradient_accumulation_steps if update < self.steps_per_epoch - 1 else remainder
            trainer._call("on_step_begin")
            loss = 0.0
            for part in range(count):
                loss += self._forward_backward(engine, next(source), count) / count
                position += 1
                if part < count - 1:
                    trainer._call("on_substep_end")
            trainer._call("on_pre_optimizer_step")
            norm, rate = self._optimizer_step(engine)
            trainer._call("on_optimizer_step")
            state.global_step += 1
            state.epoch = epoch + position / self.batches
            self.pending_loss += loss
            self.recorder.scalars(state.global_step, {"loss": loss, "grad_norm": norm, "learning_rate": rate})
            self.recorder.span("Step:ModeKeys.TRAIN", began, {"step_num": state.global_step})
            trainer._call("on_step_end")
            self._log_evaluate_save(norm, rate)
            self._stop_if_asked(stop)
            if trainer.control.should_epoch_stop or trainer.control.should_training_stop:
                break
        trainer._call("on_epoch_end")
        self._log_evaluate_save(norm, rate)

    def _forward_backward(self, engine: StepEngine, batch: dict[str, Any], count: int) -> float:
        try:
            return engine.forward_backward(batch, count)
        except ValueError as error:
            raise self._explain(error) from None

    def _optimizer_step(self, engine: StepEngine) -> tuple[float, float]:
        try:
            return engine.optimizer_step()
        except ValueError as error:
            raise self._explain(error) from None

    def _explain(self, error: ValueError) -> Exception:
        """Turn the engine's refusal of a NaN loss or gradient into our class, with what can be done."""
        text = str(error)
        if not text.startswith(("the loss is", "the gradient norm is")):
            return error
        folder = Path(self.args.output_dir)
        kept = checkpoints.last_checkpoint(folder) if folder.is_dir() else None
        return NonFiniteLossError(
            f"{text}; training stops after step {self.trainer.state.global_step} of {self.max_steps}. "
            + (f"The last checkpoint is {kept}. " if kept else "There is no checkpoint. ")
            + "A lower learning rate or a warm-up usually helps"
        )

    def _log_evaluate_save(self, norm: float, rate: float) -> None:
        trainer, state = self.trainer, self.trainer.state
        control = trainer.control
        if control.should_log and state.global_step > self.last_logged:
            logs = {
                "loss": self.pending_loss / (state.global_step - self.last_logged),
                "grad_norm": norm,
                "learning_rate": rate,
            }
            self.logged_loss += self.pending_loss
            self.pending_loss = 0.0
            self.last_logged = state.global_step
            trainer.log(logs)
        if trainer.control.should_evaluate:
            better = self._evaluate()
            if self.args.save_strategy == SaveStrategy.BEST:
                trainer.control.should_save = better
        if trainer.control.should_save:
            self._save()
            trainer._call("on_save")

    def _evaluate(self) -> bool:
        began = time.time_ns()
        try:
            metrics = self.trainer.evaluate()
        except StopRequested:
            return False  # the checkpoint comes first; there are seconds left, not minutes
        self.trainer.model.train()
        self.recorder.span("Step:ModeKeys.EVAL", began, {"step_num": self.trainer.state.global_step})
        self.recorder.scalars(self.trainer.state.global_step, metrics)
        return self._note_best(metrics)

    def _note_best(self, metrics: dict[str, Any]) -> bool:
        """Remember the best value of ``metric_for_best_model``; True when this one is better."""
        args, state = self.args, self.trainer.state
        if args.metric_for_best_model is None:
            return False
        name = args.metric_for_best_model
        name = name if name.startswith("eval_") else f"eval_{name}"
        if name not in metrics:
            raise KeyError(
                f"metric_for_best_model={args.metric_for_best_model!r}: the evaluation gave {sorted(metrics)}"
            )
        value = metrics[name]
        better = state.best_metric is None or (
            value > state.best_metric if args.greater_is_better else value < state.best_metric
        )
        if better:
            state.best_metric = value
            if args.save_strategy != SaveStrategy.NO:
                state.best_global_step = state.global_step
        return better

    # -- checkpoints --------------------------------------------------------------------------

    def _save(self) -> None:
        trainer, args, state = self.trainer, self.args, self.trainer.state
        output = Path(args.output_dir)
        if state.best_global_step:
            best = output / f"{checkpoints.PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
            if best.is_dir() or state.best_global_step == state.global_step:
                state.best_model_checkpoint = str(best)
        state.stateful_callbacks = {type(cb).__name__: cb.state() for cb in self._stateful()}
        cursor = {
            "identity": self._identity(),
            "pending_loss": self.pending_loss,
            "logged_loss": self.logged_loss,
            "last_logged": self.last_logged,
        }

        def fill(folder: Path) -> None:
            trainer._write_model(folder)
            if not args.save_only_model:
                assert self._engine is not None
                self._engine.save(folder)
                (folder / _CURSOR).write_text(json.dumps(cursor, sort_keys=True) + "\n", encoding="utf-8")
            state.save_to_json(folder / "trainer_state.json")

        checkpoints.write_checkpoint(output, state.global_step, fill)
        self._saved_at = state.global_step
        checkpoints.rotate_checkpoints(output, args.save_total_limit, state.best_model_checkpoint)

    def _stop_if_asked(self, stop: StopSignals) -> None:
        """After a step: on SIGTERM or Ctrl-C write a checkpoint and end."""
        if stop.received is None:
            return
        state = self.trainer.state
        if self._saved_at != state.global_step:
            self._save()
            self.trainer._call("on_save")
        name = signal.Signals(stop.received).name
        print(
            f"{name}: checkpoint-{state.global_step} written to {self.args.output_dir}, stopping", flush=True
        )
        if stop.received == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(0)

    def _finish(self, start: float) -> TrainOutput:
        trainer, args, state = self.trainer, self.args, self.trainer.state
        steps = state.global_step - self.first_step
        mean = (self.logged_loss + self.pending_loss) / max(state.global_step, 0.001)
        metrics: dict[str, float] = speed_metrics(
            "train", start, num_samples=self.samples * steps / max(state.max_steps, 1), num_steps=steps
        )
        metrics["train_loss"] = mean
        trainer.log(metrics)
        if args.load_best_model_at_end and state.best_model_checkpoint is not None:
            logger.info("loading the best model from %s (%s)", state.best_model_checkpoint, state.best_metric)
            trainer.model.reload(Path(state.best_model_checkpoint))
        trainer._call("on_train_end")
        return TrainOutput(state.global_step, mean, metrics)
