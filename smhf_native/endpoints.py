"""Registry of local endpoints: one file ``$SMHF_HOME/endpoints/NAME.json`` per endpoint.

A record says where an endpoint answers and which process serves it. It is written by that process
when the endpoint is up and removed when it is gone; a record whose process no longer runs (pid and
start time are compared) is stale, counts as absent and is removed by whoever finds it.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from smhf_native.errors import SmhfError
from smhf_native.jobs import processes
from smhf_native.jobs.records import home, write_json

__all__ = [
    "EndpointNotFoundError",
    "EndpointRecord",
    "check_name",
    "find",
    "folder",
    "forget",
    "list_endpoints",
    "ping",
    "record_path",
    "register",
    "stop_endpoint",
]

_NAME = re.compile(r"[A-Za-z0-9](-*[A-Za-z0-9]){0,62}")
_REMOVING = ".removing"


class EndpointNotFoundError(SmhfError, LookupError):
    """No local endpoint of that name answers."""


@dataclass(frozen=True)
class EndpointRecord:
    """One endpoint as its file has it.

    Attributes
    ----------
    name, url, port
        ``url`` is the server's base address; requests go to ``{url}/endpoints/{name}/invocations``.
    pid, identity
        The serving process (see :func:`smhf_native.jobs.processes.identity`).
    host_pid
        The process that asked for it (the notebook's kernel); with ``keep`` it may end before.
    model_data
        What is served: folder, archive or ``s3://`` address.
    created
        Epoch seconds.
    """

    name: str
    url: str
    port: int
    pid: int
    host_pid: int
    model_data: str
    created: float
    identity: str | None = None
    keep: bool = False

    @classmethod
    def of_this_process(
        cls,
        name: str,
        url: str,
        port: int,
        model_data: str,
        *,
        host_pid: int | None = None,
        keep: bool = False,
    ) -> EndpointRecord:
        """A record whose serving process is this one."""
        pid = os.getpid()
        return cls(
            name, url, port, pid, host_pid or pid, model_data, time.time(), processes.identity(pid), keep
        )  # fmt: skip

    @property
    def alive(self) -> bool:
        """Whether the serving process still runs."""
        return processes.is_alive(self.pid, self.identity)

    @property
    def invocations_url(self) -> str:
        """Where requests go."""
        return f"{self.url}/endpoints/{self.name}/invocations"


def folder() -> Path:
    """Return the registry's folder (not created here)."""
    return home() / "endpoints"


def check_name(name: str) -> str:
    """Return ``name`` when it may name an endpoint.

    Raises
    ------
    ValueError
        Not 1-63 letters, digits and inner hyphens.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"endpoint name {name!r}: expected 1-63 letters, digits and inner hyphens")
    return name


def record_path(name: str) -> Path:
    """Return the file that an endpoint's record has, whether it exists or not."""
    return folder() / f"{check_name(name)}.json"


def _read(path: Path) -> EndpointRecord | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        known = {key: value[key] for key in EndpointRecord.__dataclass_fields__ if key in value}
        return EndpointRecord(**known)
    except (OSError, ValueError, TypeError):
        return None  # gone, or not ours


def register(record: EndpointRecord) -> None:
    """Write the record of an endpoint that is up.

    Raises
    ------
    ValueError
        A live endpoint has this name already.
    """
    path = record_path(record.name)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{record.name}.{os.getpid()}.new")
    write_json(draft, asdict(record), mode=0o600)
    try:
        for _ in range(3):
            try:
                os.link(draft, path)  # fails when the name exists: two processes cannot both win
                return
            except FileExistsError:
                other = _read(path)
                if other is not None and other.alive:
                    raise ValueError(
                        f"cannot create the endpoint {record.name!r}: one of this name is up at {other.url} "
                        f"(process {other.pid})"
                    ) from None
                path.unlink(missing_ok=True)
        raise ValueError(f"cannot create the endpoint {record.name!r}: others keep taking the name")
    finally:
        draft.unlink(missing_ok=True)


def forget(name: str, *, pid: int | None = None) -> None:
    """Remove a record (with ``pid``: only if that process wrote it) and a request to remove it."""
    path = record_path(name)
    record = _read(path)
    if record is None or pid is None or record.pid == pid:
        path.unlink(missing_ok=True)
    path.with_name(path.name + _REMOVING).unlink(missing_ok=True)


def removal_requested(name: str) -> bool:
    """Whether somebody asked for the endpoint to end (read by its serving process)."""
    path = record_path(name)
    return path.with_name(path.name + _REMOVING).exists()


def find(name: str) -> EndpointRecord:
    """Return the record of a live endpoint.

    Raises
    ------
    EndpointNotFoundError
        There is none; the sentence lists those there are.
    """
    path = record_path(name)
    record = _read(path)
    if record is not None and record.alive:
        return record
    if record is not None:
        forget(name, pid=record.pid)
    names = ", ".join(entry.name for entry in list_endpoints()) or "none"
    gone = f" (its process {record.pid} has ended)" if record is not None else ""
    raise EndpointNotFoundError(f"no local endpoint {name!r} is up{gone}; endpoints here: {names}")


def ping(record: EndpointRecord, timeout: float = 2.0) -> bool:
    """Whether the endpoint's server answers ``GET /ping`` with 200 in time."""
    host, _, port = record.url.removeprefix("http://").rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=timeout)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def list_endpoints(*, check: bool = False) -> list[EndpointRecord]:
    """Return the records of live endpoints, oldest first; stale ones are removed.

    Parameters
    ----------
    check : bool
        Also ask each server (``GET /ping``) and leave out those that do not answer.
    """
    found = []
    for path in sorted(folder().glob("*.json")) if folder().is_dir() else []:
        record = _read(path)
        if record is None or record.name + ".json" != path.name:
            continue
        if not record.alive:
            forget(record.name, pid=record.pid)
        elif not check or ping(record):
            found.append(record)
    return sorted(found, key=lambda record: record.created)


def stop_endpoint(name: str, *, timeout: float = 30.0) -> None:
    """Ask the serving process to end the endpoint and wait until it has.

    What is in flight is answered first. Its process ends with its last endpoint unless a notebook
    still uses it.

    Raises
    ------
    EndpointNotFoundError
        There is none of this name.
    TimeoutError
        It was still there after ``timeout`` seconds.
    """
    record = find(name)
    path = record_path(name)
    mark = path.with_name(path.name + _REMOVING)
    mark.touch(mode=0o600)
    end = time.monotonic() + timeout
    while path.exists():
        if not record.alive:
            forget(name, pid=record.pid)
            break
        if time.monotonic() > end:
            mark.unlink(missing_ok=True)
            raise TimeoutError(f"the endpoint {name!r} of process {record.pid} did not end in {timeout:g} s")
        time.sleep(0.02)
    mark.unlink(missing_ok=True)


def describe(name: str) -> dict[str, Any]:
    """Return what DescribeEndpoint tells about a local endpoint.

    Raises
    ------
    EndpointNotFoundError
        There is none of this name.
    """
    from datetime import UTC, datetime

    record = find(name)
    when = datetime.fromtimestamp(record.created, tz=UTC)
    return {
        "EndpointName": name,
        "EndpointArn": f"arn:aws:sagemaker:us-west-2:000000000000:endpoint/{name.lower()}",
        "EndpointConfigName": name,
        "ProductionVariants": [
            {
                "VariantName": "AllTraffic",
                "CurrentWeight": 1.0,
                "DesiredWeight": 1.0,
                "CurrentInstanceCount": 1,
                "DesiredInstanceCount": 1,
            }
        ],
        "EndpointStatus": "InService" if ping(record) else "Updating",
        "CreationTime": when,
        "LastModifiedTime": when,
    }
