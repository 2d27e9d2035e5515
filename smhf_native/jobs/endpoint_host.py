"""The endpoint host: one process per kernel, many endpoints by name on one port.

The kernel starts it with pipes on standard input and output and sends one JSON object per line:
``{"command": "add", "name", "source", "keep", "environment", "workers", "model_data"}``; the answer is
``{"ok": true, "url", "port"}`` or ``{"ok": false, "type", "message"}``. Everything else goes through
the registry (:mod:`smhf_native.endpoints`): any process finds an endpoint there and may ask for its end.

The host ends with its kernel: when the pipe closes, or the parent is another process than at the start,
it drops all endpoints but those deployed with ``keep=True``, and exits when none is left. SIGTERM drains
(``/ping`` 503, what is in flight is answered) and exits 0.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from smhf_native import endpoints
from smhf_native.errors import SmhfError
from smhf_native.jobs.records import home

__all__ = [
    "EndpointHost",
    "HostClient",
    "HostError",
    "add_endpoint",
    "delete_endpoint",
    "host_process",
    "main",
]

_POLL = 0.1  # seconds between looks at the registry and the parent
_DRAIN = 20.0  # seconds that SIGTERM leaves to requests in flight


class EndpointHost:
    """The host's own side: the server, the command pipe, and the reasons to end."""

    def __init__(self, commands: int, answers: int, parent: int) -> None:
        from smhf_native.serving import ModelServer

        self._server = ModelServer()
        self._server.set_ready()
        self._commands = commands
        self._answers = answers
        self._parent = parent
        self._records: dict[str, endpoints.EndpointRecord] = {}
        self._input = b""
        self._attached = True  # a kernel holds the other end
        self._stopping = False

    def stop(self, *_: object) -> None:
        """Ask the loop to drain and end (signal handler)."""
        self._stopping = True

    def run(self) -> int:
        """Serve until there is no reason to; return the exit status."""
        while not self._stopping and (self._attached or self._records):
            self._wait()
            if self._attached and os.getppid() != self._parent:
                self._detach()
            for name in [name for name in self._records if endpoints.removal_requested(name)]:
                self._remove(name)
        if not self._server.drain(_DRAIN):
            # A handler hangs and cannot be interrupted: leave it behind, with the records in order.
            for name in self._records:
                endpoints.forget(name, pid=os.getpid())
            print("endpoint host: requests were still in flight after the drain", file=sys.stderr, flush=True)
            os._exit(1)
        for name in list(self._records):
            self._remove(name)
        self._server.stop(timeout=0)
        return 0

    def _wait(self) -> None:
        if not self._attached:
            time.sleep(_POLL)
            return
        ready, _, _ = select.select([self._commands], [], [], _POLL)
        if ready:
            data = os.read(self._commands, 65536)
            if not data:
                self._detach()
                return
            self._input += data
            while b"\n" in self._input:
                line, _, self._input = self._input.partition(b"\n")
                self._answer(line)

    def _detach(self) -> None:
        """The kernel is gone: only kept endpoints stay."""
        self._attached = False
        for name in [name for name, record in self._records.items() if not record.keep]:
            self._remove(name)

    def _answer(self, line: bytes) -> None:
        try:
            request = json.loads(line)
            if request.get("command") != "add":
                raise ValueError(f"unknown command {request.get('command')!r}")
            self._add(request)
            reply: dict[str, Any] = {"ok": True, "url": self._server.url, "port": self._server.port}
        except Exception as failure:
            import traceback

            traceback.print_exc()  # into the host's log
            reply = {"ok": False, "type": type(failure).__name__, "message": str(failure)}
        try:
            os.write(self._answers, json.dumps(reply).encode() + b"\n")
        except BrokenPipeError:
            self._detach()

    def _add(self, request: dict[str, Any]) -> None:
        name = endpoints.check_name(request["name"])
        if name in self._records:
            raise ValueError(f"cannot create the endpoint {name!r}: one of this name is up here")
        environment = {str(key): str(value) for key, value in (request.get("environment") or {}).items()}
        # A handler of the user's reads its settings from the process, as in its container.
        os.environ.update({k: v for k, v in environment.items() if k not in ("PATH", "PYTHONPATH", "HOME")})
        self._server.add_endpoint(
            name, request["source"], workers=int(request.get("workers") or 1), environment=environment
        )
        record = endpoints.EndpointRecord.of_this_process(
            name,
            self._server.url,
            self._server.port,
            request.get("model_data") or request["source"],
            host_pid=self._parent,
            keep=bool(request.get("keep")),
        )
        try:
            endpoints.register(record)
        except BaseException:
            self._server.remove_endpoint(name)
            raise
        self._records[name] = record

    def _remove(self, name: str) -> None:
        self._records.pop(name)
        self._server.remove_endpoint(name)
        endpoints.forget(name, pid=os.getpid())


def main(arguments: list[str] | None = None) -> int:
    """Entry of the host's process: ``python -m smhf_native.jobs.endpoint_host PARENT_PID``."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parent = int(arguments[0]) if arguments else os.getppid()
    # The answers' pipe is taken away from standard output: a user's handler may print.
    answers = os.dup(1)
    os.dup2(2, 1)
    os.set_inheritable(answers, False)
    try:
        from smhf_native.mirrors import activate

        activate(announce=False)  # a handler's `from transformers import ...` means ours, as in a job
    except ImportError:
        pass
    host = EndpointHost(os.dup(0), answers, parent)
    signal.signal(signal.SIGTERM, host.stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the notebook is not meant for endpoints
    return host.run()


# --- the kernel's side -------------------------------------------------------------------------------


class HostError(SmhfError, RuntimeError):
    """The endpoint host could not do what was asked; the sentence is its own."""


def _exception(kind: str, message: str) -> Exception:
    """The host's exception again, when it is of a kind that a caller may expect; else HostError."""
    from smhf_native import errors

    known = (ValueError, FileNotFoundError, NotImplementedError, errors.ParseError, errors.BackendError,
             errors.MissingExtraError)  # fmt: skip
    return {each.__name__: each for each in known}.get(kind, HostError)(message)


class HostClient:
    """A running host process and the pipes to it."""

    def __init__(self) -> None:
        from smhf_native.jobs.launch import python_path

        environment = dict(os.environ)
        environment["SMHF_HOME"] = str(home())
        python_path(environment)
        folder = endpoints.folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.owner = os.getpid()
        self.log = folder / f"host-{self.owner}-{time.time_ns():x}.log"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "smhf_native.jobs.endpoint_host", str(self.owner)],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._commands: IO[bytes] = self.process.stdin
        self._answers: IO[bytes] = self.process.stdout
        self._lock = threading.Lock()
        self.kept = False

    @property
    def alive(self) -> bool:
        """Whether the process runs and belongs to this one (not to a fork's parent)."""
        return self.owner == os.getpid() and self.process.poll() is None

    def call(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one command and wait for its answer.

        Raises
        ------
        HostError
            The host refused, or ended; then the end of its log is in the sentence.
        """
        with self._lock:
            try:
                self._commands.write(json.dumps(request).encode() + b"\n")
                self._commands.flush()
                line = self._answers.readline()
            except BrokenPipeError:
                line = b""
        if not line:
            tail = self.log.read_text(encoding="utf-8", errors="replace")[-2000:].strip()
            raise HostError(f"the endpoint host (process {self.process.pid}) ended unexpectedly: {tail}")
        answer: dict[str, Any] = json.loads(line)
        if not answer["ok"]:
            raise _exception(answer["type"], answer["message"])
        return answer

    def close(self, timeout: float = 10.0) -> None:
        """Let go of the host: it ends, unless it has endpoints to keep. Waits for its end."""
        if self.owner != os.getpid():
            return
        for pipe in (self._commands, self._answers):
            try:
                pipe.close()
            except OSError:
                pass
        if not self.kept:
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.terminate()
            _remove_if_empty(self.log)


def _remove_if_empty(path: Path) -> None:
    try:
        if path.stat().st_size == 0:
            path.unlink()
    except OSError:
        pass


_host: HostClient | None = None
_host_lock = threading.Lock()


def _current_host() -> HostClient:
    global _host
    with _host_lock:
        if _host is None or not _host.alive:
            _host = HostClient()
            atexit.register(_host.close)
        return _host


def add_endpoint(
    name: str,
    source: str | os.PathLike[str],
    *,
    keep: bool = False,
    environment: dict[str, str] | None = None,
    workers: int | None = None,
    model_data: str | None = None,
) -> endpoints.EndpointRecord:
    """Serve ``source`` (folder, archive, hub name, or ``""`` with HF_MODEL_ID) as ``name``.

    Starts this process's endpoint host when it has none yet.

    Parameters
    ----------
    keep : bool
        The endpoint outlives this process; ``smhf endpoints stop NAME`` or ``delete_endpoint`` ends it.
    model_data : str, optional
        What the record shows as the model, when ``source`` is a local copy of it.

    Raises
    ------
    ValueError
        The name is taken or malformed, or the model is refused.
    FileNotFoundError
        A file of the model is missing.
    HostError
        Anything else; the sentence is the host's.
    """
    endpoints.check_name(name)
    for record in endpoints.list_endpoints():
        if record.name == name:
            raise ValueError(
                f"cannot create the endpoint {name!r}: one of this name is up at {record.url} "
                f"(process {record.pid})"
            )
    host = _current_host()
    host.kept = host.kept or keep
    host.call(
        {
            "command": "add",
            "name": name,
            "source": os.path.abspath(os.fspath(source)) if os.path.exists(source) else os.fspath(source),
            "keep": keep,
            "environment": environment or {},
            "workers": workers,
            "model_data": model_data,
        }
    )
    return endpoints.find(name)


def delete_endpoint(name: str) -> None:
    """End a local endpoint, whichever process serves it.

    Raises
    ------
    EndpointNotFoundError
        There is none of this name.
    """
    endpoints.stop_endpoint(name)


def host_process() -> int | None:
    """Process id of this kernel's endpoint host, or None when it has none."""
    return _host.process.pid if _host is not None and _host.alive else None


if __name__ == "__main__":
    sys.exit(main())
