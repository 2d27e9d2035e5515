"""Types of the compiled module of the trace room."""

import os
import sys
from typing import Any, final

HAS_TS: int
HAS_DUR: int
HAS_PID: int
HAS_TID: int
HAS_ID: int
HAS_NAME: int
HAS_ARGS: int
PID_CODE: int
TID_CODE: int
ID_CODE: int
PID_TEXT: int
TID_TEXT: int
BIND_ENCLOSING: int
OUT_OF_RANGE: int
SYSTEM: int
FRAMEWORK: int

@final
class Column:
    if sys.version_info >= (3, 12):
        def __buffer__(self, flags: int, /) -> memoryview: ...
    def __len__(self) -> int: ...

@final
class Trace:
    @classmethod
    def open(cls, paths: tuple[bytes, ...], strict: bool, keep_args: bool, parts: int, /) -> Trace: ...
    @classmethod
    def open_memory(cls, text: bytes, name: str, strict: bool, keep_args: bool, /) -> Trace: ...
    def columns(self, table: int, /) -> dict[str, Column]: ...
    def names(self, /) -> tuple[str, ...]: ...
    def files(self, /) -> list[tuple[str, bool, int, int, int, int, int, int]]: ...
    def faults(self, /) -> list[tuple[int, int, int, int, bool, str]]: ...
    def args(self, event: int, /) -> bytes: ...
    def args_value(self, event: int, key: str, /) -> bytes | None: ...
    def args_int64(self, key: str, missing: int, /) -> Column: ...
    def select(
        self,
        table: int,
        start: int,
        end: int,
        type: str | None,
        name: str | None,
        dimension: str | None,
        node: str | None,
        ph: str,
        /,
    ) -> Column: ...
    def series(
        self,
        total: bool,
        window: int,
        start: int,
        end: int,
        type: str | None,
        name: str | None,
        dimension: str | None,
        node: str | None,
        /,
    ) -> tuple[Column, Column]: ...
    def spans(self, /) -> tuple[Column, Column, Column, Column, int, int]: ...
    @property
    def kind(self) -> str: ...
    @property
    def fault_total(self) -> int: ...

def decimate(ts: object, value: object, buckets: int, /) -> tuple[Column, Column]: ...
def percentiles(value: object, q: object, /) -> Column: ...
def parse_time(text: str, digits: int, /) -> int: ...

@final
class Sampler:
    def __new__(
        cls,
        folder: str | bytes | os.PathLike[str] | os.PathLike[bytes],
        interval_ms: int = 500,
        node_id: str = "algo-1",
        proc_folder: str = "/proc",
        sys_folder: str = "/sys",
        nvml_path: str = "libnvidia-ml.so.1",
    ) -> Sampler: ...
    def stop(self, /) -> None: ...
    def stats(self, /) -> dict[str, Any]: ...

@final
class EventWriter:
    def __new__(
        cls,
        folder: str | bytes | os.PathLike[str] | os.PathLike[bytes],
        node_id: str = "algo-1",
        suffix: str = "pythontimeline",
        max_bytes: int = 10000000,
        max_seconds: int = 60,
    ) -> EventWriter: ...
    def span(self, name: str, phase: str | None, start_ns: int, end_ns: int, args: str | None, /) -> None: ...
    def flush(self, /) -> None: ...
    def close(self, /) -> None: ...
