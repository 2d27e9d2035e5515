"""A loopback HTTP server of raw sockets that misbehaves to order.

    with FaultServer(script) as server:
        Invoker(server.url)

``script(request)`` returns a :class:`Reply`, or None for the honest answer: one ``{"label", "score"}`` per
input, both a function of the text alone (:func:`label_of`, :func:`score_of`), so that a lost, doubled or
misplaced row shows. Everything that was received is in ``server.log``; ``server.connections`` counts accepted
connections. One thread per connection; a reply can dribble, stop, reset or hang.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import struct
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

HANG = 30.0  # longer than any timeout of a test


@dataclass
class Request:
    """One request as it came over the wire."""

    number: int
    connection: int
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def inputs(self) -> list[str]:
        value = json.loads(self.body)["inputs"]
        return value if isinstance(value, list) else [value]


@dataclass
class Reply:
    """What to send, and how: ``data`` verbatim, in slices with pauses, then what happens to the connection."""

    data: bytes = b""
    after: str = "keep"  # keep, close, reset, hang
    delay: float = 0.0
    slice_size: int = 0
    pause: float = 0.0


Script = Callable[[Request], Reply | None]


def label_of(text: str) -> str:
    return f"L{zlib.crc32(text.encode()) % 7}"


def score_of(text: str) -> float:
    return (zlib.crc32(text.encode()) % 1_000_003) / 1_000_003


def results(texts: list[str]) -> list[dict[str, Any]]:
    return [{"label": label_of(text), "score": score_of(text)} for text in texts]


def answer(
    body: bytes | str | list[Any] | dict[str, Any], status: int = 200, headers: dict[str, str] | None = None
) -> bytes:
    """A well-formed answer."""
    if not isinstance(body, bytes | str):
        body = json.dumps(body, separators=(",", ":"))
    data = body.encode() if isinstance(body, str) else body
    lines = {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
    head = f"HTTP/1.1 {status} Status\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return head.encode("latin-1") + b"\r\n" + data


def model_error(original: int, message: str = "index out of range in self") -> bytes:
    """What the service answers when the container answered ``original``."""
    body = {
        "ErrorCode": "CLIENT_ERROR_FROM_MODEL",
        "LogStreamArn": "arn:aws:logs:...",
        "OriginalMessage": json.dumps({"code": original, "type": "InternalServerException", "message": message}),
        "OriginalStatusCode": original,
        "Message": f'Received client error ({original}) from model with message "{message}".',
    }
    return answer(body, 424, {"x-amzn-errortype": "ModelError:http://internal.amazon.com/", "x-amzn-RequestId": "r-1"})


@dataclass
class FaultServer:
    """See the module's words."""

    script: Script | None = None
    port: int = 0
    tls: ssl.SSLContext | None = None
    latency: float = 0.0
    log: list[Request] = field(default_factory=list)
    connections: int = 0
    handshake_failures: int = 0

    def __enter__(self) -> FaultServer:
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._stopping = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # close alone does not wake the accepting thread
        self._listener.close()
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def executions(self) -> dict[str, int]:
        """How often each text was received."""
        counts: dict[str, int] = {}
        for request in list(self.log):
            for text in request.inputs:
                counts[text] = counts.get(text, 0) + 1
        return counts

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self.connections += 1
                number = self.connections
                self._open.add(sock)
            threading.Thread(target=self._serve, args=(sock, number), daemon=True).start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        stream = sock
        try:
            if self.tls is not None:
                try:
                    stream = self.tls.wrap_socket(sock, server_side=True)
                except (ssl.SSLError, OSError):
                    self.handshake_failures += 1
                    return
                with self._lock:
                    self._open.add(stream)
            while not self._stopping.is_set() and self._exchange(stream, number):
                pass
        except OSError:
            pass
        finally:
            with self._lock:
                self._open -= {sock, stream}
            stream.close()

    def _read(self, sock: socket.socket, number: int) -> Request | None:
        data = b""
        while b"\r\n\r\n" not in data:
            part = sock.recv(65536)
            if not part:
                return None
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        while len(body) < int(headers.get("content-length", "0")):
            part = sock.recv(65536)
            if not part:
                return None
            body += part
        with self._lock:
            request = Request(len(self.log), number, first.split(" ")[1], headers, body)
            self.log.append(request)
        return request

    def _exchange(self, sock: socket.socket, number: int) -> bool:
        request = self._read(sock, number)
        if request is None:
            return False
        if self.latency:
            time.sleep(self.latency)
        reply = self.script(request) if self.script is not None else None
        if reply is None:
            reply = Reply(answer(results(request.inputs)))
        self._stopping.wait(reply.delay)
        step = reply.slice_size or max(len(reply.data), 1)
        for at in range(0, len(reply.data), step):
            sock.sendall(reply.data[at : at + step])
            if reply.pause and self._stopping.wait(reply.pause):
                return False
        if reply.after == "hang":
            self._stopping.wait(HANG)
        if reply.after == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return reply.after == "keep"


def date_header(shift: float = 0.0) -> dict[str, str]:
    """A Date header of a clock that is ``shift`` seconds ahead."""
    return {"Date": formatdate(time.time() + shift, usegmt=True)}
