"""Weights and groups of weights as scripts reach for them when they freeze some: ``requires_grad``.

The network is one piece of C, so a "module" here is a beginning of parameter names; what is frozen is a set of
names that the model keeps and its Trainer hands to the engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from smhf_native.datasets.tensors import Tensor, as_tensor

__all__ = ["Module", "Parameter", "parameters_under"]


class Parameter(Tensor):
    """A copy of a weight, and whether that weight is trained."""

    _frozen: set[str] | None = None
    _name = ""

    @property
    def requires_grad(self) -> bool:
        """Whether the Trainer updates this weight; assigning False freezes it."""
        return self._frozen is None or self._name not in self._frozen

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if self._frozen is None:
            raise RuntimeError(
                "requires_grad: this is a result of arithmetic, not a parameter of the model; "
                "take it from model.named_parameters()"
            )
        (self._frozen.discard if value else self._frozen.add)(self._name)

    def requires_grad_(self, requires_grad: bool = True) -> Parameter:
        """Freeze or thaw the weight; return it."""
        self.requires_grad = requires_grad
        return self


def parameters_under(model: Any, prefix: str) -> Iterator[tuple[str, Parameter]]:
    """Yield (name, parameter) of every weight whose name begins so."""
    for name, array in model.native.parameters().items():
        if not prefix or name == prefix or name.startswith(f"{prefix}."):
            parameter = as_tensor(array).view(Parameter)
            parameter._frozen, parameter._name = model.frozen, name
            yield name, parameter


class Module:
    """The weights whose names begin alike, such as ``model.distilbert.embeddings``.

    It can be looked at and frozen, not called.
    """

    def __init__(self, model: Any, prefix: str):
        self._model, self._prefix = model, prefix

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield (name within this module, parameter)."""
        for name, parameter in parameters_under(self._model, self._prefix):
            yield name[len(self._prefix) + 1 :], parameter

    def parameters(self) -> Iterator[Parameter]:
        """Yield every weight (copies)."""
        for _, parameter in self.named_parameters():
            yield parameter

    def requires_grad_(self, requires_grad: bool = True) -> Module:
        """Freeze or thaw all its weights."""
        frozen, names = self._model.frozen, self._model.native.parameter_names
        mine = [name for name in names if name.startswith(f"{self._prefix}.")]
        (frozen.difference_update if requires_grad else frozen.update)(mine)
        return self

    def _child(self, name: str) -> Any:
        prefix = f"{self._prefix}.{name}"
        names = self._model.native.parameter_names
        if prefix in names:
            return dict(parameters_under(self._model, prefix))[prefix]
        return Module(self._model, prefix) if any(n.startswith(f"{prefix}.") for n in names) else None

    def __getattr__(self, name: str) -> Any:
        child = None if name.startswith("_") else self._child(name)
        if child is None:
            raise AttributeError(f"model.{self._prefix} has no weights under {name!r}")
        return child

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        count = len(self)
        if not -count <= index < count:
            raise IndexError(f"model.{self._prefix} has {count} parts, asked for {index}")
        return self._child(str(index % count))

    def __len__(self) -> int:
        count = 0
        while self._child(str(count)) is not None:
            count += 1
        return count

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __call__(self, *_: Any, **__: Any) -> Any:
        """Refuse: parts of the network cannot be run alone."""
        raise NotImplementedError(
            f"model.{self._prefix}(...): parts of the network cannot be run alone; call the model, or AutoModel for "
            "hidden states"
        )
