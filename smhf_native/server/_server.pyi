from collections.abc import Callable, Sequence
from typing import Any, Final, final

MAX_MESSAGE: Final[int]

@final
class Server:
    def __new__(
        cls,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        max_request_bytes: int = 6553500,
        max_response_bytes: int = 6553500,
        max_memory_bytes: int = 268435456,
        max_queue: int = 100,
        retry_after: int = 1,
        deadline: float = 60.0,
        idle_timeout: int = 75,
        max_connections: int = 1000,
        max_batch_rows: int = 64,
        max_batch_tokens: int = 16384,
        max_batch_bytes: int = 1048576,
        max_request_rows: int = 131072,
    ) -> Server: ...
    @property
    def port(self) -> int: ...
    @property
    def running(self) -> bool: ...
    def add_model(
        self,
        name: str,
        tokenizer: Any,
        model: Any,
        labels: Sequence[str],
        function: str,
        /,
        default: bool = False,
        workers: int = 1,
    ) -> None: ...
    def add_callable(
        self,
        name: str,
        labels: Sequence[str],
        callable: Callable[..., Any],
        /,
        default: bool = False,
        workers: int = 1,
    ) -> None: ...
    def add_handler(
        self, name: str, callable: Callable[..., Any], /, default: bool = False, workers: int = 1
    ) -> None: ...
    def remove(self, name: str, /) -> None: ...
    def has(self, name: str, /) -> bool: ...
    def set_ready(self) -> None: ...
    def drain(self, timeout: float, /) -> bool: ...
    def stop(self) -> None: ...
    def stats(self) -> dict[str, int]: ...
