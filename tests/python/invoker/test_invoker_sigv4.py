"""Signatures: the published vectors of aws-c-auth, and botocore's signer on random requests."""

from __future__ import annotations

import datetime
import json
import random
import string
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest

from smhf_native.invoker import sign_request

CASES = 38


def parse_request(text: str) -> tuple[str, str, str, tuple[tuple[str, str], ...], bytes]:
    """(method, path, query, headers, body) of a vector's request.txt."""
    head, _, body = text.partition("\n\n")
    first, *lines = head.split("\n")
    method, _, rest = first.partition(" ")
    target = rest.removesuffix(" HTTP/1.1")
    path, _, query = target.partition("?")
    headers: list[tuple[str, str]] = []
    for line in lines:
        if line.startswith(" "):  # a folded value goes on
            name, value = headers.pop()
            headers.append((name, value + "\n" + line))
        elif line:
            name, _, value = line.partition(":")
            headers.append((name, value))
    return method, path, query, tuple(headers), body.encode()


def cases(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if (path / "context.json").exists())
    assert len(found) == CASES
    return found


def sign_case(folder: Path, *, query_form: bool) -> dict[str, str]:
    context = json.loads((folder / "context.json").read_text())
    method, path, query, headers, body = parse_request((folder / "request.txt").read_text(encoding="utf-8"))
    when = datetime.datetime.strptime(context["timestamp"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.UTC)
    keys = context["credentials"]
    return sign_request(
        method,
        path,
        query,
        headers,
        body,
        keys["access_key_id"],
        keys["secret_access_key"],
        keys.get("token"),
        context["region"],
        context["service"],
        int(when.timestamp()),
        normalize_path=context["normalize"],
        sign_body=context["sign_body"],
        omit_token=context.get("omit_session_token", False),
        expires=context["expiration_in_seconds"] if query_form else 0,
    )


@pytest.mark.parametrize("form", ["header", "query"])
def test_vectors(shared_data: Path, form: str) -> None:
    wrong = []
    for folder in cases(shared_data / "sigv4"):
        made = sign_case(folder, query_form=form == "query")
        for key, name in (
            ("canonical", "canonical-request"),
            ("string_to_sign", "string-to-sign"),
            ("signature", "signature"),
        ):
            if made[key] != (folder / f"{form}-{name}.txt").read_text(encoding="utf-8"):
                wrong.append((folder.name, key))
        signed = (folder / f"{form}-signed-request.txt").read_text(encoding="utf-8")
        if form == "header":
            if f"Authorization:{made['authorization']}\n" not in signed:
                wrong.append((folder.name, "authorization"))
        else:
            target = signed.split("\n")[0].partition(" ")[2].removesuffix(" HTTP/1.1")
            query = target.partition("?")[2]
            if sorted(parse_qsl(query, True)) != sorted(parse_qsl(made["query"], True)):
                wrong.append((folder.name, "query"))
    assert not wrong


NAME_BITS = ["x-a", "x-a-b", "x", "accept", "accept-encoding", "content-type", "X-Amzn-SageMaker-Inference-Id", "x-ab"]
VALUES = string.ascii_letters + string.digits + " \t,;:=/+-_.~\"'()*"


def random_request(rng: random.Random) -> tuple[str, list[tuple[str, str]], bytes, str | None]:
    path = "/endpoints/" + "".join(rng.choices(string.ascii_letters + string.digits + "-", k=rng.randint(1, 40)))
    names = rng.sample(NAME_BITS, rng.randint(0, 5))
    headers = [(n, "".join(rng.choices(VALUES, k=rng.randint(0, 60)))) for n in names]
    body = rng.randbytes(rng.choice([0, 1, 63, 64, 65, 1000, 70000]))
    token = None if rng.random() < 0.4 else "".join(rng.choices(VALUES.replace(" ", "").replace("\t", ""), k=900))
    return path + "/invocations", headers, body, token


def test_agrees_with_botocore(peer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    auth = peer("botocore.auth")
    awsrequest = peer("botocore.awsrequest")
    credentials = peer("botocore.credentials")
    rng = random.Random(20261125)
    for _ in range(1500):
        path, headers, body, token = random_request(rng)
        epoch = rng.randint(1_000_000_000, 4_000_000_000)
        when = datetime.datetime.fromtimestamp(epoch, datetime.UTC)
        secret = "".join(rng.choices(string.ascii_letters + "/+", k=40))
        region = rng.choice(["us-east-1", "eu-west-3", "cn-north-1"])
        host = rng.choice([f"runtime.sagemaker.{region}.amazonaws.com", "localhost:8443"])
        monkeypatch.setattr(auth, "get_current_datetime", lambda *_a, _when=when, **_k: _when.replace(tzinfo=None))
        request = awsrequest.AWSRequest("POST", f"https://{host}{path}", data=body, headers=dict(headers))
        signer = auth.SigV4Auth(credentials.Credentials("AKIDEXAMPLE", secret, token), "sagemaker", region)
        signer.add_auth(request)
        made = sign_request(
            "POST", path, "", (("Host", host), *headers), body, "AKIDEXAMPLE", secret, token, region, "sagemaker", epoch
        )
        assert made["amz_date"] == request.headers["X-Amz-Date"]
        assert made["authorization"] == request.headers["Authorization"], (headers, made["canonical"])


def test_arguments() -> None:
    good = ("POST", "/", "", (), b"", "k", "s", None, "us-east-1", "sagemaker", 0)
    assert sign_request(*good)["amz_date"] == "19700101T000000Z"
    with pytest.raises(ValueError, match="63 bytes"):
        sign_request(*good[:8], "r" * 64, "sagemaker", 0)
    with pytest.raises(TypeError, match="pair"):
        sign_request("POST", "/", "", ("x",), b"", "k", "s", None, "us-east-1", "sagemaker", 0)  # type: ignore[arg-type]
