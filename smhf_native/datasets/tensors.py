"""What ``set_format("torch")`` hands out: a NumPy array with the handful of tensor methods scripts call.

A floor-4 helper of the ``datasets`` and ``transformers`` mirrors.  There is no autograd and no device:
``.to()``, ``.cpu()`` and ``.detach()`` return the array itself, so that code written for tensors runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Tensor", "as_tensor"]


class _Size(int):
    """An element count that can be called as ``tensor.size()`` or ``tensor.size(dim)``."""

    _shape: tuple[int, ...]

    def __new__(cls, count: int, shape: tuple[int, ...]) -> _Size:
        """Make the count with its shape."""
        self = super().__new__(cls, count)
        self._shape = shape
        return self

    def __call__(self, dim: int | None = None) -> Any:
        return self._shape if dim is None else self._shape[dim]


class Tensor(np.ndarray[Any, np.dtype[Any]]):
    """A NumPy array that also answers the tensor methods found in training scripts."""

    def numpy(self) -> npt.NDArray[Any]:
        """Return the plain array (same memory)."""
        return self.view(np.ndarray)

    def cpu(self) -> Tensor:
        """Return the array itself: it already lives in host memory."""
        return self

    def detach(self) -> Tensor:
        """Return the array itself: there is no graph to leave."""
        return self

    def to(self, *_args: Any, **_kwargs: Any) -> Tensor:
        """Return the array itself: there is one device."""
        return self

    @property
    def size(self) -> _Size:  # type: ignore[override]
        """Return NumPy's element count that, called as a method, answers torch's shape."""
        return _Size(int(np.prod(self.shape, dtype=np.int64)), self.shape)

    def dim(self) -> int:
        """Return the number of dimensions."""
        return self.ndim

    def numel(self) -> int:
        """Return the number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def long(self) -> Tensor:
        """Return the values as int64."""
        return as_tensor(self.astype(np.int64))

    def float(self) -> Tensor:
        """Return the values as float32."""
        return as_tensor(self.astype(np.float32))

    def unsqueeze(self, dim: int) -> Tensor:
        """Return the array with a new axis of length one at ``dim``."""
        return as_tensor(np.expand_dims(self, dim))

    def __array_finalize__(self, obj: Any) -> None:
        return None


def as_tensor(values: Any, dtype: Any = None) -> Tensor:
    """View (or convert) ``values`` as a :class:`Tensor`; integers stay int64, floats become float32."""
    array = np.asarray(values)
    if dtype is not None:
        array = array.astype(dtype, copy=False)
    elif array.dtype == np.float64:
        array = array.astype(np.float32)
    return array.view(Tensor)
