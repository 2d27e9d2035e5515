"""The profiler report: one HTML file that needs nothing but itself.

No script, no request (its own policy forbids any), light and dark, printable, and the same bytes for the same
job.  Every name in it may come from a user's files and is escaped.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from smhf_native.profiler.columns import Float, Int, Stream, natural_key
from smhf_native.profiler.report_style import REPORT_CSS
from smhf_native.profiler.rules import RULES, evaluate_report_rules, evaluate_rule
from smhf_native.profiler.rules.base import JobData, RuleResult, Steps, parse_overrides
from smhf_native.profiler.series import mean_stream, tick_matrix, usage_row
from smhf_native.profiler.svg import Line, clock, format_value, heatmap, histogram, line_chart, share_bar

__all__ = ["build_report", "job_report", "verdict", "write_report"]

_MOST_NODES = 8  # nodes that get charts
_CHART_POINTS = 1000
_DATA_ROWS = 30
_HEAT_COLUMNS = 160

_DESCRIPTIONS = {
    "LossNotDecreasing": "Looks for a loss that does not fall.",
    **{name: rule.description for name, rule in RULES.items()},
}


def write_report(
    path: Path, job: JobData, results: Sequence[RuleResult], others: Sequence[RuleResult] = ()
) -> Path:
    """Build the report and put it at ``path`` in one move.

    Parameters
    ----------
    path : Path
        Folders are made.
    job : JobData
    results : sequence of RuleResult
        The report's own rules.
    others : sequence of RuleResult
        Debugging rules of the job, shown beside them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(build_report(job, results, others), encoding="utf-8")
    os.replace(temporary, path)
    return path


def job_report(record: Any) -> str:
    """Return the report of a local job, whether or not its request asked for one.

    Parameters
    ----------
    record : smhf_native.jobs.records.JobRecord

    Raises
    ------
    ValueError
        The job's own rule parameters are wrong.
    """
    job = JobData.from_record(record)
    request = record.request()
    overrides: dict[str, Any] = {}
    for config in request.get("ProfilerRuleConfigurations") or []:
        parameters = config.get("RuleParameters") or {}
        if parameters.get("rule_to_invoke") == "ProfilerReport":
            overrides = parse_overrides(str(parameters.get("custom_rule_parameters") or "{}"))
    others = [
        evaluate_rule("LossNotDecreasing", job, config.get("RuleParameters"))
        for config in request.get("DebugRuleConfigurations") or []
        if (config.get("RuleParameters") or {}).get("rule_to_invoke") == "LossNotDecreasing"
    ]
    return build_report(job, evaluate_report_rules(job, overrides), others)


def build_report(job: JobData, results: Sequence[RuleResult], others: Sequence[RuleResult] = ()) -> str:
    """Return the report as HTML text; arguments as in :func:`write_report`."""
    everything = [*others, *results]
    start = _start(job)
    bad, first, second = verdict(job, everything)
    sections = [
        ("time", "Where the time went", _time_section(job)),
        ("system", "System usage", _usage_section(results) + _system_charts(job, start)),
        ("steps", "Training steps", _steps_section(job, results)),
        ("metrics", "Training metrics", _metrics_section(job, start)),
        ("rules", "Rules", _rules_section(everything)),
        ("framework", "Framework", _framework_section(results)),
    ]
    shown = [(key, title, body) for key, title, body in sections if body]
    links = " ".join(f'<a href="#{key}">{escape(title)}</a>' for key, title, _ in shown)
    body = "".join(f'<section><h2 id="{key}">{escape(title)}</h2>{text}</section>' for key, title, text in shown)
    name = escape(job.name)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        "img-src data:; base-uri 'none'; form-action 'none'\">"
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<meta name="referrer" content="no-referrer"><link rel="icon" href="data:,">'
        f"<title>Profiler report: {name}</title><style>{REPORT_CSS}</style></head>\n<body>"
        f'<header><p class="kicker">Profiler report</p><h1>{name}</h1>'
        f'<div class="verdict{" bad" if bad else ""}"><p>{escape(first)}</p>'
        f"{f'<p>{escape(second)}</p>' if second else ''}</div>"
        f'{_facts(job)}<nav aria-label="Sections">{links}</nav></header>\n<main>{body}</main>\n'
        f"{_footer(job)}</body></html>\n"
    )


def verdict(job: JobData, results: Iterable[RuleResult]) -> tuple[bool, str, str]:
    """Return whether something is wrong, the sentence that says what, and one with the numbers behind it."""
    results = list(results)
    status = str(job.description.get("TrainingJobStatus", ""))
    load = _load_sentence(job)
    if status == "Failed":
        reason = " ".join(str(job.description.get("FailureReason") or "no reason recorded").split())
        return True, f"The job failed: {reason}", load
    fired = [r for r in results if r.fired]
    if fired:
        first = fired[0]
        more = f" Also: {', '.join(r.rule for r in fired[1:])}." if len(fired) > 1 else ""
        return True, f"{first.rule}: {first.message}.", f"{first.advice}{more} {load}".strip()
    open_rules = [r for r in results if not r.evaluated]
    if results and len(open_rules) == len(results):
        return False, "No rule could be evaluated.", load
    note = f"{len(open_rules)} of {len(results)} rules had nothing to evaluate." if open_rules else ""
    return False, "No rule found an issue.", f"{load} {note}".strip()


# Parts of the page.


def _start(job: JobData) -> float:
    moments = [job.start_s or 0.0]
    if job.sample_range is not None:
        moments.append(job.sample_range[0] / 1e9)
    known = [m for m in moments if m > 0]
    return min(known) if known else 0.0


def _load_sentence(job: JobData) -> str:
    cpu, gpu = _all_means(job, "CPUUtilization"), _all_means(job, "GPUUtilization")
    wait = _all_means(job, "I/OWaitPercentage")
    parts = []
    if gpu.size:
        below = 100 * float((gpu < 10).mean())
        mean = f"The GPUs were used {gpu.mean():.0f} % on average"
        parts.append(f"{mean} and stood below 10 % for {below:.0f} % of the time")
    if cpu.size:
        p95 = float(np.percentile(cpu, 95))
        text = f"{'the' if parts else 'The'} processor was used {cpu.mean():.0f} % on average (p95 {p95:.0f} %)"
        if not gpu.size and cpu.mean() >= 80:
            text += ", so it is what limits this job"
        parts.append(text)
    if wait.size and float(np.percentile(wait, 95)) >= 20:
        parts.append(f"waits for the disk reached {np.percentile(wait, 95):.0f} % (p95)")
    return "; ".join(parts) + "." if parts else "No system metrics were recorded."


def _all_means(job: JobData, dimension: str) -> Float:
    values = [mean_stream(job.of(dimension, node))[1] for node in job.nodes if job.of(dimension, node)]
    joined = np.concatenate(values) if values else np.empty(0)
    return joined[~np.isnan(joined)]


def _facts(job: JobData) -> str:
    facts: list[tuple[str, str]] = []
    status = str(job.description.get("TrainingJobStatus", ""))
    if status:
        second = str(job.description.get("SecondaryStatus", ""))
        # The report is written before the last state is: the second status says where the job is.
        facts.append(("Status", status if second in ("", status) else f"{status} · {second}"))
    start, end = job.start_s, job.end_s
    if start:
        facts.append(("Started", clock(start, True)))
    if start and end and end > start:
        facts.append(("Duration", _duration(end - start)))
    steps = job.steps()
    if steps:
        facts.append(("Training steps", f"{sum(s.duration.size for s in steps):,}"))
    cores, gpus = len(job.of("CPUUtilization")), len(job.of("GPUUtilization"))
    if cores:
        nodes = len(job.nodes)
        machine = f"{cores} cores" + (f", {gpus} GPU{'s' if gpus > 1 else ''}" if gpus else ", no GPU")
        facts.append(("Machine", machine + (f" on {nodes} nodes" if nodes > 1 else "")))
    if job.streams:
        longest = max(s.time.size for s in job.streams)
        facts.append(("Samples", f"{longest:,} per stream"))
    items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts)
    return f'<dl class="facts">{items}</dl>' if items else ""


def _time_section(job: JobData) -> str:
    start, end, steps = job.start_s, job.end_s, job.steps()
    if not start or not end or end <= start:
        return ""
    if not steps:
        return (
            f"<p>The job ran for {escape(_duration(end - start))}.</p>"
            '<p class="note">No training steps were recorded, so it cannot be divided further.</p>'
        )
    first = min(int(s.start[0]) for s in steps) / 1e9
    last = max(int((s.start + s.duration).max()) for s in steps) / 1e9
    first, last = min(max(first, start), end), min(max(last, start), end)
    parts = [("initialisation", first - start), ("training loop", last - first), ("finalisation", end - last)]
    rows = [
        (name, clock(a), clock(b), format_value(b - a, "s"), f"{100 * (b - a) / (end - start):.1f} %")
        for (name, _), a, b in zip(parts, (start, first, last), (first, last, end), strict=True)
    ]
    source = steps[0].source
    return (
        _figure(share_bar(parts, title="Job phases", x_label="time in s since the start", css=False))
        + _table(("Phase", "From", "To", "Duration", "Share"), rows, numeric=(3, 4))
        + f'<p class="note">Steps are taken from {escape(source)}; the loop reaches from the first step to the '
        "end of the last one.</p>"
    )


def _usage_section(results: Sequence[RuleResult]) -> str:
    usage = next((r for r in results if r.rule == "OverallSystemUsage"), None)
    if usage is None or not usage.details:
        return "<p>No system metrics were recorded.</p>"
    rows = []
    for node, table in usage.details.items():
        for name, numbers in table.items():
            unit = "B/s" if name == "Network" else "%"
            cells = [format_value(numbers[key], unit) for key in ("max", "p99", "p95", "p50", "min")]
            word = {"I/O": "I/O wait", "CPU memory": "Memory", "Network": "Network, in + out"}.get(name, name)
            rows.append((node, word, *cells))
    return _table(
        ("Node", "Metric", "max", "p99", "p95", "p50", "min"),
        rows,
        numeric=(2, 3, 4, 5, 6),
        caption="Means over cores or GPUs at each sample.",
    )


def _system_charts(job: JobData, start: float) -> str:
    whole = job.sample_range
    if whole is None:
        return ""
    span = (0.0, max(whole[1] / 1e9 - start, 1e-3))
    out = []
    for node in job.nodes[:_MOST_NODES]:
        out.append(_node_charts(job, node, start, span))
    if len(job.nodes) > _MOST_NODES:
        out.append(f'<p class="note">Charts of {len(job.nodes) - _MOST_NODES} more nodes are left out.</p>')
    return "".join(out)


def _node_charts(job: JobData, node: str, start: float, span: tuple[float, float]) -> str:
    where = f" on {node}" if len(job.nodes) > 1 else ""
    out = []
    for dimension, title, word in (
        ("CPUUtilization", "CPU utilisation", "core"),
        ("GPUUtilization", "GPU utilisation", "GPU"),
        ("GPUMemoryUtilization", "GPU memory", "GPU"),
    ):
        streams = job.of(dimension, node)
        if not streams:
            continue
        time, matrix = tick_matrix(streams)
        line = _band_line(time, matrix, start, title)
        many = len(streams) > 1
        note = f"mean of {len(streams)} {word}s; band: least and most busy" if many else streams[0].name
        out.append(_line_figure([line], title + where, note, "%", start, span, y_range=(0.0, 102.0)))
        if many and dimension != "GPUMemoryUtilization" and matrix.shape[0] > 1:
            cells = _heat_cells((time / 1e9) - start, matrix, span)
            svg = heatmap(
                cells,
                [s.name for s in streams],
                *span,
                title=f"{title} by {word}{where}",
                subtitle="mean of each span of time",
                x_label=_x_label(start),
                css=False,
            )
            out.append(_figure(svg))
    memory = [s for s in job.streams if s.node == node and s.name == "MemoryUsedPercent"]
    if memory:
        line = Line("memory", memory[0].time / 1e9 - start, memory[0].value)
        out.append(_line_figure([line], f"Memory{where}", "used part", "%", start, span, y_range=(0.0, 102.0)))
    wait = job.of("I/OWaitPercentage", node)
    if wait:
        line = _band_line(*tick_matrix(wait), start, "I/O wait")
        note = f"mean of {len(wait)} cores; band: least and most"
        out.append(_line_figure([line], f"I/O wait{where}", note, "%", start, span))
    disk = _named(job, node, "", ("ReadThroughputInBytesPerSecond", "WriteThroughputInBytesPerSecond"))
    if disk:
        lines = [Line(w, s.time / 1e9 - start, s.value) for w, s in zip(("read", "write"), disk, strict=False)]
        out.append(_line_figure(lines, f"Disk{where}", "bytes per second", "B/s", start, span))
    network = _named(job, node, "Algorithm", ("ReceiveBytesPerSecond", "TransmitBytesPerSecond"))
    if network:
        lines = [
            Line(w, s.time / 1e9 - start, s.value) for w, s in zip(("received", "sent"), network, strict=False)
        ]
        out.append(_line_figure(lines, f"Network{where}", "bytes per second of the job", "B/s", start, span))
    return "".join(out)


def _steps_section(job: JobData, results: Sequence[RuleResult]) -> str:
    kinds = [s for s in job.steps() if s.duration.size]
    if not kinds:
        return ""
    out = []
    for steps in kinds[:4]:
        out.append(_step_figure(steps))
    rows = []
    for steps in kinds:
        seconds = steps.duration / 1e9
        numbers = usage_row(seconds * 1e6)  # rounding to 2 decimals must not lose microseconds
        cells = [format_value(numbers[key] / 1e6, "s") for key in ("max", "p99", "p95", "p50", "min")]
        mean = format_value(float(seconds.mean()), "s")
        rows.append((steps.phase, steps.node, f"{seconds.size:,}", mean, *cells))
    out.append(
        _table(
            ("Phase", "Node", "steps", "mean", "max", "p99", "p95", "p50", "min"),
            rows,
            numeric=(2, 3, 4, 5, 6, 7, 8),
        )
    )
    slow = []
    for steps in kinds:
        seconds = steps.duration / 1e9
        limit = float(seconds.mean() + 3 * seconds.std())
        for i in np.argsort(-seconds, kind="stable")[:10].tolist():
            if seconds[i] > limit:
                number = int(steps.number[i])
                when = clock(int(steps.start[i]) / 1e9)
                lasted = format_value(float(seconds[i]), "s")
                slow.append((steps.phase, str(number) if number >= 0 else "–", when, lasted))
    if slow:
        out.append("<h3>Slowest steps</h3>")
        out.append(
            _table(
                ("Phase", "step", "began", "duration"),
                slow,
                numeric=(1, 3),
                caption="Longer than the mean plus three standard deviations; ten at most of each phase.",
            )
        )
    out.append(f'<p class="note">Steps are taken from {escape(kinds[0].source)}.</p>')
    return "".join(out)


def _step_figure(steps: Steps) -> str:
    seconds = steps.duration / 1e9
    limit = float(seconds.mean() + 3 * seconds.std())
    inside = seconds[seconds <= limit] if (seconds <= limit).any() else seconds
    factor, unit = (1.0, "s") if float(np.median(inside)) >= 1 else (1e3, "ms")
    values = inside * factor
    low, high = float(values.min()), float(values.max())
    if high <= low:
        low, high = low * 0.95, high * 1.05 or 1.0
    counts, edges = np.histogram(values, bins=min(40, max(5, values.size // 5)), range=(low, high))
    left = seconds.size - inside.size
    note = f"{seconds.size:,} steps, mean {format_value(float(seconds.mean()), 's')}"
    if left:
        note += f"; {left} longer than {format_value(limit, 's')} not drawn"
    svg = histogram(
        [int(c) for c in counts],
        [float(e) for e in edges],
        title=f"Step duration: {steps.phase}",
        subtitle=note,
        unit=unit,
        x_label=f"duration of a step in {unit}",
        css=False,
    )
    rows = [
        (f"{format_value(a, unit)} to {format_value(b, unit)}", str(int(c)))
        for a, b, c in zip(edges[:-1], edges[1:], counts, strict=True)
        if c
    ]
    return _figure(svg, _data(("Duration", "Steps"), rows))


def _metrics_section(job: JobData, start: float) -> str:
    out = []
    losses = [
        (float(s["Timestamp"]), float(s["Value"]), int(s.get("IterationNumber", -1)))
        for s in job.scalars
        if s.get("MetricName") == "loss" and isinstance(s.get("Value"), (int, float))
    ]
    if len(losses) > 1:
        step = np.array([p[2] for p in losses], np.float64)
        x = step if bool((np.diff(step) > 0).all()) else np.arange(len(losses), dtype=np.float64)
        y = np.array([p[1] for p in losses])
        if np.isfinite(y).any():
            y = np.where(np.isfinite(y), y, np.nan)
            lines = [Line("loss", x, y)]
            if y.size >= 20:
                width = max(5, y.size // 40)
                smooth = _moving_mean(y, width)
                lines = [Line("loss of each step", x, y), Line(f"mean of {width} steps", x, smooth)]
            svg = line_chart(
                lines,
                title="Training loss",
                subtitle=f"{y.size:,} steps, from {y[0]:.4g} to {y[-1]:.4g}",
                unit="",
                x_label="training steps",
                x_unit="steps",
                max_points=_CHART_POINTS // len(lines),
                css=False,
            )
            picked = np.unique(np.linspace(0, y.size - 1, min(_DATA_ROWS, y.size)).round().astype(int))
            rows = [(f"{x[i]:.0f}", f"{y[i]:.6g}") for i in picked.tolist()]
            out.append(_figure(svg, _data(("Step", "Loss"), rows)))
    table: list[tuple[str, ...]] = []
    by_name: dict[str, list[tuple[float, float]]] = {}
    for item in job.metrics:
        if isinstance(item.get("Value"), (int, float)):
            by_name.setdefault(str(item["MetricName"]), []).append((float(item["Timestamp"]), float(item["Value"])))
    for name, points in by_name.items():
        values = [v for _, v in points]
        when = format_value(points[-1][0] - start, "s") if start else clock(points[-1][0])
        table.append(
            (name, str(len(points)), *(f"{v:.6g}" for v in (values[0], min(values), max(values), values[-1])), when)
        )
    if table:
        out.append(
            _table(
                ("Metric", "values", "first", "min", "max", "last", "last seen after"),
                table,
                numeric=(1, 2, 3, 4, 5, 6),
                caption="What the job's metric definitions matched in its log.",
            )
        )
    return "".join(out)


def _rules_section(results: Sequence[RuleResult]) -> str:
    rank = {result.rule: i for i, result in enumerate(results)}
    ordered = sorted(results, key=lambda r: (not r.fired, -r.triggered, not r.evaluated, rank[r.rule]))
    words = ("Rule", "What it does and what it saw", "triggered", "violations", "data points")
    rows = []
    for r in ordered:
        tag = ("bad", "issue found") if r.fired else ("ok", "no issue") if r.evaluated else ("", "not evaluated")
        lines = [escape(_DESCRIPTIONS.get(r.rule, ""))]
        if r.message:
            lines.append(escape(_sentence(r.message)))
        if r.fired and r.advice:
            lines.append(f"<strong>{escape(r.advice)}</strong>")
        if r.parameters:
            lines.append(f"<code>{escape(r.parameter_text().replace(chr(10), ', '))}</code>")
        rows.append(
            f'<tr><th scope="row">{escape(r.rule)}<br><span class="tag {tag[0]}">{tag[1]}</span></th>'
            f'<td class="w">{"<br>".join(line for line in lines if line)}</td>'
            + "".join(
                f'<td class="n" data-l="{word}">{number:,}</td>'
                for word, number in zip(words[2:], (r.triggered, r.violations, r.datapoints), strict=True)
            )
            + "</tr>"
        )
    head = "".join(
        f'<th scope="col"{" class=n" if place > 1 else ""}>{word}</th>' for place, word in enumerate(words)
    )
    return (
        '<div class="scroll"><table class="rules"><caption>Triggered counts scans (one a minute, and one at the end); '
        f"violations counts samples, snapshots or steps.</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _framework_section(results: Sequence[RuleResult]) -> str:
    found = next((r for r in results if r.rule == "OverallFrameworkMetrics"), None)
    out = []
    if found is not None and found.details:
        times = found.details["phase_time"]
        parts = list(times.items())[:5]
        rest = sum(list(times.values())[5:])
        if rest:
            parts.append(("more", rest))
        if sum(size for _, size in parts) > 0:
            out.append(_figure(share_bar(parts, title="Time by phase", x_label="time in s", css=False)))
        for key, title in (
            ("CPU", "Operators on the CPU"),
            ("GPU", "Operators on the GPU"),
            ("general", "Data loading, forward and backward"),
            ("horovod", "Horovod"),
        ):
            shares = found.details[key]
            if shares:
                rows = [(name, f"{share:.1f} %") for name, share in list(shares.items())[:20]]
                out.append(_table(("Event", "Share of time"), rows, numeric=(1,), caption=title))
    loader = next((r for r in results if r.rule == "Dataloader"), None)
    if loader is not None and loader.details:
        d = loader.details
        time = d["dataloading_time"]
        rows = [
            ("Cores", str(d["cores"])),
            ("Loader processes (median per second)", f"{d['dataloaders']:g}"),
            ("num_workers", str(d["num_workers"] if d["num_workers"] is not None else "not recorded")),
            ("pin_memory", str(d["pin_memory"] if d["pin_memory"] is not None else "not recorded")),
            ("Time to load: p25, p50, p95", ", ".join(format_value(time[k], "s") for k in ("p25", "p50", "p95"))),
        ]
        out.append(_table(("Data loading", "Value"), rows, numeric=()))
    return "".join(out)


def _footer(job: JobData) -> str:
    faults = ""
    if job.faults:
        items = "".join(f"<li>{escape(f)}</li>" for f in job.faults[:20])
        more = f"<li>{len(job.faults) - 20} more</li>" if len(job.faults) > 20 else ""
        faults = f"<p>Damaged places in the profiler files (all whole rows were used):</p><ul>{items}{more}</ul>"
    return (
        f"<footer><p>Times are UTC. Made by smhf_native from the job's own files; "
        f"this page loads nothing and needs no network.</p>{faults}</footer>"
    )


# Small pieces.


def _band_line(time: Int, matrix: Float, start: float, label: str) -> Line:
    x = time / 1e9 - start
    if matrix.shape[1] == 1:
        return Line(label, x, matrix[:, 0])
    present = ~np.isnan(matrix)
    mean = np.where(present, matrix, 0.0).sum(axis=1) / np.maximum(present.sum(axis=1), 1)
    low = np.where(present, matrix, np.inf).min(axis=1)
    high = np.where(present, matrix, -np.inf).max(axis=1)
    return Line("mean", x, mean, low, high)


def _line_figure(
    lines: Sequence[Line],
    title: str,
    note: str,
    unit: str,
    start: float,
    span: tuple[float, float],
    y_range: tuple[float, float] | None = None,
) -> str:
    if not any(line.y.size and not np.isnan(line.y).all() for line in lines):
        return ""
    svg = line_chart(
        lines,
        title=title,
        subtitle=note,
        unit=unit,
        x_label=_x_label(start),
        x_start=start,
        x_range=span,
        y_range=y_range,
        max_points=_CHART_POINTS // len(lines),
        hover_columns=60,
        css=False,
    )
    edges = np.linspace(*span, _DATA_ROWS + 1)
    rows = []
    for a, b in itertools.pairwise(edges.tolist()):
        cells = []
        for line in lines:
            inside = line.y[(line.x >= a) & ((line.x < b) | (b == span[1]))]
            inside = inside[~np.isnan(inside)]
            cells.append(format_value(float(inside.mean()), unit) if inside.size else "–")
        if any(cell != "–" for cell in cells):
            rows.append((f"{a:.1f} to {b:.1f} s", *cells))
    return _figure(svg, _data(("Time", *(f"{line.label} (mean)" for line in lines)), rows))


def _heat_cells(x: Float, matrix: Float, span: tuple[float, float]) -> Float:
    columns = max(1, min(_HEAT_COLUMNS, matrix.shape[0]))
    place = np.clip(((x - span[0]) / (span[1] - span[0]) * columns).astype(int), 0, columns - 1)
    present = ~np.isnan(matrix)
    cells = np.full((matrix.shape[1], columns), np.nan)
    for row in range(matrix.shape[1]):
        good = present[:, row]
        count = np.bincount(place[good], minlength=columns)
        total = np.bincount(place[good], weights=matrix[good, row], minlength=columns)
        filled = count > 0
        cells[row, filled] = total[filled] / count[filled]
    # A sampling pause shorter than two columns is no gap.
    for row in cells:
        holes = np.flatnonzero(np.isnan(row[1:]) & ~np.isnan(row[:-1])) + 1
        row[holes] = row[holes - 1]
    return cells


def _moving_mean(y: Float, width: int) -> Float:
    good = np.isfinite(y)
    total = np.cumsum(np.concatenate([[0.0], np.where(good, y, 0.0)]))
    count = np.cumsum(np.concatenate([[0], good.astype(np.int64)]))
    low = np.maximum(np.arange(y.size) - width + 1, 0)
    high = np.arange(1, y.size + 1)
    n = count[high] - count[low]
    return np.where(n > 0, (total[high] - total[low]) / np.maximum(n, 1), np.nan)


def _named(job: JobData, node: str, dimension: str, names: Sequence[str]) -> list[Stream]:
    found = {s.name: s for s in job.of(dimension, node)}
    return [found[name] for name in sorted(names, key=natural_key) if name in found]


def _x_label(start: float) -> str:
    return f"time in s since {clock(start, True)}"


def _figure(svg: str, data: str = "") -> str:
    return f"<figure>{svg}{data}</figure>"


def _data(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    table = _bare_table(head, rows, tuple(range(1, len(head))), "")
    return f'<details><summary>Data</summary><div class="scroll">{table}</div></details>'


def _table(
    head: Sequence[str], rows: Sequence[Sequence[str]], numeric: tuple[int, ...], caption: str = ""
) -> str:
    return f'<div class="scroll">{_bare_table(head, rows, numeric, caption)}</div>'


def _bare_table(head: Sequence[str], rows: Sequence[Sequence[str]], numeric: tuple[int, ...], caption: str) -> str:
    def cell(tag: str, scope: str, index: int, text: str) -> str:
        return f'<{tag}{scope}{" class=n" if index in numeric else ""}>{escape(str(text))}</{tag}>'

    top = "".join(cell("th", ' scope="col"', i, word) for i, word in enumerate(head))
    body = "".join(
        "<tr>"
        + "".join(cell("th", ' scope="row"', i, t) if i == 0 else cell("td", "", i, t) for i, t in enumerate(row))
        + "</tr>"
        for row in rows
    )
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return format_value(seconds, "s")
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _sentence(text: str) -> str:
    if text.partition(" ")[0].isalpha():  # names such as gpu0 keep their case
        text = text[:1].upper() + text[1:]
    return text if text.endswith(".") else text + "."
