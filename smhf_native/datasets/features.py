"""Features: what a column holds, in the words of the ``datasets`` package (the small part scripts read)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["ClassLabel", "Features", "Sequence", "Value", "infer_feature"]


@dataclass(frozen=True)
class Value:
    """A scalar of ``dtype`` ("int64", "float64", "bool", "string", "null" …)."""

    dtype: str


@dataclass(frozen=True)
class Sequence:
    """A list of ``feature`` per row."""

    feature: Any
    length: int = -1


@dataclass
class ClassLabel:
    """Integers that stand for class names.

    Parameters
    ----------
    names : list of str, position = integer; or give ``num_classes`` alone.
    """

    num_classes: int | None = None
    names: list[str] | None = None
    dtype: str = field(default="int64", repr=False)

    def __post_init__(self) -> None:
        if self.names is None:
            if self.num_classes is None:
                raise ValueError("ClassLabel needs names or num_classes")
            self.names = [str(i) for i in range(self.num_classes)]
        if self.num_classes is None:
            self.num_classes = len(self.names)
        if self.num_classes != len(self.names):
            raise ValueError(f"ClassLabel: {self.num_classes} classes but {len(self.names)} names")

    def str2int(self, values: Any) -> Any:
        """Turn a class name (or a list of them) into integers."""
        assert self.names is not None
        table = {name: i for i, name in enumerate(self.names)}
        if isinstance(values, str):
            return self._lookup(table, values)
        return [self._lookup(table, value) for value in values]

    def int2str(self, values: Any) -> Any:
        """Turn an integer (or a list of them) into class names."""
        assert self.names is not None
        if isinstance(values, (int, np.integer)):
            return self.names[int(values)]
        return [self.names[int(value)] for value in values]

    def _lookup(self, table: dict[str, int], value: str) -> int:
        if value not in table:
            raise ValueError(f"{value!r} is none of the class names {list(table)}")
        return table[value]


class Features(dict[str, Any]):
    """Column name to feature, in column order."""

    def copy(self) -> Features:
        """Return an independent copy."""
        return Features(self)


def infer_feature(values: Iterable[Any]) -> Any:
    """Describe Python values by the first one that is not None."""
    for value in values:
        if value is None:
            continue
        if isinstance(value, str):
            return Value("string")
        if isinstance(value, (bool, np.bool_)):
            return Value("bool")
        if isinstance(value, (int, np.integer)):
            return Value("int64")
        if isinstance(value, (float, np.floating)):
            return Value("float64")
        if isinstance(value, bytes):
            return Value("binary")
        if isinstance(value, (list, tuple, np.ndarray)):
            return Sequence(infer_feature(value))
        if isinstance(value, dict):
            return {key: infer_feature([item]) for key, item in value.items()}
    return Value("null")
