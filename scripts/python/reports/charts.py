"""Figures for page.py, as plotly.js knows them: lines, bars, differences around zero, heatmaps, shares. Colours are names ("model", "soft/0.3") that the page
puts in; texts of users go through label(), because plotly reads tags in them."""

import bisect
import itertools
import math
import textwrap
from dataclasses import dataclass
from html import escape

import numpy as np

MOST_POINTS = 2000
DASHES = ("solid", "dash", "dot", "longdashdot")  # of the first eight models, the next eight, …
PATTERNS = ("", "/", "x", ".")
SYMBOLS = ("circle", "square", "diamond", "cross", "x", "star", "hexagon", "pentagon")
FEW = 16  # whole numbers on an axis, up to which each has its tick
SETTLED = 0.04  # of a curve: its first part falls steeply and would press everything else flat
TOLD = "%{hovertext}"
FIGURES = ":.7~g"  # numbers on hovering: whole, not as short as on the axes


@dataclass
class Line:
    model: str
    x: list
    y: list
    low: list = None  # an interval, drawn as a band
    high: list = None
    raw: list = None  # unsmoothed, drawn faintly behind
    name: str = ""  # default: the model
    points: bool = False  # each value is a measurement of its own
    dash: str = "model"
    step_like: bool = False  # stays until the next value
    soft: bool = False  # in grey: for orientation
    n: object = None  # how many things are behind a value: a number, or a list
    told: list = None  # more for hovering, a text for each value
    track: int = None  # whose steps x are, where the page has a choice of axis


@dataclass
class Bars:
    model: str
    values: list  # one for each category, None where there is none
    low: list = None
    high: list = None
    n: object = None


def label(text):
    """A user's text, for plotly, which reads tags and, between dollars, formulas."""
    return escape(str(text), quote=False).replace("$", "&#36;")


def wrapped(text, width=22):
    """A label of several lines."""
    return "<br>".join(label(line) for line in textwrap.wrap(str(text), width)) or " "


def finite(value):
    return isinstance(value, (int, float)) and math.isfinite(value)


def rounded(values, figures=7):
    """Seven figures are more than a reader asks for, and half as long as all; what is no number becomes a gap."""
    return [float(f"{value:.{figures}g}") if finite(value) else None for value in values]


def thinned(xs, ys, most=MOST_POINTS):
    """At most `most` points: the least and the greatest value of each of equal runs of points, in their order, so that no peak is lost."""
    if len(xs) <= most:
        return list(xs), list(ys)
    values = np.array([math.nan if y is None else y for y in ys], float)
    ends = [i * len(xs) // (most // 2 - 1) for i in range(most // 2)]
    kept = {0, len(xs) - 1}
    for begin, end in zip(ends, ends[1:]):
        known = begin + np.flatnonzero(np.isfinite(values[begin:end]))
        kept |= {int(known[values[known].argmin()]), int(known[values[known].argmax()])} if len(known) else {begin}
    kept = sorted(kept)
    return [xs[j] for j in kept], [ys[j] for j in kept]


def settled_range(lines, from_zero=False):
    """[low, high] of what the lines show after their first fall."""
    shown = []
    for line in lines:
        values = np.array([math.nan if y is None else y for y in line.y], float)
        known = values[np.isfinite(values)]
        shown.append(known if line.points or line.soft else known[int(SETTLED * len(known)):])
    values = np.concatenate(shown) if shown else np.array([])
    if not len(values):
        return [0, 1]
    low, high = (0 if from_zero else float(values.min())), float(values.max())
    margin = max(0.06 * (high - low), 1e-6 * max(abs(high), 1e-9))
    return [0 if from_zero else low - margin, high + margin]


def title_of(text):
    return {"text": label(text), "font": {"size": 12}}


def counts(n, size):
    return [n] * size if not isinstance(n, (list, tuple)) else list(n)


def about(line_or_bars, size):
    """What hovering tells besides the value: interval and n, where they are known, as texts."""
    out = [""] * size
    low, high = line_or_bars.low, line_or_bars.high
    for i in range(size):
        if low and high and finite(low[i]) and finite(high[i]):
            out[i] += f"<br>95 % interval {low[i]:.5g} … {high[i]:.5g}"
        if line_or_bars.n is not None and counts(line_or_bars.n, size)[i] is not None:
            out[i] += f"<br>n = {counts(line_or_bars.n, size)[i]:,}"
    return out


def band(line):
    """The interval as closed shapes, one for each run of values that has it."""
    runs, run = [], []
    for x, low, high in [*zip(line.x, line.low, line.high), (None, None, None)]:
        if finite(low) and finite(high):
            run.append((x, low, high))
        elif run:
            runs.append(run)
            run = []
    xs, ys = [], []
    for run in runs:
        xs += [x for x, _, _ in run] + [x for x, _, _ in reversed(run)] + [None]
        ys += [low for _, low, _ in run] + [high for _, _, high in reversed(run)] + [None]
    return {"type": "scatter", "x": xs, "y": rounded(ys), "fill": "toself", "fillcolor": "model/0.18", "line": {"width": 0},
            "mode": "lines", "hoverinfo": "skip", "meta": {"model": line.model}}


def line_traces(line, x_name):
    meta = {"model": line.model} if line.model is not None else {}
    meta |= {"track": line.track} if line.track is not None else {}
    colour = "soft" if line.soft or line.model is None else "model"
    traces = [band(line)] if line.low and line.high else []
    if line.raw is not None:
        x, y = thinned(line.x, line.raw)
        traces.append({"type": "scatter", "mode": "lines", "x": x, "y": rounded(y), "line": {"color": f"{colour}/0.3", "width": 1}, "hoverinfo": "skip", "meta": meta})
    x, y = thinned(line.x, line.y)
    points = line.points or len(x) == 1
    where = "%{customdata:,}" if line.track is not None else "%{x}"
    told = about(line, len(line.x)) if len(x) == len(line.x) else []
    told = [f"{one}<br>{label(more)}" for one, more in zip(told, line.told)] if line.told else told
    traces.append({"type": "scatter", "mode": "lines+markers" if points else "lines", "x": x, "y": rounded(y), "name": label(line.name or line.model), "connectgaps": False,
                   "line": {"color": colour, "width": 1.3 if line.soft else 2, "dash": line.dash, "shape": "hv" if line.step_like else "linear"}, "meta": meta,
                   "marker": {"color": colour, "size": 5 if line.soft else 7, "symbol": "model"},
                   "hovertemplate": f"<b>%{{fullData.name}}</b><br>{label(x_name)} {where}: %{{y{FIGURES}}}{TOLD if any(told) else ''}<extra></extra>"} | ({"hovertext": told} if any(told) else {}))
    if line.model is None or line.soft:  # nobody's: no place for the page to put a colour in
        traces[-1]["line"]["dash"] = "dot" if line.dash == "model" else line.dash
        traces[-1]["marker"]["symbol"] = "circle"
    return traces


def lines(series, x_title, y_title="", x_log=False, y_log=False, y_range=None, y_from_zero=False, categories=None, height=320):
    """Lines with their intervals over a number, or over named places (`categories`: x are then their indices)."""
    traces = [trace for line in sorted(series, key=lambda line: not line.soft) for trace in line_traces(line, x_title)]
    x_axis = {"title": title_of(x_title)} | (log_axis([x for line in series for x in line.x]) if x_log else {})
    if categories is not None:
        x_axis |= named_ticks(categories)
    elif not x_log and all(line.track is None for line in series):
        places = {x for line in series for x in line.x}
        if len(places) <= FEW and all(isinstance(x, int) and 0 <= x < 100 for x in places):
            x_axis |= {"tickmode": "array", "tickvals": sorted(places)}
    y_axis = {"title": title_of(y_title)} | (log_axis([y for line in series for y in line.y]) if y_log else {}) | ({"range": y_range} if y_range and not y_log else {}) | ({"rangemode": "tozero"} if y_from_zero else {})
    figure = {"data": traces, "layout": {"xaxis": x_axis, "yaxis": y_axis}, "height": height}
    return figure | ({"along_run": True} if any(line.track is not None for line in series) else {})


def named_ticks(names, most=14):
    """An axis over 0, 1, 2, … whose ticks have names; of many, each second or third or … has its."""
    stride = next(unit * 10**power for power in itertools.count() for unit in (1, 2, 5) if len(names) <= most * unit * 10**power)
    at = list(range(0, len(names), stride))
    return {"tickmode": "array", "tickvals": at, "ticktext": [label(names[i]) for i in at], "range": [-0.5, len(names) - 0.5], "zeroline": False}


def log_axis(values, most=8):
    """With ticks at the values themselves where they are few, else at 1, 2, 5, … or at powers of ten."""
    places = sorted({value for value in values if finite(value) and value > 0})
    if len(places) > most:
        tens = range(math.floor(math.log10(places[0])), math.ceil(math.log10(places[-1])) + 1)
        grids = [[unit * 10.0**ten for ten in tens for unit in (1, 2, 5)]] + [[10.0**ten for ten in tens if ten % stride == 0] for stride in (1, 2, 5, 10, 50)]
        inside = ([tick for tick in grid if places[0] <= tick <= places[-1]] for grid in grids)
        grid = next((grid for grid in inside if len(grid) <= most), [])
        places = grid if len(grid) > 1 else [float(f"{places[i]:.2g}") for i in (0, len(places) // 2, -1)]
    return {"type": "log", "tickmode": "array", "tickvals": places, "ticktext": [f"{place:,.4g}" if 1e-3 <= place < 1e6 else f"{place:.0e}" for place in places]}


def level(figure, value, text):
    """A dashed line across, such as what chance gives."""
    along = "x" if figure.get("lying") else "y"
    other = "y" if along == "x" else "x"
    shape = {"type": "line", f"{along}0": value, f"{along}1": value, f"{other}0": 0, f"{other}1": 1, f"{other}ref": "paper", "line": {"color": "soft", "width": 1.5, "dash": "dash"}}
    note = {"text": label(text), along: value, other: 1, f"{other}ref": "paper", "showarrow": False, "font": {"color": "soft", "size": 12},
            "xanchor": "right" if along == "y" else "left", "yanchor": "bottom"}
    layout = figure["layout"] | ({"margin": {"t": 48}} if figure.get("lying") else {})  # its text stands below the buttons
    return figure | {"layout": layout | {"shapes": layout.get("shapes", []) + [shape], "annotations": layout.get("annotations", []) + [note]}}


def ticks_across(figure, places):
    """A short stroke across some of lying bars, such as what chance gives for each of them: [(row, value or None, text)]."""
    places = [(row, value, text) for row, value, text in places if finite(value)]
    trace = {"type": "scatter", "mode": "markers", "x": rounded(value for _, value, _ in places), "y": [row for row, _, _ in places], "hovertext": [label(text) for _, _, text in places],
             "marker": {"symbol": "line-ns-open", "size": 22, "color": "ink", "line": {"width": 2}}, "hovertemplate": f"%{{hovertext}}: %{{x{FIGURES}}}<extra></extra>"}
    return figure | {"data": figure["data"] + [trace]} if places else figure


def whiskers(values, low, high, colour):
    if not (low and high):
        return None
    known = [all(map(finite, three)) for three in zip(values, low, high)]
    return {"type": "data", "symmetric": False, "array": [h - v if k else 0 for v, h, k in zip(values, high, known)],
            "arrayminus": [v - l if k else 0 for v, l, k in zip(values, low, known)], "color": colour, "thickness": 1.5, "width": 4}


def bars(categories, series, x_title="", x_range=None):
    """Lying bars with intervals: a row for each category, in it a bar for each model. One category: a row for each model."""
    alone = len(categories) == 1
    places = [line.model for line in series] if alone else list(categories)
    traces = []
    for i, one in enumerate(series):
        at = [i] if alone else list(range(len(categories)))
        trace = {"type": "bar", "orientation": "h", "y": at, "x": rounded(one.values), "name": label(one.model), "meta": {"model": one.model},
                 "marker": {"color": "model", "pattern": {"shape": "model", "fillmode": "overlay", "fgcolor": "panel", "fgopacity": 0.7, "size": 6}}, "hovertext": about(one, len(one.values)),
                 "customdata": [label(place) for place in ([one.model] if alone else categories)],
                 "hovertemplate": f"<b>%{{fullData.name}}</b><br>%{{customdata}}: %{{x{FIGURES}}}{TOLD}<extra></extra>"}
        traces.append(trace | ({"error_x": errors} if (errors := whiskers(one.values, one.low, one.high, "ink")) else {}))
    names = [wrapped(place) for place in places]
    row = max(34, 17 * max(name.count("<br>") + 1 for name in names) + 4, 16 * (1 if alone else len(series)) + 8)
    y_axis = {"tickmode": "array", "tickvals": list(range(len(places))), "ticktext": names, "range": [len(places) - 0.5, -0.5], "zeroline": False}
    x_axis = {"title": title_of(x_title), "nticks": 5, "tickangle": 0} | ({"range": x_range} if x_range else {})
    layout = {"xaxis": x_axis, "yaxis": y_axis, "barmode": "overlay" if alone else "group", "bargap": 0.25}
    return {"data": traces, "layout": layout, "height": 100 + row * len(places), "lying": True}


def forest(rows, x_title):
    """Differences around zero. Rows: (label, value, low, high) or (label, value, low, high, n); the numbers stand over their mark."""
    rows = [(*row, None)[:5] for row in rows]
    values, lows, highs = ([row[i] for row in rows] for i in (1, 2, 3))
    names = [wrapped(row[0], 20) for row in rows]
    heights = [max(46, 17 * (name.count("<br>") + 1) + 10) for name in names]
    at = [sum(heights[:i]) + height / 2 for i, height in enumerate(heights)]  # in pixels, so that no label meets the next
    numbers = [f"{v:+.3g} [{low:+.2g}, {high:+.2g}]" if all(map(finite, (v, low, high))) else f"{v:+.3g}" if finite(v) else "–" for _, v, low, high, _ in rows]
    told = about(Bars(None, values, lows, highs, [row[4] for row in rows]), len(rows))
    trace = {"type": "scatter", "mode": "markers", "x": rounded(values), "y": at, "marker": {"color": "ink", "size": 9, "symbol": "square"},
             "hovertext": [f"{label(row[0])}{more}" for row, more in zip(rows, told)], "hovertemplate": f"{TOLD}<br><b>%{{x{FIGURES}}}</b><extra></extra>",
             "error_x": whiskers(values, lows, highs, "ink")}
    notes = [{"text": text, "xref": "paper", "x": 1, "xanchor": "right", "y": y, "yshift": 13, "showarrow": False, "bgcolor": "panel", "borderpad": 0, "font": {"color": "soft", "size": 12}}
             for text, y in zip(numbers, at)]
    zero = {"type": "line", "x0": 0, "x1": 0, "y0": 0, "y1": 1, "yref": "paper", "line": {"color": "soft", "width": 1.5, "dash": "dash"}}
    # An invisible point at zero keeps zero in the picture.
    origin = {"type": "scatter", "mode": "markers", "x": [0], "y": [0], "marker": {"opacity": 0, "color": "ink"}, "hoverinfo": "skip"}
    layout = {"xaxis": {"title": title_of(x_title), "nticks": 5, "tickangle": 0}, "shapes": [zero], "annotations": notes,
              "yaxis": {"tickmode": "array", "tickvals": at, "ticktext": names, "range": [sum(heights), 0], "zeroline": False}}
    return {"data": [trace, origin], "layout": layout, "height": 90 + sum(heights)}


def heatmap(values, x_labels, y_labels, x_title, y_title, z_range=None, diverging=False, low=None, high=None, n=None, told=None, names=None, z_title="", model=None, height=None):
    """A matrix, its first row on top. `z_range`: the same for all that shall be compared; `diverging`: two colours that meet at zero; `low`, `high`: intervals,
    shaped as the values; `told`: more for hovering, shaped as the values; `names`: what columns
    and rows are called there, where labels are too short. What is on a cell besides its value is put together when it is drawn (page.js), not a hundred thousand times here."""
    z = [rounded(row) for row in values]
    known = [v for row in z for v in row if v is not None] or [0]
    least, greatest = z_range or (min(known), max(known))
    if diverging:
        least, greatest = -max(abs(least), abs(greatest)), max(abs(least), abs(greatest))
    cells = {"n": n} | {key: [label(name) for name in own] for key, own in zip("xy", names or (x_labels, y_labels))}
    if low and high:
        cells |= {"low": [rounded(row, 5) for row in low], "high": [rounded(row, 5) for row in high]}
    cells |= {"told": told} if told else {}
    trace = {"type": "heatmap", "z": z, "zmin": least, "zmax": greatest if greatest > least else least + 1e-9, "colorscale": "diverging" if diverging else "sequential",
             "hoverongaps": False, "xgap": 1 if len(x_labels) <= 32 else 0, "ygap": 1 if len(y_labels) <= 32 else 0, "meta": {"cells": cells} | ({"model": model} if model is not None else {}),
             "hovertemplate": f"{label(y_title)} %{{customdata[1]}}, {label(x_title)} %{{customdata[0]}}<br><b>%{{z{FIGURES}}}</b>%{{customdata[2]}}<extra></extra>",
             "colorbar": {"thickness": 10, "outlinewidth": 0, "tickfont": {"size": 12}, "nticks": 5, "xpad": 4, "title": title_of(z_title) | {"side": "right"}}}
    layout = {"plot_bgcolor": "hole", "xaxis": named_ticks(x_labels, 10) | {"title": title_of(x_title), "showgrid": False},
              "yaxis": named_ticks(y_labels, 12) | {"title": title_of(y_title), "showgrid": False, "range": [len(y_labels) - 0.5, -0.5]}}
    return {"data": [trace], "layout": layout, "height": height or min(360, 130 + 26 * len(y_labels))}


def shares(rows, parts):
    """Lying bars of full width, divided. Rows: (label, {part: amount}); the colour of a part is that of its place in `parts` (page.Cell's `part`)."""
    traces = []
    totals = [sum(amounts.values()) or 1 for _, amounts in rows]
    for i, part in enumerate(parts):
        share = [100 * amounts.get(part, 0) / total for (_, amounts), total in zip(rows, totals)]
        traces.append({"type": "bar", "orientation": "h", "y": list(range(len(rows))), "x": rounded(share), "name": label(part),
                       "marker": {"color": f"part{i % 8}", "line": {"color": "panel", "width": 1.5}},
                       "text": [f"{label(part)} {one:.1f} %" if one else "" for one in share], "textposition": "inside", "insidetextanchor": "middle", "textangle": 0,
                       "textfont": {"color": "ink", "size": 12}, "constraintext": "inside", "customdata": [amounts.get(part, 0) for _, amounts in rows],
                       "hovertemplate": "<b>%{fullData.name}</b><br>%{x:.2f} %<br>%{customdata:,}<extra></extra>"})
    y_axis = {"tickmode": "array", "tickvals": list(range(len(rows))), "ticktext": [wrapped(name, 18) for name, _ in rows], "range": [len(rows) - 0.5, -0.5], "zeroline": False, "showgrid": False}
    layout = {"uniformtext": {"minsize": 12, "mode": "hide"}, "barmode": "stack", "bargap": 0.3, "xaxis": {"range": [0, 100], "ticksuffix": " %", "nticks": 6}, "yaxis": y_axis}
    return {"data": traces, "layout": layout, "height": 76 + 44 * len(rows)}


def steps_of_slope(steps, *columns):
    """The places that straight lines between them give all columns back (to a millionth of their greatest value): [steps, *columns], as few as that takes."""
    scale = [max(map(abs, column)) or 1 for column in columns]
    kept = [0]
    for i in range(1, len(steps) - 1):
        a, b = kept[-1], i + 1
        share = (steps[i] - steps[a]) / (steps[b] - steps[a])
        if any(abs(column[a] + share * (column[b] - column[a]) - column[i]) > 1e-6 * size for column, size in zip(columns, scale)):
            kept.append(i)
    kept += [len(steps) - 1] if len(steps) > 1 else []
    return [[column[i] for i in kept] for column in (steps, *columns)]


def between(xs, ys, x, step_like=False):
    """The height at x of a line through points (xs ascending); beyond its ends it goes on as it was."""
    if len(xs) == 1:
        return ys[0]
    i = min(max(bisect.bisect_right(xs, x) - 1, 0), len(xs) - 1 if step_like else len(xs) - 2)
    return ys[i] if step_like else ys[i] + (x - xs[i]) / (xs[i + 1] - xs[i]) * (ys[i + 1] - ys[i])
