"""``transformers.TrainingArguments``: old and new spellings, nothing silently dropped.

Three tables decide what happens to an argument:

- the fields of the class: they act;
- ``_WITHOUT_EFFECT``: accepted, they cannot change a result here (workers, compilation, reporting …);
- ``_ONLY_DEFAULT``: accepted at the value that changes nothing, refused by name otherwise.

Anything else is refused with the closest supported name.
"""

from __future__ import annotations

import difflib
import json
import math
import os
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from smhf_native.transformers.trainer_utils import IntervalStrategy, SaveStrategy, SchedulerType
from smhf_native.transformers.utils import logging

__all__ = ["TrainingArguments"]

logger = logging.get_logger(__name__)

# Old spelling -> new one.
_RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "no_cuda": "use_cpu",
}

# Accepted, never change a result of this engine.
_WITHOUT_EFFECT = frozenset(
    """logging_dir overwrite_output_dir report_to run_name project log_level log_level_replica log_on_each_node
    dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor
    dataloader_multiprocessing_context dataloader_in_order torch_compile torch_compile_backend
    torch_compile_mode gradient_checkpointing_kwargs activation_checkpointing
    activation_checkpointing_kwargs use_cpu use_mps_device jit_mode_eval use_ipex tf32 torch_empty_cache_steps
    skip_memory_metrics full_determinism ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers
    ddp_static_graph ddp_backend ddp_timeout local_rank xpu_backend tpu_num_cores average_tokens_across_devices
    save_on_each_node save_safetensors hub_token hub_private_repo hub_model_id hub_strategy hub_always_push
    hub_revision eval_accumulation_steps eval_do_concat_batches eval_use_gather_object bf16_full_eval
    fp16_full_eval fp16_opt_level fp16_backend half_precision_backend auto_find_batch_size dispatch_batches
    split_batches accelerator_config use_liger_kernel past_index mp_parameters
    ray_scope logging_nan_inf_filter include_tokens_per_second use_cache enable_jit_checkpoint do_predict
    do_train trackio_space_id trackio_bucket_id trackio_static_space_id liger_kernel_config
    use_legacy_prediction_loop""".split()
)

# Accepted at these values; another value would change the result and is refused.
_ONLY_DEFAULT: dict[str, tuple[Any, ...]] = {
    "adafactor": (False, None),
    "deepspeed": (None, "", False),
    "fsdp": (None, "", False, []),
    "fsdp_config": (None,),
    "fsdp_min_num_params": (0, None),
    "sharded_ddp": (None, "", False, []),
    "neftune_noise_alpha": (None, 0, 0.0),
    "push_to_hub": (False, None),
    "lr_scheduler_kwargs": (None, {}),
    "optim_args": (None, ""),
    "optim_target_modules": (None,),
    "batch_eval_metrics": (False, None),
    "include_inputs_for_metrics": (False, None),
    "include_for_metrics": (None, []),
    "include_num_input_tokens_seen": ("no", False, None),
    "debug": ("", None, []),
    "parallelism_config": (None,),
}

_SAMPLINGS = ("random", "sequential", "group_by_length")
_OPTIMIZERS = {"adamw_torch", "adamw_torch_fused", "adamw_hf"}


@dataclass(init=False)
class TrainingArguments:
    """Settings of a run; defaults are the ones of transformers.

    ``save_strategy="steps"`` with ``save_steps=500``, ``logging_steps=500``, AdamW with learning rate 5e-5,
    linear decay without warm-up, gradient norm clipped at 1.0, 3 epochs of batches of 8, seed 42.
    """

    output_dir: str = "trainer_output"
    do_eval: bool = False
    eval_strategy: IntervalStrategy = IntervalStrategy.NO
    prediction_loss_only: bool = False
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 8
    gradient_accumulation_steps: int = 1
    eval_delay: float = 0
    eval_steps: float | None = None
    eval_on_start: bool = False
    learning_rate: float = 5e-5
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    label_smoothing_factor: float = 0.0
    num_train_epochs: float = 3.0
    max_steps: int = -1
    lr_scheduler_type: SchedulerType = SchedulerType.LINEAR
    warmup_ratio: float = 0.0
    warmup_steps: float = 0
    optim: str = "adamw_torch"
    logging_strategy: IntervalStrategy = IntervalStrategy.STEPS
    logging_first_step: bool = False
    logging_steps: float = 500
    save_strategy: SaveStrategy = SaveStrategy.STEPS
    save_steps: float = 500
    save_total_limit: int | None = None
    save_only_model: bool = False
    seed: int = 42
    data_seed: int | None = None
    fp16: bool = False
    bf16: bool = False
    gradient_checkpointing: bool = False
    dataloader_drop_last: bool = False
    group_by_length: bool = False
    train_sampling_strategy: str = "random"
    length_column_name: str = "length"
    disable_tqdm: bool = False
    remove_unused_columns: bool = True
    label_names: list[str] | None = None
    load_best_model_at_end: bool = False
    metric_for_best_model: str | None = None
    greater_is_better: bool | None = None
    ignore_data_skip: bool = False
    restore_callback_states_from_checkpoint: bool = False
    resume_from_checkpoint: str | None = None
    extra: dict[str, Any] = field(default_factory=dict, repr=False)

    def __init__(self, output_dir: str | os.PathLike[str] | None = None, **settings: Any):
        names = [f.name for f in fields(self) if f.name != "extra"]
        values = {f.name: f.default for f in fields(self) if f.name != "extra"}
        self.extra = {}
        if output_dir is not None:
            values["output_dir"] = os.path.expanduser(os.fspath(output_dir))
        for name, value in settings.items():
            target = _RENAMED.get(name, name)
            if target != name and target in settings:
                raise TypeError(f"TrainingArguments got both {name!r} and its new spelling {target!r}")
            if target in values:
                values[target] = value
            elif target in _WITHOUT_EFFECT:
                self.extra[target] = value
            elif target in _ONLY_DEFAULT:
                if value not in _ONLY_DEFAULT[target]:
                    raise NotImplementedError(
                        f"TrainingArguments: {name}={value!r} is not supported (only "
                        f"{_ONLY_DEFAULT[target][0]!r}, which changes nothing)"
                    )
                self.extra[target] = value
            else:
                known = sorted({*names, *_RENAMED, *_WITHOUT_EFFECT, *_ONLY_DEFAULT})
                close = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
                raise TypeError(
                    f"TrainingArguments got an unexpected argument {name!r}; the closest supported one is {close!r}"
                )
        for name, value in values.items():
            setattr(self, name, value)
        self._derive()

    def __getattr__(self, name: str) -> Any:
        # Only called for names that are not fields: arguments that were accepted without effect.
        extra = self.__dict__.get("extra", {})
        if name in extra:
            return extra[name]
        if name in _RENAMED:
            return getattr(self, _RENAMED[name])
        if name == "report_to":
            return []
        if name in _WITHOUT_EFFECT or name in _ONLY_DEFAULT:
            return _ONLY_DEFAULT.get(name, (None,))[0]
        raise AttributeError(f"TrainingArguments has no attribute {name!r}")

    def _derive(self) -> None:
        self._numbers()
        strategy = self.eval_strategy
        if isinstance(strategy, bool):
            strategy = IntervalStrategy.STEPS if strategy else IntervalStrategy.NO
        self.eval_strategy = IntervalStrategy(strategy or "no")
        self.logging_strategy = IntervalStrategy(self.logging_strategy or "no")
        self.save_strategy = SaveStrategy(self.save_strategy or "no")
        self.lr_scheduler_type = SchedulerType(self.lr_scheduler_type)
        optim = self.optim.value if isinstance(self.optim, Enum) else str(self.optim)
        if optim not in _OPTIMIZERS:
            raise NotImplementedError(
                f"TrainingArguments: optim={optim!r} is not supported; use one of {sorted(_OPTIMIZERS)}"
            )
        self.optim = optim
        if self.group_by_length:  # the older spelling
            self.train_sampling_strategy = "group_by_length"
        if self.train_sampling_strategy not in _SAMPLINGS:
            raise NotImplementedError(
                f"TrainingArguments: train_sampling_strategy={self.train_sampling_strategy!r} is not supported; use "
                f"one of {', '.join(_SAMPLINGS)}"
            )
        if self.eval_strategy != IntervalStrategy.NO:
            self.do_eval = True
        if self.eval_strategy == IntervalStrategy.STEPS and not self.eval_steps:
            self.eval_steps = self.logging_steps
        if self.load_best_model_at_end and self.metric_for_best_model is None:
            self.metric_for_best_model = "loss"
        if self.save_strategy == SaveStrategy.BEST and self.metric_for_best_model is None:
            raise ValueError("save_strategy='best' requires metric_for_best_model")
        if self.greater_is_better is None and self.metric_for_best_model is not None:
            self.greater_is_better = not self.metric_for_best_model.endswith("loss")
        self._check_best()
        if self.fp16 and self.bf16:
            raise ValueError("TrainingArguments: at most one of fp16 and bf16 can be True, but not both")
        if self.fp16:
            logger.warning("fp16=True: training on a processor runs in fp32")

    def _numbers(self) -> None:
        """Turn number-like strings (hyperparameters arrive as text) into numbers and check ranges."""
        for name in (
            "learning_rate",
            "weight_decay",
            "adam_beta1",
            "adam_beta2",
            "adam_epsilon",
            "max_grad_norm",
        ):
            self._convert(name, float)
        for name in ("num_train_epochs", "warmup_ratio", "label_smoothing_factor"):
            self._convert(name, float)
        for name in (
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
        ):
            self._convert(name, int)
            if getattr(self, name) < 1:
                raise ValueError(f"TrainingArguments: {name}={getattr(self, name)} must be at least 1")
        for name in ("max_steps", "seed"):
            self._convert(name, int)
        for name in ("logging_steps", "save_steps", "eval_steps", "warmup_steps"):
            value = getattr(self, name)
            if value is None:
                continue
            self._convert(name, float)
            value = getattr(self, name)
            if value < 0 or (
                value == 0 and name == "logging_steps" and str(self.logging_strategy) == "steps"
            ):
                raise ValueError(f"TrainingArguments: {name}={value} must be positive")
            if value >= 1 or value == 0:
                if value != int(value):
                    raise ValueError(
                        f"TrainingArguments: {name}={value} must be an integer when it is above 1"
                    )
                setattr(self, name, int(value))
        if not 0.0 <= self.warmup_ratio <= 1.0:
            raise ValueError(f"TrainingArguments: warmup_ratio={self.warmup_ratio} must lie in [0, 1]")
        if self.learning_rate < 0 or not math.isfinite(self.learning_rate):
            raise ValueError(
                f"TrainingArguments: learning_rate={self.learning_rate} must be a positive number"
            )

    def _convert(self, name: str, kind: type) -> None:
        value = getattr(self, name)
        try:
            setattr(self, name, kind(value))
        except (TypeError, ValueError):
            raise ValueError(f"TrainingArguments: {name}={value!r} is not a number") from None

    def _check_best(self) -> None:
        if not self.load_best_model_at_end or self.save_strategy == SaveStrategy.BEST:
            return
        if self.eval_strategy.value != self.save_strategy.value:
            raise ValueError(
                "load_best_model_at_end requires the save and eval strategy to match, found eval_strategy="
                f"{self.eval_strategy.value!r} and save_strategy={self.save_strategy.value!r}"
            )
        if self.eval_strategy == IntervalStrategy.STEPS and self.eval_steps and self.save_steps:
            share = self.save_steps / self.eval_steps
            if abs(share - round(share)) > 1e-9 or round(share) < 1:
                raise ValueError(
                    f"load_best_model_at_end requires save_steps ({self.save_steps}) to be a multiple of "
                    f"eval_steps ({self.eval_steps})"
                )

    # -- what scripts read ---------------------------------------------------------------------

    @property
    def train_batch_size(self) -> int:
        """Return the rows per batch in training (one device)."""
        return self.per_device_train_batch_size

    @property
    def eval_batch_size(self) -> int:
        """Return the rows per batch in evaluation."""
        return self.per_device_eval_batch_size

    @property
    def world_size(self) -> int:
        """Return 1: one process."""
        return 1

    @property
    def n_gpu(self) -> int:
        """Return the number of GPUs in use (0)."""
        return 0

    @property
    def device(self) -> str:
        """Return the device name."""
        return "cpu"

    @property
    def process_index(self) -> int:
        """Return 0: one process."""
        return 0

    @property
    def should_save(self) -> bool:
        """Return True: this process saves."""
        return True

    @property
    def should_log(self) -> bool:
        """Return True: this process logs."""
        return True

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Return warm-up in steps: ``warmup_steps`` when set (a share when below 1), else the ratio."""
        if self.warmup_steps >= 1:
            return int(self.warmup_steps)
        share = self.warmup_steps or self.warmup_ratio
        return math.ceil(num_training_steps * share)

    def to_dict(self) -> dict[str, Any]:
        """Return all settings with plain values; tokens are masked."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "extra"}
        values.update(self.extra)
        result: dict[str, Any] = {}
        for name, value in values.items():
            result[name] = value.value if isinstance(value, Enum) else value
            if name.endswith("_token"):
                result[name] = f"<{name.upper()}>"
        return result

    def to_json_string(self) -> str:
        """Return the settings as indented JSON."""
        return json.dumps(self.to_dict(), indent=2, default=str)

    def to_sanitized_dict(self) -> dict[str, Any]:
        """Return the settings with values of simple types only."""
        return {k: v if type(v) in (bool, int, float, str) else str(v) for k, v in self.to_dict().items()}
