"""Types of the compiled module of the model room."""

from os import PathLike
from typing import Any, final

import numpy as np
import numpy.typing as npt

@final
class Model:
    @classmethod
    def open(
        cls,
        folder: str | bytes | PathLike[str],
        num_labels: int = 0,
        device: str = "auto",
        precision: str = "fp32",
        seed: int = 42,
        task: str | None = None,
        remake_head: bool = False,
    ) -> Model: ...
    @classmethod
    def new(
        cls,
        config: bytes | bytearray | memoryview,
        num_labels: int = 0,
        device: str = "auto",
        precision: str = "fp32",
        seed: int = 42,
        task: str | None = None,
    ) -> Model: ...
    def forward(
        self, ids: Any, mask: Any = None, type_ids: Any = None, cu_seqlens: Any = None, picks: Any = None
    ) -> npt.NDArray[np.float32]: ...
    def encode(
        self, pooling: int, ids: Any, mask: Any = None, type_ids: Any = None, cu_seqlens: Any = None
    ) -> npt.NDArray[np.float32]: ...
    def set_precision(self, precision: str, /) -> None: ...
    def save(self, folder: str | bytes | PathLike[str], /) -> None: ...
    def parameter(self, index: int, /) -> npt.NDArray[np.float32]: ...
    def set_parameter(self, index: int, values: Any, /) -> None: ...
    def parameter_names(self, /) -> tuple[str, ...]: ...
    def labels(self, /) -> tuple[str, ...]: ...
    def report(self, /) -> tuple[list[str], list[str]]: ...
    def info(self, /) -> dict[str, Any]: ...
    def _capsule(self, /) -> object: ...

@final
class Trainer:
    def __new__(
        cls,
        model: Model,
        learning_rate: float = 5e-05,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-08,
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
        warmup_steps: int = 0,
        total_steps: int = 0,
        schedule: str = "linear",
        gradient_accumulation_steps: int = 1,
        label_smoothing: float = 0.0,
        seed: int = 42,
        dropout: bool = True,
        class_weights: Any = None,
        frozen: Any = None,
        rate_scales: Any = None,
        gradient_checkpointing: bool = False,
    ) -> Trainer: ...
    def step(
        self,
        ids: Any,
        mask: Any = None,
        type_ids: Any = None,
        cu_seqlens: Any = None,
        labels: Any = None,
        wait: bool = True,
    ) -> tuple[int, float, float, float] | None: ...
    def collect(self, /) -> tuple[int, float, float, float] | None: ...
    def forward_backward(
        self,
        ids: Any,
        mask: Any = None,
        type_ids: Any = None,
        cu_seqlens: Any = None,
        labels: Any = None,
        accumulation: int = 0,
    ) -> float: ...
    def evaluate(
        self,
        ids: Any,
        mask: Any = None,
        type_ids: Any = None,
        cu_seqlens: Any = None,
        labels: Any = None,
        accumulation: int = 0,
    ) -> float: ...
    def optimizer_step(self, /) -> tuple[int, float, float]: ...
    def progress(self, /) -> tuple[int, float]: ...
    def trains(self, index: int, /) -> bool: ...
    def activation_bytes(self, /) -> int: ...
    def gradient(self, index: int, /) -> npt.NDArray[np.float32]: ...
    def save(self, path: str | bytes | PathLike[str], /) -> None: ...
    def load(self, path: str | bytes | PathLike[str], /) -> None: ...

def backends() -> dict[str, dict[str, Any]]: ...
def extract_archive(path: str | bytes | PathLike[str], folder: str | bytes | PathLike[str], /) -> None: ...
def create_archive(path: str | bytes | PathLike[str], folder: str | bytes | PathLike[str], /) -> None: ...
def torch_randperm(n: int, seed: int, /) -> npt.NDArray[np.int64]: ...
def memory() -> tuple[int, int, int]: ...
def threads(count: int = 0, /) -> int: ...
