"""Fine-tuning: one object that holds gradients, moments and the schedule of a model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from smhf_native.model import _model, groups
from smhf_native.model.classifier import Model
from smhf_native.model.inputs import as_batch, as_labels
from smhf_native.paths import real_path

__all__ = ["Schedule", "Trainer"]

Schedule = Literal["linear", "cosine", "constant", "constant_with_warmup"]


def _report(report: tuple[int, float, float, float]) -> dict[str, Any]:
    step, learning_rate, grad_norm, loss = report
    return {"loss": loss, "grad_norm": grad_norm, "learning_rate": learning_rate, "step": step}


class Trainer:
    """Train a model step by step, with the arithmetic of `transformers.Trainer` and `torch.optim.AdamW`.

    The loss of the model's task, averaged over rows (or the tokens that count); decoupled weight
    decay on matrices and embeddings, not on biases and LayerNorm; bias correction; the gradient
    clipped by its global L2 norm; the learning rate of step k (0, 1, ...) is ``learning_rate`` times
    k / W during W warm-up steps, then (N - k) / (N - W) of N in all.  Dropout is drawn from (seed,
    pass, place, row, position), so the same calls give the same bits.  Calls release the GIL; a second
    thread gets ``BusyError``.

    Parameters
    ----------
    model : Model
        Its weights are updated in place.
    learning_rate, betas, eps, weight_decay
        Of AdamW.
    max_grad_norm : float
        0 switches clipping off.
    warmup_steps, total_steps : int
        W and N of the schedule; ``total_steps`` may be 0 only for constant schedules.
    schedule : str
        ``"linear"``, ``"cosine"``, ``"constant"`` or ``"constant_with_warmup"``.
    gradient_accumulation_steps : int
        Micro-batches of a step; each gradient is divided by it.
    label_smoothing : float
        Of the cross-entropy.
    seed : int
        Of dropout.
    dropout : bool
        False trains without dropout.
    precision : str, optional
        ``"fp32"`` or ``"bf16"``: switches the model to it (see :meth:`Model.set_precision`).  In bf16
        the products round their operands; weights, moments, gradients and sums stay fp32, so there is
        no loss scaling.  Default: the model's own.
    class_weights : array_like of float, shape (num_labels,), optional
        Weights of the classes in the cross-entropy, as ``torch.nn.CrossEntropyLoss(weight=)`` takes them.
    freeze : str or iterable of str
        Beginnings of parameter names that are not trained: ``"embeddings"``, ``"layer.0"``,
        ``"layer.1.attention"``, ``"classifier"``, a whole name.  They get no gradient, no moments and no
        update, and the backward pass ends above them where nothing below is trained.
    layer_lr_decay : float, optional
        The head learns at ``learning_rate``, the last of L layers at ``learning_rate * layer_lr_decay``,
        layer k at ``learning_rate * layer_lr_decay ** (L - k)``, the embeddings at ``** (L + 1)``.
    learning_rates : mapping of str to float, optional
        Learning rates of parameters whose names begin so, in place of the above; the longest beginning
        counts.  The schedule applies to them too, as it does to parameter groups of torch.
    gradient_checkpointing : bool
        Keep only the output of each layer and compute its inside again in the backward pass: the same
        bits, a third more work, and a fraction of the memory (see :attr:`activation_bytes`).

    Examples
    --------
    >>> from smhf_native.model import Model
    >>> config = {"model_type": "distilbert", "vocab_size": 30, "dim": 8, "n_heads": 2,
    ...           "n_layers": 1, "hidden_dim": 16, "max_position_embeddings": 16}
    >>> trainer = Trainer(Model.from_config(config), learning_rate=1e-2, total_steps=10)
    >>> report = trainer.step([[2, 5, 3], [2, 9, 3]], labels=[0, 1])
    >>> report["step"], round(report["learning_rate"], 6)
    (1, 0.01)
    """

    def __init__(
        self,
        model: Model,
        *,
        learning_rate: float = 5e-5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
        warmup_steps: int = 0,
        total_steps: int = 0,
        schedule: Schedule = "linear",
        gradient_accumulation_steps: int = 1,
        label_smoothing: float = 0.0,
        seed: int = 42,
        dropout: bool = True,
        precision: str | None = None,
        class_weights: Any = None,
        freeze: str | Iterable[str] = (),
        layer_lr_decay: float | None = None,
        learning_rates: Mapping[str, float] | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        self.model = model
        names, layers = model._core.parameter_names(), int(model.info["layers"])
        frozen = groups.frozen_by(freeze, names)
        scales = groups.rate_scales(names, layers, learning_rate, layer_lr_decay, learning_rates)
        if precision is not None and precision != model.precision:
            model.set_precision(precision)
        self._core = _model.Trainer(
            model._core,
            learning_rate=learning_rate,
            beta1=betas[0],
            beta2=betas[1],
            eps=eps,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
            warmup_steps=warmup_steps,
            total_steps=total_steps,
            schedule=schedule,
            gradient_accumulation_steps=gradient_accumulation_steps,
            label_smoothing=label_smoothing,
            seed=seed,
            dropout=dropout,
            class_weights=None if class_weights is None else np.ascontiguousarray(class_weights, np.float32),
            frozen=frozen,
            rate_scales=scales,
            gradient_checkpointing=gradient_checkpointing,
        )

    def forward_backward(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        labels: Any = None,
        token_type_ids: Any = None,
        *,
        accumulation: int | None = None,
    ) -> float:
        """Add the gradient of one micro-batch to the step's.

        Parameters
        ----------
        input_ids, attention_mask, token_type_ids
            As for :meth:`Model.__call__`.
        labels : array_like
            By task: class numbers (rows,); floats (rows, num_labels) for several labels at once or
            regression ((rows,) for one number); class numbers shaped like the ids, -100 where a token
            does not count; (rows, 2) positions of start and end of an answer; words shaped like the ids,
            -100 where a token is not asked about (masked LM; :func:`smhf_native.model.masking.mask_tokens`
            makes them).
        accumulation : int, optional
            Micro-batches of this step, where it differs from ``gradient_accumulation_steps`` (the
            last step of an epoch may have fewer).

        Returns
        -------
        float
            Mean loss of the rows (not divided by the accumulation).

        Raises
        ------
        ValueError
            Names row and value of a label outside ``num_labels``; or the loss is not finite: step
            and learning rate are named, and the weights are untouched.
        """
        batch = as_batch(input_ids, attention_mask, token_type_ids)
        return self._core.forward_backward(*batch, as_labels(labels), accumulation or 0)

    def optimizer_step(self) -> dict[str, Any]:
        """Clip the gradients and update the weights.

        Returns
        -------
        dict
            ``grad_norm`` (before clipping), ``learning_rate`` (that was used), ``step`` (1 for the
            first one).
        """
        step, learning_rate, grad_norm = self._core.optimizer_step()
        return {"grad_norm": grad_norm, "learning_rate": learning_rate, "step": step}

    def step(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        labels: Any = None,
        token_type_ids: Any = None,
    ) -> dict[str, Any]:
        """Do a whole step on one batch; the dict of :meth:`optimizer_step` plus ``loss``."""
        batch = as_batch(input_ids, attention_mask, token_type_ids)
        report = self._core.step(*batch, as_labels(labels))
        assert report is not None
        return _report(report)

    def submit(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        labels: Any = None,
        token_type_ids: Any = None,
    ) -> dict[str, Any] | None:
        """Queue a whole step and do not wait for the device: prepare the next batch meanwhile.

        Parameters
        ----------
        input_ids, attention_mask, labels, token_type_ids
            As for :meth:`forward_backward`; copied before the call returns.

        Returns
        -------
        dict or None
            What :meth:`step` returns, but of the oldest step not reported yet (on a GPU two steps
            earlier; on the processor this very one), or None when there is none; :meth:`results` has
            the rest.  Models may be used meanwhile: they wait for the steps that were submitted.

        Raises
        ------
        ValueError
            As :meth:`step`, perhaps some calls later.  A loss or gradient that was not finite: the step
            is named, the weights are as they were before it, and the steps submitted behind it have
            changed nothing.
        """
        batch = as_batch(input_ids, attention_mask, token_type_ids)
        report = self._core.step(*batch, as_labels(labels), False)
        return None if report is None else _report(report)

    def results(self) -> list[dict[str, Any]]:
        """Wait for the steps that were submitted; what :meth:`submit` has not reported yet, in order."""
        found = []
        while (report := self._core.collect()) is not None:
            found.append(_report(report))
        return found

    def evaluate_loss(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        labels: Any = None,
        token_type_ids: Any = None,
    ) -> float:
        """Mean loss of a batch without dropout; gradients are left alone."""
        batch = as_batch(input_ids, attention_mask, token_type_ids)
        return self._core.evaluate(*batch, as_labels(labels))

    def gradients(self) -> dict[str, npt.NDArray[np.float32]]:
        """Copy the gradients: what is accumulated, or what the last step used (before clipping).

        Frozen parameters have none.
        """
        names = self.model._core.parameter_names()
        return {name: self._core.gradient(i) for i, name in enumerate(names) if self._core.trains(i)}

    @property
    def trained(self) -> list[str]:
        """Names of the parameters that are trained: not frozen."""
        return [name for i, name in enumerate(self.model._core.parameter_names()) if self._core.trains(i)]

    @property
    def activation_bytes(self) -> int:
        """Bytes of activations and their gradients, planned for the largest batch so far."""
        return self._core.activation_bytes()

    @property
    def global_step(self) -> int:
        """Optimizer steps done or submitted."""
        return self._core.progress()[0]

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        return self._core.progress()[1]

    def save_state(self, path: str | os.PathLike[str]) -> None:
        """Write moments, step, dropout counter and seed (safetensors), whole or not at all.

        With the weights saved beside it and the same options, training goes on to the same bytes.
        ``ValueError`` between the micro-batches of a step.
        """
        self._core.save(real_path(os.fspath(path)))

    def load_state(self, path: str | os.PathLike[str]) -> None:
        """Read back :meth:`save_state`; what does not fit this model is refused by name."""
        self._core.load(real_path(os.fspath(path)))
