"""The style sheet of the profiler report."""

from __future__ import annotations

from smhf_native.profiler.svg import CHART_CSS

__all__ = ["REPORT_CSS"]

_PAGE = """
:root{color-scheme:light dark;--bg:#f4f6f9;--card:#fff;--ink:#1f2328;--soft:#57606a;--line:#d8dee4;--accent:#0a66c2;
--bad:#b42318;--bad-bg:#fdecea;--ok:#146c43;--ok-bg:#e4f5ec;--mute-bg:#eceff3}
@media (prefers-color-scheme:dark){:root{--bg:#05080d;--card:#0d1117;--ink:#e6edf3;--soft:#9ea7b3;--line:#2a323d;
--accent:#6cb6ff;--bad:#ff8a7a;--bad-bg:#3a1512;--ok:#6fdd8b;--ok-bg:#0f2f1d;--mute-bg:#1b222c}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);line-height:1.5;font-size:15px;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main,header,footer{max-width:1080px;margin:0 auto;padding:0 20px}
header{padding-top:28px}
.kicker{color:var(--soft);font-size:13px;margin:0}
h1{font-size:24px;line-height:1.25;margin:2px 0 14px;overflow-wrap:anywhere}
h2{font-size:18px;margin:34px 0 10px}
h3{font-size:15px;margin:18px 0 6px}
p{margin:6px 0}
a{color:var(--accent)}
.verdict{border-left:5px solid var(--ok);background:var(--ok-bg);border-radius:6px;padding:12px 16px}
.verdict.bad{border-color:var(--bad);background:var(--bad-bg)}
.verdict p:first-child{font-size:17px;font-weight:600}
.verdict p{overflow-wrap:anywhere}
.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:10px;margin:16px 0 0;padding:0}
.facts div{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:8px 12px;min-width:0}
.facts dt{color:var(--soft);font-size:12px}
.facts dd{margin:0;font-size:16px;font-weight:600;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
nav{margin:14px 0 0;font-size:14px}
nav a{margin-right:14px;white-space:nowrap;display:inline-block}
figure{margin:12px 0;background:var(--card);border:1px solid var(--line);border-radius:8px;padding:8px 6px}
figure .smhf-chart{max-width:none}
.scroll{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:8px}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}
caption{text-align:left;color:var(--soft);font-size:13px;padding:8px 12px 2px}
th,td{text-align:left;padding:7px 12px;border-top:1px solid var(--line);vertical-align:top}
thead th{border-top:0;color:var(--soft);font-weight:600;font-size:13px;white-space:nowrap}
tbody th{white-space:nowrap}td.n,th.n{text-align:right;white-space:nowrap}
td.w{min-width:220px;overflow-wrap:anywhere}
td code{font-size:12px;color:var(--soft)}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:13px}
.tag{display:inline-block;border-radius:10px;padding:1px 9px;font-size:12.5px;font-weight:600;white-space:nowrap;
background:var(--mute-bg);color:var(--soft)}
.tag.bad{background:var(--bad-bg);color:var(--bad)}
.tag.ok{background:var(--ok-bg);color:var(--ok)}
details{margin:4px 0 0;font-size:13px}
figure details{padding:0 8px}
summary{cursor:pointer;color:var(--soft)}
details table{font-size:13px}
details th,details td{padding:3px 12px}
.note{color:var(--soft);font-size:13.5px}
footer{color:var(--soft);font-size:13px;padding-top:26px;padding-bottom:36px}
footer li{overflow-wrap:anywhere}
:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
@media (max-width:600px){main,header,footer{padding-left:12px;padding-right:12px}h1{font-size:20px}
th,td{padding:6px 8px}.rules thead{display:none}
.rules tr{display:block;border-top:1px solid var(--line);padding:6px 4px}
.rules th,.rules td{display:block;border:0;padding:2px 8px;min-width:0}
.rules td.n{display:inline-block;color:var(--soft)}
.rules td.n::before{content:attr(data-l) ": "}}
@media print{@page{margin:14mm}:root{--bg:#fff}body{font-size:11pt}nav,details{display:none}
main,header,footer{max-width:none;padding:0}figure,.verdict,tr,.facts{break-inside:avoid}h2{break-after:avoid}
.scroll{overflow:visible}td.w{min-width:0}}
"""

REPORT_CSS = _PAGE.strip().replace("\n", "") + CHART_CSS
