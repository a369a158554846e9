"""The HTML of `meristem report`: plain tables and inline SVG, one style sheet, nothing from outside."""

import json
import math
from html import escape

from reports import charts
from reports.metrics import number

STYLE = """
:root { --ink: #1f2328; --soft: #667079; --line: #dfe3e8; --ground: #f6f7f9; }
* { box-sizing: border-box; }
body { margin: 0; font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: var(--ink); background: var(--ground); }
main { max-width: 1240px; margin: 0 auto; padding: 28px 24px 60px; }
h1 { font-size: 26px; margin: 0 0 2px; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 34px 0 10px; }
h3 { font-size: 14px; margin: 0 0 4px; font-weight: 600; }
p.soft, .soft { color: var(--soft); }
p.soft { margin: 0 0 10px; font-size: 13.5px; }
.legend { position: sticky; top: 0; z-index: 2; display: flex; flex-wrap: wrap; gap: 4px 20px; padding: 9px 0; margin: 12px 0 0; background: var(--ground); border-bottom: 1px solid var(--line); font-size: 14px; }
.chip { display: inline-block; width: 22px; height: 4px; border-radius: 2px; margin-right: 7px; vertical-align: middle; }
.panel { background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: 14px 16px; overflow-x: auto; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)); gap: 14px; }
.chart { width: 100%; height: auto; display: block; }
.chart .grid { stroke: #e8ebee; }
.chart .axis { stroke: #9aa3ab; }
.chart text { font: 11px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
.chart .tick { fill: #667079; }
.chart .mark { font-size: 10px; }
table { border-collapse: collapse; font-size: 14px; min-width: 60%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 5px 18px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child > * { border-bottom: 0; }
thead th { font-weight: 600; }
tbody th { font-weight: 400; color: var(--soft); white-space: nowrap; }
td.best { font-weight: 650; }
td .by { color: var(--soft); font-size: 12.5px; margin-left: 6px; font-weight: 400; }
code, pre { font: 12.5px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
pre { margin: 8px 0 0; white-space: pre-wrap; overflow-wrap: anywhere; }
td code { overflow-wrap: anywhere; }
.bar { display: flex; height: 22px; border-radius: 4px; overflow: hidden; background: #eceff2; }
.bar > div { min-width: 1px; color: #fff; font-size: 11.5px; line-height: 22px; padding-left: 6px; overflow: hidden; white-space: nowrap; }
.use { display: grid; grid-template-columns: max-content 1fr; gap: 8px 16px; align-items: center; margin-bottom: 14px; }
details { margin-top: 10px; }
summary { cursor: pointer; }
"""
SOURCE_COLOURS = ("#3B6EA8", "#C8732A", "#4C8C5B", "#9A5B8F", "#A38A2C", "#4D9DB4", "#8A5A44", "#6B7280")


def document(title, body):
    return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>{body}</main></body></html>\n")


def section(title, note, inside):
    note = f'<p class="soft">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{note}{inside}</section>\n" if inside else ""


def header(title, runs, trunk_runs, trunk_colour, date):
    chips = [f'<span><span class="chip" style="background:{run.colour}"></span>{escape(run.name)}</span>' for run in runs]
    chips += [f'<span class="soft"><span class="chip" style="background:{trunk_colour}"></span>{escape(run.name)}, before the branch</span>' for run in trunk_runs]
    return (f'<h1>{escape(title)}</h1><p class="soft">meristem report, written on {escape(date)}</p>'
            f'<div class="legend">{"".join(chips)}</div>')


def run_heads(runs, first=""):
    heads = "".join(f'<th><span class="chip" style="background:{run.colour}"></span>{escape(run.name)}</th>' for run in runs)
    return f"<thead><tr><th>{escape(first)}</th>{heads}</tr></thead>"


def value_text(value, how):
    if isinstance(value, str):
        return escape(value)
    if not math.isfinite(value):
        return "–"
    if how == "count":
        return f"{value:,.0f}"
    if how in ("epochs", "figures"):
        return f"{value:.3g}"
    if how == "share":
        return f"{value:.2%}"
    return f"{value:.4f}"


def final_table(runs, rows):
    """Losses are compared with the first run's; the lowest one on held-out text is bold (training losses are of different mixtures)."""
    out = []
    for label, values, how in rows:
        numbers = [value for value in values if not isinstance(value, str) and math.isfinite(value)]
        best = min(numbers) if how == "loss" and len(numbers) > 1 and len(set(numbers)) > 1 else None
        cells = []
        for i, value in enumerate(values):
            text = value_text(value, how)
            if "loss" in how and i > 0 and text != "–" and math.isfinite(values[0]):
                text += f'<span class="by">{value - values[0]:+.4f}</span>'
            cells.append(f'<td class="best">{text}</td>' if best is not None and value == best else f"<td>{text}</td>")
        out.append(f"<tr><th>{escape(label)}</th>{''.join(cells)}</tr>")
    note = "Losses in nats per token; training losses are means over the last 3 % of the lines that were logged, but at least 7."
    note += " Small figures: difference to the first run." if len(runs) > 1 else ""
    return section("Final figures", note, f'<div class="panel"><table>{run_heads(runs)}<tbody>{"".join(out)}</tbody></table></div>')


def chart_section(title, note, drawn):
    figures = [f'<div class="panel"><h3>{escape(chart.title)}</h3>{charts.draw(chart)}</div>' for chart in drawn]
    return section(title, note, f'<div class="charts">{"".join(figures)}</div>' if figures else "")


def colour_of(source, sources):
    return SOURCE_COLOURS[sources.index(source) % len(SOURCE_COLOURS)]


def bar(tokens, sources):
    total = sum(tokens.values()) or 1
    parts = []
    for source in sources:
        share = tokens.get(source, 0) / total
        if share > 0:
            label = f"{escape(source)} {share:.1%}" if share > 0.12 else ""
            parts.append(f'<div style="width:{share:.4%};background:{colour_of(source, sources)}" title="{escape(source)} {share:.2%}">{label}</div>')
    return f'<div class="bar">{"".join(parts)}</div>'


def source_section(runs, sources):
    """What each run read of each source; for a branch also since it began."""
    known = [run for run in runs if run.use()]
    if not known:
        return ""
    bars, rows = [], []
    branched = any(run.use_before() for run in known)
    for run in known:
        tokens, epochs, before = run.use(), run.use("epochs_by_source"), run.use_before()
        since = {source: value - before.get(source, 0) for source, value in tokens.items()}
        bars.append(f'<div>{escape(run.name)}{" since the branch" if before else ""}</div>{bar(since, sources)}')
        for source in sources:
            if source in tokens:
                extra = f"<td>{since[source]:,.0f}</td>" if branched and before else "<td>–</td>" if branched else ""
                rows.append(f'<tr><th>{escape(run.name)}</th><td><span class="chip" style="background:{colour_of(source, sources)}"></span>{escape(source)}</td>'
                            f"<td>{tokens[source]:,.0f}</td>{extra}<td>{value_text(epochs.get(source, math.nan), 'epochs')}</td></tr>")
    heads = "".join(f"<th>{head}</th>" for head in ["run", "source", "tokens", *(["since the branch"] if branched else []), "epochs"])
    return section("Tokens of each source", "", f'<div class="panel"><div class="use">{"".join(bars)}</div><table><thead><tr>{heads}</tr></thead>'
                   f'<tbody>{"".join(rows)}</tbody></table></div>')


def spike_text(event):
    """With both numbers: either of them can be what made it one."""
    return f"{event['event']}: loss {number(event.get('loss')):.4f}, gradient norm {number(event.get('grad_norm')):.3g}"


def event_section(runs):
    rows = []
    for run in runs:
        events = [(step, f"grew {before or '?'} → {after} blocks") for step, before, after in run.growths]
        events += [(start, f"phase {name}") for name, start in run.phases]
        events += [(run.branch_step, f"branch of {run.branch_of}")] if run.branch_of else []
        events += [(event["step"], spike_text(event)) for event in run.metrics.events if event["event"] in ("skip", "spike")][:20]
        rows += [f"<tr><th>{escape(run.name)}</th><td>{step:,}</td><td>{escape(text)}</td></tr>" for step, text in sorted(events)]
    return section("Events", "", f'<div class="panel"><table><thead><tr><th>run</th><th>after step</th><th>what</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>' if rows else "")


def config_value(value):
    return "–" if value is None else f"<code>{escape(json.dumps(value, ensure_ascii=False))}</code>"


def difference_table(runs, rows):
    if not rows:
        return section("Configs", "", '<div class="panel">They do not differ but in run.name.</div>')
    lines = [f"<tr><th><code>{escape(key)}</code></th>{''.join(f'<td>{config_value(value)}</td>' for value in values)}</tr>" for key, values in rows]
    return section("What differs in the configs", "Every other key is the same.", f'<div class="panel"><table>{run_heads(runs, "key")}<tbody>{"".join(lines)}</tbody></table></div>')


def config_section(runs):
    parts = [f"<details><summary>{escape(run.name)}</summary><pre>{escape((run.folder / 'config.yaml').read_text(encoding='utf-8'))}</pre></details>" for run in runs]
    return section("Whole configs", "", f'<div class="panel">{"".join(parts)}</div>')
