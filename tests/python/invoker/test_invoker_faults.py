"""Every fault leads to its class; no row is lost, doubled or put in another's place."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from smhf_native.invoker import Invoker
from tests.support.fault_server import (
    FaultServer,
    Reply,
    Request,
    answer,
    label_of,
    model_error,
    results,
    score_of,
)

ROWS = [f"row {i} äöü \U0001f600 \"quoted\" \\ \n" for i in range(96)]
Fault = Callable[[Request], Reply]

QUICK: dict[str, Any] = {"backoff": (0.001, 0.01), "timeout": 0.4, "batch_size": 8, "connections": 4}


def check_rows(columns: dict[str, Any], texts: list[str], *, bad: set[int] | None = None) -> None:
    """Every row has its own label and score; rows in ``bad`` have an error instead."""
    assert len(columns["label"]) == len(texts)
    for i, text in enumerate(texts):
        if i in (bad or set()):
            assert columns["label"][i] is None and np.isnan(columns["score"][i]) and columns["error"][i]
        else:
            assert columns["error"][i] is None, (i, columns["error"][i])
            assert columns["label"][i] == label_of(text)
            assert columns["score"][i] == score_of(text)


def whole(request: Request) -> bytes:
    return answer(results(request.inputs))


def framed(head: str, body: bytes) -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{head}\r\n".encode() + body


def items(request: Request, change: Callable[[list[Any]], Any]) -> Reply:
    return Reply(answer(change(results(request.inputs))))


CHUNKS = b"2\r\n[]\r\n0\r\n\r\n"
FAULTS: dict[str, tuple[Fault, str]] = {
    "reset at once": (lambda r: Reply(after="reset"), "network"),
    "closed without a byte": (lambda r: Reply(after="close"), "network"),
    "never answered": (lambda r: Reply(after="hang"), "timeout"),
    "closed after the status line": (lambda r: Reply(b"HTTP/1.1 200 OK\r\n", "close"), "network"),
    "cut in a header": (lambda r: Reply(whole(r)[:40], "close"), "network"),
    "reset in the body": (lambda r: Reply(whole(r)[:-9], "reset"), "network"),
    "cut in the body": (lambda r: Reply(whole(r)[:-9], "close"), "network"),
    "dripping head": (lambda r: Reply(whole(r), slice_size=1, pause=0.05), "timeout"),
    "hanging in the body": (lambda r: Reply(whole(r)[:-9], "hang"), "timeout"),
    "length too long": (
        lambda r: Reply(framed("Content-Length: 5000\r\n", b"[]"), "close"),
        "network",
    ),
    "length too short": (
        lambda r: Reply(framed("Content-Length: 5\r\n", json.dumps(results(r.inputs)).encode()), "close"),
        "response",
    ),
    "no length": (lambda r: Reply(framed("", json.dumps(results(r.inputs)).encode()), "close"), "network"),
    "bad chunk size": (lambda r: Reply(framed("Transfer-Encoding: chunked\r\n", b"zz\r\n[]\r\n"), "close"), "network"),
    "no last chunk": (lambda r: Reply(framed("Transfer-Encoding: chunked\r\n", b"2\r\n[]\r\n"), "close"), "network"),
    "length and chunks": (
        lambda r: Reply(framed("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", CHUNKS), "close"),
        "network",
    ),
    "two lengths": (
        lambda r: Reply(framed("Content-Length: 2\r\nContent-Length: 3\r\n", b"[] "), "close"),
        "network",
    ),
    "NUL in a header": (lambda r: Reply(framed("X-A: b\0c\r\nContent-Length: 2\r\n", b"[]")), "network"),
    "header of a megabyte": (
        lambda r: Reply(framed("X-A: " + "y" * (1 << 20) + "\r\nContent-Length: 2\r\n", b"[]"), "close"),
        "network",
    ),
    "not HTTP": (lambda r: Reply(b"SSH-2.0-OpenSSH_9.2\r\n", "close"), "network"),
    "throttled": (
        lambda r: Reply(answer({"message": None}, 400, {"x-amzn-errortype": "ThrottlingException"})),
        "throttled",
    ),
    "throttled by body": (lambda r: Reply(answer({"__type": "com.amazon#ThrottlingException"}, 400)), "throttled"),
    "429": (lambda r: Reply(answer({"message": "slow"}, 429)), "throttled"),
    "503": (lambda r: Reply(answer("<html>busy</html>", 503)), "throttled"),
    "500": (lambda r: Reply(answer({"message": "boom"}, 500)), "http"),
    "InternalFailure": (
        lambda r: Reply(answer({"message": "x"}, 500, {"x-amzn-errortype": "InternalFailure"})),
        "http",
    ),
    "502 of a proxy": (lambda r: Reply(answer("<html><body>Bad Gateway", 502)), "http"),
    "504": (lambda r: Reply(answer("", 504)), "http"),
    "530": (lambda r: Reply(answer({"message": "x"}, 530)), "http"),
    "container 400": (lambda r: Reply(model_error(400)), "model"),
    "container 429": (lambda r: Reply(model_error(429)), "throttled"),
    "container 500": (lambda r: Reply(model_error(500)), "model"),
    "container 503": (lambda r: Reply(model_error(503)), "throttled"),
    "container took too long": (lambda r: Reply(model_error(0)), "timeout"),
    "bare container 400": (lambda r: Reply(answer({"code": 400, "type": "X", "message": "m"}, 400)), "model"),
    "ValidationError": (
        lambda r: Reply(answer({"message": "Endpoint x not found."}, 400, {"x-amzn-errortype": "ValidationError"})),
        "http",
    ),
    "404": (lambda r: Reply(answer({"message": "no"}, 404)), "http"),
    "redirect": (lambda r: Reply(answer("", 307, {"Location": "http://127.0.0.1:1/x"})), "http"),
    "403": (lambda r: Reply(answer({"message": "no"}, 403, {"x-amzn-errortype": "AccessDeniedException"})), "auth"),
    "error object": (lambda r: Reply(answer({"error": "CUDA out of memory"})), "response"),
    "empty body": (lambda r: Reply(answer("")), "response"),
    "204": (lambda r: Reply(b"HTTP/1.1 204 No Content\r\n\r\n"), "response"),
    "invalid JSON": (lambda r: Reply(answer('[{"label":"a","score":0.5},')), "response"),
    "truncated UTF-8": (lambda r: Reply(answer(b'[{"label":"\xc3","score":0.5}]')), "response"),
    "NaN": (lambda r: Reply(answer('[{"label":"a","score":NaN}]')), "response"),
    "deep nesting": (lambda r: Reply(answer("[" * 100000)), "response"),
    "label of a megabyte": (
        lambda r: items(r, lambda rows: [{"label": "x" * (1 << 20), "score": 1.0} for _ in rows]),
        "response",
    ),
    "a key twice": (
        lambda r: Reply(answer("[" + ",".join(['{"label":"a","label":"b","score":1}'] * len(r.inputs)) + "]")),
        "response",
    ),
    "one too few": (lambda r: items(r, lambda rows: rows[1:]), "response"),
    "one too many": (lambda r: items(r, lambda rows: [*rows, rows[0]]), "response"),
    "no score": (lambda r: items(r, lambda rows: [{"label": "a"} for _ in rows]), "response"),
    "score as text": (lambda r: items(r, lambda rows: [{"label": "a", "score": "1"} for _ in rows]), "response"),
    "empty lists": (lambda r: items(r, lambda rows: [[] for _ in rows]), "response"),
    "numbers": (lambda r: items(r, lambda rows: [1.0 for _ in rows]), "response"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_permanent_fault_has_its_class(name: str) -> None:
    fault, expected = FAULTS[name]
    with FaultServer(fault) as server, Invoker(server.url, retries=1, **QUICK) as invoker:
        columns = invoker.predict_columns(ROWS[:32])
    check_rows(columns, ROWS[:32], bad=set(range(32)))
    assert set(columns["kind"]) == {expected}, columns["error"][0]
    assert all(sentence.startswith(expected + ": ") for sentence in columns["error"])


TRANSIENT = [name for name, (_, kind) in FAULTS.items() if kind in ("network", "throttled") or name in ("500", "504")]


@pytest.mark.parametrize("name", TRANSIENT)
def test_transient_fault_costs_nothing(name: str) -> None:
    fault = FAULTS[name][0]
    rng = random.Random(name)

    def script(request: Request) -> Reply | None:
        return fault(request) if rng.random() < 0.25 else None

    with FaultServer(script) as server, Invoker(server.url, retries=6, **QUICK) as invoker:
        columns = invoker.predict_columns(ROWS)
        counts = server.executions()
    check_rows(columns, ROWS)
    assert set(counts) == set(ROWS)
    assert all(counts[text] >= 1 for text in ROWS)
    assert (columns["attempts"] >= 1).all()


@pytest.mark.parametrize("status", ["container 400", "bare 400", "422", "container 500", "answers short", "garbage"])
def test_bad_rows_stand_alone(status: str) -> None:
    bad = {3, 17, 18, 95}
    poison = {ROWS[i] for i in bad}

    def script(request: Request) -> Reply | None:
        if not poison & set(request.inputs):
            return None
        kinds = {
            "container 400": model_error(400),
            "bare 400": answer({"code": 400, "type": "InternalServerException", "message": "bad"}, 400),
            "422": answer({"error": "tokenization"}, 422),
            "container 500": model_error(500),
            "answers short": answer(results(request.inputs)[1:]),
            "garbage": answer("[["),
        }
        return Reply(kinds[status])

    with FaultServer(script) as server, Invoker(server.url, retries=2, **QUICK) as invoker:
        columns = invoker.predict_columns(ROWS)
        sent = len(server.log)
    check_rows(columns, ROWS, bad=bad)
    expected = "response" if status in ("answers short", "garbage") else "model"
    assert {columns["kind"][i] for i in bad} == {expected}
    if status != "container 500":  # refused for good: halving alone, within 2 k log2(B/k) + 2 k of the bound
        assert sent <= len(ROWS) // 8 + 2 * 3 * len(bad) + 2 * len(bad)


def test_all_rows_bad_at_first_are_not_given_up() -> None:
    """A long run of refusals at the start does not condemn the good rows behind it."""
    texts = [f"bad {i}" for i in range(200)] + [f"good {i}" for i in range(200)]

    def script(request: Request) -> Reply | None:
        return Reply(model_error(400)) if any(t.startswith("bad") for t in request.inputs) else None

    with FaultServer(script) as server, Invoker(server.url, **QUICK) as invoker:
        columns = invoker.predict_columns(texts)
    check_rows(columns, texts, bad=set(range(200)))


def test_systemic_refusal_fails_fast() -> None:
    """Everything is refused alike: a handful of requests, not two for each row."""
    texts = [f"row {i}" for i in range(5000)]
    with FaultServer(lambda r: Reply(model_error(400, "no such parameter"))) as server:
        with Invoker(server.url, **QUICK) as invoker:
            columns = invoker.predict_columns(texts)
        assert len(server.log) < 60
    assert set(columns["kind"]) == {"model"}
    assert "no such parameter" in columns["error"][4999]


def test_dead_endpoint_fails_fast() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Invoker(f"http://127.0.0.1:{port}", backoff=(0.001, 0.01)) as invoker:
        start = time.monotonic()
        columns = invoker.predict_columns(ROWS * 50)
        assert time.monotonic() - start < 2
    assert set(columns["kind"]) == {"network"}
    assert str(port) in columns["error"][0]


def test_throttling_is_ridden_out() -> None:
    """ModelNotReady for a while, and a cap on what runs at once: everything is answered in the end."""
    running, refused, lock = 0, 0, threading.Lock()

    def script(request: Request) -> Reply | None:
        nonlocal running, refused
        if request.number < 6:
            return Reply(answer({"message": "loading"}, 429, {"x-amzn-errortype": "ModelNotReadyException"}))
        with lock:
            running += 1
            over = running > 2
            refused += over
        time.sleep(0.005)
        with lock:
            running -= 1
        return Reply(answer({"message": None}, 400, {"x-amzn-errortype": "ThrottlingException"})) if over else None

    texts = [f"row {i}" for i in range(400)]
    settings = QUICK | {"connections": "auto"}
    with FaultServer(script) as server, Invoker(server.url, **settings) as invoker:
        columns = invoker.predict_columns(texts)
        sent = len(server.log)
    check_rows(columns, texts)
    assert refused <= sent // 4  # no storm: what runs at once and how often was cut


def test_throttled_rate_is_found() -> None:
    """An endpoint that takes 200 requests a second gets little more, and nobody loses a row."""
    tokens, last, refused, lock = 20.0, time.monotonic(), 0, threading.Lock()

    def script(request: Request) -> Reply | None:
        nonlocal tokens, last, refused
        with lock:
            now = time.monotonic()
            tokens, last = min(20.0, tokens + (now - last) * 200), now
            if tokens >= 1:
                tokens -= 1
                return None
            refused += 1
        return Reply(answer({"message": None}, 400, {"x-amzn-errortype": "ThrottlingException"}))

    texts = [f"row {i}" for i in range(500)]
    with FaultServer(script, latency=0.02) as server, Invoker(server.url, batch_size=1) as invoker:
        start = time.monotonic()
        columns = invoker.predict_columns(texts)
        seconds = time.monotonic() - start
    check_rows(columns, texts)
    assert 0 < refused <= 0.15 * len(texts)
    assert len(texts) / seconds > 0.5 * 200


@pytest.mark.parametrize("name", ["Retry-After", "x-amz-retry-after"])
def test_retry_after_is_honoured(name: str) -> None:
    times: list[float] = []

    def script(request: Request) -> Reply | None:
        times.append(time.monotonic())
        value = "1" if name == "Retry-After" else "1000"
        return Reply(answer("busy", 503, {name: value})) if len(times) == 1 else None

    with FaultServer(script) as server, Invoker(server.url, **QUICK) as invoker:
        columns = invoker.predict_columns(ROWS[:4])
    check_rows(columns, ROWS[:4])
    assert 1.0 <= times[1] - times[0] < 2.0


def test_too_large_batches_shrink() -> None:
    texts = [f"row {i} " + "x" * (i % 50) for i in range(300)]
    script = lambda r: Reply(answer("too large", 413)) if len(r.body) > 900 else None  # noqa: E731
    with FaultServer(script) as server, Invoker(server.url, batch_size=64, connections=2) as invoker:
        columns = invoker.predict_columns([*texts, "y" * 2000])
        assert invoker.stats["batch_rows"] < 64
    check_rows(columns, [*texts, "y" * 2000], bad={300})
    assert columns["kind"][300] == "input"


def test_slow_batches_are_halved() -> None:
    """The endpoint needs longer than the timeout for more than four rows."""
    script = lambda r: Reply(answer(results(r.inputs)), delay=2.0 if len(r.inputs) > 4 else 0.0)  # noqa: E731
    with FaultServer(script) as server, Invoker(server.url, **(QUICK | {"batch_size": 16})) as invoker:
        columns = invoker.predict_columns(ROWS)
    check_rows(columns, ROWS)


def test_answer_too_large_is_split() -> None:
    pad = lambda r: [{**row, "pad": "z" * 2000} for row in results(r.inputs)]  # noqa: E731
    with FaultServer(lambda r: Reply(answer(pad(r)))) as server:
        with Invoker(server.url, max_response=5000, **QUICK) as invoker:
            check_rows(invoker.predict_columns(ROWS), ROWS)
        with Invoker(server.url, max_response=1000, **QUICK) as invoker:
            columns = invoker.predict_columns(ROWS[:16])
    assert set(columns["kind"]) == {"response"} and "max_response" in columns["error"][0]


def test_deadline() -> None:
    with FaultServer(lambda r: Reply(answer(results(r.inputs)), delay=0.2)) as server:
        settings = QUICK | {"connections": 1}
        with Invoker(server.url, deadline=0.5, **settings) as invoker:
            start = time.monotonic()
            columns = invoker.predict_columns(ROWS)
            assert 0.4 < time.monotonic() - start < 1.0
    done = [i for i, kind in enumerate(columns["kind"]) if not kind]
    assert 8 <= len(done) <= 24
    check_rows(columns, ROWS, bad=set(range(96)) - set(done))
    assert set(columns["kind"]) == {"", "timeout"} and "deadline of 0.5 s" in columns["error"][95]


def test_chunked_trailers_and_interim_answers() -> None:
    def script(request: Request) -> Reply:
        body = json.dumps(results(request.inputs)).encode()
        parts = [body[i : i + 7] for i in range(0, len(body), 7)]
        chunks = b"".join(f"{len(part):x};x=1\r\n".encode() + part + b"\r\n" for part in parts)
        head = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        return Reply(head + chunks + b"0\r\nX-Trailer: 1\r\n\r\n")

    with FaultServer(script) as server, Invoker(server.url, **QUICK) as invoker:
        check_rows(invoker.predict_columns(ROWS), ROWS)


def test_best_of_several_labels() -> None:
    def script(request: Request) -> Reply:
        low, lower = {"label": "low", "score": -1.0}, {"label": "lower", "score": -2.0}
        return Reply(answer([[low, row, lower] for row in results(request.inputs)]))

    with FaultServer(script) as server, Invoker(server.url, **QUICK) as invoker:
        check_rows(invoker.predict_columns(ROWS), ROWS)


def test_answers_in_another_order() -> None:
    rng = random.Random(7)
    script = lambda r: Reply(answer(results(r.inputs)), delay=rng.random() * 0.05)  # noqa: E731
    with FaultServer(script) as server, Invoker(server.url, **(QUICK | {"connections": 8})) as invoker:
        check_rows(invoker.predict_columns(ROWS), ROWS)


def test_connection_closed_now_and_then() -> None:
    def script(request: Request) -> Reply | None:
        if request.number % 3:
            return None
        return Reply(answer(results(request.inputs), 200, {"Connection": "close"}), "close")

    with FaultServer(script) as server, Invoker(server.url, **QUICK) as invoker:
        check_rows(invoker.predict_columns(ROWS), ROWS)


def test_stale_connections() -> None:
    """The server hangs up on idle connections between calls: nobody notices."""
    with FaultServer(lambda r: Reply(whole(r), "close")) as server, Invoker(server.url, **QUICK) as invoker:
        for _ in range(5):
            check_rows(invoker.predict_columns(ROWS[:8]), ROWS[:8])


def test_restart_in_the_middle() -> None:
    texts = [f"row {i}" for i in range(400)]
    first = FaultServer(latency=0.01)
    outcome: dict[str, Any] = {}
    with first:
        port = first.port
        invoker = Invoker(first.url, batch_size=4, connections=2, backoff=(0.02, 0.3))
        thread = threading.Thread(target=lambda: outcome.update(invoker.predict_columns(texts)))
        thread.start()
        time.sleep(0.15)
    time.sleep(0.6)
    with FaultServer(port=port):
        thread.join(20)
    invoker.close()
    assert not thread.is_alive()
    check_rows(outcome, texts)


def test_many_faults_in_one_run() -> None:
    """Many faults at random in one run; the server's log and the results tell the same story."""
    rng = random.Random(99)
    names = [n for n in TRANSIENT if n not in ("dripping head", "header of a megabyte")]
    texts = [f"row {i}" for i in range(1500)]

    def script(request: Request) -> Reply | None:
        return FAULTS[rng.choice(names)][0](request) if rng.random() < 0.2 else None

    with FaultServer(script) as server, Invoker(server.url, retries=9, **(QUICK | {"batch_size": 16})) as invoker:
        columns = invoker.predict_columns(texts)
        counts = server.executions()
        stats = invoker.stats
    check_rows(columns, texts)
    # Executions that we did not count are libcurl's own repeats on a connection that had just died.
    assert all(counts[text] >= 1 for text in texts)
    assert stats["rows"] == 1500 and stats["rows_failed"] == 0 and stats["retries"] > 10
