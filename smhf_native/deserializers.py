"""From answers to Python objects: the names of ``sagemaker.deserializers``.

A deserializer has ``ACCEPT`` and ``deserialize(stream, content_type)``; the stream is read and closed.
Behaviour follows SDK v2 (facts: its public documentation).
"""

from __future__ import annotations

import codecs
import csv
import io
import json
from typing import Any

__all__ = [
    "BaseDeserializer",
    "BytesDeserializer",
    "CSVDeserializer",
    "JSONDeserializer",
    "JSONLinesDeserializer",
    "NumpyDeserializer",
    "PandasDeserializer",
    "SimpleBaseDeserializer",
    "StreamDeserializer",
    "StringDeserializer",
]


def _read(stream: Any) -> bytes:
    try:
        return bytes(stream.read())
    finally:
        stream.close()


class BaseDeserializer:
    """Base of every deserializer."""

    ACCEPT: Any = ("*/*",)

    def deserialize(self, stream: Any, content_type: str) -> Any:
        """Return the object in ``stream``."""
        raise NotImplementedError


class SimpleBaseDeserializer(BaseDeserializer):
    """A deserializer with one accepted type, which may be given."""

    def __init__(self, accept: str | tuple[str, ...] = "*/*") -> None:
        self.accept = accept

    @property
    def ACCEPT(self) -> tuple[str, ...]:
        """The types to ask for."""
        return (self.accept,) if isinstance(self.accept, str) else tuple(self.accept)


class StringDeserializer(SimpleBaseDeserializer):
    """Text."""

    def __init__(self, encoding: str = "UTF-8", accept: str = "application/json") -> None:
        super().__init__(accept)
        self.encoding = encoding

    def deserialize(self, stream: Any, content_type: str) -> str:
        """Return the decoded text."""
        return _read(stream).decode(self.encoding)


class BytesDeserializer(SimpleBaseDeserializer):
    """The bytes as they are."""

    def deserialize(self, stream: Any, content_type: str) -> bytes:
        """Return the bytes."""
        return _read(stream)


class CSVDeserializer(SimpleBaseDeserializer):
    """Rows of strings."""

    def __init__(self, encoding: str = "utf-8", accept: str = "text/csv") -> None:
        super().__init__(accept)
        self.encoding = encoding

    def deserialize(self, stream: Any, content_type: str) -> list[list[str]]:
        """Return one list of strings per row."""
        return list(csv.reader(io.StringIO(_read(stream).decode(self.encoding), newline="")))


class StreamDeserializer(SimpleBaseDeserializer):
    """The stream itself; the caller closes it."""

    def deserialize(self, stream: Any, content_type: str) -> tuple[Any, str]:
        """Return ``(stream, content type)``."""
        return stream, content_type


class JSONDeserializer(SimpleBaseDeserializer):
    """A JSON value."""

    def __init__(self, accept: str = "application/json") -> None:
        super().__init__(accept)

    def deserialize(self, stream: Any, content_type: str) -> Any:
        """Return the parsed value."""
        return json.loads(_read(stream).decode("utf-8"))


class JSONLinesDeserializer(SimpleBaseDeserializer):
    """One JSON value per line."""

    def __init__(self, accept: str = "application/jsonlines") -> None:
        super().__init__(accept)

    def deserialize(self, stream: Any, content_type: str) -> list[Any]:
        """Return the list of values."""
        lines = codecs.decode(_read(stream), "utf-8").rstrip().split("\n")
        return [json.loads(line) for line in lines]


class NumpyDeserializer(SimpleBaseDeserializer):
    """An array, from ``.npy``, CSV or JSON."""

    def __init__(
        self, dtype: Any = None, accept: str = "application/x-npy", allow_pickle: bool = False
    ) -> None:
        super().__init__(accept)
        if allow_pickle:
            raise ValueError("NumpyDeserializer: allow_pickle=True is refused: unpickling runs foreign code")
        self.dtype = dtype

    def deserialize(self, stream: Any, content_type: str) -> Any:
        """Return the array.

        Raises
        ------
        ValueError
            Another content type.
        """
        import numpy as np

        data = _read(stream)
        if content_type == "text/csv":
            return np.genfromtxt(io.StringIO(data.decode("utf-8")), delimiter=",", dtype=self.dtype)
        if content_type == "application/json":
            return np.array(json.loads(data), dtype=self.dtype)
        if content_type == "application/x-npy":
            return np.load(io.BytesIO(data), allow_pickle=False)
        raise ValueError(f"NumpyDeserializer: cannot read content type {content_type!r}")


class PandasDeserializer(SimpleBaseDeserializer):
    """A DataFrame, from CSV or JSON."""

    def __init__(self, accept: tuple[str, ...] = ("text/csv", "application/json")) -> None:
        super().__init__(accept)

    def deserialize(self, stream: Any, content_type: str) -> Any:
        """Return the frame.

        Raises
        ------
        ValueError
            Another content type.
        MissingExtraError
            pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as missing:
            from smhf_native.errors import MissingExtraError

            raise MissingExtraError.of("pandas", "pandas", "PandasDeserializer") from missing
        text = io.StringIO(_read(stream).decode("utf-8"))
        if content_type == "text/csv":
            return pd.read_csv(text)
        if content_type == "application/json":
            return pd.read_json(text)
        raise ValueError(f"PandasDeserializer: cannot read content type {content_type!r}")
