"""The published page, its cells byte for byte, runs on what we build."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from support import page as pages

# SMHF_PAGE=full runs the page with the 66 M parameter model and 600/200/500 rows, as it was published.
FULL = os.environ.get("SMHF_PAGE") == "full"
ROWS = (600, 200, 500) if FULL else (96, 48, 60)
UNPRIVILEGED = 65534


def page_code(text: str) -> list[str]:
    """The page's code blocks, by a parser of our own."""
    return [block[:-1] for block in re.findall(r"^```python\n(.*?)^```$", text, re.S | re.M)]


def can_drop_root() -> bool:
    if os.geteuid() != 0:
        return False
    try:  # an interpreter in root's own folder cannot be run by others
        probe = subprocess.run([sys.executable, "-c", "0"], user=UNPRIVILEGED, group=UNPRIVILEGED, cwd="/", check=False)
    except PermissionError:
        return False
    return probe.returncode == 0


def processes_of(home: Path) -> list[str]:
    """Command lines of processes whose environment names this home."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(home).encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.fixture(scope="module", params=["seed script", "own script"])
def executed(
    request: pytest.FixtureRequest, repo_root: Path, seed_folder: Path, shared_data: Path
) -> Iterator[tuple[pages.Page, Any, str]]:
    for package in ("nbclient", "boto3", "sklearn", "pandas"):
        pytest.importorskip(package)
    with tempfile.TemporaryDirectory(prefix="smhf-page-") as name:
        folder = Path(name)
        own = request.param == "own script"
        prepared = pages.prepare(
            folder, repo_root, seed_folder, shared_data, own_script=own, full_size=FULL, rows=ROWS
        )
        options: dict[str, Any] = {}
        if can_drop_root():  # the page must not need root
            subprocess.run(["chown", "-R", f"{UNPRIVILEGED}:{UNPRIVILEGED}", name], check=True)
            options = {"user": UNPRIVILEGED, "group": UNPRIVILEGED, "extra_groups": []}
        filled = prepared.python(pages.FILL_STORE, **options)
        assert filled.returncode == 0, filled.stderr
        start = time.perf_counter()
        result = prepared.run(**options)
        print(f"page with {request.param}: {time.perf_counter() - start:.1f} s")
        assert result.returncode == 0, result.stdout + result.stderr
        yield prepared, json.loads(prepared.output.read_text()), request.param


def outputs(notebook: Any, marker: str) -> list[dict[str, Any]]:
    """Outputs of the one code cell whose source holds the marker."""
    cells = [c for c in notebook["cells"] if c["cell_type"] == "code" and marker in "".join(c["source"])]
    assert len(cells) == 1, marker
    return list(cells[0]["outputs"])


def text_of(cell_outputs: list[dict[str, Any]]) -> str:
    parts = []
    for output in cell_outputs:
        parts.append("".join(output.get("text", "")))
        parts.append("".join(output.get("data", {}).get("text/plain", "")))
    return "".join(parts)


def test_cells_are_the_pages_own(executed: tuple[pages.Page, Any, str]) -> None:
    prepared, notebook, _ = executed
    ran = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]
    assert ran == page_code(prepared.page.read_text())
    assert all(c["execution_count"] for c in notebook["cells"] if c["cell_type"] == "code")


def test_script_is_shown(executed: tuple[pages.Page, Any, str]) -> None:
    prepared, notebook, _ = executed
    shown = re.sub(r"\x1b\[[0-9;]*m", "", text_of(outputs(notebook, "!pygmentize")))
    lines = [line for line in (prepared.work / "src" / "train.py").read_text().splitlines() if line.strip()]
    assert all(line.rstrip() in shown for line in lines)


def test_metrics(executed: tuple[pages.Page, Any, str]) -> None:
    _, notebook, _ = executed
    html = "".join(outputs(notebook, "df.head(10)")[-1]["data"]["text/html"])
    names = set(re.findall(r"<td>((?:eval_)?[a-z0-9_]+)</td>", html))
    assert {"eval_loss", "eval_accuracy"} <= names
    assert html.count("<tr>") - 0 >= 8, html


def test_charts(executed: tuple[pages.Page, Any, str]) -> None:
    _, notebook, _ = executed
    shown = outputs(notebook, "view_timeline_charts")
    html = "".join("".join(o.get("data", {}).get("text/html", "")) for o in shown)
    assert "<svg" in html and "CPUUtilization" in html
    assert "select dimensions:['CPU', 'GPU']" in text_of(shown).replace('"', "'")


def test_enough_points(executed: tuple[pages.Page, Any, str]) -> None:
    prepared, notebook, _ = executed
    job = re.search(r"Training jobname: (\S+)", text_of(outputs(notebook, "df.head(10)")))
    assert job is not None
    files = list(prepared.home.glob(f"store/*/*/training_jobs/{job[1]}/profiler-output/system/incremental/*/*.json"))
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    cpu = [r["Timestamp"] for r in rows if r["Name"] == "cpu0" and r["Dimension"] == "CPUUtilization"]
    assert len(cpu) / (max(cpu) - min(cpu) + 0.5) >= 1.8  # one each 500 ms; the first and last tick are cut


def test_report_names_the_job(executed: tuple[pages.Page, Any, str]) -> None:
    prepared, notebook, _ = executed
    job = re.search(r"Training jobname: (\S+)", text_of(outputs(notebook, "df.head(10)")))
    assert job is not None
    assert job[1] in (prepared.work / "profiler-report.html").read_text()


def test_predictions(executed: tuple[pages.Page, Any, str]) -> None:
    prepared, notebook, _ = executed
    report = text_of(outputs(notebook, "print(classification_report"))
    support = re.search(r"weighted avg\s+\S+\s+\S+\s+\S+\s+(\d+)", report)
    assert support is not None and int(support[1]) == min(500, ROWS[2])
    model = next(iter(prepared.home.glob("store/*/*/training_jobs/*/output/model.tar.gz")))
    code = f"""
import json, pandas as pd, smhf_native as smhf, tempfile
from smhf_native.model import extract_archive
folder = tempfile.mkdtemp()
extract_archive({str(model)!r}, folder)
text = pd.read_csv("data/test.csv")["text"].iloc[0]
expected = smhf.pipeline("text-classification", model=folder)([text])[0]
import urllib.request
with smhf.serve({str(model)!r}) as server:
    request = urllib.request.Request(server.url.rstrip("/") + "/invocations",
        data=json.dumps({{"inputs": [text]}}).encode(), headers={{"Content-Type": "application/json"}})
    served = json.load(urllib.request.build_opener(urllib.request.ProxyHandler({{}})).open(request))[0]
assert served["label"] == expected["label"] and abs(served["score"] - expected["score"]) <= 1e-6
print(json.dumps(expected))
"""
    ours = prepared.python(code)
    assert ours.returncode == 0, ours.stderr
    expected = json.loads(ours.stdout.splitlines()[-1])
    for marker in ("predictor = HuggingFacePredictor(", "client.invoke_endpoint("):
        shown = text_of(outputs(notebook, marker))
        match = re.search(r"Predicted \x1b\[1m(LABEL_\d)\x1b\[0m with score of \x1b\[1m([\d.]+)\x1b", shown)
        assert match is not None, shown
        assert match[1] == expected["label"]
        assert float(match[2]) == pytest.approx(round(expected["score"], 2), abs=1e-9)


def test_no_process_is_left(executed: tuple[pages.Page, Any, str]) -> None:
    prepared, _, _ = executed
    deadline = time.monotonic() + 10
    while processes_of(prepared.home) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_of(prepared.home) == []


def test_nothing_was_installed(executed: tuple[pages.Page, Any, str]) -> None:
    _, notebook, _ = executed
    assert "provided by smhf_native; nothing installed" in text_of(outputs(notebook, "!pip install"))
