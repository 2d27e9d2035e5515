"""The report and the charts in a real browser: light and dark, wide and narrow, without a network."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from browser import CHROMIUM, Browser, Page
from report_jobs import report_page

from smhf_native.profiler.charts import TimelineCharts
from smhf_native.profiler.readers import LocalSystemMetricsReader

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

VIEWS = [(1280, False), (1280, True), (420, False), (420, True)]

LAYOUT = """
(() => {
  const luminance = (text) => {
    const c = text.match(/[\\d.]+/g).map(Number).slice(0, 3).map((v) => v / 255)
      .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2];
  };
  const contrast = (a, b) => {
    const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
  };
  const charts = [...document.querySelectorAll('svg.smhf-chart')].map((svg) => {
    const box = svg.getBoundingClientRect();
    const back = getComputedStyle(svg).backgroundColor;
    const texts = [...svg.querySelectorAll('text')].map((t) => {
      const b = t.getBoundingClientRect();
      return {
        text: t.textContent,
        inside: b.left >= box.left - 1 && b.right <= box.right + 1
          && b.top >= box.top - 1 && b.bottom <= box.bottom + 1,
        box: [b.left, b.right, b.top + 2, b.bottom - 2],
        contrast: contrast(getComputedStyle(t).fill, back),
      };
    });
    const paths = [...svg.querySelectorAll('path')].map((p) => ({
      length: p.getTotalLength(), kind: p.getAttribute('class'), ink: getComputedStyle(p).stroke,
      fill: getComputedStyle(p).fill,
    }));
    return { width: box.width, label: svg.getAttribute('aria-label'), back, texts, paths };
  });
  const body = getComputedStyle(document.body);
  const small = [...document.querySelectorAll('p,td,th,dd,dt,summary,a,caption,li')]
    .filter((e) => e.offsetParent !== null && e.textContent.trim())
    .map((e) => {
      let host = e;
      while (host && /rgba?\\(0, 0, 0, 0\\)|transparent/.test(getComputedStyle(host).backgroundColor)) {
        host = host.parentElement;
      }
      const back = host ? getComputedStyle(host).backgroundColor : 'rgb(255, 255, 255)';
      return { text: e.textContent.slice(0, 60), ratio: contrast(getComputedStyle(e).color, back) };
    });
  return {
    overflow: document.documentElement.scrollWidth - window.innerWidth,
    background: body.backgroundColor, ink: body.color, charts, small,
    rows: [...document.querySelectorAll('tbody tr')].length,
  };
})()
"""

UNIT = re.compile(r"\d (%|s|ms|µs|B/s|kB/s|MB/s|GB/s|steps|/s)$")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


def check(page: Page, dark: bool, least_charts: int) -> Any:
    requests = [p["request"]["url"] for p in page.of("Network.requestWillBeSent")]
    assert len(requests) == 1 and requests[0].startswith("file:"), requests
    errors = [e["entry"] for e in page.of("Log.entryAdded") if e["entry"]["level"] in ("error", "warning")]
    assert errors == [] and page.of("Runtime.exceptionThrown") == [] and page.of("Runtime.consoleAPICalled") == []
    found = page.evaluate(LAYOUT)
    assert found["overflow"] <= 0
    assert len(found["charts"]) >= least_charts
    for chart in found["charts"]:
        if not chart["texts"]:
            continue  # a frame that only stacks charts
        assert chart["label"] and chart["width"] > 200
        drawn = [p for p in chart["paths"] if p["kind"] != "sc-g"]
        assert drawn and max(p["length"] for p in drawn) > 50, chart["label"]
        assert any(UNIT.search(t["text"]) for t in chart["texts"]), chart["texts"]
        outside = [t["text"] for t in chart["texts"] if not t["inside"]]
        assert not outside, (chart["label"], outside)
        for i, a in enumerate(chart["texts"]):
            for b in chart["texts"][i + 1 :]:
                (l1, r1, t1, b1), (l2, r2, t2, b2) = a["box"], b["box"]
                assert r1 <= l2 or r2 <= l1 or b1 <= t2 or b2 <= t1, (chart["label"], a["text"], b["text"])
        pale = [(t["text"], t["contrast"]) for t in chart["texts"] if t["contrast"] < 4.5]
        # Legends hold coloured marks; their words are tspans in the text colour, measured here.
        assert not pale, pale
        assert (chart["back"] == "rgb(13, 17, 23)") is dark
    assert [s for s in found["small"] if s["ratio"] < 4.5] == []
    return found


@pytest.mark.parametrize(("width", "dark"), VIEWS)
@pytest.mark.parametrize("kind", ["gpu", "cpu"])
def test_report(
    browser: Browser, tmp_path: Path, make_profile: Callable[..., Path], kind: str, width: int, dark: bool
) -> None:
    path = tmp_path / "profiler-report.html"
    path.write_text(report_page(make_profile, kind))
    page = browser.open(path, width, dark=dark)
    found = check(page, dark, 7)
    assert found["rows"] > 20
    folder = os.environ.get("SMHF_SCREENSHOTS")
    if folder:
        page.screenshot(Path(folder) / f"report-{kind}-{width}-{'dark' if dark else 'light'}.png")
    # Every data table opens, and still nothing is wider than the page.
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert page.evaluate(LAYOUT)["overflow"] <= 0
    page.close()


@pytest.mark.parametrize(("width", "dark"), VIEWS)
def test_charts(
    browser: Browser, tmp_path: Path, make_profile: Callable[..., Path], width: int, dark: bool
) -> None:
    reader = LocalSystemMetricsReader(make_profile(240))
    charts = TimelineCharts(reader, None, select_dimensions=["CPU", "GPU", "Algo"], select_events=["total", "Rec"])
    page = browser.open(charts.save(tmp_path / "charts.html"), width, dark=dark)
    check(page, dark, 5)
    folder = os.environ.get("SMHF_SCREENSHOTS")
    if folder:
        page.screenshot(Path(folder) / f"charts-{width}-{'dark' if dark else 'light'}.png")
    page.close()


def test_hover_columns_cover_the_drawing(
    browser: Browser, tmp_path: Path, make_profile: Callable[..., Path]
) -> None:
    reader = LocalSystemMetricsReader(make_profile(240))
    charts = TimelineCharts(reader, None, select_dimensions=["^CPU"], select_events=["total"])
    page = browser.open(charts.save(tmp_path / "charts.html"), 1280)
    titles = page.evaluate(
        """[...Array(20).keys()].map((i) => {
          const box = document.querySelector('svg.smhf-chart svg').getBoundingClientRect();
          const e = document.elementFromPoint(box.left + (i + 0.5) * box.width / 20, box.top + box.height / 2);
          const t = e && e.querySelector('title');
          return t ? t.textContent : null;
        })"""
    )
    assert all(t and re.search(r"s \(03:2\d:\d\d UTC\)\ntotal: ", t) for t in titles), titles
    page.close()


def test_svg_file_alone(browser: Browser, tmp_path: Path, make_profile: Callable[..., Path]) -> None:
    reader = LocalSystemMetricsReader(make_profile(60))
    charts = TimelineCharts(reader, None, select_dimensions=["CPU", "GPU"], select_events=["total"])
    page = browser.open(charts.save(tmp_path / "charts.svg"), 1000)
    assert len([p for p in page.of("Network.requestWillBeSent")]) == 1
    assert page.evaluate("document.documentElement.tagName") == "svg"
    assert page.evaluate("[...document.querySelectorAll('path.sc-p')].every((p) => p.getTotalLength() > 100)")
    page.close()
