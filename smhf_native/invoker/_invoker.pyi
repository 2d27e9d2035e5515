from collections.abc import Callable
from typing import Any, Final, final

_Keys = tuple[str, str, str | None]

ROW_ERRORS: Final[tuple[str, ...]]

def sign_request(
    method: str,
    path: str,
    query: str,
    headers: tuple[tuple[str, str], ...],
    body: Any,
    access_key: str,
    secret_key: str,
    token: str | None,
    region: str,
    service: str,
    epoch: int,
    *,
    normalize_path: bool = True,
    sign_body: bool = False,
    omit_token: bool = False,
    expires: int = 0,
) -> dict[str, str]: ...
@final
class Invoker:
    def __new__(
        cls,
        url: str,
        *,
        region: str | None = None,
        service: str = "sagemaker",
        ca_file: str | None = None,
        user_agent: str = "smhf_native",
        parameters: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        connections: int = 0,
        batch_rows: int = 0,
        batch_bytes: int = 0,
        max_response: int = 0,
        connect_timeout: float = 5.0,
        timeout: float = 80.0,
        deadline: float = 0.0,
        attempts: int = 5,
        backoff_base: float = 0.05,
        backoff_cap: float = 20.0,
        allow_http: bool = False,
    ) -> Invoker: ...
    @property
    def closed(self) -> bool: ...
    def predict(
        self, texts: tuple[Any, ...], provider: Callable[[bool], _Keys | None] | None, /
    ) -> tuple[dict[str, Any] | None, BaseException | None]: ...
    def call(
        self, body: Any, headers: tuple[tuple[str, str], ...], provider: Callable[[bool], _Keys | None] | None, /
    ) -> tuple[int, dict[str, str], bytes]: ...
    def set_credentials(self, credentials: _Keys | None, /) -> None: ...
    def stats(self) -> dict[str, Any]: ...
    def close(self) -> None: ...
