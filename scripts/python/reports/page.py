"""The one way to an HTML page: sections with text, tables and figures (charts.py), one file that fetches nothing. plotly's JavaScript is written into it;
page.js draws the figures in light or dark colours, as the reader's system has it."""

import functools
import importlib.resources
import itertools
import json
import math
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from command import publish
from reports.charts import DASHES, PATTERNS, SYMBOLS

HERE = Path(__file__).resolve().parent
# The eight colours of a scheme differ for readers with any colour vision, and stand out 3 : 1 from panel and ground; text does so 4.5 : 1
# (tests/unit/scripts/page_test.py measures both). Beyond eight models, lines are dashed and bars hatched.
LIGHT = {"ink": "#1f2328", "soft": "#59636e", "line": "#dfe3e8", "edge": "#8b949e", "ground": "#f6f7f9", "panel": "#ffffff", "hole": "#d0d5db",
         "models": ("#3932c6", "#c97e00", "#007c46", "#a2388c", "#db0a11", "#3981de", "#4a1a10", "#857c91"),
         "parts": ("#cfe3f5", "#fbe0b8", "#cdebd9", "#efd3ea", "#f3ecb0", "#d9dde3", "#f8d0c8", "#c3e8ea"),
         "sequential": ("#f4f8fc", "#c9dff0", "#8fc1e0", "#4796cb", "#1764ab", "#08306b"),
         "diverging": ("#8a4b00", "#d98b2b", "#f3d3a4", "#f7f7f7", "#b5c9e8", "#5a7fc4", "#1f3d8a")}
DARK = {"ink": "#e6eaef", "soft": "#a3adb8", "line": "#333b44", "edge": "#7d8894", "ground": "#12161b", "panel": "#1b2026", "hole": "#3a434d",
        "models": ("#5f80ea", "#f28a02", "#12c59a", "#bb98fe", "#b87a74", "#b3d9fd", "#ffd139", "#fcffd1"),
        "parts": ("#28435c", "#5c4420", "#25503a", "#532f4c", "#4f4a1c", "#454c55", "#5e332b", "#1f4d50"),
        "sequential": ("#1d2630", "#20415f", "#2a6a9b", "#4a97cf", "#93c6ee", "#f0f8ff"),
        "diverging": ("#ffc37a", "#d08a30", "#70501f", "#272d34", "#2f4a80", "#5f88dd", "#b9d0ff")}
MANY_SECTIONS = 8  # from which on there is a table of contents
LONG_WORD = 20  # characters; longer ones may break anywhere
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"


@dataclass
class Cell:
    """A cell of a table that is more than its text. `model`: with the model's line before it; `part`: with the colour of a part (charts.shares)."""

    value: object
    small: str = ""
    strong: bool = False
    code: bool = False
    model: str = None
    part: int = None


@dataclass
class Section:
    title: str = ""
    text: str = ""
    parts: list = field(default_factory=list)  # (HTML, group): neighbours of one group share a box

    def html(self, name):
        out = [f"<h2>{escape(self.title)}</h2>"] * bool(self.title) + [f'<p class="soft">{escape(self.text)}</p>'] * bool(self.text)
        for group, parts in itertools.groupby(self.parts, key=lambda part: part[1]):
            inside = "".join(html for html, _ in parts)
            out.append(f'<div class="{group}">{inside}</div>' if group else inside)
        return f'<section id="{name}">{"".join(out)}</section>'


def contents(sections):
    """Links to the sections, folded, where they are many."""
    titled = [(name, section.title) for name, section in sections.items() if section.title]
    links = "".join(f'<li><a href="#{name}">{escape(title)}</a></li>' for name, title in titled)
    return f'<nav><details><summary>Contents</summary><ol>{links}</ol></details></nav>' if len(titled) >= MANY_SECTIONS else ""


def number_text(value):
    """Whole numbers with commas, others with four figures; a dash for what is not there or not finite."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def scheme(colours):
    """{name: colour or scale} as page.js and the style sheet know it."""
    flat = {key: value for key, value in colours.items() if isinstance(value, str)}
    for many, one in (("models", "model"), ("parts", "part")):
        flat |= {f"{one}{i}": value for i, value in enumerate(colours[many])}
    scales = {key: [[i / (len(colours[key]) - 1), value] for i, value in enumerate(colours[key])] for key in ("sequential", "diverging")}
    return flat | scales


def style_sheet():
    rules = ["{" + "".join(f"--{key}: {value};" for key, value in scheme(colours).items() if isinstance(value, str)) + "}" for colours in (LIGHT, DARK)]
    return (f":root {{ color-scheme: light dark; }} :root {rules[0]} @media (prefers-color-scheme: dark) {{ :root {rules[1]} }}\n"
            + (HERE / "page.css").read_text(encoding="utf-8"))


@functools.cache
def plotly_script():
    return (importlib.resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")


def json_text(value):
    """JSON that may stand in a <script>: no text in it can end the element."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


class Page:
    """Sections, tables and figures, in the order of the calls. A model (a run, a study's member) has the colour of its place in `models` in every figure
    and table; one that is first met in a figure comes behind them. `context`: what is drawn in grey."""

    def __init__(self, title, note="", models=(), context=()):
        self.title, self.note = title, note
        self.models, self.context = list(dict.fromkeys(models)), list(context)
        self.figures, self.sections, self.axis = [], [Section()], None

    def section(self, title, text=""):
        """What follows stands under this title; a section that stays empty is left out."""
        self.sections.append(Section(title, text))

    def text(self, text):
        self._add(f"<p>{escape(text)}</p>")

    def table(self, header, rows, note=""):
        """Header and rows are lists of texts, numbers, None or Cells; the first cell of a row is its name."""
        heads = "".join(self._cell(cell, "th", ' scope="col"') for cell in header)
        lines = "".join("<tr>" + "".join(self._cell(cell, "td" if i else "th", "" if i else ' scope="row"') for i, cell in enumerate(row)) + "</tr>" for row in rows)
        note = f'<p class="soft">{escape(note)}</p>' if note else ""
        self._add(f'<div class="panel" tabindex="0">{note}<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>')

    def subtitle(self, title, text=""):
        self._add(f"<h3>{escape(title)}</h3>" + (f'<p class="soft">{escape(text)}</p>' if text else ""))

    def figure(self, figure, caption="", title="", wide=False, across=2, model=None, about=""):
        """A figure of charts.py, or a function that takes the page and returns one. Figures that follow one another stand beside each other where there is
        room, `across` of them; `wide`: alone in its row. `model`: it is that model's alone, and goes where the model is hidden. `about`: what a reader
        who does not see it is told, where neither title nor caption says it."""
        figure = figure(self) if callable(figure) else figure
        self.figures.append({**{key: value for key, value in figure.items() if key != "height"}, "data": [self._in_model_colours(trace) for trace in figure["data"]]})
        head = f"<h3>{self._chip(model) if model is not None else ''}{escape(title)}</h3>" if title else ""
        foot = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
        plot = f'<div class="plot" style="height:{figure["height"]}px" data-figure="{len(self.figures) - 1}" role="img" aria-label="{escape(title or about or caption)}"></div>'
        classes, owner = "panel wide" if wide else "panel", f' data-model="{self._index(model)}"' if model is not None else ""
        self._add(f'<figure class="{classes}"{owner}>{head}{plot}{foot}</figure>', "charts" if across <= 2 else "charts three" if across == 3 else "charts four")

    def fold(self, summary, text):
        """Long text, closed until it is asked for."""
        self._add(f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>", "panel")

    def html(self):
        sections = {f"part-{i}": section for i, section in enumerate(section for section in self.sections if section.parts)}
        body = "\n".join(section.html(name) for name, section in sections.items())
        data = {"figures": self.figures, "axis": self.axis, "schemes": {"light": scheme(LIGHT), "dark": scheme(DARK)}}
        scripts = (f"<script>{plotly_script()}</script>\n<script type=\"application/json\" id=\"page-data\">{json_text(data)}</script>\n"
                   f"<script>{(HERE / 'page.js').read_text(encoding='utf-8')}</script>") if self.figures else ""
        no_script = "<noscript><p>The charts of this page are drawn by JavaScript, which is off. The tables are whole without it.</p></noscript>" if self.figures else ""
        return (f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
                f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(self.title)}</title><style>{style_sheet()}</style></head>\n'
                f"<body><main><h1>{escape(self.title)}</h1>{f'<p class=soft>{escape(self.note)}</p>' if self.note else ''}{self._bar()}{no_script}{contents(sections)}\n"
                f"{body}</main>\n{scripts}</body></html>\n")

    def write(self, path):
        text = self.html()
        publish(Path(path), lambda beside: beside.write_text(text, encoding="utf-8"))

    def _add(self, html, group=""):
        self.sections[-1].parts.append((html, group))

    def _index(self, model):
        if model not in self.models:
            self.models.append(model)
        return self.models.index(model)

    def _chip(self, model):
        i = self._index(model)
        return f'<span class="chip dash{i // len(LIGHT["models"]) % len(DASHES)}" style="border-top-color:var(--model{i % len(LIGHT["models"])})"></span>'

    def _cell(self, cell, tag, attributes):
        cell = cell if isinstance(cell, Cell) else Cell(cell)
        text = escape(cell.value if isinstance(cell.value, str) else number_text(cell.value))
        classes = " ".join(["strong"] * cell.strong + ["text"] * (tag == "td" and len(text) > 40) + ["long"] * any(len(word) > LONG_WORD for word in text.split()))
        chip = self._chip(cell.model) if cell.model is not None else f'<span class="box" style="background:var(--part{cell.part % 8})"></span>' if cell.part is not None else ""
        if chip:  # it stays with the first word
            first, space, rest = text.partition(" ")
            text = f'<span class="{"first" if len(first) <= LONG_WORD else ""}">{chip}{first}</span>{space}{rest}'
        small = f'<span class="small">{escape(cell.small)}</span>' if cell.small else ""
        return f'<{tag}{attributes}{f" class={chr(34)}{classes}{chr(34)}" if classes else ""}>{f"<code>{text}</code>" if cell.code else text}{small}</{tag}>'

    def _bar(self):
        """Whose colour is whose, and the x axis of the charts over a run; both stay in view."""
        tag = ('button type="button" aria-pressed="true"', "button") if self.figures and len(self.models) > 1 else ('span class="model"', "span")
        chips = "".join(f'<{tag[0]} data-model="{i}">{self._chip(model)}{escape(model)}</{tag[1]}>' for i, model in enumerate(self.models))
        chips += "".join(f'<span class="model soft"><span class="chip dash2" style="border-top-color:var(--soft)"></span>{escape(name)}</span>' for name in self.context)
        choice = ""
        if self.axis and len(self.axis["layout"]) > 1:
            radios = "".join(f'<label><input type="radio" name="axis" value="{escape(key)}"{" checked" if key == self.axis["start"] else ""}>{escape(key)}</label>'
                             for key in self.axis["layout"])
            choice = f'<div class="choice soft" role="radiogroup" aria-label="x axis">x axis: {radios}</div>'
        return f'<div class="bar"><div class="legend">{chips}</div>{choice}</div>' if chips or choice else ""

    def _in_model_colours(self, trace):
        model = (trace.get("meta") or {}).get("model")
        if model is None:
            return trace
        i, colours = self._index(model), len(LIGHT["models"])
        own = {"color": f"model{i % colours}", "symbol": SYMBOLS[i % len(SYMBOLS)], "dash": DASHES[i // colours % len(DASHES)], "shape": PATTERNS[i // colours % len(PATTERNS)]}

        def bound(value, key=""):
            if isinstance(value, dict):
                return {name: bound(item, name) for name, item in value.items()}
            kind = "color" if "color" in key else key
            if isinstance(value, str) and kind in own and value.split("/")[0] == "model":
                return own[kind] + value[len("model"):]
            return value

        return {**bound(trace), "meta": {**trace["meta"], "model": i}}
