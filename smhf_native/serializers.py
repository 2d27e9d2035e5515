"""From Python objects to request bodies: the names of ``sagemaker.serializers``.

A serializer has ``CONTENT_TYPE`` and ``serialize(data)``. Behaviour follows SDK v2 (facts: its public
documentation), except that text which JSON cannot carry is refused by name instead of being sent.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable
from typing import Any

__all__ = [
    "BaseSerializer",
    "CSVSerializer",
    "DataSerializer",
    "IdentitySerializer",
    "JSONLinesSerializer",
    "JSONSerializer",
    "NumpySerializer",
    "SimpleBaseSerializer",
    "StringSerializer",
]


class BaseSerializer:
    """Base of every serializer."""

    CONTENT_TYPE: Any = "application/octet-stream"

    def serialize(self, data: Any) -> Any:
        """Return the request body for ``data``."""
        raise NotImplementedError


class SimpleBaseSerializer(BaseSerializer):
    """A serializer with one content type, which may be given."""

    def __init__(self, content_type: str = "application/json") -> None:
        if not isinstance(content_type, str):
            raise ValueError(f"content_type: expected str, got {type(content_type).__name__}")
        self.content_type = content_type

    @property
    def CONTENT_TYPE(self) -> str:
        """The content type of the body."""
        return self.content_type


def _not_json(value: Any, place: str) -> str | None:
    """Where ``value`` holds a number that JSON does not know, or None."""
    if isinstance(value, float) and not math.isfinite(value):
        return place
    if isinstance(value, dict):
        items: Iterable[tuple[str, Any]] = ((f"{place}[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, (list, tuple)):
        items = ((f"{place}[{index}]", item) for index, item in enumerate(value))
    else:
        return None
    return next((found for where, item in items if (found := _not_json(item, where)) is not None), None)


def _dumps(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError:
        where = _not_json(value, "data")
        if where is None:
            raise
        raise ValueError(
            f"{where} is NaN or infinite, which JSON does not know; a missing text in a DataFrame is NaN: "
            "drop such rows (df.dropna(subset=[...])) or fill them (df.fillna(''))"
        ) from None


class JSONSerializer(SimpleBaseSerializer):
    """JSON text.

    A dict may hold arrays at its top level (``.tolist()`` is applied), a file-like object is read as it
    is, an array becomes a list, anything else goes through ``json.dumps``.
    """

    def serialize(self, data: Any) -> Any:
        """Return the JSON text of ``data``.

        Raises
        ------
        ValueError
            A NaN or infinite number; the sentence names its place.
        TypeError
            An object that JSON does not know.
        """
        if isinstance(data, dict):
            return _dumps({key: v.tolist() if _is_array(v) else v for key, v in data.items()})
        if hasattr(data, "read"):
            return data.read()
        if _is_array(data):
            return _dumps(data.tolist())
        return _dumps(data)


def _is_array(value: Any) -> bool:
    return hasattr(value, "tolist") and hasattr(value, "shape") and getattr(value, "ndim", 0) > 0


class IdentitySerializer(SimpleBaseSerializer):
    """The data as it is: bytes, str or a file-like object."""

    def __init__(self, content_type: str = "application/octet-stream") -> None:
        super().__init__(content_type)

    def serialize(self, data: Any) -> Any:
        """Return ``data``."""
        return data


class StringSerializer(SimpleBaseSerializer):
    """Plain text."""

    def __init__(self, content_type: str = "text/plain") -> None:
        super().__init__(content_type)

    def serialize(self, data: Any) -> Any:
        """Return the text itself, or what a file-like object holds."""
        if hasattr(data, "read"):
            return data.read()
        if isinstance(data, str):
            return data
        raise ValueError(f"StringSerializer: expected str or a file-like object, got {type(data).__name__}")


class CSVSerializer(SimpleBaseSerializer):
    """Comma-separated values: a row, a list of rows, an array, or ready text."""

    def __init__(self, content_type: str = "text/csv") -> None:
        super().__init__(content_type)

    def serialize(self, data: Any) -> Any:
        """Return the CSV text of ``data``, lines joined by newlines."""
        if hasattr(data, "read"):
            return data.read()
        if isinstance(data, str):
            return data.strip("\n")
        if _is_array(data):
            data = data.tolist()
        rows = list(data)
        if not rows:
            raise ValueError("CSVSerializer: expected at least one value, got an empty sequence")
        if not isinstance(rows[0], (list, tuple)) and not _is_array(rows[0]):
            if all(isinstance(row, str) and "," in row for row in rows):
                return "\n".join(rows)
            rows = [rows]
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        for row in rows:
            writer.writerow(row.tolist() if _is_array(row) else row)
        return stream.getvalue().rstrip("\n")


class JSONLinesSerializer(SimpleBaseSerializer):
    """One JSON value per line."""

    def __init__(self, content_type: str = "application/jsonlines") -> None:
        super().__init__(content_type)

    def serialize(self, data: Any) -> Any:
        """Return ready text or a file's text as it is, else one line per item of an iterable."""
        if hasattr(data, "read"):
            return data.read()
        if isinstance(data, str):
            return data
        return "\n".join(_dumps(item.tolist() if _is_array(item) else item) for item in data)


class NumpySerializer(SimpleBaseSerializer):
    """The ``.npy`` format."""

    def __init__(self, dtype: Any = None, content_type: str = "application/x-npy") -> None:
        super().__init__(content_type)
        self.dtype = dtype

    def serialize(self, data: Any) -> bytes:
        """Return the array of ``data`` as ``.npy`` bytes (never with pickled objects)."""
        import numpy as np

        if hasattr(data, "read"):
            return bytes(data.read())
        stream = io.BytesIO()
        np.save(stream, np.asarray(data, dtype=self.dtype), allow_pickle=False)
        return stream.getvalue()


class DataSerializer(SimpleBaseSerializer):
    """A file's bytes, or bytes themselves."""

    def __init__(self, content_type: str = "file-path/raw-bytes") -> None:
        super().__init__(content_type)

    def serialize(self, data: Any) -> bytes:
        """Return the bytes of the file named by a str or path, or the bytes given."""
        if isinstance(data, (str, os.PathLike)):
            with open(data, "rb") as file:
                return file.read()
        if isinstance(data, (bytes, bytearray)):
            return bytes(data)
        raise ValueError(f"DataSerializer: expected a path or bytes, got {type(data).__name__}")
