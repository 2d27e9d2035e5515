"""The smhf command, as a user types it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import smhf_native as smhf
from smhf_native.examples import make_reviews, write_reviews


def smhf_command(*arguments: str, home: Path, cwd: Path, **extra: Any) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "SMHF_HOME": str(home)}
    command = [sys.executable, "-m", "smhf_native.cli", *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, **extra)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = smhf.train_wordpiece([text for text, _ in make_reviews(200, seed=1)], vocab_size=500)
    config = {
        "model_type": "distilbert", "vocab_size": tokenizer.vocab_size, "dim": 32, "max_position_embeddings": 64,
        "n_layers": 1, "n_heads": 2, "hidden_dim": 64, "num_labels": 5, "pad_token_id": 0,
    }  # fmt: skip
    smhf.Model.from_config(config, seed=3).save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    return folder


def test_doctor_lists_rooms_and_reasons(tmp_path: Path) -> None:
    result = smhf_command("doctor", "--json", home=tmp_path, cwd=tmp_path)
    value = json.loads(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
    assert all(room["available"] for room in value["rooms"].values())
    assert value["backends"]["cpu"]["available"]
    cuda = value["backends"]["cuda"]
    assert cuda["available"] or cuda["reason"]
    text = smhf_command("doctor", home=tmp_path, cwd=tmp_path).stdout
    assert "room tokenizer" in text and "backend cpu" in text


def test_the_package_runs_as_the_command(tmp_path: Path) -> None:
    env = {**os.environ, "SMHF_HOME": str(tmp_path)}
    package = [sys.executable, "-m", "smhf_native"]
    alone = subprocess.run(package, cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert "room tokenizer" in alone.stdout
    run = [*package, "run", "absent.ipynb"]
    missing = subprocess.run(run, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert missing.returncode == 1 and "absent.ipynb" in missing.stderr


def test_predict_keeps_rows_and_columns(model_folder: Path, tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    write_reviews(tmp_path / "in.csv", 37, seed=9)
    result = smhf_command(
        "predict", "in.csv", "--model", str(model_folder), "--output", "out.csv", home=tmp_path, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    given, made = pd.read_csv(tmp_path / "in.csv"), pd.read_csv(tmp_path / "out.csv")
    assert made["text"].tolist() == given["text"].tolist()
    expected = smhf.pipeline("text-classification", model=str(model_folder))(given["text"].tolist())
    assert made["predicted_label"].tolist() == [row["label"] for row in expected]


def test_missing_column_is_named(model_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    write_reviews(tmp_path / "in.csv", 3)
    result = smhf_command(
        "predict", "in.csv", "--model", str(model_folder), "--text", "body", home=tmp_path, cwd=tmp_path
    )
    assert result.returncode == 1
    assert "body" in result.stderr and "text" in result.stderr and "Traceback" not in result.stderr


@contextlib.contextmanager
def serving(model_folder: Path, home: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running ``smhf serve`` and its URL."""
    command = [sys.executable, "-m", "smhf_native.cli", "serve", str(model_folder), "--port", "0"]
    env = {**os.environ, "SMHF_HOME": str(home)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().split(" at ")[1].split()[0]
        finally:
            process.kill()


def test_serve_answers_and_drains(model_folder: Path, tmp_path: Path) -> None:
    with serving(model_folder, tmp_path) as (process, url):
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        request = urllib.request.Request(
            url.rstrip("/") + "/invocations", json.dumps({"inputs": ["nice"]}).encode(),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        assert json.load(opener.open(request, timeout=10))[0]["label"].startswith("LABEL_")
        process.send_signal(signal.SIGTERM)
        assert process.wait(25) == 0


def test_unknown_job_is_a_sentence(tmp_path: Path) -> None:
    result = smhf_command("jobs", "show", "no-such-job", home=tmp_path, cwd=tmp_path)
    assert result.returncode == 1
    assert "no-such-job" in result.stderr and "Traceback" not in result.stderr


def test_train_job_report_and_clean(tmp_path: Path) -> None:
    script = tmp_path / "src" / "train.py"
    script.parent.mkdir()
    script.write_text(
        "import argparse, os\n"
        "parser = argparse.ArgumentParser()\n"
        "parser.add_argument('--rate', type=float)\n"
        "args = parser.parse_args()\n"
        "lines = open(os.environ['SM_CHANNEL_TRAIN'] + '/train.csv').read().count('\\n')\n"
        "print('rate', args.rate, 'lines', lines)\n"
        "open(os.environ['SM_MODEL_DIR'] + '/done.txt', 'w').write('x')\n"
    )
    write_reviews(tmp_path / "train.csv", 5)
    home = tmp_path / "home"
    result = smhf_command(
        "train", "src/train.py", "--channel", "train=train.csv", "-p", "rate=0.25", "--job-name", "cli-test",
        home=home, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "rate 0.25 lines 6" in result.stdout
    listed = smhf_command("jobs", home=home, cwd=tmp_path).stdout.split()
    assert listed[0] == "Completed" and listed[1].startswith("cli-test-")
    assert "rate 0.25 lines 6" in smhf_command("jobs", "logs", listed[1], home=home, cwd=tmp_path).stdout
    reported = smhf_command("report", listed[1], "--output", "r.html", home=home, cwd=tmp_path)
    assert reported.returncode == 0, reported.stderr
    assert listed[1] in (tmp_path / "r.html").read_text()
    assert "would remove" in smhf_command("clean", "--jobs", home=home, cwd=tmp_path).stdout
    assert smhf_command("clean", "--jobs", "--yes", home=home, cwd=tmp_path).returncode == 0
    assert not (home / "jobs").exists()


def test_run_shows_the_failing_cell(tmp_path: Path) -> None:
    pytest.importorskip("nbclient")
    page = tmp_path / "page.md"
    cells = ("# Title\n\n", "x = 1", "text\n\n", "print(x)\nraise RuntimeError('boom')")
    page.write_text("{}```python\n{}\n```\n\n{}```python\n{}\n```\n".format(*cells))
    result = smhf_command("run", "page.md", "--output", "out.ipynb", home=tmp_path, cwd=tmp_path)
    assert result.returncode == 1
    assert "raise RuntimeError('boom')" in result.stderr and "boom" in result.stderr
    cells = json.loads((tmp_path / "out.ipynb").read_text())["cells"]
    assert [c["cell_type"] for c in cells] == ["markdown", "code", "markdown", "code"]
    assert "".join(cells[3]["outputs"][0]["text"]) == "1\n"


def test_unclosed_block_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("nbformat")
    (tmp_path / "page.md").write_text("a\n```python\nx = 1\n")
    result = smhf_command("run", "page.md", home=tmp_path, cwd=tmp_path)
    assert result.returncode == 1 and "line 2" in result.stderr


def test_kernel_install_and_remove(tmp_path: Path) -> None:
    done = smhf_command("kernel", "install", "--prefix", str(tmp_path), home=tmp_path, cwd=tmp_path)
    spec = tmp_path / "share/jupyter/kernels/smhf/kernel.json"
    assert done.returncode == 0 and json.loads(spec.read_text())["language"] == "python"
    smhf_command("kernel", "remove", "--prefix", str(tmp_path), home=tmp_path, cwd=tmp_path)
    assert not spec.exists()


def test_interrupted_serve_ends_at_once(model_folder: Path, tmp_path: Path) -> None:
    with serving(model_folder, tmp_path) as (process, _):
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(25) == 0
        assert time.monotonic() - start < 5
