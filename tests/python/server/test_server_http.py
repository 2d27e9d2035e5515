"""The server over real sockets, with endpoints written in Python; expectations come from the
transformers pipeline's own source of shapes (see test_server_shapes.py) and from HTTP's rules."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from smhf_native.server import MAX_MESSAGE, Server

LABELS = ["LABEL_0", "LABEL_1", "LABEL_2"]


def length_scores(rows):
    """Label 0 scores by the text's length: what comes back tells which row it was."""
    answers = []
    for text, pair, _truncation, _function, _length in rows:
        if text == "bad":
            answers.append(ValueError("this text is bad"))
        elif text == "poison":
            raise ValueError("poison in the batch")
        else:
            answers.append([min(len(text), 900) / 1000, 0.1, 0.9 if pair else 0.05])
    return answers


@pytest.fixture
def server():
    with Server() as running:
        running.add_function("demo", length_scores, LABELS)
        yield running


def post(server, body, *, path="/invocations", headers=None, connection=None):
    own = connection is None
    connection = connection or http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, data, headers or {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        if own:
            connection.close()


def ping(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", "/ping")
    status = connection.getresponse().status
    connection.close()
    return status


def test_one_text_and_many(server):
    assert ping(server) == 200
    status, headers, body = post(server, {"inputs": "x" * 700})
    assert (status, json.loads(body)) == (200, [{"label": "LABEL_0", "score": pytest.approx(0.7)}])
    assert headers["Content-Type"] == "application/json"
    status, _, body = post(server, {"inputs": ["x" * n for n in range(500, 520)]})
    scores = [row["score"] for row in json.loads(body)]
    assert scores == pytest.approx([n / 1000 for n in range(500, 520)])


def test_unicode_and_escapes_reach_the_endpoint():
    seen = []

    def remember(rows):
        seen.extend(row[0] for row in rows)
        return [[1.0, 0.0, 0.0]] * len(rows)

    texts = ["naïve ☃ 😀", 'quote " back \\ slash', "line\nbreak\ttab", "", "nul\0inside", "é" * 1000]
    with Server() as server:
        server.add_function("echo", remember, LABELS)
        for ascii_only in (True, False):
            seen.clear()
            body = json.dumps({"inputs": texts}, ensure_ascii=ascii_only).encode()
            assert post(server, body)[0] == 200
            assert seen == texts


def test_parameters_reach_the_endpoint():
    seen = []

    def remember(rows):
        seen.extend(rows)
        return [[1.0, 0.0, 0.0]] * len(rows)

    with Server() as server:
        server.add_function("echo", remember, LABELS)
        for parameters, expected in [
            ({}, ("default", "default", 0)),
            ({"truncation": True, "max_length": 128}, ("longest_first", "default", 128)),
            ({"truncation": False}, ("do_not_truncate", "default", 0)),
            ({"truncation": "only_second", "function_to_apply": "SIGMOID"}, ("only_second", "sigmoid", 0)),
            ({"function_to_apply": "none", "padding": "max_length"}, ("default", "none", 0)),
            ({"batch_size": 8, "padding": True, "top_k": None}, ("default", "default", 0)),
        ]:
            seen.clear()
            assert post(server, {"inputs": "a", "parameters": parameters})[0] == 200
            assert seen == [("a", None, *expected)]
        seen.clear()
        assert post(server, {"inputs": [{"text": "a", "text_pair": "b"}, {"text": "c"}]})[0] == 200
        assert [row[:2] for row in seen] == [("a", "b"), ("c", None)]


def test_csv_in_and_out(server):
    import csv
    import io

    table = io.StringIO()
    writer = csv.DictWriter(table, ["id", "inputs"])
    writer.writeheader()
    texts = ["plain", 'a, "quoted" one', "two\nlines", "x" * 400]
    writer.writerows({"id": n, "inputs": text} for n, text in enumerate(texts))
    status, headers, body = post(
        server, table.getvalue().encode(), headers={"Content-Type": "text/csv", "Accept": "text/csv"}
    )
    assert status == 200
    assert headers["Content-Type"] == "text/csv"
    rows = list(csv.DictReader(io.StringIO(body.decode(), newline="")))
    assert [row["label"] for row in rows] == ["LABEL_1", "LABEL_1", "LABEL_1", "LABEL_0"]
    assert float(rows[3]["score"]) == pytest.approx(0.4)
    status, _, body = post(server, b"question,context\na,b\n", headers={"Content-Type": "text/csv"})
    assert status == 400
    assert "inputs" in json.loads(body)["message"]


@pytest.mark.parametrize(
    ("headers", "word"),
    [
        ({"Content-Type": "image/png"}, "image/png"),
        ({"Content-Type": "application/json", "Accept": "image/png"}, "image/png"),
        ({"Content-Type": "application/x-npy"}, "application/x-npy"),
    ],
)
def test_unsupported_types(server, headers, word):
    status, _, body = post(server, {"inputs": "a"}, headers=headers)
    assert status == 400
    error = json.loads(body)
    assert error["code"] == 400
    assert error["type"] == "InternalServerException"
    assert word in error["message"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "application/json; charset=utf-8"},
        {"Content-Type": "application/json", "Accept": "*/*"},
        {"Content-Type": "Application/JSON", "Accept": "text/html, application/json;q=0.9"},
    ],
)
def test_types_taken(server, headers):
    status, answer_headers, _ = post(server, {"inputs": "a"}, headers=headers)
    assert (status, answer_headers["Content-Type"]) == (200, "application/json")


def test_service_face(server):
    status, headers, body = post(server, {"inputs": "a"}, path="/endpoints/demo/invocations")
    assert status == 200
    assert headers["x-Amzn-Invoked-Production-Variant"] == "AllTraffic"
    assert headers["x-amzn-RequestId"]
    status, headers, body = post(server, {"inputs": "a"}, path="/endpoints/other/invocations")
    assert (status, headers["x-amzn-errortype"]) == (400, "ValidationError")
    status, headers, body = post(server, {"inputs": "bad"}, path="/endpoints/demo/invocations")
    error = json.loads(body)
    assert (status, headers["x-amzn-errortype"]) == (424, "ModelError")
    assert error["OriginalStatusCode"] == 400
    assert json.loads(error["OriginalMessage"])["message"] == "inputs: this text is bad"


def test_a_bad_row_costs_nobody_else():
    gate, entered = threading.Event(), threading.Event()

    def gated(rows):
        entered.set()
        gate.wait(10)
        return length_scores(rows)

    with Server() as server, concurrent.futures.ThreadPoolExecutor(12) as pool:
        server.add_function("demo", gated, LABELS)
        first = pool.submit(post, server, {"inputs": "first"})
        assert entered.wait(10)
        bodies = [{"inputs": [f"text {n}", "more"]} for n in range(8)]
        bodies[3] = {"inputs": ["fine", "poison"]}
        bodies[5] = {"inputs": "bad"}
        others = [pool.submit(post, server, body) for body in bodies]
        while server.stats()["queued"] < 8:
            time.sleep(0.002)
        started = time.perf_counter()
        assert ping(server) == 200  # answered while the only worker is stuck
        assert time.perf_counter() - started < 1.0
        gate.set()
        results = [job.result(20) for job in [first, *others]]
        stats = server.stats()
    statuses = [status for status, _, _ in results]
    assert statuses == [200, 200, 200, 200, 400, 200, 400, 200, 200]
    assert "inputs[1]: poison" in json.loads(results[4][2])["message"]
    assert stats["batches"] == 2
    assert stats["shared_batches"] == 1
    assert stats["largest_batch"] == 15


def test_batch_limits_hold():
    sizes = []

    def measure(rows):
        sizes.append((len(rows), sum(len(row[0]) for row in rows)))
        return length_scores(rows)

    with Server(max_batch_rows=7, max_batch_tokens=60) as server:
        server.add_function("demo", measure, LABELS)
        texts = ["x" * (n % 90 + 1) for n in range(200)]
        status, _, body = post(server, {"inputs": texts})
        assert status == 200
        scores = [row["score"] for row in json.loads(body)]
    assert scores == pytest.approx([max(len(text) / 1000, 0.1) for text in texts])
    assert sum(rows for rows, _ in sizes) == 200
    assert max(rows for rows, _ in sizes) == 7
    assert all(rows == 1 or 2 * rows + size // 4 - rows <= 60 for rows, size in sizes)


def test_full_queue_says_when_to_come_back():
    gate, entered = threading.Event(), threading.Event()

    def gated(rows):
        entered.set()
        gate.wait(10)
        return length_scores(rows)

    with Server(max_queue=2, retry_after=7) as server, concurrent.futures.ThreadPoolExecutor(4) as pool:
        server.add_function("demo", gated, LABELS)
        jobs = [pool.submit(post, server, {"inputs": "a"})]
        assert entered.wait(10)
        jobs += [pool.submit(post, server, {"inputs": "a"}) for _ in range(2)]
        while server.stats()["queued"] < 2:
            time.sleep(0.002)
        status, headers, body = post(server, {"inputs": "a"})
        assert (status, headers["Retry-After"]) == (503, "7")
        assert json.loads(body)["code"] == 503
        gate.set()
        assert [job.result(20)[0] for job in jobs] == [200, 200, 200]


def test_size_limit_is_the_containers(server):
    assert MAX_MESSAGE == 6_553_500
    text = "a" * (MAX_MESSAGE - len(b'{"inputs": ""}'))
    assert post(server, {"inputs": text})[0] == 200
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    status, _, body = post(server, {"inputs": text + "a"}, connection=connection)
    assert status == 413
    assert json.loads(body)["code"] == 413
    assert post(server, {"inputs": "a"}, connection=connection)[0] == 200  # the connection lives on
    connection.close()


def test_not_a_number_never_leaves():
    with Server() as server:
        server.add_function("demo", lambda rows: [[float("nan"), 0.1, 0.2]] * len(rows), LABELS)
        status, _, body = post(server, {"inputs": "a"})
    assert status == 400
    assert "not a finite number" in json.loads(body)["message"]


def test_scores_are_float32_widened(server):
    import numpy as np

    values = np.random.default_rng(3).random(200).astype(np.float32)

    def given(rows):
        return [[float(values[int(row[0])]), 0.0, 0.0] for row in rows]

    with Server() as other:
        other.add_function("demo", given, LABELS)
        _, _, body = post(other, {"inputs": [str(n) for n in range(200)], "parameters": {"top_k": None}})
    answers = [next(e["score"] for e in row if e["label"] == "LABEL_0") for row in json.loads(body)]
    assert answers == [float(value) for value in values]


def test_slow_client_holds_up_nobody(server):
    slow = socket.create_connection(("127.0.0.1", server.port))
    slow.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n")
    body = b'{"inputs":"a"}'
    for index in range(len(body)):
        assert post(server, {"inputs": "b"})[0] == 200
        slow.sendall(body[index : index + 1])
    slow.settimeout(10)
    assert slow.recv(4096).startswith(b"HTTP/1.1 200")
    slow.close()


def test_body_that_never_comes_is_given_up():
    with Server(deadline=0.3) as server:
        server.add_function("demo", length_scores, LABELS)
        slow = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        slow.sendall(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{")
        time.sleep(0.5)
        slow.sendall(b'"')
        assert slow.recv(4096) == b""
        slow.close()
        assert server.stats()["slow"] == 1


def test_deadline_covers_running_work():
    gate = threading.Event()

    def stuck(rows):
        gate.wait(10)
        return length_scores(rows)

    with Server(deadline=0.3) as server:
        server.add_function("demo", stuck, LABELS)
        status, _, body = post(server, {"inputs": "a"})
        assert status == 503
        assert "deadline of 0.3 s" in json.loads(body)["message"]
        gate.set()
        assert post(server, {"inputs": "a"})[0] == 200


def test_reset_client_is_dropped():
    gate, entered, seen = threading.Event(), threading.Event(), []

    def gated(rows):
        entered.set()
        gate.wait(10)
        seen.extend(row[0] for row in rows)
        return length_scores(rows)

    with Server() as server, concurrent.futures.ThreadPoolExecutor(2) as pool:
        server.add_function("demo", gated, LABELS)
        first = pool.submit(post, server, {"inputs": "first"})
        assert entered.wait(10)
        leaver = socket.create_connection(("127.0.0.1", server.port))
        head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
        leaver.sendall(head % 20 + b'{"inputs":"leaving"}')
        leaver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        while server.stats()["queued"] < 1:
            time.sleep(0.002)
        leaver.close()
        second = socket.create_connection(("127.0.0.1", server.port))
        second.sendall(head % 19 + b'{"inputs":"closed"}')
        while server.stats()["queued"] + server.stats()["gone"] < 2:
            time.sleep(0.002)
        second.close()
        gate.set()
        assert first.result(10)[0] == 200
        assert post(server, {"inputs": "last"})[0] == 200
    assert seen == ["first", "last"]


def test_pipelined_requests_are_answered_in_order(server):
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    wire = b""
    for count in range(1, 9):
        body = json.dumps({"inputs": "x" * (100 * count)}).encode()
        wire += b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    connection.sendall(wire)
    scores, file = [], connection.makefile("rb")
    for _ in range(8):
        assert file.readline().startswith(b"HTTP/1.1 200")
        length = 0
        while (line := file.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        scores.append(json.loads(file.read(length))[0]["score"])
    assert scores == pytest.approx([n / 10 for n in range(1, 9)])
    connection.close()


@pytest.mark.parametrize(
    "wire",
    [
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity, chunked\r\n\r\n{}",
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 0x2\r\n\r\n{}",
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"NONSENSE\r\n\r\n",
        b"GET /ping HTTP/1.1\r\nHost: x\r\nBig: " + b"a" * 100_000 + b"\r\n\r\n",
    ],
)
def test_malformed_requests_are_refused(server, wire):
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    try:
        connection.sendall(wire)
        answer = connection.recv(65536)
    except ConnectionError:
        answer = b""
    connection.close()
    assert answer == b"" or answer.split(b" ")[1] in (b"400", b"413", b"414", b"431")
    assert ping(server) == 200


def test_expect_continue(server):
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    head = "POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n"
    connection.sendall(head.format(14).encode())
    assert connection.recv(4096).startswith(b"HTTP/1.1 100")
    connection.sendall(b'{"inputs":"a"}')
    assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    connection.sendall(head.format(MAX_MESSAGE + 1).encode())
    assert connection.recv(4096).startswith(b"HTTP/1.1 413")  # nothing had to be sent
    connection.close()


def test_chunked_body(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    pieces = [b'{"inp', b'uts":["', b"x" * 700, b'"]}']
    connection.request("POST", "/invocations", iter(pieces), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    assert json.loads(answer.read())[0]["score"] == pytest.approx(0.7)
    connection.close()


def test_connections_beyond_the_limit_wait():
    with Server(max_connections=2) as server:
        server.add_function("demo", length_scores, LABELS)
        first = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(2)]
        while server.stats()["connections"] < 2:
            time.sleep(0.002)
        third = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        third.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        third.settimeout(0.3)
        with pytest.raises(TimeoutError):
            third.recv(100)
        first[0].close()
        third.settimeout(10)
        assert third.recv(100).startswith(b"HTTP/1.1 200")
        for connection in (*first, third):
            connection.close()


def test_bodies_held_at_once_are_bounded():
    with Server(max_memory_bytes=1_000_000) as server:
        server.add_function("demo", length_scores, LABELS)
        holder = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        holder.sendall(
            b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n" + b" " * 800_000
        )
        while server.stats()["memory_bytes"] < 800_000:
            time.sleep(0.002)
        status, headers, _ = post(server, {"inputs": "x" * 300_000})
        assert status == 503
        assert "Retry-After" in headers
        assert post(server, {"inputs": "x" * 1000})[0] == 200
        holder.close()
        while server.stats()["memory_bytes"] > 0:
            time.sleep(0.002)
        assert post(server, {"inputs": "x" * 300_000})[0] == 200


def test_servers_leave_nothing_behind():
    def threads():
        return len(os.listdir("/proc/self/task"))

    def files():
        return len(os.listdir("/proc/self/fd"))

    def once():
        with Server() as server:
            server.add_function("demo", length_scores, LABELS, workers=3)
            assert post(server, {"inputs": "a"})[0] == 200

    once()
    before = threads(), files()
    for _ in range(15):
        once()
    assert (threads(), files()) == before


def test_unknown_paths_and_methods(server):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    for method, path, expected in [
        ("GET", "/", 404),
        ("GET", "/invocations", 405),
        ("PUT", "/ping", 405),
        ("POST", "/endpoints/a%2Fb/invocations", 404),
        ("POST", "/endpoints//invocations", 404),
        ("POST", "/models/x/invoke", 404),
    ]:
        connection.request(method, path)
        answer = connection.getresponse()
        answer.read()
        assert (method, path, answer.status) == (method, path, expected)
        connection.close()


def test_port_in_use(server):
    with pytest.raises(OSError, match=f"port {server.port} on 127.0.0.1 is in use"):
        Server(port=server.port)


def test_endpoints_come_and_go(server):
    with pytest.raises(ValueError, match="taken"):
        server.add_function("demo", length_scores, LABELS)
    with pytest.raises(ValueError, match="letters"):
        server.add_function("no_underscores", length_scores, LABELS)
    with pytest.raises(ValueError, match="at least one label"):
        server.add_function("empty", length_scores, [])
    server.add_function("second", length_scores, LABELS)
    assert server.has_endpoint("second")
    assert post(server, {"inputs": "a"}, path="/endpoints/second/invocations")[0] == 200
    server.remove_endpoint("second")
    assert not server.has_endpoint("second")
    assert post(server, {"inputs": "a"}, path="/endpoints/second/invocations")[0] == 400
    with pytest.raises(ValueError, match="none of this name"):
        server.remove_endpoint("second")


def test_handlers_answer_whole_requests(server):
    def handler(body, content_type, accept, attributes):
        if body == b"boom":
            raise RuntimeError("handler said no")
        return body[::-1], f"text/x-{len(attributes)}"

    server.add_handler("whole", handler)
    path = "/endpoints/whole/invocations"
    status, headers, body = post(
        server, b"abc", path=path, headers={"X-Amzn-SageMaker-Custom-Attributes": "k=v"}
    )
    assert (status, headers["Content-Type"], body) == (200, "text/x-3", b"cba")
    status, _, body = post(server, b"boom", path=path)
    assert status == 424
    assert "handler said no" in json.loads(body)["OriginalMessage"]


def test_many_clients_at_once(server):
    def client(seed):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        for n in range(40):
            count = 200 + (seed * 40 + n) % 600
            status, _, body = post(server, {"inputs": ["x" * count, "y"]}, connection=connection)
            assert status == 200
            assert json.loads(body)[0]["score"] == pytest.approx(count / 1000)
        connection.close()
        return 40

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(client, range(8))) == 320
    stats = server.stats()
    assert stats["rows"] == 640
    assert stats["connections"] == 8
    assert stats["in_flight"] == 0
    assert stats["memory_bytes"] == 0


def test_sigterm_drains(tmp_path):
    program = textwrap.dedent(
        """
        import signal, sys, threading, time
        from smhf_native.server import Server

        def slow(rows):
            time.sleep(2.0)
            return [[0.5, 0.1]] * len(rows)

        server = Server()
        server.add_function("demo", slow, ["A", "B"])
        done = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: done.set())
        print(server.port, flush=True)
        while not done.wait(0.05):
            pass
        server.stop(timeout=20)
        sys.exit(0)
        """
    )
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment, text=True
    )
    try:
        port = int(process.stdout.readline())

        class At:
            pass

        at = At()
        at.port = port
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            jobs = [pool.submit(post, at, {"inputs": "a"}) for _ in range(5)]
            time.sleep(0.3)
            process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 1.5  # while the first batch is still being computed
            while ping(at) != 503 and time.monotonic() < deadline:
                time.sleep(0.02)
            assert ping(at) == 503
            assert post(at, {"inputs": "late"})[0] == 503
            assert [job.result(20)[0] for job in jobs] == [200] * 5  # none of them was dropped
        assert process.wait(25) == 0
    finally:
        process.kill()
        process.stdout.close()


def test_dropping_the_object_stops_it():
    import gc

    server = Server()
    server.add_function("demo", length_scores, LABELS)
    port = server.port
    del server
    gc.collect()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=2)
