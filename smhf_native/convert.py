"""``pytorch_model.bin`` to ``model.safetensors`` without unpickling.

::

    from smhf_native.convert import convert_folder
    convert_folder("old-model", "new-model")           # or: python -m smhf_native.convert old-model new-model

A ``.bin`` checkpoint is a pickle, and loading a pickle runs whatever it names.  Here the pickle's opcodes
are read by a small machine that knows tensors, dicts, tuples and numbers and nothing else: a global that
is not on the list of tensor types, or an opcode that could build another object, stops it with the name
and the byte offset.  No name from the file is ever imported or called.

Formats read: the zip archives that torch has written since 1.6, and the older stream of pickles.
Sources: the opcode descriptions of the standard library's ``pickletools``; layouts as written by
``torch.save`` (names ``archive/data.pkl``, ``archive/data/<key>``, ``archive/byteorder``).
"""

from __future__ import annotations

import io
import json
import math
import os
import pickletools
import re
import shutil
import struct
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from smhf_native.errors import ParseError

__all__ = ["convert_file", "convert_folder", "read_bin", "write_safetensors"]

# torch storage class -> (safetensors dtype, numpy dtype that carries the bytes)
_STORAGES: dict[str, tuple[str, str]] = {
    "DoubleStorage": ("F64", "<f8"),
    "FloatStorage": ("F32", "<f4"),
    "HalfStorage": ("F16", "<f2"),
    "BFloat16Storage": ("BF16", "<u2"),
    "LongStorage": ("I64", "<i8"),
    "IntStorage": ("I32", "<i4"),
    "ShortStorage": ("I16", "<i2"),
    "CharStorage": ("I8", "i1"),
    "ByteStorage": ("U8", "u1"),
    "BoolStorage": ("BOOL", "u1"),
}
_GLOBALS = {
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    *((module, name) for module in ("torch", "torch.storage") for name in _STORAGES),
}
_MAX_PICKLE = 64 * 1024 * 1024
_MAX_DEPTH = 1 << 20
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


@dataclass(frozen=True)
class _Global:
    module: str
    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: str
    numel: int


@dataclass
class _Lazy:
    """A tensor whose bytes are not read yet."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Mark:
    pass


def _refuse(where: str, position: int | None, what: str) -> ParseError:
    error = ParseError(f"{where}: byte {position}: {what}; only tensors are read from a .bin checkpoint")
    error.offset = position
    return error


class _Machine:
    """Run one pickle over a stack that can hold tensors, containers and plain values only."""

    def __init__(self, where: str):
        self.where = where
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, stream: BinaryIO) -> Any:
        """Read opcodes up to STOP and return the value."""
        steps = 0
        try:
            for opcode, argument, position in pickletools.genops(stream):
                steps += 1
                if len(self.stack) > _MAX_DEPTH or steps > 50_000_000:
                    raise _refuse(self.where, position, "the pickle is too large for a checkpoint")
                if opcode.name == "STOP":
                    if len(self.stack) != 1:
                        raise _refuse(
                            self.where, position, f"{len(self.stack)} values at the end, expected one"
                        )
                    return self.stack.pop()
                handler = getattr(self, "op_" + opcode.name.lower(), None)
                if handler is None:
                    raise _refuse(self.where, position, f"opcode {opcode.name} is refused")
                try:
                    handler(argument, position)
                except (IndexError, KeyError, TypeError) as error:
                    raise _refuse(
                        self.where, position, f"opcode {opcode.name} finds no fitting value ({error})"
                    ) from None
        except ParseError:
            raise
        except Exception as error:  # genops raises several classes on torn input
            raise ParseError(f"{self.where}: the pickle is damaged: {error}") from None
        raise ParseError(f"{self.where}: the pickle ends without STOP")

    def _pop_mark(self) -> list[Any]:
        items: list[Any] = []
        while True:
            value = self.stack.pop()
            if isinstance(value, _Mark):
                return items[::-1]
            items.append(value)

    # -- plain values -------------------------------------------------------------------------

    def op_proto(self, argument: int, position: int) -> None:
        if not 2 <= argument <= 5:
            raise _refuse(self.where, position, f"pickle protocol {argument} is refused (2 to 5 are read)")

    def op_frame(self, argument: Any, position: int) -> None:
        return None

    def _push(self, argument: Any, position: int) -> None:
        self.stack.append(argument)

    op_binunicode = op_short_binunicode = op_binunicode8 = _push
    op_binint = op_binint1 = op_binint2 = op_long1 = op_binfloat = _push

    def op_none(self, argument: Any, position: int) -> None:
        self.stack.append(None)

    def op_newtrue(self, argument: Any, position: int) -> None:
        self.stack.append(True)

    def op_newfalse(self, argument: Any, position: int) -> None:
        self.stack.append(False)

    # -- containers ---------------------------------------------------------------------------

    def op_mark(self, argument: Any, position: int) -> None:
        self.stack.append(_Mark())

    def op_empty_tuple(self, argument: Any, position: int) -> None:
        self.stack.append(())

    def op_tuple(self, argument: Any, position: int) -> None:
        self.stack.append(tuple(self._pop_mark()))

    def _tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError("stack is empty")
        items = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(items)

    def op_tuple1(self, argument: Any, position: int) -> None:
        self._tuple_of(1)

    def op_tuple2(self, argument: Any, position: int) -> None:
        self._tuple_of(2)

    def op_tuple3(self, argument: Any, position: int) -> None:
        self._tuple_of(3)

    def op_empty_list(self, argument: Any, position: int) -> None:
        self.stack.append([])

    def op_append(self, argument: Any, position: int) -> None:
        value = self.stack.pop()
        self._list(position).append(value)

    def op_appends(self, argument: Any, position: int) -> None:
        items = self._pop_mark()
        self._list(position).extend(items)

    def _list(self, position: int) -> list[Any]:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise _refuse(self.where, position, f"append to a {type(target).__name__}")
        return target

    def op_empty_dict(self, argument: Any, position: int) -> None:
        self.stack.append({})

    def op_setitem(self, argument: Any, position: int) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self._dict(position)[key] = value

    def op_setitems(self, argument: Any, position: int) -> None:
        items = self._pop_mark()
        if len(items) % 2:
            raise _refuse(self.where, position, "a key without a value")
        self._dict(position).update(zip(items[::2], items[1::2], strict=True))

    def _dict(self, position: int) -> dict[Any, Any]:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise _refuse(self.where, position, f"item set on a {type(target).__name__}")
        return target

    # -- memo ---------------------------------------------------------------------------------

    def op_binput(self, argument: int, position: int) -> None:
        self.memo[argument] = self.stack[-1]

    op_long_binput = op_binput

    def op_memoize(self, argument: Any, position: int) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def op_binget(self, argument: int, position: int) -> None:
        self.stack.append(self.memo[argument])

    op_long_binget = op_binget

    # -- the only names and calls -------------------------------------------------------------

    def op_global(self, argument: str, position: int) -> None:
        module, _, name = argument.partition(" ")
        self._global(module, name, position)

    def op_stack_global(self, argument: Any, position: int) -> None:
        name = self.stack.pop()
        module = self.stack.pop()
        self._global(str(module), str(name), position)

    def _global(self, module: str, name: str, position: int) -> None:
        if (module, name) not in _GLOBALS:
            raise _refuse(self.where, position, f"the name {module}.{name} is refused")
        self.stack.append(_Global(module, name))

    def op_binpersid(self, argument: Any, position: int) -> None:
        parts = self.stack.pop()
        if not isinstance(parts, tuple) or len(parts) < 5 or parts[0] != "storage":
            raise _refuse(self.where, position, "a persistent id that is not a storage")
        kind, key, numel = parts[1], parts[2], parts[4]
        if not isinstance(kind, _Global) or kind.name not in _STORAGES:
            raise _refuse(self.where, position, "a storage of an unknown type")
        if len(parts) > 5 and parts[5] is not None:
            raise _refuse(self.where, position, "a view into another storage")
        if not isinstance(numel, int) or numel < 0 or not isinstance(key, str):
            raise _refuse(self.where, position, "a storage with a broken key or size")
        self.stack.append(_Storage(key, kind.name, numel))

    def op_reduce(self, argument: Any, position: int) -> None:
        args = self.stack.pop()
        function = self.stack.pop()
        if not isinstance(function, _Global) or not isinstance(args, tuple):
            raise _refuse(self.where, position, "a call of something that is not a listed name")
        if function.name == "OrderedDict" and args == ():
            self.stack.append({})
        elif function.name == "_rebuild_tensor_v2":
            self.stack.append(self._tensor(args, position))
        elif function.name == "_rebuild_parameter" and args and isinstance(args[0], _Lazy):
            self.stack.append(args[0])
        else:
            raise _refuse(
                self.where, position, f"a call of {function.module}.{function.name} with these arguments"
            )

    def _tensor(self, args: tuple[Any, ...], position: int) -> _Lazy:
        if len(args) < 4 or not isinstance(args[0], _Storage):
            raise _refuse(self.where, position, "a tensor without a storage")
        storage, offset, shape, stride = args[:4]
        whole = (offset, *shape, *stride)
        if len(shape) != len(stride) or any(type(v) is not int or v < 0 for v in whole):
            raise _refuse(self.where, position, "a tensor with a broken shape or stride")
        if all(shape) or not shape:
            last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
            if last >= storage.numel:
                raise _refuse(
                    self.where,
                    position,
                    f"a tensor that reaches element {last} of a storage of {storage.numel}",
                )
            if math.prod(shape) > storage.numel:
                raise _refuse(self.where, position, "a tensor that repeats the elements of its storage")
        return _Lazy(storage, offset, tuple(shape), tuple(stride))

    def op_build(self, argument: Any, position: int) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        # A state dict carries version numbers in its _metadata attribute; they are not needed.
        if not isinstance(target, dict) or not isinstance(state, dict):
            raise _refuse(self.where, position, "an object with its own state")


def _flatten(value: Any, where: str) -> dict[str, _Lazy]:
    """Find the tensors in the top dict (or one level down, under "state_dict" or "model")."""
    if not isinstance(value, dict):
        raise ParseError(f"{where}: the top is a {type(value).__name__}, expected a dict of tensors")
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(value.get(key), dict):
            value = value[key]
            break
    tensors = {str(name): item for name, item in value.items() if isinstance(item, _Lazy)}
    if not tensors:
        raise ParseError(f"{where}: holds no tensors")
    return tensors


def _materialize(
    lazy: _Lazy, data: bytes | memoryview, where: str, name: str
) -> tuple[str, npt.NDArray[Any]]:
    dtype, carrier = _STORAGES[lazy.storage.dtype]
    itemsize = np.dtype(carrier).itemsize
    if len(data) < lazy.storage.numel * itemsize:
        raise ParseError(
            f"{where}: the storage of {name} has {len(data)} bytes, expected {lazy.storage.numel * itemsize}"
        )
    flat = np.frombuffer(data, dtype=carrier, count=lazy.storage.numel)
    if 0 in lazy.shape:
        return dtype, np.empty(lazy.shape, dtype=carrier)
    view = np.lib.stride_tricks.as_strided(
        flat[lazy.offset :], lazy.shape, tuple(step * itemsize for step in lazy.stride), writeable=False
    )
    return dtype, np.array(view, order="C")  # keeps zero dimensions, unlike ascontiguousarray


def read_bin(path: str | os.PathLike[str]) -> dict[str, tuple[str, npt.NDArray[Any]]]:
    """Read the tensors of a ``.bin`` checkpoint.

    Returns
    -------
    dict of tensor name to (safetensors dtype name, contiguous array; BF16 as raw uint16).

    Raises
    ------
    ParseError
        The file is damaged, or its pickle names or builds anything but tensors; the sentence gives the
        name or opcode and the byte offset inside the pickle.
    """
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(0)
        if head == b"PK\x03\x04":
            return _read_zip(file, str(path))
        return _read_legacy(file, str(path))


def _read_zip(file: BinaryIO, where: str) -> dict[str, tuple[str, npt.NDArray[Any]]]:
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ParseError(f"{where}: the zip archive is damaged: {error}") from None
    with archive:
        entries = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise ParseError(f"{where}: expected one NAME/data.pkl in the archive, found {len(pickles)}")
        top = pickles[0][: -len("data.pkl")]
        if entries[pickles[0]].file_size > _MAX_PICKLE:
            raise ParseError(
                f"{where}: data.pkl has {entries[pickles[0]].file_size} bytes, too many for tensors"
            )

        def read(name: str) -> bytes:
            info = entries.get(name)
            if info is None:
                raise ParseError(f"{where}: the archive lacks {name}")
            if info.compress_type != zipfile.ZIP_STORED:
                raise ParseError(f"{where}: {name} is compressed, which torch never writes")
            try:
                return archive.read(info)
            except (zipfile.BadZipFile, EOFError, OSError, ValueError) as error:
                raise ParseError(f"{where}: {name} is damaged: {error}") from None

        if top + "byteorder" in entries and read(top + "byteorder") != b"little":
            raise ParseError(f"{where}: big-endian checkpoints are not read")
        tensors = _flatten(_Machine(f"{where}: data.pkl").run(io.BytesIO(read(pickles[0]))), where)
        result: dict[str, tuple[str, npt.NDArray[Any]]] = {}
        shared = {lazy.storage.key: 0 for lazy in tensors.values()}
        for lazy in tensors.values():
            shared[lazy.storage.key] += 1
        kept: dict[str, bytes] = {}
        for name, lazy in tensors.items():
            key = lazy.storage.key
            data = kept.get(key) or read(f"{top}data/{key}")
            if shared[key] > 1:
                kept[key] = data  # tied weights: read once
            result[name] = _materialize(lazy, data, where, name)
        return result


def _read_legacy(file: BinaryIO, where: str) -> dict[str, tuple[str, npt.NDArray[Any]]]:
    magic = _Machine(where).run(file)
    if magic != _LEGACY_MAGIC:
        raise ParseError(f"{where}: not a checkpoint written by torch (magic number {magic!r})")
    protocol = _Machine(where).run(file)
    system = _Machine(where).run(file)
    if protocol != 1001 or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ParseError(f"{where}: unknown checkpoint protocol {protocol!r} or byte order")
    tensors = _flatten(_Machine(where).run(file), where)
    keys = _Machine(where).run(file)
    sizes = {lazy.storage.key: lazy.storage for lazy in tensors.values()}
    data: dict[str, bytes] = {}
    for key in keys if isinstance(keys, list) else []:
        head = file.read(8)
        if len(head) < 8:
            raise ParseError(f"{where}: ends before the storage {key!r}")
        numel = struct.unpack("<q", head)[0]
        storage = sizes.get(key)
        if storage is None or numel != storage.numel:
            raise ParseError(f"{where}: storage {key!r} has {numel} elements, the tensors say otherwise")
        size = numel * np.dtype(_STORAGES[storage.dtype][1]).itemsize
        block = file.read(size)
        if len(block) != size:
            raise ParseError(f"{where}: storage {key!r} has {len(block)} bytes, expected {size}")
        data[key] = block
    result: dict[str, tuple[str, npt.NDArray[Any]]] = {}
    for name, lazy in tensors.items():
        if lazy.storage.key not in data:
            raise ParseError(f"{where}: no data for the storage of {name}")
        result[name] = _materialize(lazy, data[lazy.storage.key], where, name)
    return result


def write_safetensors(
    path: str | os.PathLike[str], tensors: dict[str, tuple[str, npt.NDArray[Any]]], metadata: dict[str, str]
) -> None:
    """Write a safetensors file atomically (temporary file, fsync, rename)."""
    header: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    for name, (dtype, array) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [offset, offset + array.nbytes],
        }
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    target = Path(path)
    temporary = target.with_name(f".{target.name}.tmp-{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(struct.pack("<Q", len(text)))
            file.write(text)
            for _, array in tensors.values():
                file.write(array.data.cast("B") if array.size else b"")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def convert_file(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> list[str]:
    """Convert one ``.bin`` file; return the tensor names.  Old LayerNorm names gamma/beta become weight/bias."""
    tensors = {_modern(name): item for name, item in read_bin(source).items()}
    write_safetensors(target, tensors, {"format": "pt"})
    return list(tensors)


def _modern(name: str) -> str:
    return re.sub(r"\.beta\Z", ".bias", re.sub(r"\.gamma\Z", ".weight", name))


def convert_folder(source: str | os.PathLike[str], target: str | os.PathLike[str] | None = None) -> Path:
    """Convert the model folder ``source``; return the folder that now holds ``model.safetensors``.

    Parameters
    ----------
    source : folder with ``pytorch_model.bin`` or ``pytorch_model.bin.index.json`` and its parts
    target : folder to create; JSON and text files are copied along.  None: write into ``source``.
    """
    folder = Path(source)
    out = Path(target) if target is not None else folder
    single, index = folder / "pytorch_model.bin", folder / "pytorch_model.bin.index.json"
    if index.is_file() and not single.is_file():
        parts = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        if any("/" in part or part.startswith(".") for part in parts):
            raise ParseError(f"{index}: names parts outside its folder")
        paths = [folder / part for part in parts]
    elif single.is_file():
        paths = [single]
    else:
        raise FileNotFoundError(f"{folder} holds no pytorch_model.bin")
    tensors: dict[str, tuple[str, npt.NDArray[Any]]] = {}
    for path in paths:
        tensors.update({_modern(name): item for name, item in read_bin(path).items()})
    out.mkdir(parents=True, exist_ok=True)
    if out.resolve() != folder.resolve():
        for file in folder.iterdir():
            if (
                file.is_file()
                and file.suffix in (".json", ".txt")
                and not file.name.startswith("pytorch_model")
            ):
                shutil.copyfile(file, out / file.name)
    write_safetensors(out / "model.safetensors", tensors, {"format": "pt"})
    return out


def main(argv: list[str] | None = None) -> int:
    """Command line: ``python -m smhf_native.convert SOURCE_FOLDER [TARGET_FOLDER]``."""
    import argparse

    parser = argparse.ArgumentParser(prog="smhf convert", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", help="folder with pytorch_model.bin")
    parser.add_argument("target", nargs="?", help="folder to create (default: the source folder)")
    options = parser.parse_args(argv)
    try:
        print(convert_folder(options.source, options.target))
    except (ParseError, OSError) as error:
        print(f"smhf convert: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
