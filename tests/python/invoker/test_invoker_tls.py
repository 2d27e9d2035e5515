"""TLS: what no authority vouches for is refused; a given ca_file is trusted; there is no switch to trust all."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path

import pytest

from smhf_native.invoker import Invoker
from tests.support.fault_server import FaultServer, Reply, answer, label_of, results

TEXTS = [f"row {i}" for i in range(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("the openssl tool is not installed")
    return tmp_path_factory.mktemp("tls")


def certificate(folder: Path, name: str, subject: str) -> Path:
    """A self-signed certificate and its key."""
    path = folder / f"{name}.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(folder / f"{name}.key"), "-out", str(path), "-subj", "/CN=test"]
    subprocess.run([*command, "-addext", f"subjectAltName={subject}"], check=True, capture_output=True)
    return path


def expired_certificate(folder: Path) -> Path:
    """One whose time is over: made by the small authority of the openssl tool, which takes dates."""
    key, request, path = folder / "expired.key", folder / "expired.csr", folder / "expired.pem"
    (folder / "index.txt").touch()
    (folder / "ca.cnf").write_text(
        "[ca]\ndefault_ca=a\n[a]\ndatabase=index.txt\nnew_certs_dir=.\nrand_serial=yes\ndefault_md=sha256\npolicy=p\n"
        "x509_extensions=x\n[p]\ncommonName=supplied\n[x]\nsubjectAltName=IP:127.0.0.1\nbasicConstraints=CA:true\n"
    )
    make = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    make += ["-keyout", str(key), "-out", str(request), "-subj", "/CN=test"]
    sign = ["openssl", "ca", "-batch", "-config", "ca.cnf", "-selfsign", "-keyfile", str(key), "-in", str(request)]
    sign += ["-out", str(path), "-notext", "-startdate", "20200101000000Z", "-enddate", "20200102000000Z"]
    for command in (make, sign):
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
    return path


def context(path: Path) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(path, path.with_suffix(".key"))
    return made


def test_self_signed_is_refused_and_accepted_by_ca_file(folder: Path) -> None:
    path = certificate(folder, "good", "IP:127.0.0.1")
    with FaultServer(tls=context(path)) as server:
        start = time.monotonic()
        with Invoker(server.url) as invoker:
            columns = invoker.predict_columns(TEXTS)
            with pytest.raises(OSError, match="certificate"):
                invoker.invoke("{}")
        assert time.monotonic() - start < 3  # no retries: it will not change
        assert set(columns["kind"]) == {"network"} and "certificate" in columns["error"][0]
        assert not server.log and server.handshake_failures > 0
        with Invoker(server.url, ca_file=path, batch_size=4, connections=2) as invoker:
            before = server.connections
            assert list(invoker.predict_columns(TEXTS)["label"]) == [label_of(t) for t in TEXTS]
            assert server.connections - before <= 2
        with Invoker(server.url, ca_file=folder / "absent.pem") as invoker:
            assert set(invoker.predict_columns(TEXTS)["kind"]) == {"network"}


def test_another_host_and_an_expired_certificate_are_refused(folder: Path) -> None:
    other = certificate(folder, "other", "DNS:elsewhere.invalid")
    expired = expired_certificate(folder)
    for path in (other, expired):
        with FaultServer(tls=context(path)) as server, Invoker(server.url, ca_file=path) as invoker:
            columns = invoker.predict_columns(TEXTS)
            assert set(columns["kind"]) == {"network"}, path.stem
            assert ("expired" in columns["error"][0]) == (path is expired), columns["error"][0]
            assert not server.log


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_protocol_is_refused(folder: Path) -> None:
    path = certificate(folder, "old", "IP:127.0.0.1")
    old = context(path)
    old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_1
    with FaultServer(tls=old) as server, Invoker(server.url, ca_file=path, backoff=(0.001, 0.01)) as invoker:
        assert set(invoker.predict_columns(TEXTS)["kind"]) == {"network"}
        assert not server.log


def test_cut_without_goodbye(folder: Path) -> None:
    """A body that ends with the connection is not believed, with or without a close_notify."""
    path = certificate(folder, "cut", "IP:127.0.0.1")

    def script(request):  # type: ignore[no-untyped-def]
        if request.number % 3 == 0:
            whole = answer(results(request.inputs))
            _, _, body = whole.partition(b"\r\n\r\n")
            return Reply(b"HTTP/1.1 200 OK\r\n\r\n" + body[:-4], "reset" if request.number % 2 else "close")
        return None

    with FaultServer(script, tls=context(path)) as server:
        with Invoker(server.url, ca_file=path, batch_size=4, backoff=(0.001, 0.01), retries=8) as invoker:
            assert list(invoker.predict_columns(TEXTS)["label"]) == [label_of(t) for t in TEXTS]


def test_handshake_that_ends_early(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            while True:
                try:
                    sock, _ = listener.accept()
                except OSError:
                    return
                sock.recv(100)
                sock.close()

        threading.Thread(target=hang_up, daemon=True).start()
        with Invoker(f"https://127.0.0.1:{listener.getsockname()[1]}", backoff=(0.001, 0.01)) as invoker:
            assert set(invoker.predict_columns(TEXTS)["kind"]) == {"network"}
        listener.shutdown(socket.SHUT_RDWR)
