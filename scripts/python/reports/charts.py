"""Line charts as inline SVG: axes with round numbers, curves, points, vertical marks. Text stays text, so that pages can be searched."""

import math
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 26, 38
MOST_POINTS = 500
CONTEXT = 0.25  # of the shown steps, over which a context's curve may leave the picture
SETTLED = 0.04  # of a curve: its first part falls steeply and would press everything else flat


@dataclass
class Series:
    label: str
    colour: str
    steps: list
    values: list
    raw: list = None  # unsmoothed, drawn faintly behind
    points: bool = False  # each value is a measurement of its own
    context: bool = False  # drawn for orientation: thin, and only its later part decides the range
    dashed: bool = False


@dataclass
class Mark:
    step: float
    label: str
    colour: str = "#666666"


@dataclass
class Chart:
    title: str
    series: list
    marks: list = field(default_factory=list)
    from_step: float = 0
    until_step: float = 1
    x_label: str = "step"
    from_zero: bool = False
    settle: bool = True


def short(value):
    """Few characters: 0.0031, 12.5k, 3M."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if suffix == 'k' else limit):.4g}{suffix}"
    return f"{value:.4g}"


def ticks(low, high, count=5):
    """Round numbers from low to high, about `count` of them."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    power = 10 ** math.floor(math.log10(span / count))
    step = next((m * power for m in (1, 2, 2.5, 5, 10) if span / (m * power) <= count), 10 * power)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def thinned(steps, values):
    """At most MOST_POINTS points: means of equal runs of them."""
    width = math.ceil(len(steps) / MOST_POINTS)
    if width <= 1:
        return steps, values
    parts = range(0, len(steps), width)
    mean = lambda items: sum(items) / len(items)  # noqa: E731
    return [mean(steps[i:i + width]) for i in parts], [mean(values[i:i + width]) for i in parts]


def value_range(chart):
    values = []
    for series in chart.series:
        begin = chart.from_step + (CONTEXT * (chart.until_step - chart.from_step) if series.context else 0)
        inside = [v for s, v in zip(series.steps, series.values) if begin <= s <= chart.until_step and math.isfinite(v)]
        skip = int(SETTLED * len(inside)) if chart.settle and not series.points and chart.from_step == 0 else 0
        values += inside[skip:]
    if not values:
        values = [v for series in chart.series for v in series.values if math.isfinite(v)] or [0, 1]
    low, high = (0 if chart.from_zero else min(values)), max(values)
    margin = max(0.06 * (high - low), 1e-6 * max(abs(high), 1e-9))
    return (0 if chart.from_zero else low - margin), high + margin


class Canvas:
    def __init__(self, chart):
        self.chart, (self.low, self.high) = chart, value_range(chart)
        self.parts = []

    def x(self, step):
        share = (step - self.chart.from_step) / max(self.chart.until_step - self.chart.from_step, 1e-9)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value):
        return HEIGHT - BOTTOM - (value - self.low) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)

    def add(self, text):
        self.parts.append(text)

    def axes(self):
        for value in ticks(self.low, self.high):
            y = self.y(value)
            self.add(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            self.add(f'<text class="tick" x="{LEFT - 7}" y="{y + 3.5:.1f}" text-anchor="end">{short(value)}</text>')
        for step in ticks(self.chart.from_step, self.chart.until_step, 6):
            x = self.x(step)
            self.add(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 4}"/>')
            self.add(f'<text class="tick" x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{short(step)}</text>')
        self.add(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}"/>')
        self.add(f'<text class="tick" x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 5}" text-anchor="middle">{escape(self.chart.x_label)}</text>')

    def marks(self):
        """Dashed lines; a label that would run into the one before goes to the second row."""
        free = [-1.0, -1.0]
        for mark in sorted(self.chart.marks, key=lambda mark: mark.step):
            if not self.chart.from_step <= mark.step <= self.chart.until_step:
                continue
            x = self.x(mark.step)
            width = 5.4 * len(mark.label) + 6
            left = min(x + 3, WIDTH - RIGHT - width)
            row = 0 if left >= free[0] else 1
            free[row] = left + width
            self.add(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 12 + 11 * row}" y2="{HEIGHT - BOTTOM}" stroke="{mark.colour}" stroke-dasharray="4 3"/>')
            self.add(f'<text class="mark" x="{left:.1f}" y="{TOP - 4 + 11 * row}" fill="{mark.colour}">{escape(mark.label)}</text>')

    def path(self, steps, values, attributes, label=""):
        """One path; it is interrupted where a value is not finite."""
        out, pen = [], "M"
        for step, value in zip(*thinned(steps, values)):
            if not math.isfinite(value):
                pen = "M"
                continue
            out.append(f"{pen}{self.x(step):.1f} {self.y(value):.1f}")
            pen = "L"
        title = f"<title>{escape(label)}</title>" if label else ""
        self.add(f'<path d="{"".join(out)}" fill="none" {attributes}>{title}</path>')

    def series(self, series):
        if series.raw is not None:
            self.path(series.steps, series.raw, f'stroke="{series.colour}" stroke-width="0.8" opacity="0.22"')
        width, dash = ("1.2" if series.context else "1.9"), (' stroke-dasharray="5 3"' if series.dashed else "")
        self.path(series.steps, series.values, f'stroke="{series.colour}" stroke-width="{width}"{dash} stroke-linejoin="round"', series.label)
        if not (series.points or len(series.steps) == 1):
            return
        radius = 2 if series.context else 3.2
        for step, value in zip(series.steps, series.values):
            if self.chart.from_step <= step <= self.chart.until_step and math.isfinite(value):
                self.add(f'<circle cx="{self.x(step):.1f}" cy="{self.y(value):.1f}" r="{radius}" fill="{series.colour}" stroke="white" '
                         f'stroke-width="0.8"><title>{escape(series.label)}, step {step:,.0f}: {value:.4f}</title></circle>')


def draw(chart):
    """The chart as an <svg> element; curves are clipped to the plot."""
    canvas = Canvas(chart)
    canvas.axes()
    canvas.marks()
    canvas.add(f'<svg x="{LEFT}" y="{TOP - 4}" width="{WIDTH - LEFT - RIGHT + 4}" height="{HEIGHT - TOP - BOTTOM + 8}" '
               f'viewBox="{LEFT} {TOP - 4} {WIDTH - LEFT - RIGHT + 4} {HEIGHT - TOP - BOTTOM + 8}">')
    for series in sorted(chart.series, key=lambda series: not series.context):
        canvas.series(series)
    canvas.add("</svg>")
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(chart.title)}">{"".join(canvas.parts)}</svg>'
