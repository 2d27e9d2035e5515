"""``sagemaker-runtime`` of local mode: InvokeEndpoint over a kept-alive loopback connection.

The argument and result names are those of boto3's client, so a predictor works the same in both modes.
Proxies are never used: the host is this machine.
"""

from __future__ import annotations

import http.client
import io
import json
import threading
import time
import warnings
from typing import Any

from smhf_native import endpoints
from smhf_native.errors import HTTPError

__all__ = ["EndpointError", "LocalRuntimeClient"]

_TIMEOUT = 80.0  # seconds; an answer may take 60 by contract
_ATTEMPTS = 5  # for 503, as botocore's default makes
_told: set[str] = set()  # endpoints whose cut texts were told about in this process
_HEADERS = {
    "ContentType": "Content-Type",
    "Accept": "Accept",
    "CustomAttributes": "X-Amzn-SageMaker-Custom-Attributes",
    "TargetModel": "X-Amzn-SageMaker-Target-Model",
    "TargetVariant": "X-Amzn-SageMaker-Target-Variant",
    "TargetContainerHostname": "X-Amzn-SageMaker-Target-Container-Hostname",
    "InferenceId": "X-Amzn-SageMaker-Inference-Id",
    "EnableExplanations": "X-Amzn-SageMaker-Enable-Explanations",
    "InferenceComponentName": "X-Amzn-SageMaker-Inference-Component",
    "SessionId": "X-Amzn-SageMaker-Session-Id",
}


class EndpointError(HTTPError):
    """An endpoint refused or failed.

    Attributes
    ----------
    status : int
        HTTP status of the answer: 424 when the model refused, 400 for an unknown endpoint, 503 when it
        was too busy.
    code : str
        ``ModelError``, ``ValidationError``, ``ServiceUnavailable``, ...
    original_status : int or None
        What the model's server itself answered (with ModelError).
    original_message : str or None
        Its body.
    """

    def __init__(
        self,
        message: str,
        status: int = 0,
        code: str = "",
        original_status: int | None = None,
        original_message: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.original_status = original_status
        self.original_message = original_message

    @property
    def response(self) -> dict[str, Any]:
        """The same as the ``response`` of a botocore ClientError has it."""
        return {
            "Error": {"Code": self.code, "Message": str(self)},
            "OriginalStatusCode": self.original_status,
            "OriginalMessage": self.original_message,
            "ResponseMetadata": {"HTTPStatusCode": self.status},
        }


class _Connection(http.client.HTTPConnection):
    """Closes itself when nobody holds it any more (a thread that ended, a server that is gone)."""

    def __del__(self) -> None:
        self.close()


class _Connections(threading.local):
    """One connection per thread and server."""

    def __init__(self) -> None:
        self.by_url: dict[str, _Connection] = {}


def _connect(url: str) -> _Connection:
    host, _, port = url.removeprefix("http://").rpartition(":")
    return _Connection(host.strip("[]"), int(port), timeout=_TIMEOUT)


def _failure(status: int, headers: Any, body: bytes) -> EndpointError:
    text = body.decode("utf-8", errors="replace")
    try:
        value = json.loads(text)
    except ValueError:
        value = {}
    value = value if isinstance(value, dict) else {}
    code = headers.get("x-amzn-errortype") or value.get("Code") or value.get("type") or str(status)
    message = value.get("Message") or value.get("message") or text[:500] or f"HTTP {status}"
    return EndpointError(
        f"An error occurred ({code}) when calling the InvokeEndpoint operation: {message}",
        status,
        code,
        value.get("OriginalStatusCode"),
        value.get("OriginalMessage"),
    )


class LocalRuntimeClient:
    """What ``boto3.client("sagemaker-runtime")`` would be, for local endpoints and without boto3.

    Any number of threads may use one client; each keeps its own connection.
    """

    def __init__(self) -> None:
        self._connections = _Connections()
        self._records: dict[str, tuple[tuple[int, int], endpoints.EndpointRecord]] = {}

    def invoke_endpoint(self, EndpointName: str, Body: Any, **options: Any) -> dict[str, Any]:
        """Send one request to a local endpoint.

        Parameters
        ----------
        EndpointName : str
        Body : bytes, str or file-like object
        ContentType, Accept, CustomAttributes, ... : str
            Further parameters of InvokeEndpoint.

        Returns
        -------
        dict
            ``Body`` (a stream), ``ContentType``, ``InvokedProductionVariant``, ``ResponseMetadata``.

        Raises
        ------
        EndpointNotFoundError
            No local endpoint of this name is up.
        EndpointError
            The endpoint answered with an error.
        """
        headers = {}
        for key, value in options.items():
            if key not in _HEADERS:
                raise TypeError(f"invoke_endpoint: unknown parameter {key!r}")
            headers[_HEADERS[key]] = str(value)
        headers.setdefault("Content-Type", "application/octet-stream")
        data = Body.read() if hasattr(Body, "read") else Body
        data = data.encode("utf-8") if isinstance(data, str) else bytes(data)
        for attempt in range(1, _ATTEMPTS + 1):
            record = self._find(EndpointName)
            status, answer_headers, body = self._exchange(record, data, headers)
            if status != 503 or attempt == _ATTEMPTS:
                break
            time.sleep(min(float(answer_headers.get("Retry-After") or 1), 5.0))
        if status != 200:
            raise _failure(status, answer_headers, body)
        self._note_truncation(EndpointName, answer_headers.get("X-Smhf-Truncated"))
        return {
            "Body": io.BytesIO(body),
            "ContentType": answer_headers.get("Content-Type", ""),
            "InvokedProductionVariant": answer_headers.get("x-Amzn-Invoked-Production-Variant", ""),
            "ResponseMetadata": {
                "HTTPStatusCode": status,
                "RequestId": answer_headers.get("x-amzn-RequestId", ""),
                "HTTPHeaders": {key.lower(): value for key, value in answer_headers.items()},
            },
        }

    def _find(self, name: str) -> endpoints.EndpointRecord:
        """The endpoint's record, read again only when its file has changed."""
        path = endpoints.record_path(name)
        try:
            status = path.stat()
            seen = (status.st_ino, status.st_mtime_ns)
        except OSError:
            seen = None
        known = self._records.get(name)
        if known is not None and seen is not None and known[0] == seen:
            return known[1]
        record = endpoints.find(name)
        if seen is not None:
            self._records[name] = (seen, record)
        return record

    def _exchange(
        self, record: endpoints.EndpointRecord, body: bytes, headers: dict[str, str]
    ) -> tuple[int, Any, bytes]:
        pool = self._connections.by_url
        path = f"/endpoints/{record.name}/invocations"
        reused = record.url in pool
        connection = pool.pop(record.url, None) or _connect(record.url)
        try:
            try:
                connection.request("POST", path, body, headers)
                answer = connection.getresponse()
            except (ConnectionError, http.client.RemoteDisconnected, http.client.CannotSendRequest):
                connection.close()
                if not reused:
                    raise
                connection = _connect(record.url)  # the server had closed the idle connection
                connection.request("POST", path, body, headers)
                answer = connection.getresponse()
            data = answer.read()
        except TimeoutError:
            connection.close()
            raise TimeoutError(f"endpoint {record.name!r} gave no answer in {_TIMEOUT:g} s") from None
        except (OSError, http.client.HTTPException) as failure:
            connection.close()
            self._records.pop(record.name, None)
            endpoints.find(record.name)  # says so when its process has ended
            raise EndpointError(f"endpoint {record.name!r} at {record.url}: {failure!r}") from failure
        if answer.will_close:
            connection.close()
        else:
            pool[record.url] = connection
        return answer.status, answer.headers, data

    def _note_truncation(self, name: str, count: str | None) -> None:
        if count and name not in _told:
            _told.add(name)
            warnings.warn(
                f"endpoint {name!r}: {count} text(s) were longer than the model takes and were cut "
                "(said once; parameters={'truncation': False} refuses such texts instead)",
                stacklevel=4,
            )

    def close(self) -> None:
        """Close this thread's connections."""
        while self._connections.by_url:
            self._connections.by_url.popitem()[1].close()
