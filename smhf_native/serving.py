"""A model folder or ``model.tar.gz`` behind an HTTP endpoint: tokenizer, model and server joined.

The join is made in C (no Python runs per request) unless the model brings its own
``code/inference.py``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smhf_native.pipelines.classification import score_function
from smhf_native.server import Server

__all__ = ["LoadedModel", "ModelServer", "load_model", "score_function", "serve"]

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_TASKS = ("text-classification", "sentiment-analysis")


@dataclass
class LoadedModel:
    """What :func:`load_model` found: a handler of the user's, or the parts of a native endpoint."""

    folder: Path
    labels: list[str] = field(default_factory=list)
    function: str = "softmax"
    tokenizer: Any = None
    model: Any = None
    handler: Any = None
    scratch: tempfile.TemporaryDirectory[str] | None = None  # where an archive was extracted

    def discard(self) -> None:
        """Remove what was extracted (it also goes when nobody holds this object any more)."""
        if self.scratch is not None:
            self.scratch.cleanup()


def _check_task(environment: Mapping[str, str]) -> None:
    task = environment.get("HF_TASK")
    if task and task not in _TASKS:
        raise ValueError(f"HF_TASK={task!r}: expected one of {', '.join(_TASKS)}")


def _folder_of(
    source: str | os.PathLike[str], environment: Mapping[str, str]
) -> tuple[Path, tempfile.TemporaryDirectory[str] | None]:
    """The model's folder, and the scratch folder that holds it when it came out of an archive."""
    text = os.fspath(source)
    if text.startswith("s3://"):
        from smhf_native.store import Store

        path = Store().path(text)
        if not path.exists():
            raise FileNotFoundError(Store().missing(text))
    else:
        path = Path(text).expanduser()
    if text and path.is_dir():
        return path.resolve(), None
    if text and path.exists():
        return _extracted(path)
    name = text or environment.get("HF_MODEL_ID", "")
    if not name:
        raise FileNotFoundError("serve: expected a model folder, a model.tar.gz, a hub name or HF_MODEL_ID")
    if not _HUB_NAME.fullmatch(name) or name.endswith((".tar.gz", ".tgz")):
        raise FileNotFoundError(f"serve: no file or folder {name!r} (cwd {os.getcwd()})")
    from smhf_native import hub

    needs = (*hub.MODEL_FILES, *hub.TOKENIZER_FILES)
    return Path(hub.resolve(name, environment.get("HF_MODEL_REVISION"), needs=needs)), None


def _extracted(archive: Path) -> tuple[Path, tempfile.TemporaryDirectory[str]]:
    from smhf_native.model import extract_archive

    scratch = tempfile.TemporaryDirectory(prefix="smhf-endpoint-", ignore_cleanup_errors=True)
    try:
        extract_archive(str(archive), scratch.name)
    except BaseException:
        scratch.cleanup()
        raise
    return Path(scratch.name), scratch


def _pipeline(folder: str) -> Any:
    from smhf_native.pipelines import pipeline

    return pipeline("text-classification", model=folder)


def _load_handler(folder: Path, name: str, environment: Mapping[str, str]) -> Any:
    """The user's handler below ``code/``, or None."""
    from smhf_native.server.handlers import RequestHandler, load_user_module

    code = folder / "code"
    program = environment.get("SAGEMAKER_PROGRAM") or "inference.py"
    if not (code / program).is_file():
        if environment.get("SAGEMAKER_PROGRAM"):
            raise FileNotFoundError(f"endpoint {name}: SAGEMAKER_PROGRAM={program!r} is not in {code}")
        return None
    _provide_requirements(code, name)
    return RequestHandler(load_user_module(code, program, name), str(folder), _pipeline)


def _provide_requirements(code: Path, name: str) -> None:
    """What ``code/requirements.txt`` asks for, by the rules of training jobs."""
    file = code / "requirements.txt"
    if not file.is_file():
        return
    from smhf_native.jobs import requirements

    found = requirements.plan(file)
    if not found.missing:
        return
    if not requirements.pip_allowed():
        raise ValueError(
            f"endpoint {name}: code/requirements.txt needs packages that are not installed: "
            f"{', '.join(found.missing)}. Install them, or allow it with SMHF_ALLOW_PIP=1"
        )
    target = code / ".packages"
    command = requirements.pip_command(found, target)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ValueError(f"endpoint {name}: pip failed: {done.stderr.strip()[-1000:]}")
    sys.path.insert(0, str(target))


def _labels(model: Any, count: int) -> list[str]:
    names = model.id2label
    return [str(names.get(i, names.get(str(i), f"LABEL_{i}"))) if isinstance(names, Mapping) else str(names[i])
            for i in range(count)]  # fmt: skip


def load_model(
    source: str | os.PathLike[str],
    name: str = "model",
    *,
    environment: Mapping[str, str] | None = None,
    device: str = "auto",
    precision: str | None = None,
) -> LoadedModel:
    """Load what an endpoint needs.

    Parameters
    ----------
    source : path-like
        A model folder (``config.json``, weights, tokenizer files, perhaps ``code/inference.py``), a
        ``model.tar.gz`` of one (extracted with the refusals of ``extract_archive``), a hub name, or
        ``""`` with ``HF_MODEL_ID`` in ``environment``.
    name : str
        Of the endpoint; used in error sentences and for the user's module.
    environment : mapping, optional
        The container's variables that count here: HF_TASK, HF_MODEL_ID, SAGEMAKER_PROGRAM.

    Raises
    ------
    FileNotFoundError
        No such file, or a part of the model is missing.
    ValueError
        The archive is refused, HF_TASK names another task, or the parts do not fit each other.
    """
    environment = environment or {}
    _check_task(environment)
    folder, scratch = _folder_of(source, environment)
    loaded = LoadedModel(folder, scratch=scratch)
    try:
        loaded.handler = _load_handler(folder, name, environment)
        if loaded.handler is None:
            if not (folder / "config.json").is_file():
                raise FileNotFoundError(
                    f"endpoint {name}: {folder} holds neither config.json nor code/inference.py"
                )
            from smhf_native.model import Model
            from smhf_native.tokenizer import Tokenizer

            loaded.tokenizer = Tokenizer.from_pretrained(str(folder))
            with _weights_folder(folder, in_place=scratch is not None) as weights:
                loaded.model = Model.from_pretrained(str(weights), device=device, precision=precision)
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            loaded.labels = _labels(loaded.model, _output_count(loaded.model))
            loaded.function = score_function(config, len(loaded.labels))
    except BaseException:
        loaded.discard()
        raise
    return loaded


@contextlib.contextmanager
def _weights_folder(folder: Path, *, in_place: bool) -> Iterator[Path]:
    """A folder with ``model.safetensors``: the one given, or a conversion of its ``pytorch_model.bin``."""
    old = any((folder / f"pytorch_model.bin{end}").is_file() for end in ("", ".index.json"))
    if (folder / "model.safetensors").is_file() or not old:
        yield folder
        return
    from smhf_native.convert import convert_folder

    if in_place:
        yield convert_folder(folder)
        return
    with tempfile.TemporaryDirectory(prefix="smhf-convert-") as scratch:
        yield convert_folder(folder, Path(scratch, "model"))


def _output_count(model: Any) -> int:
    count = getattr(model, "num_labels", None)
    return int(count) if count is not None else len(model.id2label)


class ModelServer(Server):
    """A :class:`smhf_native.server.Server` that loads models by path."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, **limits: Any) -> None:
        super().__init__(host, port, **limits)
        self._loaded: dict[str, LoadedModel] = {}

    def add_endpoint(
        self,
        name: str,
        model: str | os.PathLike[str],
        *,
        default: bool = False,
        workers: int = 1,
        environment: Mapping[str, str] | None = None,
        device: str = "auto",
        precision: str | None = None,
    ) -> None:
        """Load ``model`` (see :func:`load_model`) and serve it as ``name``.

        Parameters
        ----------
        default : bool
            Answers ``POST /invocations``.
        workers : int
            Threads that compute batches; more than one helps handlers that wait, hardly ever a model.
        """
        loaded = load_model(model, name, environment=environment, device=device, precision=precision)
        try:
            if loaded.handler is not None:
                self.add_handler(name, loaded.handler, default=default, workers=workers)
            else:
                self.add_model(
                    name, loaded.tokenizer, loaded.model, loaded.labels, loaded.function,
                    default=default, workers=workers,
                )  # fmt: skip
        except BaseException:
            loaded.discard()
            raise
        self._loaded[name] = loaded

    def remove_endpoint(self, name: str) -> None:
        """Answer what is queued for ``name``, drop it and what it had loaded."""
        super().remove_endpoint(name)
        loaded = self._loaded.pop(name, None)
        if loaded is not None:
            loaded.discard()

    def stop(self, timeout: float = 20.0) -> None:
        """Drain for up to ``timeout`` seconds, then close everything."""
        super().stop(timeout)
        while self._loaded:
            self._loaded.popitem()[1].discard()


class _RegisteredServer(ModelServer):
    """A server whose endpoint other processes find, and may end, by name; :func:`serve` makes it."""

    registered: str | None = None

    def register(self, name: str, model_data: str) -> None:
        """Enter the endpoint into the registry and mind requests to end it."""
        from smhf_native import endpoints

        endpoints.register(
            endpoints.EndpointRecord.of_this_process(name, self.url, self.port, model_data, keep=True)
        )
        self.registered = name
        threading.Thread(target=_mind_removal, args=(weakref.ref(self), name), daemon=True).start()

    def stop(self, timeout: float = 20.0) -> None:
        """Drain, close, and take the name out of the registry."""
        try:
            super().stop(timeout)
        finally:
            if self.registered is not None:
                from smhf_native import endpoints

                name, self.registered = self.registered, None
                endpoints.forget(name, pid=os.getpid())


def _mind_removal(reference: weakref.ref[_RegisteredServer], name: str) -> None:
    """Stop the server when somebody asks for its endpoint's end (``smhf endpoints stop NAME``)."""
    from smhf_native import endpoints

    while True:
        time.sleep(0.1)
        server = reference()
        if server is None or not server.running:
            return
        if endpoints.removal_requested(name):
            server.stop()
            return
        del server


def serve(
    model: str | os.PathLike[str],
    port: int = 0,
    host: str = "127.0.0.1",
    name: str | None = None,
    *,
    workers: int = 1,
    device: str = "auto",
    precision: str | None = None,
    **limits: Any,
) -> ModelServer:
    """Serve a model folder or ``model.tar.gz`` over HTTP in this process.

    Parameters
    ----------
    model : path-like
        See :func:`load_model`.
    port : int
        0 takes any free port.
    host : str
        Numeric address; 127.0.0.1 is reachable from this machine only.
    name : str, optional
        Also enter the endpoint into the registry under this name, so that
        ``HuggingFacePredictor(name)``, ``smhf endpoints`` and boto3 in local mode find it.
    workers, device, precision
        See :meth:`ModelServer.add_endpoint`.
    **limits
        See :class:`smhf_native.server.Server`.

    Returns
    -------
    ModelServer
        Running, with ``url``, ``port``, ``stats()``, ``stop()``; also a context manager.

    Raises
    ------
    OSError
        The port is in use.
    FileNotFoundError, ValueError
        The model cannot be loaded.

    Examples
    --------
    >>> with smhf.serve("model.tar.gz") as server:  # doctest: +SKIP
    ...     print(server.url)
    """
    server = _RegisteredServer(host, port, **limits)
    try:
        server.add_endpoint(
            name or "model", model, default=True, workers=workers, device=device, precision=precision
        )
        if name is not None:
            server.register(name, os.fspath(model))
    except BaseException:
        server.stop(timeout=0)
        raise
    return server
