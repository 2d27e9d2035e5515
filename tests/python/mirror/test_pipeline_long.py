"""pipeline().predict over many rows: Ctrl-C, progress, memory, precision."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import smhf_native as smhf
from smhf_native.examples import make_reviews
from smhf_native.pipelines import PredictInterrupted

ROOT = Path(smhf.__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model large enough that 4,096 tokens take longer than a user waits."""
    place = tmp_path_factory.mktemp("model")
    tokenizer = smhf.train_wordpiece([text for text, _ in make_reviews(200, seed=1)], vocab_size=600)
    config = {
        "model_type": "distilbert", "vocab_size": tokenizer.vocab_size, "dim": 512, "max_position_embeddings": 64,
        "n_layers": 4, "n_heads": 8, "hidden_dim": 2048, "num_labels": 3, "pad_token_id": 0,
    }  # fmt: skip
    smhf.Model.from_config(config, seed=3).save_pretrained(str(place))
    tokenizer.save_pretrained(str(place))
    return place


def texts(count: int) -> list[str]:
    return [text for text, _ in make_reviews(count, seed=5)]


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_ctrl_c_stops_at_once_and_keeps_what_is_done(folder: Path, precision: str) -> None:
    pytest.importorskip("pandas")
    program = textwrap.dedent(
        f"""
        import sys, time
        import numpy as np
        import smhf_native as smhf
        from smhf_native.examples import make_reviews
        from smhf_native.pipelines import PredictInterrupted
        texts = [text for text, _ in make_reviews(400, seed=5)]
        texts[3] = None
        clf = smhf.pipeline("text-classification", model={str(folder)!r}, precision={precision!r})
        clf.predict(texts[:50])  # weights packed, pace learned
        print("ready", flush=True)
        try:
            clf.predict(texts * 500)
        except PredictInterrupted as stop:
            print("stopped", time.monotonic(), stop.done, len(stop.frame), flush=True)
            again = clf.predict((texts * 500)[: min(stop.done, 40)])
            kept = stop.frame[: len(again)]
            same = np.array_equal(again["score"].to_numpy(), kept["score"].to_numpy(), equal_nan=True)
            print(same, again["label"].tolist() == kept["label"].tolist(), stop.frame["error"][3])
        """
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(1.5)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    word, stopped, done, rows = process.stdout.readline().split()
    rest, _ = process.communicate(timeout=60)
    assert word == "stopped" and int(done) == int(rows) > 0
    assert rest == "True True no text (missing value)\n" and process.returncode == 0
    # Half a second is the promise; two busy cores of a test machine may add as much again.
    assert float(stopped) - sent < 1.0


def test_interrupted_scores_are_the_first_rows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clf = smhf.pipeline("text-classification", model=str(folder))
    rows, whole, calls = texts(60), None, 0
    whole = clf.scores(rows)
    model, clf._pace = clf.model, 256

    def interrupting(batch: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return model(batch)

    clf.model = interrupting
    with pytest.raises(PredictInterrupted, match="of 60 rows") as caught:
        clf.scores(rows, batch_size=7)
    assert caught.value.done == 14
    np.testing.assert_array_equal(caught.value.scores, whole[:14])


def test_pace_follows_the_machine_and_does_not_change_results(folder: Path) -> None:
    clf = smhf.pipeline("text-classification", model=str(folder))
    rows = texts(300)
    first = clf.scores(rows)
    paces = [clf._pace]
    for seconds in (10.0, 1e-4, 1e-4, 1e-4, 1e-4, 1e-4):
        clf._learn(clf._pace, seconds)
        paces.append(clf._pace)
        np.testing.assert_array_equal(clf.scores(rows[:40]), first[:40])
    assert min(paces) == 256 and max(paces) <= 4096


def test_lines_say_rate_and_time_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    clf = smhf.pipeline("text-classification", model=str(folder))
    clock = iter(range(0, 10**6, 2))  # each look at the clock is two seconds later
    monkeypatch.setattr("smhf_native.pipelines.base.time.monotonic", lambda: float(next(clock)))
    clf.scores(texts(80), batch_size=20, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(re.fullmatch(r"\d+ of 80 rows, \d+ rows/s, \d+:\d\d left", line) for line in lines)
    clf.scores(texts(80), batch_size=20)
    assert capsys.readouterr().err == ""


def test_tqdm_counts_rows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    pytest.importorskip("pandas")
    clf = smhf.pipeline("text-classification", model=str(folder))
    clf.predict(texts(40), progress=True)
    shown = capsys.readouterr().err
    assert "40/40" in shown and "row/s" in shown


def test_precision_and_its_report(folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: Any) -> None:
    rows = texts(100)
    exact = smhf.pipeline("text-classification", model=str(folder), precision="fp32").scores(rows)
    fast = smhf.pipeline("text-classification", model=str(folder), precision="int8")
    error = np.abs(fast.scores(rows) - exact).max()
    assert 0 < error < 0.05 and fast.model.precision == "int8"
    monkeypatch.setenv("SMHF_PRECISION", "bf16")
    assert smhf.pipeline("text-classification", model=str(folder)).model.precision == "bf16"
    with caplog.at_level(logging.INFO, "smhf_native"):
        auto = smhf.pipeline("text-classification", model=str(folder), precision="auto", calibration=rows)
    report = auto.precision_report
    assert report is not None and report["rows"] == 100 and report["chosen"] == auto.model.precision
    assert report["reason"] in caplog.text
    agreement = (auto.scores(rows).argmax(1) == exact.argmax(1)).mean()
    assert agreement == report["tried"][report["chosen"]]["agreement"] >= 0.999
    with pytest.raises(ValueError, match='precision "half"'):
        smhf.pipeline("text-classification", model=str(folder), precision="half")


@pytest.mark.slow
def test_fifty_thousand_rows_in_flat_memory(tmp_path: Path) -> None:
    """Order kept, and no memory that grows with the rows beyond the answers themselves."""
    pytest.importorskip("pandas")
    program = textwrap.dedent(
        f"""
        import sys
        sys.path.insert(0, {str(ROOT)!r})
        import numpy as np, pandas as pd
        import smhf_native as smhf
        from smhf_native.examples import make_reviews
        base = [text for text, _ in make_reviews(1000, seed=5)]
        tokenizer = smhf.train_wordpiece(base, vocab_size=600)
        config = {{"model_type": "distilbert", "vocab_size": tokenizer.vocab_size, "dim": 64, "n_layers": 2,
                   "n_heads": 4, "hidden_dim": 128, "num_labels": 3, "max_position_embeddings": 64}}
        smhf.Model.from_config(config, seed=3).save_pretrained({str(tmp_path)!r})
        tokenizer.save_pretrained({str(tmp_path)!r})
        clf = smhf.pipeline("text-classification", model={str(tmp_path)!r})
        one = clf.predict(base)
        column = pd.Series(base * 50)
        clf.predict(column[:20000])

        def peak_memory():  # not getrusage: it starts from what the parent was
            return int(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0])

        before = peak_memory()
        frame = clf.predict(column)
        grown = peak_memory() - before
        scores = frame["score"].to_numpy().reshape(50, 1000)
        same = all(np.array_equal(row, one["score"].to_numpy()) for row in scores)
        print(len(frame), same, frame["label"].tolist() == one["label"].tolist() * 50, grown)
        """
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    rows, scores, labels, grown = result.stdout.split()
    assert (rows, scores, labels) == ("50000", "True", "True")
    assert int(grown) < 16 * 1024, f"{grown} KiB more than 20,000 rows took"
