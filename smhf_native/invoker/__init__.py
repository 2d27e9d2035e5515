"""Many texts, one endpoint: rows in, a DataFrame out.

Rows travel in batches over several kept-alive connections; every row ends with a label and a score, or
with a sentence that says why not. Follows the wire format of SageMaker's InvokeEndpoint and the JSON of
the Hugging Face inference containers; retries follow botocore's standard mode with full jitter.

    with smhf.Invoker("http://127.0.0.1:8080") as invoker:
        table = invoker.predict(frame["text"])
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from smhf_native.errors import MissingExtraError
from smhf_native.invoker._invoker import ROW_ERRORS, sign_request
from smhf_native.invoker._invoker import Invoker as _Invoker
from smhf_native.invoker.hosts import service_url
from smhf_native.invoker.targets import EndpointLookupError, find_target, make_source

__all__ = ["ROW_ERRORS", "EndpointLookupError", "Invoker", "service_url", "sign_request"]

_INPUT, _CANCELLED = ROW_ERRORS.index("input"), ROW_ERRORS.index("cancelled")


def _number(name: str, value: int | str | None) -> int:
    """``"auto"`` as 0, else a positive count."""
    if value is None or value == "auto":
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} {value!r}: expected 'auto' or a number of at least 1")
    return value


class Invoker:
    """A client of one inference endpoint.

    Parameters
    ----------
    endpoint : str
        A URL (without a path: ``/invocations`` is added), or the name of a local endpoint, or the name of
        an endpoint in AWS (``mode="aws"``, ``SMHF_MODE=aws`` or ``region=`` given).
    batch_size : int or "auto"
        Rows of one request. Automatic: starts at 32 and doubles while the time per row falls.
    connections : int or "auto"
        Requests at once. Automatic: starts at 4, up to 16, halved when the endpoint throttles.
    timeout, connect_timeout : float
        Seconds for one request, and for its connection.
    retries : int
        Further requests for rows whose request failed; throttled ones are counted apart, up to four
        times as many. A budget shared by all rows keeps a failing endpoint from being stormed.
    deadline : float, optional
        Seconds for one whole ``predict``.
    parameters : mapping, optional
        Put beside ``"inputs"``, e.g. ``{"truncation": True}``.
    credentials : optional
        ``(access key, secret key[, token])``, a function that returns that (asked again every 30 s and when
        the endpoint refuses), or a boto3 or botocore session. Default in AWS: botocore's chain, else the
        environment.
    region : str, optional
        Requests are signed (Signature Version 4) for this region.
    allow_http : bool
        Plain http beyond this machine.
    mode : {"local", "aws"}, optional
        What a name means.
    ca_file : path, optional
        Certificate authorities to trust instead of the system's. There is no switch to trust anything.
    headers : mapping, optional
        Sent with every request, e.g. ``X-Amzn-SageMaker-Target-Variant``.
    batch_bytes, max_response : int, optional
        Bytes of a request (1 MiB) and of an answer (64 MiB) at most.
    backoff : (float, float)
        Seconds: base and ceiling of the pause before another request (full jitter).
    fips, dualstack : bool
        Which service address is used in AWS.

    Raises
    ------
    ValueError
        An argument out of range.
    EndpointLookupError
        No local endpoint of that name.
    BackendError
        Plain http beyond this machine without ``allow_http``.

    Notes
    -----
    Threads: calls run one at a time, others wait. After ``fork`` the child opens connections of its own.
    Requests may reach the endpoint more than once (a lost answer is asked for again); results are taken once.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        batch_size: int | str = "auto",
        connections: int | str = "auto",
        timeout: float = 80.0,
        connect_timeout: float = 5.0,
        retries: int = 4,
        deadline: float | None = None,
        parameters: Mapping[str, Any] | None = None,
        credentials: Any = None,
        region: str | None = None,
        allow_http: bool = False,
        mode: str | None = None,
        ca_file: Any = None,
        headers: Mapping[str, str] | None = None,
        batch_bytes: int | None = None,
        max_response: int | None = None,
        backoff: tuple[float, float] = (0.05, 20.0),
        fips: bool = False,
        dualstack: bool = False,
    ) -> None:
        target = find_target(endpoint, mode, region, credentials, fips, dualstack)
        if credentials is not None and target.region is None:
            raise ValueError("credentials are given, but no region: only requests to a region are signed")
        if isinstance(retries, bool) or not isinstance(retries, int) or not 0 <= retries < 1000:
            raise ValueError(f"retries {retries!r}: expected 0 to 999")
        if deadline is not None and not deadline > 0:
            raise ValueError(f"deadline {deadline!r}: expected seconds above 0, or None")
        keys, self._source = (None, None) if target.region is None else make_source(credentials)
        self.url = target.url
        self.region = target.region
        self._invoker = _Invoker(
            target.url,
            region=target.region,
            ca_file=None if ca_file is None else str(ca_file),
            parameters=None if parameters is None else json.dumps(dict(parameters), allow_nan=False),
            headers=tuple((str(name), str(value)) for name, value in (headers or {}).items()),
            connections=_number("connections", connections),
            batch_rows=_number("batch_size", batch_size),
            batch_bytes=_number("batch_bytes", batch_bytes),
            max_response=_number("max_response", max_response),
            connect_timeout=connect_timeout,
            timeout=timeout,
            deadline=deadline or 0.0,
            attempts=retries + 1,
            backoff_base=backoff[0],
            backoff_cap=backoff[1],
            allow_http=allow_http,
        )
        if keys is not None:
            self._invoker.set_credentials(keys)

    def __repr__(self) -> str:
        signed = f" signed for {self.region}" if self.region else ""
        return f"<Invoker {self.url}{signed}{' closed' if self._invoker.closed else ''}>"

    def __enter__(self) -> Invoker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, when calls in flight have ended; later calls raise ValueError."""
        self._invoker.close()

    @property
    def stats(self) -> dict[str, int | float]:
        """Counters since the start.

        ``requests``, ``retries``, ``splits``, ``rows``, ``rows_failed``, ``bytes_sent``, ``bytes_received``,
        ``connections_opened``; ``connections`` and ``batch_rows`` are the current limits; ``skew`` the seconds
        by which the endpoint's clock is ahead, as far as signing had to know it.
        """
        return self._invoker.stats()

    def _refresh(self) -> None:
        """Fetch credentials before the first request of a call."""
        if self._source is not None:
            keys = self._source(False)
            if keys is not None:
                self._invoker.set_credentials(keys)

    def predict(self, texts: Iterable[Any]) -> Any:
        """Classify texts.

        Parameters
        ----------
        texts : iterable of str
            A Series, list, array ... of any length. What is no text (None, NaN, a number) fails alone.

        Returns
        -------
        pandas.DataFrame
            One row per text, in order, with a Series' index: ``label`` (str or None), ``score`` (float, NaN),
            ``error`` (None, or one sentence that begins with its class, see ``ROW_ERRORS``).

        Raises
        ------
        KeyboardInterrupt
            On Ctrl-C; its attribute ``partial`` holds the DataFrame, rows without an answer marked
            ``cancelled``. Likewise for what a ``credentials`` function raises.
        MissingExtraError
            pandas is not installed; :meth:`predict_columns` does without.
        """
        try:
            import pandas as pd
        except ImportError:
            raise MissingExtraError.of("pandas", "pandas", "predict(); predict_columns() does without") from None
        items = _items(texts)
        index = texts.index if isinstance(texts, pd.Series) else pd.RangeIndex(len(items))
        columns, raised = self._columns(items)
        frame = pd.DataFrame(
            {
                "label": pd.Series(columns["label"], index=index, dtype=object),
                "score": pd.Series(columns["score"], index=index),
                "error": pd.Series(columns["error"], index=index, dtype=object),
            }
        )
        return _deliver(frame, raised)

    def predict_columns(self, texts: Iterable[Any]) -> dict[str, np.ndarray[Any, Any]]:
        """Classify texts into NumPy columns.

        Returns
        -------
        dict
            One array of N entries each: ``label`` and ``error`` (object: str or None), ``kind`` (object: class of
            the error, ``""``), ``score`` (float64, NaN), ``attempts`` (uint16, requests that carried the row),
            ``status`` (int16, last HTTP status, 0).

        Raises
        ------
        KeyboardInterrupt
            As :meth:`predict`; ``partial`` holds the dict.
        """
        columns, raised = self._columns(_items(texts))
        delivered: dict[str, np.ndarray[Any, Any]] = _deliver(columns, raised)
        return delivered

    def _columns(self, items: tuple[Any, ...]) -> tuple[dict[str, np.ndarray[Any, Any]], BaseException | None]:
        self._refresh()
        raw, raised = self._invoker.predict(items, self._source)
        if raw is None:  # stopped while another thread's call was running
            nobody = np.full(len(items), None, object)
            message = np.full(len(items), "cancelled: stopped before it was answered", object)
            columns = {
                "label": nobody,
                "score": np.full(len(items), np.nan),
                "error": message,
                "kind": np.full(len(items), ROW_ERRORS[_CANCELLED], object),
                "attempts": np.zeros(len(items), np.uint16),
                "status": np.zeros(len(items), np.int16),
            }
            return columns, raised
        labels = np.frombuffer(raw["labels"], np.int32)
        names = np.array([*raw["label_names"], None], object)  # -1 takes the last
        kinds = np.frombuffer(raw["errors"], np.uint8)
        error = np.full(len(items), None, object)
        messages = np.frombuffer(raw["messages"], np.uint32)
        for row in np.flatnonzero(kinds):
            error[row] = _sentence(int(kinds[row]), raw["message_texts"][messages[row]], items[row])
        columns = {
            "label": names[labels],
            "score": np.frombuffer(raw["scores"], np.float64).copy(),
            "error": error,
            "kind": np.array(ROW_ERRORS, object)[kinds],
            "attempts": np.frombuffer(raw["attempts"], np.uint16).copy(),
            "status": np.frombuffer(raw["statuses"], np.int16).copy(),
        }
        return columns, raised

    def invoke(
        self,
        body: bytes | bytearray | memoryview | str,
        *,
        content_type: str = "application/json",
        accept: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one request as it is and return the answer as it comes.

        Parameters
        ----------
        body : bytes-like or str
            A str is sent as UTF-8.
        content_type, accept : str
        headers : mapping, optional
            Further headers of this request.

        Returns
        -------
        (int, dict, bytes)
            Status, headers (names in lower case) and body; an error status is no exception here. The request
            is repeated only when its connection failed before it was sent, or its signature was refused.

        Raises
        ------
        OSError
            No connection.
        TimeoutError
            No whole answer in time.
        HTTPError
            The answer is malformed.
        """
        self._refresh()
        data = body.encode() if isinstance(body, str) else body
        pairs = [("Content-Type", content_type), ("Accept", accept)]
        pairs += [(str(name), str(value)) for name, value in (headers or {}).items()]
        return self._invoker.call(data, tuple(pairs), self._source)


def _items(texts: Iterable[Any]) -> tuple[Any, ...]:
    if isinstance(texts, str | bytes):
        raise TypeError(f"texts: expected a sequence of texts, got one {type(texts).__name__}; pass [text]")
    if isinstance(texts, Mapping) or hasattr(texts, "columns"):
        raise TypeError(f"texts: expected one column of texts, got {type(texts).__name__}; pass table['column']")
    try:
        return tuple(texts.tolist() if hasattr(texts, "tolist") else texts)
    except TypeError:
        raise TypeError(f"texts: expected a sequence of texts, got {type(texts).__name__}") from None


def _sentence(kind: int, message: str, item: Any) -> str:
    if kind == _INPUT and not isinstance(item, str | bytes):
        shown = f" {item}" if isinstance(item, int | float) else ""
        return f"input: expected a text, got {type(item).__name__}{shown}"
    return f"{ROW_ERRORS[kind]}: {message}"


def _deliver(result: Any, raised: BaseException | None) -> Any:
    """Return the result, or raise what ended the call with what there is attached to it."""
    if raised is None:
        return result
    raised.partial = result  # type: ignore[attr-defined]
    raise raised
