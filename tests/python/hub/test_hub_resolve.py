"""Model names: local folder, cache layout, download from a loopback hub, and the errors."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smhf_native import hub
from smhf_native.hub import MODEL_FILES, ModelNotFoundError, resolve

COMMIT = "0123456789abcdef0123456789abcdef01234567"
VARIABLES = (
    "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HF_ENDPOINT",
    "HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE",
)  # fmt: skip


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def cached(cache: Path, name: str, files: dict[str, str], ref: str | None = "main") -> Path:
    folder = cache / ("models--" + name.replace("/", "--"))
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for file, text in files.items():
        (snapshot / file).write_text(text)
    if ref is not None:
        (folder / "refs").mkdir()
        (folder / "refs" / ref).write_text(COMMIT)
    return snapshot


def test_a_local_folder_wins(tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text("{}")
    cached(tmp_path / "home" / "hub", "bert", {"config.json": "{}"})
    assert resolve("bert") == Path("bert")
    with pytest.raises(
        ModelNotFoundError, match=r"the folder bert lacks model.safetensors or .*holds: config.json"
    ):
        resolve("bert", needs=MODEL_FILES)


@pytest.mark.parametrize(
    "variable", ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "HF_HOME", ""]
)
def test_caches_are_found_by_every_variable_at_call_time(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable:
        monkeypatch.setenv(variable, str(tmp_path / "there"))
    else:
        monkeypatch.delenv("HF_HOME")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "there"))
    below = {"HF_HOME": "hub", "": "huggingface/hub"}.get(variable, ".")
    snapshot = cached(tmp_path / "there" / below, "org/name", {"config.json": "{}"})
    assert resolve("org/name", local_files_only=True).resolve() == snapshot.resolve()
    assert resolve("org/name", COMMIT, local_files_only=True).resolve() == snapshot.resolve()


def test_the_cache_layout_is_the_one_huggingface_hub_reads(tmp_path: Path, peer: Any) -> None:
    snapshot = cached(tmp_path / "c", "org/name", {"config.json": "{}"}, ref="v1")
    theirs = peer("huggingface_hub").snapshot_download(
        "org/name", revision="v1", cache_dir=str(tmp_path / "c"), local_files_only=True
    )
    assert Path(theirs) == resolve("org/name", "v1", cache_dir=tmp_path / "c") == snapshot


def test_what_was_looked_for_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    cached(tmp_path / "home" / "hub", "org/bare", {"config.json": "{}"}, ref=None)
    cached(tmp_path / "home" / "hub", "org/half", {"config.json": "{}"})
    cases = {
        "org/absent": "no models--org--absent",
        "org/bare": "has no refs/main",
        "org/half": f"snapshots/{COMMIT} lacks model.safetensors or pytorch_model.bin",
    }
    for name, why in cases.items():
        with pytest.raises(ModelNotFoundError) as caught:
            resolve(name, needs=MODEL_FILES)
        said = str(caught.value)
        assert name in said and why in said and str(tmp_path / "home" / "hub") in said
        assert "HF_HUB_OFFLINE" in said and "copy its files" in said
    for bad in ("/no/such/folder", "./x", "a/b/c", "../up", "", "a b"):
        with pytest.raises(ModelNotFoundError, match="neither a local folder nor a model name"):
            resolve(bad)


FILES = {
    "config.json": b"{}",
    "vocab.txt": b"[PAD]\n[UNK]\n",
    "tokenizer_config.json": b"{}",
    "README.md": b"#",
}


class Hub(http.server.BaseHTTPRequestHandler):
    """The three kinds of paths that a snapshot download asks for."""

    files: dict[str, bytes] = {}
    log: list[tuple[str, str, str | None]] = []

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        self.log.append((self.command, self.path, self.headers.get("Authorization")))
        parts = self.path.split("?")[0].strip("/").split("/")
        status, data, headers = 404, b"{}", {"X-Error-Code": "RepoNotFound"}
        if parts[:2] == ["api", "models"] and "/".join(parts[2:4]) == "org/name":
            if parts[4] == "tree":
                entries = [
                    {"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                    for n, d in self.files.items()
                ]
                status, data, headers = 200, json.dumps(entries).encode(), {}
            else:
                info = {"id": "org/name", "sha": COMMIT, "siblings": [{"rfilename": n} for n in self.files]}
                status, data, headers = 200, json.dumps(info).encode(), {}
        elif parts[:3] == ["org", "name", "resolve"] and parts[4] in self.files:
            data = self.files[parts[4]]
            tag = hashlib.sha1(data).hexdigest()
            status, headers = 200, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        return None


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    Hub.files, Hub.log = dict(FILES), []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield url
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_missing_model_is_downloaded_into_the_cache_once(
    endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peer: Any
) -> None:
    peer("huggingface_hub")
    Hub.files["model.safetensors"] = b"weights"
    Hub.files["pytorch_model.bin"] = b"not wanted"
    monkeypatch.setenv("HF_TOKEN", "hf_planted_canary")
    folder = resolve("org/name", needs=MODEL_FILES)
    assert folder == tmp_path / "home" / "hub" / "models--org--name" / "snapshots" / COMMIT
    assert sorted(p.name for p in folder.iterdir()) == [
        "config.json", "model.safetensors", "tokenizer_config.json", "vocab.txt",
    ]  # fmt: skip
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert {token for _, _, token in Hub.log} == {"Bearer hf_planted_canary"}
    asked = len(Hub.log)
    assert resolve("org/name", needs=MODEL_FILES) == folder and len(Hub.log) == asked
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "1")
    assert resolve("org/name", needs=MODEL_FILES) == folder


def test_old_weights_are_taken_when_there_are_no_safetensors(endpoint: str, peer: Any) -> None:
    peer("huggingface_hub")
    Hub.files["pytorch_model.bin"] = b"old"
    folder = resolve("org/name", needs=MODEL_FILES, token=False)
    assert (folder / "pytorch_model.bin").read_bytes() == b"old"
    assert {token for _, _, token in Hub.log} == {None}


def test_a_failed_download_says_where_and_why_without_the_token(
    endpoint: str, monkeypatch: pytest.MonkeyPatch, peer: Any
) -> None:
    peer("huggingface_hub")
    monkeypatch.setenv("HF_TOKEN", "hf_planted_canary")
    with pytest.raises(ModelNotFoundError) as caught:
        resolve("org/other")
    said = str(caught.value)
    assert "org/other" in said and endpoint in said and "download" in said and "copy its files" in said
    assert "hf_planted_canary" not in said
    with pytest.raises(ModelNotFoundError, match=r"the repository lacks model.safetensors"):
        resolve("org/name", needs=MODEL_FILES)


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_means_no_request(endpoint: str, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "true")
    assert hub.is_offline()
    with pytest.raises(ModelNotFoundError, match="is set"):
        resolve("org/name")
    assert Hub.log == []


def test_without_huggingface_hub_the_extra_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "from smhf_native.hub import resolve\n"
        "try: resolve('org/name')\n"
        "except ImportError as error: print(error, *error.__notes__)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert "smhf_native[hub]" in done.stdout and "copy its files" in done.stdout
