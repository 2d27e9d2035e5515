"""The friendly face: DataFrames, wrong input, names, Ctrl-C, fork, threads, keep-alive, proxies, limits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import smhf_native as smhf
from smhf_native.errors import BackendError, HTTPError
from smhf_native.invoker import ROW_ERRORS, EndpointLookupError, Invoker, service_url
from tests.support.fault_server import FaultServer, Reply, Request, answer, label_of, results, score_of

TEXTS = [f"row {i}" for i in range(100)]


def test_series_to_frame() -> None:
    series = pd.Series(TEXTS, index=[f"id{i}" for i in range(99, -1, -1)])
    with FaultServer() as server, smhf.Invoker(server.url) as invoker:
        table = invoker.predict(series)
    assert list(table.columns) == ["label", "score", "error"]
    assert list(table.index) == list(series.index)
    assert list(table["label"]) == [label_of(t) for t in TEXTS]
    assert list(table["score"]) == [score_of(t) for t in TEXTS]
    assert all(value is None for value in table["error"])


@pytest.mark.parametrize("make", [list, tuple, iter, np.array, lambda t: np.array(t, object), pd.Index], ids=str)
def test_kinds_of_sequences(make: Any) -> None:
    with FaultServer() as server, Invoker(server.url) as invoker:
        table = invoker.predict(make(TEXTS))
        assert len(invoker.predict([])) == 0
        sent = len(server.log)
        assert len(invoker.predict_columns([])["label"]) == 0
        assert len(server.log) == sent  # nothing to ask
    assert list(table["label"]) == [label_of(t) for t in TEXTS]
    assert table.index.equals(pd.RangeIndex(100))


def test_what_is_no_text_fails_alone() -> None:
    odd: list[Any] = [None, float("nan"), 3, pd.NA, ["x"], "\ud800", b"\xff", "good", b"caf\xc3\xa9", "", "\0\x1f\x7f"]
    with FaultServer() as server, Invoker(server.url) as invoker:
        table = invoker.predict(odd)
        texts = [text for request in server.log for text in request.inputs]
    assert texts == ["good", "café", "", "\0\x1f\x7f"]
    errors = list(table["error"])
    assert [e is None for e in errors] == [False] * 7 + [True] * 4
    assert errors[0] == "input: expected a text, got NoneType"
    assert errors[1] == "input: expected a text, got float nan"
    assert "U+D800" in errors[5] and "UTF-8 (byte 0)" in errors[6]
    assert table["label"][8] == label_of("café")


def test_every_character_arrives() -> None:
    scalars = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    chunks = ["".join(map(chr, scalars[i : i + 3000])) for i in range(0, len(scalars), 3000)]
    chunks += ["x" * 5000 + "\xff" * 5000, "\u0100" * 9000 + '"', "\U00010000" * 4097]
    with FaultServer() as server, Invoker(server.url, connections=1, batch_size=16) as invoker:
        columns = invoker.predict_columns(chunks)
        assert [text for request in server.log for text in request.inputs] == chunks
    assert not any(columns["kind"])


def test_requests_are_batched_and_closed_by_bytes() -> None:
    texts = ["x" * 1000] * 40
    with FaultServer() as server, Invoker(server.url, batch_bytes=10_000, batch_size=16) as invoker:
        invoker.predict_columns(texts)
        assert {len(r.inputs) for r in server.log} == {9, 4} and all(len(r.body) <= 10_002 for r in server.log)
    with FaultServer() as server, Invoker(server.url, parameters={"truncation": True, "top_k": None}) as invoker:
        invoker.predict_columns(TEXTS)
        body = json.loads(server.log[0].body)
        assert body["parameters"] == {"truncation": True, "top_k": None} and len(body["inputs"]) == 32
        assert server.log[0].headers["content-type"] == "application/json"
        assert "expect" not in server.log[0].headers


def test_automatic_batches_grow() -> None:
    texts = [f"row {i}" for i in range(8000)]
    with FaultServer(latency=0.01) as server, Invoker(server.url) as invoker:
        columns = invoker.predict_columns(texts)
        assert invoker.stats["batch_rows"] > 32
        assert len(server.log) < 8000 / 32
    assert list(columns["label"]) == [label_of(t) for t in texts]


def test_connections_are_kept() -> None:
    with FaultServer() as server, Invoker(server.url, batch_size=1, connections=3) as invoker:
        for _ in range(3):
            invoker.predict_columns(TEXTS)
        assert invoker.stats["requests"] == 300 == len(server.log)
        assert server.connections <= 3
        assert invoker.stats["connections_opened"] == server.connections


def test_automatic_connections_stay_below_the_cap() -> None:
    with FaultServer(latency=0.002) as server, Invoker(server.url, batch_size=1) as invoker:
        invoker.predict_columns([f"row {i}" for i in range(1500)])
        assert 4 < server.connections <= 16


def test_no_proxy_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultServer() as proxy, FaultServer() as server:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        with Invoker(server.url) as invoker:
            assert not any(invoker.predict_columns(TEXTS)["kind"])
        with Invoker(server.url.replace("127.0.0.1", "localhost")) as invoker:
            assert not any(invoker.predict_columns(TEXTS)["kind"])
        assert proxy.connections == 0


def test_raw_call() -> None:
    def script(request: Request) -> Reply:
        assert request.headers["content-type"] == "text/csv" and request.headers["accept"] == "x/y"
        assert request.headers["x-amzn-sagemaker-target-model"] == "m"
        return Reply(answer(request.body[::-1], 418, {"X-Two": "a", "Content-Type": "x/z"}))

    with FaultServer(script) as server, Invoker(server.url + "/a/b", headers={"X-Mine": "1"}) as invoker:
        status, headers, body = invoker.invoke(
            "ab\xe9", content_type="text/csv", accept="x/y", headers={"X-Amzn-SageMaker-Target-Model": "m"}
        )
        assert (status, body) == (418, "ab\xe9".encode()[::-1])
        assert headers["x-two"] == "a" and headers["content-type"] == "x/z"
        assert server.log[0].path == "/a/b" and server.log[0].headers["x-mine"] == "1"
        with pytest.raises(ValueError, match="control characters"):
            invoker.invoke(b"", headers={"X": "a\r\nY: b"})
        with pytest.raises(TypeError):
            invoker.invoke(3)  # type: ignore[arg-type]


def test_raw_call_failures() -> None:
    with FaultServer(lambda r: Reply(answer("x" * 100)[:-5], "close")) as server:
        with Invoker(server.url) as invoker, pytest.raises(HTTPError):
            invoker.invoke(b"{}")
        assert len(server.log) == 1  # it may have been executed: not sent again
    with FaultServer(lambda r: Reply(after="hang")) as server:
        with Invoker(server.url, timeout=0.2) as invoker, pytest.raises(TimeoutError):
            invoker.invoke(b"{}")
    with Invoker(server.url, backoff=(0.001, 0.01)) as invoker, pytest.raises(OSError, match="connect"):
        invoker.invoke(b"{}")


def interrupt_after(seconds: float) -> threading.Timer:
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return timer


def test_ctrl_c_keeps_what_is_answered() -> None:
    script = lambda r: Reply(answer(results(r.inputs)), delay=0 if r.number < 3 else 20)  # noqa: E731
    with FaultServer(script) as server, Invoker(server.url, batch_size=10, connections=2) as invoker:
        interrupt_after(0.4)
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt) as caught:
            invoker.predict(pd.Series(TEXTS, index=range(1, 101)))
        assert time.monotonic() - start < 0.9
        table = caught.value.partial  # type: ignore[attr-defined]
        assert list(table.index) == list(range(1, 101))
        done = table["error"].isna()
        assert done.sum() == 30
        assert list(table["label"][done]) == [label_of(t) for t, d in zip(TEXTS, done, strict=True) if d]
        assert set(table["error"][~done]) == {"cancelled: stopped before it was answered"}
        interrupt_after(0.2)
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            invoker.invoke(b'{"inputs": []}')
        assert time.monotonic() - start < 0.7


def test_ctrl_c_while_another_thread_calls() -> None:
    script = lambda r: Reply(answer(results(r.inputs)), delay=1.0)  # noqa: E731
    with FaultServer(script) as server, Invoker(server.url) as invoker:
        thread = threading.Thread(target=invoker.predict_columns, args=(["a"],))
        thread.start()
        time.sleep(0.1)
        interrupt_after(0.2)
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt) as caught:
            invoker.predict_columns(TEXTS)
        assert time.monotonic() - start < 0.7
        assert set(caught.value.partial["kind"]) == {"cancelled"}  # type: ignore[attr-defined]
        thread.join(5)


def test_memory_is_given_back() -> None:
    """Two hundred invokers, calls and failures later the process is no larger."""
    code = """
import gc, resource, sys
from smhf_native.invoker import Invoker
texts = ["text %d" % i for i in range(64)] + [None, "bad"]
def once():
    keys = lambda: ("key", "secret", "t" * 500)
    with Invoker(sys.argv[1], parameters={"a": 1}, region="eu-west-1", credentials=keys) as i:
        i.predict_columns(texts)
        i.invoke("{}")
def size():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
for _ in range(60):
    once()
before = size()
for _ in range(200):
    once()
grown = size() - before
assert grown < 600_000, grown
"""

    def script(request: Request) -> Reply | None:
        bad = request.body == b"{}" or "bad" in request.inputs
        return Reply(answer({"message": "m"}, 422)) if bad else None

    with FaultServer(script) as server:
        root = Path(__file__).resolve().parents[3]
        command = [sys.executable, "-c", code, server.url]
        ran = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=60, check=False)
        assert ran.returncode == 0, ran.stderr


def test_eight_threads_on_one_invoker() -> None:
    wrong: list[Any] = []
    with FaultServer() as server, Invoker(server.url, batch_size=7, connections=4) as invoker:

        def work(number: int) -> None:
            for turn in range(4):
                texts = [f"{number}/{turn}/{i}" for i in range(60)]
                columns = invoker.predict_columns(texts)
                if list(columns["label"]) != [label_of(t) for t in texts]:
                    wrong.append(number)
                if invoker.invoke(json.dumps({"inputs": texts[:1]}))[0] != 200:
                    wrong.append(number)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads)
        assert invoker.stats["rows"] == 8 * 4 * 60
        assert server.connections <= 4
    assert not wrong


def test_close_while_another_thread_calls() -> None:
    with FaultServer(latency=0.02) as server:
        invoker = Invoker(server.url, batch_size=5, connections=1)
        outcome: dict[str, Any] = {}
        thread = threading.Thread(target=lambda: outcome.update(invoker.predict_columns(TEXTS)))
        thread.start()
        time.sleep(0.05)
        invoker.close()
        invoker.close()
        thread.join(10)
        assert list(outcome["label"]) == [label_of(t) for t in TEXTS]  # what runs is finished
        for call in (lambda: invoker.predict(["x"]), lambda: invoker.invoke(b""), lambda: invoker.stats):
            with pytest.raises(ValueError, match="closed"):
                call()
        assert "closed" in repr(invoker)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_fork() -> None:
    """The child opens its own connections; the parent's stay whole, even when a call was running."""
    with FaultServer(latency=0.01) as server, Invoker(server.url, batch_size=4, connections=2) as invoker:
        invoker.predict_columns(TEXTS)
        before = server.connections
        outcome: dict[str, Any] = {}
        thread = threading.Thread(target=lambda: outcome.update(invoker.predict_columns(TEXTS)))
        thread.start()
        time.sleep(0.05)
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            columns = invoker.predict_columns(TEXTS[:50])
            right = list(columns["label"]) == [label_of(t) for t in TEXTS[:50]]
            invoker.close()
            os._exit(0 if right else 1)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        thread.join(20)
        assert status == 0
        assert list(outcome["label"]) == [label_of(t) for t in TEXTS]
        opened = server.connections
        assert opened > before  # the child's
        invoker.predict_columns(TEXTS)
        assert server.connections == opened  # the parent's were not hung up


def test_few_file_descriptors() -> None:
    code = """
import resource, sys
from tests.support.fault_server import FaultServer, label_of
from smhf_native.invoker import Invoker
import os
texts = [f"row {i}" for i in range(200)]
with Invoker(sys.argv[1], batch_size=2, connections=32, backoff=(0.001, 0.05), retries=8) as invoker:
    used = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 4, used + 4))
    columns = invoker.predict_columns(texts)
assert list(columns["label"]) == [label_of(t) for t in texts], set(columns["error"])
"""
    with FaultServer() as server:
        command = [sys.executable, "-c", code, server.url]
        root = Path(__file__).resolve().parents[3]
        ran = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=60, check=False)
        assert ran.returncode == 0, ran.stderr


def test_names_of_local_endpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMHF_HOME", str(tmp_path))
    monkeypatch.delenv("SMHF_MODE", raising=False)
    with pytest.raises(EndpointLookupError, match="endpoints here: none"):
        Invoker("my-endpoint")
    with FaultServer() as server:
        (tmp_path / "endpoints").mkdir()
        (tmp_path / "endpoints" / "my-endpoint.json").write_text(json.dumps({"url": server.url, "name": "x"}))
        with Invoker("my-endpoint") as invoker:
            assert invoker.predict(["a"])["label"][0] == label_of("a")
        assert server.log[0].path == "/endpoints/my-endpoint/invocations"
    with pytest.raises(EndpointLookupError, match="endpoints here: my-endpoint"):
        Invoker("other")
    (tmp_path / "endpoints" / "torn.json").write_text("{")
    with pytest.raises(EndpointLookupError, match="unreadable"):
        Invoker("torn")
    for name in ("../x", "a/b", "", "-a", "a" * 64, "x y"):
        with pytest.raises(ValueError, match="expected a url"):
            Invoker(name)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"batch_size": 0}, "batch_size 0"),
        ({"batch_size": "many"}, "batch_size 'many'"),
        ({"connections": 1000}, "connections 1000"),
        ({"connections": True}, "connections True"),
        ({"timeout": 0}, "timeout 0"),
        ({"timeout": float("nan")}, "timeout nan"),
        ({"deadline": -1}, "deadline -1"),
        ({"retries": -1}, "retries -1"),
        ({"parameters": {"x": float("nan")}}, "(?i)json"),
        ({"headers": {"a b": "c"}}, "header 0"),
        ({"headers": {"a": "c\n"}}, "header 0"),
        ({"backoff": (-1, 1)}, "backoff"),
        ({"credentials": ("k", "s")}, "no region"),
        ({"region": "eu west"}, "region"),
        ({"fips": True}, "url has chosen"),
    ],
)
def test_arguments_are_checked(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        keys = {"credentials": ("key", "secret")} if "region" in arguments else {}
        Invoker("http://127.0.0.1:1", **(keys | arguments))


def test_urls() -> None:
    assert Invoker("http://127.0.0.1:1/").url == "http://127.0.0.1:1/invocations"
    assert Invoker("http://[::1]:1/x").url == "http://[::1]:1/x"
    for url in ("ftp://127.0.0.1/", "http://", "file:///etc/passwd"):
        with pytest.raises(ValueError, match="expected http"):
            Invoker(url)
    with pytest.raises(ValueError, match="user name or password") as caught:
        Invoker("http://me:hunter2@127.0.0.1:1/")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(BackendError, match="plain http goes to loopback only"):
        Invoker("http://example.invalid/x")
    Invoker("http://example.invalid/x", allow_http=True).close()


def test_texts_of_the_wrong_shape() -> None:
    with Invoker("http://127.0.0.1:1/") as invoker:
        table = pd.DataFrame({"a": ["x"]})
        for value, match in (("text", "one str"), (table, "DataFrame"), ({"a": 1}, "dict"), (3, "int")):
            with pytest.raises(TypeError, match=match):
                invoker.predict(value)  # type: ignore[arg-type]


def test_service_addresses_agree_with_botocore(peer: Any) -> None:
    botocore_session = peer("botocore.session")
    session = botocore_session.Session()
    loader = session.get_component("data_loader")
    ruleset = loader.load_service_model("sagemaker-runtime", "endpoint-rule-set-1")
    partitions = loader.load_data("partitions")
    provider = peer("botocore.endpoint_provider").EndpointProvider(ruleset, partitions)
    regions = {r for p in partitions["partitions"] for r in p["regions"]} | {"us-west-9", "xx-new-1", "cn-south-7"}
    checked = 0
    for region in sorted(regions):
        for fips in (False, True):
            for dualstack in (False, True):
                expected = provider.resolve_endpoint(Region=region, UseFIPS=fips, UseDualStack=dualstack).url
                assert service_url(region, fips, dualstack) == expected
                checked += 1
    assert checked > 150
    for wrong in ("", "us west", "a/b", "US-EAST-1", "x" * 64):
        with pytest.raises(ValueError, match="region"):
            service_url(wrong)


def test_row_errors_are_what_the_header_says() -> None:
    assert ROW_ERRORS == (
        "", "input", "model", "http", "network", "timeout", "response", "auth", "throttled", "cancelled",
    )  # fmt: skip
