"""`meristem report RUN_DIR…`: one self-contained HTML page about a run, or about several side by side: loss curves, validation, tokens of
each source, growth, loops and phases, what differs in their configs, final figures. Needs no network to be read.

Exit codes: 0; 2 where a folder is not a run's, holds no step yet, or the page cannot be written.
"""

import datetime
import json
import math
import sys
from pathlib import Path

from command import Parser, reported
from reports import charts
from reports.charts import Line
from reports.metrics import number
from reports.page import Cell, Page, number_text
from reports.runs import config_differences, name_apart, read_run

UNLIKE = 4  # where the longest run is so many times as long as the shortest, charts begin with each run over its own length
CONTEXT = 0.25  # of the shown steps, over which a trunk's line may leave the picture
EVENT_SYMBOLS = {"growth": "triangle-up", "phase": "diamond", "loop": "circle", "branch": "triangle-right"}


def union(lists):
    return list(dict.fromkeys(item for items in lists for item in items))


def visible_range(runs):
    """Steps that the charts show: for branches as much of the trunk as the branches are long."""
    end = max(run.end for run in runs)
    begin = min(run.begin for run in runs)
    return max(0, begin - (end - begin)) if all(run.trunk for run in runs) else 0 if begin == 0 else begin, end


def trunks(runs):
    """One of each trunk that is not itself among the runs, and the last step that a branch took from it."""
    own, found = {run.folder.resolve() for run in runs}, {}
    for run in runs:
        if run.trunk and run.trunk.folder.resolve() not in own:
            folder = run.trunk.folder.resolve()
            found[folder] = (run.trunk, max(run.branch_step, found.get(folder, (None, 0))[1]))
    return list(found.values())


def before_branch(trunk):
    return f"{trunk.name}, before the branch"


class Axis:
    """What the charts over a run may have as x: the step, tokens, FLOPs, or the share of each run since it began. Tables lead from steps to the others."""

    NAMES = {"step": "step", "tokens": "tokens", "FLOPs": "training FLOPs", "share": "share of each run"}

    def __init__(self, runs):
        self.runs, self.trunks = runs, trunks(runs)
        branches = {id(trunk): [run for run in runs if run.trunk and run.trunk.folder.resolve() == trunk.folder.resolve()] for trunk, _ in self.trunks}
        self.spans = [(run, run.begin, run.end) for run in runs]
        self.spans += [(trunk, last, max(run.end for run in branches[id(trunk)])) for trunk, last in self.trunks]
        keys = {"tokens": "tokens", "FLOPs": "flops"}
        self.keys = {name: key for name, key in keys.items() if all(math.isfinite(number(line.get(key))) for run, _, _ in self.spans for line in run.metrics.steps)}
        self.tables = [self._table(*span) for span in self.spans]

    def _table(self, run, begin, end):
        steps = [line["step"] for line in run.metrics.steps]
        columns = [[number(line[key]) for line in run.metrics.steps] for key in self.keys.values()]
        columns.append([100 * (step - begin) / max(end - begin, 1) for step in steps])
        return dict(zip(["step", *self.keys, "share"], charts.steps_of_slope(steps, *columns)))

    def track_of(self, run):
        return next(i for i, span in enumerate(self.spans) if span[0] is run)

    @property
    def start(self):
        lengths = [run.end - run.begin for run in self.runs]
        return "share" if max(lengths) >= UNLIKE * max(min(lengths), 1) else "step"

    def _range(self, name):
        begin, end = visible_range(self.runs)
        if name == "step":
            return [begin, end]
        ends = [self.tables[i][name][-1] for i in range(len(self.runs))]
        begins = [charts.between(table["step"], table[name], begin) for table in self.tables] if begin > 0 else [0]
        return [min(begins), 100 if name == "share" else max(ends)]

    def for_page(self):
        names = ["step", *self.keys, "share"]
        layout = {name: {"title": charts.title_of(self.NAMES[name]), "ticksuffix": " %" if name == "share" else ""} for name in names}
        ranges = {name: self._range(name) for name in names}
        ranges = {name: [low - 0.01 * (high - low), high + 0.01 * (high - low)] for name, (low, high) in ranges.items()}
        return {"start": self.start, "layout": layout, "range": ranges, "tables": self.tables}


def until(points, step):
    kept = [(s, *rest) for s, *rest in zip(*points) if s <= step]
    return [list(column) for column in zip(*kept)] if kept else [[] for _ in points]


def from_step(points, step):
    kept = [column for column in zip(*points) if column[0] >= step]
    return [list(column) for column in zip(*kept)] if kept else [[] for _ in points]


def event_traces(line, run):
    """Growth, phases and loops on the run's own line, as far as it has one where they happened."""
    by_step = {}
    for event in run.events:
        at = max(event.step, line.x[0]) if event.step == run.begin else event.step
        if event.label and line.x[0] <= at <= line.x[-1]:
            by_step.setdefault(at, []).append(event)
    if not by_step:
        return []
    labels = [charts.label(", ".join(event.label for event in events)) for events in by_step.values()]
    told = [f"{charts.label(', '.join(event.text for event in events))}<br>after step {events[0].step:,}" for events in by_step.values()]
    return [{"type": "scatter", "mode": "markers+text", "x": list(by_step), "y": charts.rounded(charts.between(line.x, line.y, at, line.step_like) for at in by_step),
             "text": labels, "textposition": "top right", "textfont": {"color": "ink", "size": 12}, "hovertext": told,
             "hovertemplate": "<b>%{fullData.name}</b><br>%{hovertext}<extra></extra>", "name": charts.label(run.name),
             "meta": {"model": run.name, "track": line.track, "labels": labels}, "cliponaxis": False,
             "marker": {"symbol": [EVENT_SYMBOLS[events[-1].kind] for events in by_step.values()], "size": 12, "color": "model", "line": {"color": "panel", "width": 1.5}}}]


class Curves:
    """The charts over a run: all of them over the axis that the reader chooses."""

    def __init__(self, runs):
        self.runs, self.axis = runs, Axis(runs)

    def figure(self, line_of, y_title="", events=True, from_zero=False):
        """line_of(run) -> Line, or None where the run has nothing of it. None where no run has."""
        lines, marks = [], []
        for trunk, last in self.axis.trunks:
            if line := line_of(trunk):
                columns = until([line.x, line.y], last)
                lines += [Line(None, *columns, name=before_branch(trunk), points=line.points, soft=True, track=self.axis.track_of(trunk), step_like=line.step_like)] if columns[0] else []
        found = [(run, line) for run in self.runs if (line := line_of(run)) and line.x]
        if not found:
            return None
        for i, (run, line) in enumerate(found):
            line.track = self.axis.track_of(run)
            lines.append(line)
            marks += event_traces(line, run) if events else []
        return self._within(charts.lines(lines, "step", y_title), lines, from_zero, marks)

    def _within(self, figure, lines, from_zero, marks):
        """With a range that shows the runs, and of what is there for orientation the later part; marks need room for their labels."""
        begin, end = visible_range(self.runs)
        later = begin + CONTEXT * (end - begin)
        shown = [Line(line.model, *from_step([line.x, line.y], later), soft=True) if line.soft else line for line in lines]
        low, high = charts.settled_range(shown, from_zero)
        figure["layout"]["yaxis"]["range"] = [low, high + (0.08 * (high - low) if marks else 0)]
        return figure | {"data": figure["data"] + marks}


def smoothed_line(value_of):
    def line_of(run):
        steps, raw, values = run.curve(value_of)
        return Line(run.name, steps, values, raw=raw) if steps else None

    return line_of


def plain_line(key, step_like=False):
    """What is no measurement needs no smoothing."""

    def line_of(run):
        steps, raw, _ = run.curve(lambda line: line.get(key))
        return Line(run.name, steps, raw, step_like=step_like) if steps else None

    return line_of


def validation_line(source):
    return lambda run: Line(run.name, *run.validation[source], points=True) if source in run.validation else None


def final_rows(runs):
    """[(label, [value], how)] of the figures that runs end with; how: loss (lower is better), number, share, text."""
    rows = [("state", [state_of(run) for run in runs], "text")]
    if any(run.branch_of for run in runs):
        rows.append(("branch of", [run.branch_of or "–" for run in runs], "text"))
    rows.append(("tokens", [run.last.get("tokens", math.nan) for run in runs], "count"))
    for label, key, how in (("tokens without padding", "real_tokens", "count"), ("trained tokens", "trained_tokens", "count"), ("training FLOPs", "flops", "figures")):
        if any(key in run.last for run in runs):
            rows.append((label, [run.last.get(key, math.nan) for run in runs], how))
    rows.append(("blocks, calls at the end", [f"{run.last.get('blocks', '?')}, {run.last.get('calls', '?')}" for run in runs], "text"))
    for source in union(run.validation for run in runs):
        rows.append((f"validation loss: {source}", [run.validation[source][1][-1] if source in run.validation else math.nan for run in runs], "loss"))
    rows.append(("training loss", [run.tail_mean(lambda line: line.get("loss")) for run in runs], "plain loss"))
    sources = union(run.sources for run in runs)
    for source in sources if len(sources) > 1 else []:
        rows.append((f"training loss: {source}", [run.tail_mean(lambda line: (line.get("loss_by_source") or {}).get(source)) for run in runs], "plain loss"))
    rows.append(("tokens per second (median)", [run.median("tokens_per_second") for run in runs], "count"))
    rows.append(("time waiting for data (mean)", [run.mean("loader_wait") for run in runs], "share"))
    skipped = [len(run.metrics.events_of("skip")) for run in runs]
    if any(skipped):
        rows.append(("updates skipped", skipped, "count"))
    return rows


def state_of(run):
    if run.planned_steps is None or run.planned_steps <= run.end:
        return f"done, {run.end:,} steps"
    return f"at step {run.end:,} of {run.planned_steps:,}"


def value_text(value, how):
    if isinstance(value, str):
        return value
    if not math.isfinite(value):
        return number_text(None)
    return {"count": f"{value:,.0f}", "figures": f"{value:.3g}", "share": f"{value:.2%}"}.get(how, f"{value:.4f}")


def add_final_table(page, runs):
    """Losses are compared with the first run's; the lowest one on held-out text is bold (training losses are of different mixtures)."""
    rows = []
    for label, values, how in final_rows(runs):
        numbers = [value for value in values if not isinstance(value, str) and math.isfinite(value)]
        best = min(numbers) if how == "loss" and len(numbers) > 1 and len(set(numbers)) > 1 else None
        compared = ["loss" in how and i > 0 and math.isfinite(value) and math.isfinite(values[0]) for i, value in enumerate(values)]
        rows.append([label, *(Cell(value_text(value, how), f"{value - values[0]:+.4f}" if against else "", best is not None and value == best)
                              for value, against in zip(values, compared))])
    note = "Losses in nats per token; training losses are means over the last 3 % of the lines that were logged, but at least 7."
    page.section("Final figures", note + (" Small figures: difference to the first run." if len(runs) > 1 else ""))
    page.table(run_heads(runs), rows)


def run_heads(runs, first=""):
    return [first, *(Cell(run.name, model=run.name) for run in runs)]


def add_figures(page, title, text, titled):
    page.section(title, text)
    for name, figure in titled:
        if figure:
            page.figure(figure, title=name)


def add_charts(page, runs, curves):
    page.axis = curves.axis.for_page()
    held = [(f"Validation: {source}", curves.figure(validation_line(source))) for source in union(run.validation for run in runs)]
    add_figures(page, "Validation loss", "Nats per token on held-out text.", held)
    sources = union(run.sources for run in runs)
    training = [("Training loss", curves.figure(smoothed_line(lambda line: line.get("loss"))))]
    for source in sources if len(sources) > 1 else []:
        training.append((f"Training loss: {source}", curves.figure(smoothed_line(lambda line, source=source: (line.get("loss_by_source") or {}).get(source)))))
    add_figures(page, "Training loss", "Nats per token; the faint line is what was logged, the strong one its mean over 3 % of the run (at least 7 lines). "
                "No mean reaches across a growth.", training)
    add_source_section(page, runs, sources)
    add_figures(page, "Schedule", "", [("Learning rate", curves.figure(plain_line("lr"), from_zero=True)),
                                       ("Gradient norm", curves.figure(smoothed_line(lambda line: line.get("grad_norm")), from_zero=True)),
                                       ("Block calls a token passes through", curves.figure(plain_line("calls", step_like=True), events=False, from_zero=True))])


def add_source_section(page, runs, sources):
    """What each run read of each source; for a branch also since it began."""
    known = [run for run in runs if run.use()]
    if not known:
        return
    bars, rows = [], []
    branched = any(run.use_before() for run in known)
    for run in known:
        tokens, epochs, before = run.use(), run.use("epochs_by_source"), run.use_before()
        since = {source: value - before.get(source, 0) for source, value in tokens.items()}
        bars.append((run.name + (" since the branch" if before else ""), since))
        for source in (source for source in sources if source in tokens):
            extra = [value_text(since[source], "count") if before else "–"] if branched else []
            rows.append([run.name, Cell(source, part=sources.index(source)), value_text(tokens[source], "count"), *extra, value_text(epochs.get(source, math.nan), "figures")])
    page.section("Tokens of each source")
    page.figure(charts.shares(bars, sources), wide=True, title="Shares of the tokens")
    page.table(["run", "source", "tokens", *(["since the branch"] if branched else []), "epochs"], rows)


def add_events(page, runs):
    rows = [[Cell(run.name, model=run.name), f"{event.step:,}", event.text] for run in runs for event in run.events]
    page.section("Events")
    if rows:
        page.table(["run", "after step", "what"], rows)


def config_cell(value):
    return Cell(None) if value is None else Cell(json.dumps(value, ensure_ascii=False), code=True)


def add_configs(page, runs):
    rows = [[Cell(key, code=True), *map(config_cell, values)] for key, values in config_differences(runs)] if len(runs) > 1 else []
    if rows:
        page.section("What differs in the configs", "Every other key is the same.")
        page.table(run_heads(runs, "key"), rows)
    elif len(runs) > 1:
        page.section("Configs")
        page.text("They do not differ but in run.name.")
    page.section("Whole configs")
    for run in runs:
        page.fold(run.name, (run.folder / "config.yaml").read_text(encoding="utf-8"))


def page_note(runs, axis):
    parts = [f"meristem report, written on {datetime.date.today().isoformat()}. Hover over a line, or tap it, for its numbers."]
    if any(event.label for run in runs for event in run.events):
        parts.append("Marks on lines: ▲ growth, ◆ phase, ● loop, ▶ branch.")
    if any(len(run.metrics.steps) > charts.MOST_POINTS for run in runs):
        parts.append(f"Lines of more than {charts.MOST_POINTS:,} values show the least and the greatest value of each of {charts.MOST_POINTS // 2 - 1} equal parts.")
    if axis.start == "share":
        parts.append("The runs differ in length, so the charts begin with each run over its own length; above them is the choice of another axis.")
    return " ".join(parts)


def page_of(runs, title):
    name_apart(runs)
    curves = Curves(runs)
    page = Page(title, page_note(runs, curves.axis), [run.name for run in runs], [before_branch(trunk) for trunk, _ in trunks(runs)])
    add_final_table(page, runs)
    add_charts(page, runs, curves)
    add_events(page, runs)
    add_configs(page, runs)
    return page


def draw_plots(run):
    """plots/loss.png, where it is missing or older than the metrics."""
    plot, metrics = run.folder / "plots" / "loss.png", run.folder / "metrics.jsonl"
    if plot.exists() and plot.stat().st_mtime >= metrics.stat().st_mtime:
        return
    try:
        from reports.plot import plot_run  # matplotlib takes its time

        plot_run(run.folder)
    except Exception as error:  # the page is written: whatever is wrong with the picture, it stays
        run.notes.append(f"plots/loss.png was not drawn: {error}")


def default_target(folders):
    return folders[0] / "report.html" if len(folders) == 1 else folders[0].resolve().parent / "report.html"


@reported
def main(argv):
    parser = Parser(prog="meristem report", description="compare runs: one self-contained HTML page")
    parser.add_argument("run_dirs", metavar="RUN_DIR", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, help="the page; default RUN_DIR/report.html, for several runs report.html beside the first one's folder")
    parser.add_argument("--title", help="default: the names of the runs")
    arguments = parser.parse_args(argv)
    runs = [read_run(folder) for folder in arguments.run_dirs]
    title = arguments.title or (runs[0].name if len(runs) == 1 else f"{len(runs)} runs: " + ", ".join(run.name for run in runs))
    target = arguments.out or default_target(arguments.run_dirs)
    page_of(runs, title).write(target)
    for run in runs:
        draw_plots(run)
        for note in run.notes:
            print(f"{run.folder}: {note}", file=sys.stderr)
    print(target)
    return 0
