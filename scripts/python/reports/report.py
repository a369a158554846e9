"""`meristem report RUN_DIR…`: one self-contained HTML page about a run, or about several side by side: loss curves, validation, tokens of
each source, growth and phases, what differs in their configs, final figures. Needs no network to be read.

Exit codes: 0; 2 where a folder is not a run's, holds no step yet, or the page cannot be written.
"""

import datetime
import math
import sys
from pathlib import Path

from command import Parser, publish, reported
from reports import charts, page
from reports.runs import config_differences, read_run

# Okabe and Ito's colours, which people with any colour vision tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000")
TRUNK = "#9A9A9A"


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


def marks_of(runs):
    marks = {}
    for run in runs:
        colour = run.colour if len(runs) > 1 else "#D55E00"
        if run.branch_step:
            marks.setdefault((run.branch_step, "branch"), []).append(run.colour)
        for step, before, after in run.growths:
            marks.setdefault((step, f"{before}→{after} blocks" if before else f"{after} blocks"), []).append(colour)
        for name, start in run.phases:
            if start > 0:
                marks.setdefault((start, name), []).append(run.colour if len(runs) > 1 else "#555555")
    # A mark that several runs share is nobody's colour; one line a step and colour.
    by_place = {}
    for (step, label), colours in marks.items():
        by_place.setdefault((step, colours[0] if len(colours) == 1 or len(runs) == 1 else "#555555"), []).append(label)
    return [charts.Mark(step, ", ".join(labels), colour) for (step, colour), labels in by_place.items()]


def until(points, step):
    kept = [(s, *rest) for s, *rest in zip(*points) if s <= step]
    return [list(column) for column in zip(*kept)] if kept else [[] for _ in points]


def curve_chart(title, runs, curve_of, marks, smooth=True, **options):
    """A chart of one number of every run over the steps; None where no run has it. What is no measurement needs no smoothing."""
    series = []
    for trunk, last in trunks(runs):
        steps, raw, values = until(curve_of(trunk), last)
        series.append(charts.Series(f"{trunk.name} (before the branch)", TRUNK, steps, values if smooth else raw, context=True))
    for i, run in enumerate(runs):
        steps, raw, values = curve_of(run)
        if steps and smooth:
            series.append(charts.Series(run.name, run.colour, steps, values, raw))
        elif steps:  # lines that lie on each other stay visible as dashes
            series.append(charts.Series(run.name, run.colour, steps, raw, dashed=i > 0))
    if all(one.context for one in series):
        return None
    begin, end = visible_range(runs)
    return charts.Chart(title, series, marks, begin, end, **options)


def validation_chart(source, runs, marks):
    series = []
    for trunk, last in trunks(runs):
        steps, values = until(trunk.validation.get(source, ([], [])), last)
        series.append(charts.Series(f"{trunk.name} (before the branch)", TRUNK, steps, values, points=True, context=True))
    for run in runs:
        if source in run.validation:
            series.append(charts.Series(run.name, run.colour, *run.validation[source], points=True))
    begin, end = visible_range(runs)
    return charts.Chart(f"Validation: {source}", series, marks, begin, end)


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


def loss_section(runs, marks):
    main = curve_chart("Training loss", runs, lambda run: run.loss(), marks)
    drawn = [main] if main else []
    sources = union(run.sources for run in runs)
    if len(sources) > 1:
        drawn += [curve_chart(f"Training loss: {source}", runs, lambda run, source=source: run.loss_of(source), marks) for source in sources]
    return [chart for chart in drawn if chart]


def other_charts(runs, marks):
    rate = curve_chart("Learning rate", runs, lambda run: run.curve(lambda line: line.get("lr")), marks, smooth=False, from_zero=True)
    norm = curve_chart("Gradient norm", runs, lambda run: run.curve(lambda line: line.get("grad_norm")), marks, from_zero=True)
    calls = curve_chart("Block calls a token passes through", runs, lambda run: run.curve(lambda line: line.get("calls")), [], smooth=False, from_zero=True)
    return [chart for chart in (rate, norm, calls) if chart]


def write_page(runs, title):
    for run, colour in zip(runs, COLOURS * (len(runs) // len(COLOURS) + 1)):
        run.colour = colour
    marks = marks_of(runs)
    body = [page.header(title, runs, [trunk for trunk, _ in trunks(runs)], TRUNK, datetime.date.today().isoformat()), page.final_table(runs, final_rows(runs))]
    held = [validation_chart(source, runs, marks) for source in union(run.validation for run in runs)]
    body.append(page.chart_section("Validation loss", "Nats per token on held-out text; hover over a point for its value.", held))
    body.append(page.chart_section("Training loss", "Nats per token; the faint line is what was logged, the strong one its mean over 3 % of the run (at least 7 lines). "
                                   "No mean reaches across a growth.", loss_section(runs, marks)))
    body.append(page.source_section(runs, union(run.sources for run in runs)))
    body.append(page.chart_section("Schedule", "", other_charts(runs, marks)))
    body.append(page.event_section(runs))
    if len(runs) > 1:
        body.append(page.difference_table(runs, config_differences(runs)))
    body.append(page.config_section(runs))
    return page.document(title, "".join(body))


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
    text = write_page(runs, title)
    publish(target, lambda path: path.write_text(text, encoding="utf-8"))
    for run in runs:
        draw_plots(run)
        for note in run.notes:
            print(f"{run.folder}: {note}", file=sys.stderr)
    print(target)
    return 0
