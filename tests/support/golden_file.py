"""Reader and writer of safetensors files in a few lines of NumPy, independent of the code under test."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BF16": "<u2"}


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return tensors (BF16 as raw uint16) and metadata."""
    raw = path.read_bytes()
    (size,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + size])
    metadata = header.pop("__metadata__", {})
    data = raw[8 + size :]
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        values = np.frombuffer(data[begin:end], DTYPES[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"])
    return tensors, metadata


def read_golden(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The same, checking that it is a golden file of the version the tests know."""
    tensors, metadata = read(path)
    assert metadata["magic"] == "smhf-golden" and metadata["version"] == "1"
    assert "tools/make_golden.py" in metadata["generator"]
    return tensors, metadata


def pack(header: Any, data: bytes = b"", size: int | None = None) -> bytes:
    """Bytes of a file with any header, true or not; `size` overrides the announced length."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def write(
    path: Path, tensors: dict[str, tuple[str, np.ndarray]], metadata: dict[str, str] | None = None
) -> None:
    """Write name -> (dtype name, array)."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata is not None else {}
    blocks, at = [], 0
    for name, (dtype, array) in tensors.items():
        block = np.ascontiguousarray(array, DTYPES[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [at, at + len(block)]}
        blocks.append(block)
        at += len(block)
    path.write_bytes(pack(header, b"".join(blocks)))
