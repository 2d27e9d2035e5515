"""Local inference endpoints over HTTP: the container's contract, served by compiled code.

:class:`Server` is the room itself: it takes rows of text from requests, forms batches of whatever is
queued, and hands them to an endpoint. :func:`smhf_native.serve` (of :mod:`smhf_native.serving`) puts a
model folder or a ``model.tar.gz`` behind one. Facts: the contract of SageMaker inference containers and
the shapes of the Hugging Face inference toolkit (public documentation and source).
"""

from __future__ import annotations

import atexit
import importlib
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from smhf_native.server._server import MAX_MESSAGE
from smhf_native.server._server import Server as _Server

__all__ = ["MAX_MESSAGE", "Server", "serve"]

# Worker threads call into Python: they must be gone before the interpreter is.
_RUNNING: weakref.WeakSet[Server] = weakref.WeakSet()

Row = tuple[str, str | None, str, str, int]


class Server:
    """HTTP endpoints on one port.

    ``GET /ping``, ``POST /invocations`` (the default endpoint, else the first) and
    ``POST /endpoints/NAME/invocations``. The port is taken at once, ``/ping`` is 503 until the first
    endpoint was added (or :meth:`set_ready`).

    Parameters
    ----------
    host : str
        Numeric address to listen on; other machines can reach it only when you say so here.
    port : int
        0 takes any free port.
    max_request_bytes, max_response_bytes : int
        6,553,500 as in the container; a longer request gets 413.
    max_memory_bytes : int
        Request bodies held at once; past it requests get 503.
    max_queue : int
        Requests waiting per endpoint; past it they get 503 with ``Retry-After: retry_after`` (seconds).
    deadline : float
        Seconds from a request's headers to its answer; past it 503.
    idle_timeout : int
        Seconds after which a silent connection is closed.
    max_connections : int
    max_batch_rows, max_batch_tokens, max_batch_bytes : int
        Ceilings of one batch. Tokens are estimated from bytes here; the model splits by exact counts.
    max_request_rows : int

    Raises
    ------
    OSError
        The port is in use; the sentence names host and port.
    ValueError
        A limit out of range.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, **limits: Any) -> None:
        self._server = _Server(host, port, **limits)
        self.host = host
        _RUNNING.add(self)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._server.port

    @property
    def url(self) -> str:
        """Base address, e.g. ``http://127.0.0.1:8080``; an endpoint is ``{url}/endpoints/NAME/invocations``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def running(self) -> bool:
        """False once stopped."""
        return self._server.running

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url} {'running' if self.running else 'stopped'}>"

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def add_function(
        self,
        name: str,
        function: Callable[[list[Row]], Sequence[Sequence[float] | BaseException]],
        labels: Sequence[str],
        *,
        default: bool = False,
        workers: int = 1,
    ) -> None:
        """Add an endpoint whose batches go to a Python function.

        Parameters
        ----------
        function : callable
            Gets a list of ``(text, pair or None, truncation, function_to_apply, max_length)``, one per
            row of the batch; returns one entry per row: a score per label, or an exception object that
            becomes the answer (400) of that row's request alone. An exception raised by the function
            itself is narrowed down to the rows that cause it by halving the batch.
        labels : sequence of str
        default : bool
            Answers ``POST /invocations``.
        workers : int
            Threads that may call ``function`` at once.

        Raises
        ------
        ValueError
            The name is taken or malformed, or there are no labels.
        """
        self._server.add_callable(name, list(labels), function, default=default, workers=workers)
        self._server.set_ready()

    def add_handler(
        self,
        name: str,
        handler: Callable[[bytes, str, str, str], bytes | str | tuple[bytes | str, str]],
        *,
        default: bool = False,
        workers: int = 1,
    ) -> None:
        """Add an endpoint that hands whole requests to a Python function, one at a time per worker.

        ``handler(body, content_type, accept, custom_attributes)`` returns the body (sent as
        ``application/json``) or ``(body, content type)``; what it raises is answered with 400, as the
        container does it.
        """
        self._server.add_handler(name, handler, default=default, workers=workers)
        self._server.set_ready()

    def add_model(
        self,
        name: str,
        tokenizer: Any,
        model: Any,
        labels: Sequence[str],
        function: str = "softmax",
        *,
        default: bool = False,
        workers: int = 1,
    ) -> None:
        """Add an endpoint that runs in C, without the GIL.

        Parameters
        ----------
        tokenizer, model : object
            Anything whose ``_capsule()`` gives the C handle: :class:`smhf_native.Tokenizer`,
            :class:`smhf_native.Model`. Both are kept alive by the endpoint.
        labels : sequence of str
            One per output of the model.
        function : {"softmax", "sigmoid", "none"}
            From logits to scores, unless a request says ``function_to_apply``.

        Raises
        ------
        ValueError
            Labels or vocabulary do not fit the model.
        """
        self._server.add_model(
            name,
            tokenizer._capsule(),
            model._capsule(),
            list(labels),
            function,
            default=default,
            workers=workers,
        )
        self._server.set_ready()

    def remove_endpoint(self, name: str) -> None:
        """Refuse new requests for ``name``, answer what is queued, drop it. ValueError: unknown name."""
        self._server.remove(name)

    def has_endpoint(self, name: str) -> bool:
        """Whether an endpoint of this name answers."""
        return self._server.has(name)

    def set_ready(self) -> None:
        """From now on ``/ping`` answers 200 (adding an endpoint does it too)."""
        self._server.set_ready()

    def stats(self) -> dict[str, int]:
        """Return counters since the start (rows, batches, refusals, ...) and what is queued now."""
        return self._server.stats()

    def drain(self, timeout: float = 20.0) -> bool:
        """Refuse new requests (``/ping`` 503) and wait for those in flight; False: some were left."""
        remaining = max(0.0, timeout)
        while True:  # in slices, so that Ctrl-C is heard
            step = min(remaining, 0.2)
            if self._server.drain(step):
                return True
            remaining -= step
            if remaining <= 0:
                return False

    def stop(self, timeout: float = 20.0) -> None:
        """Drain for up to ``timeout`` seconds, answer the rest with 503, close. Again: nothing happens."""
        if not self.running:
            return
        _RUNNING.discard(self)
        try:
            self.drain(timeout)
        finally:
            self._server.stop()


@atexit.register
def _stop_all() -> None:
    for server in list(_RUNNING):
        server.stop(timeout=1.0)


def __getattr__(name: str) -> Any:
    """``serve`` joins rooms and lives a floor above; it is reachable here under its public name."""
    if name == "serve":
        return importlib.import_module("smhf_native.serving").serve
    raise AttributeError(f"module 'smhf_native.server' has no attribute {name!r}")
