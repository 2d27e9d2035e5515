"""Signed requests: a server that checks signatures with botocore, refreshed keys, a wrong clock, no leaks."""

from __future__ import annotations

import calendar
import pickle
import time
from collections.abc import Callable
from typing import Any

import pytest

from smhf_native.invoker import Invoker
from tests.support.fault_server import FaultServer, Reply, Request, answer, date_header, label_of

TEXTS = [f"row {i}" for i in range(40)]
REGION = "eu-west-1"
KEY, SECRET, TOKEN = "AKIACANARY0001", "canary+secret/Zp9q", "canary-token-" + "q7" * 400


class Gate:
    """Lets requests through that are signed with the keys it holds, by its own clock."""

    def __init__(self, peer: Callable[[str], Any], shift: float = 0.0) -> None:
        self.keys = (KEY, SECRET, TOKEN)
        self.shift = shift
        self.auth = peer("botocore.auth")
        self.awsrequest = peer("botocore.awsrequest")
        self.credentials = peer("botocore.credentials")
        self.refused = 0

    def refuse(self, code: str, message: str = "no") -> Reply:
        self.refused += 1
        headers = {"x-amzn-errortype": code, **date_header(self.shift)}
        return Reply(answer({"message": message}, 403, headers))

    def signature(self, request: Request, names: list[str], date: str) -> str:
        url = f"http://{request.headers['host']}{request.path}"
        signed = self.awsrequest.AWSRequest("POST", url, data=request.body)
        for name in names:
            signed.headers[name] = request.headers[name]
        signed.context["timestamp"] = date
        signer = self.auth.SigV4Auth(self.credentials.Credentials(*self.keys), "sagemaker", REGION)
        text: str = signer.signature(signer.string_to_sign(signed, signer.canonical_request(signed)), signed)
        return text

    def __call__(self, request: Request) -> Reply | None:
        date = request.headers["x-amz-date"]
        sent = calendar.timegm(time.strptime(date, "%Y%m%dT%H%M%SZ"))
        scheme, _, rest = request.headers["authorization"].partition(" ")
        assert scheme == "AWS4-HMAC-SHA256"
        fields = dict(part.split("=", 1) for part in rest.split(", "))
        if request.headers.get("x-amz-security-token") != self.keys[2]:
            return self.refuse("ExpiredTokenException")
        if abs(sent - (time.time() + self.shift)) > 300:
            return self.refuse("InvalidSignatureException", "Signature expired")
        names = fields["SignedHeaders"].split(";")
        assert {"host", "content-type", "x-amz-date"} <= set(names)
        if fields["Signature"] != self.signature(request, names, date):
            return self.refuse("InvalidSignatureException")
        return None


def test_signed_requests_pass(peer: Any) -> None:
    gate = Gate(peer)
    with FaultServer(gate) as server:
        url = f"{server.url}/endpoints/my-endpoint/invocations"
        headers = {"X-Amzn-SageMaker-Inference-Id": "a  b", "accept-encoding": "identity", "x-": "1"}
        with Invoker(url, region=REGION, credentials=gate.keys, headers=headers, batch_size=8) as invoker:
            columns = invoker.predict_columns(TEXTS)
            assert invoker.invoke('{"inputs": ["a"]}')[0] == 200
            assert invoker.stats["skew"] == 0
    assert gate.refused == 0
    assert list(columns["label"]) == [label_of(t) for t in TEXTS]


def test_without_token(peer: Any) -> None:
    gate = Gate(peer)
    gate.keys = (KEY, SECRET, None)  # type: ignore[assignment]
    with FaultServer(gate) as server, Invoker(server.url, region=REGION, credentials=(KEY, SECRET)) as invoker:
        assert not any(invoker.predict_columns(TEXTS)["kind"])
    assert gate.refused == 0


def test_wrong_keys_fail_everything_at_once(peer: Any) -> None:
    gate = Gate(peer)
    wrong = (KEY, "not the secret", TOKEN)
    with FaultServer(gate) as server:
        with Invoker(server.url, region=REGION, credentials=wrong, batch_size=1, connections=4) as invoker:
            columns = invoker.predict_columns(TEXTS * 100)
            assert len(server.log) <= 8
            status, _, _ = invoker.invoke("{}")
            assert status == 403
    assert set(columns["kind"]) == {"auth"}
    assert "InvalidSignatureException" in columns["error"][3999]


def test_expired_keys_are_refreshed(peer: Any) -> None:
    gate = Gate(peer)
    old, new = (KEY, SECRET, "old token"), gate.keys
    calls: list[float] = []

    def provider() -> tuple[str, str, str]:
        calls.append(time.monotonic())
        return old if len(calls) == 1 else new

    with FaultServer(gate) as server, Invoker(server.url, region=REGION, credentials=provider, batch_size=4) as invoker:
        assert not any(invoker.predict_columns(TEXTS)["kind"])
        assert len(calls) == 2 and 1 <= gate.refused <= 8
        gate.keys = new = (KEY, "another secret", "another token")
        assert not any(invoker.predict_columns(TEXTS)["kind"])
        assert len(calls) == 3
        gate.keys = new = (KEY, "a third secret", "a third token")
        assert invoker.invoke('{"inputs": ["a"]}')[0] == 200
        assert len(calls) == 4
        gate.keys = (KEY, "x", "nobody has these")
        columns = invoker.predict_columns(TEXTS)
        assert set(columns["kind"]) == {"auth"} and len(calls) == 5


def test_keys_that_expire_in_the_middle(peer: Any) -> None:
    gate = Gate(peer)
    number = 0

    def rotate(request: Request) -> Reply | None:
        nonlocal number
        if request.number in (10, 25):
            number += 1
            gate.keys = (KEY, f"secret {number}", f"token {number}")
        return gate(request)

    with FaultServer(rotate) as server:
        with Invoker(server.url, region=REGION, credentials=lambda: gate.keys, batch_size=1, connections=3) as invoker:
            columns = invoker.predict_columns(TEXTS)
    assert list(columns["label"]) == [label_of(t) for t in TEXTS]
    assert number == 2


@pytest.mark.parametrize("shift", [600.0, -600.0, 86400.0])
def test_wrong_clock_is_corrected(peer: Any, shift: float) -> None:
    gate = Gate(peer, shift)
    signed: dict[str, Any] = {"region": REGION, "credentials": gate.keys}
    with FaultServer(gate) as server, Invoker(server.url, batch_size=4, **signed) as invoker:
        columns = invoker.predict_columns(TEXTS)
        assert list(columns["label"]) == [label_of(t) for t in TEXTS]
        assert abs(float(invoker.stats["skew"]) - shift) < 5
        refused = gate.refused
        assert 1 <= refused <= 4
        invoker.predict_columns(TEXTS)
        assert gate.refused == refused  # learnt for good
    with FaultServer(gate) as server, Invoker(server.url, region=REGION, credentials=gate.keys) as invoker:
        assert invoker.invoke('{"inputs": ["a"]}')[0] == 200


def test_each_attempt_is_signed_anew(peer: Any) -> None:
    gate = Gate(peer)
    dates: list[str] = []

    def script(request: Request) -> Reply | None:
        dates.append(request.headers["x-amz-date"])
        return Reply(answer("busy", 503, {"Retry-After": "1.2"})) if len(dates) == 1 else gate(request)

    with FaultServer(script) as server, Invoker(server.url, region=REGION, credentials=gate.keys) as invoker:
        assert not any(invoker.predict_columns(["a"])["kind"])
    assert dates[0] != dates[1] and gate.refused == 0


def test_sources_of_credentials(peer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(peer)
    session = peer("botocore.session").Session()
    session.set_credentials(KEY, SECRET, TOKEN)
    boto3_session = peer("boto3").Session(KEY, SECRET, TOKEN, region_name=REGION)
    for name, value in (("ACCESS_KEY_ID", KEY), ("SECRET_ACCESS_KEY", SECRET), ("SESSION_TOKEN", TOKEN)):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with FaultServer(gate) as server:
        for source in (session, boto3_session, None, list(gate.keys), lambda: (*gate.keys, "account")):
            with Invoker(server.url, region=REGION, credentials=source) as invoker:
                assert not any(invoker.predict_columns(["a"])["kind"])
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    with Invoker(server.url, region=REGION) as invoker, pytest.raises(ValueError, match="no AWS credentials"):
        invoker.predict_columns(["a"])


def test_names_in_aws(peer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = (KEY, SECRET)
    monkeypatch.delenv("SMHF_MODE", raising=False)
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    expected = "https://runtime.sagemaker.eu-west-1.amazonaws.com/endpoints/e-1/invocations"
    assert Invoker("e-1", region=REGION, credentials=keys).url == expected
    session = peer("boto3").Session(KEY, SECRET, region_name=REGION)
    assert Invoker("e-1", mode="aws", credentials=session).url == expected
    with pytest.raises(ValueError, match="give region="):
        Invoker("e-1", mode="aws", credentials=keys)
    monkeypatch.setenv("SMHF_MODE", "aws")
    monkeypatch.setenv("AWS_REGION", REGION)
    assert Invoker("e-1", credentials=keys).url == expected
    fips = Invoker("e-1", credentials=keys, fips=True, dualstack=True).url
    assert fips == "https://runtime.sagemaker-fips.eu-west-1.api.aws/endpoints/e-1/invocations"
    with pytest.raises(ValueError, match="mode 'cloud'"):
        Invoker("e-1", mode="cloud")


def test_provider_that_fails(peer: Any) -> None:
    def provider() -> tuple[str, str]:
        if not seen:
            seen.append(1)
            return KEY, SECRET
        raise RuntimeError("the vault is shut")

    seen: list[int] = []
    gate = Gate(peer)
    with FaultServer(gate) as server, Invoker(server.url, region=REGION, credentials=provider) as invoker:
        with pytest.raises(RuntimeError, match="vault is shut") as caught:
            invoker.predict_columns(TEXTS)
        assert set(caught.value.partial["kind"]) == {"cancelled"}  # type: ignore[attr-defined]
        with pytest.raises(RuntimeError, match="vault is shut"):
            invoker.invoke("{}")


def test_no_secret_is_shown(peer: Any) -> None:
    """Planted canaries stay out of everything a user or a log can see, even when the endpoint quotes them."""

    def quote(request: Request) -> Reply:
        message = f"expected {SECRET} and {TOKEN}\ncanonical string {request.headers['authorization']}"
        code = ("AccessDenied", "ValidationError", "ModelError")[request.number % 3]
        status = (403, 400, 422)[request.number % 3]
        return Reply(answer({"message": message}, status, {"x-amzn-errortype": code}))

    shown: list[str] = []
    with FaultServer(quote) as server:
        for _ in range(3):
            with Invoker(server.url, region=REGION, credentials=(KEY, SECRET, TOKEN)) as invoker:
                shown += [str(e) for e in invoker.predict_columns(["a"])["error"]]
                shown += [repr(invoker), str(invoker.stats), str(vars(invoker)), repr(invoker._invoker)]
    for wrong in ((KEY, SECRET + "\n"), (SECRET,), SECRET, (KEY, SECRET, TOKEN, "x", "y"), {"secret": SECRET}):
        with pytest.raises((TypeError, ValueError)) as caught:
            Invoker(server.url, region=REGION, credentials=wrong)
        shown.append(repr(caught.value))
    with pytest.raises(TypeError):
        pickle.dumps(invoker)
    text = "\n".join(shown)
    assert "HTTP 403 AccessDenied" in text and "expected ***" in text
    for secret in (SECRET, TOKEN[:20], "Signature="):
        assert secret not in text
