"""A sweep's table as one page: heatmaps of start by repeats, lines over shots or training-set sizes, bars of mixtures, each with its intervals, and the whole table."""

from reports import charts
from reports.page import Cell, Page


def uniques(rows, key):
    return list(dict.fromkeys(row[key] for row in rows))


def interval_text(row, kind=""):
    return f"{100 * row[f'{kind}low']:.1f} … {100 * row[f'{kind}high']:.1f}"


def table_of(page, rows, columns):
    """The rows as they stand in table.csv, shares in per cent with their intervals. `columns`: {key: heading} of what tells the settings apart."""
    page.section("All settings", "Accuracies and differences in %, behind them 95 % bootstrap intervals. The same as numbers: table.csv, table.json.")
    several = any(row["seeds"] > 1 for row in rows)
    header = [*columns.values(), "items", *(["seeds"] if several else []), "accuracy", "difference", "log p"]
    lines = []
    for row in rows:
        sure = row["difference_low"] > 0 or row["difference_high"] < 0
        lines.append([*(Cell(row[key], model=row["model"]) if key == "model" else row[key] for key in columns), row["items"], *([row["seeds"]] if several else []),
                      Cell(f"{100 * row['accuracy']:.1f}", small=interval_text(row)), Cell(f"{100 * row['difference']:+.1f}", small=interval_text(row, "difference_"), strong=sure),
                      row["gold_log_probability"]])
    page.table(header, lines, "Bold: the interval of the difference does not hold 0. log p: mean log-probability of the right choice among the choices.")


def loops_page(rows):
    page = Page("Loops at inference", "Neighbouring calls of a trained model, repeated. Accuracy in %.", models=uniques(rows, "model"))
    for task in uniques(rows, "task"):
        own = [row for row in rows if row["task"] == task]
        page.section(task, f"{own[0]['items']} items, chance {own[0]['chance']:.1%}. Row ×1 is the trained plan. Colours are differences to it, the same scale for all models of the task.")
        reach = max((abs(100 * row["difference"]) for row in own), default=0) or 1
        for name in uniques(own, "model"):
            grid = [row for row in own if row["model"] == name]
            base = next(row for row in grid if row["baseline"])
            for size in uniques([row for row in grid if not row["baseline"]], "size"):
                _loops_figure(page, name, base, [row for row in grid if row["size"] == size], reach)
    table_of(page, rows, {"model": "model", "task": "task", "start": "first call", "size": "calls", "repeats": "repeats", "plan": "plan"})
    return page


def _loops_figure(page, name, base, rows, reach):
    starts, repeats = uniques(rows, "start"), [1, *uniques(rows, "repeats")]
    cell = {(row["start"], row["repeats"]): row for row in rows} | {(start, 1): base for start in starts}
    size = rows[0]["size"]
    told = [[f"<br>accuracy {100 * row['accuracy']:.1f} % [{interval_text(row)}]<br>difference [{interval_text(row, 'difference_')}]<br>{charts.label(row['plan'])}<br>n = {row['items']}"
             for row in (cell[start, times] for start in starts)] for times in repeats]
    figure = charts.heatmap([[100 * cell[start, times]["difference"] for start in starts] for times in repeats], starts, [f"×{times}" for times in repeats], "first call", "repeats",
                            z_range=(-reach, reach), diverging=True, told=told, z_title="difference, points", height=120 + 44 * len(repeats))
    surely = sum(row["difference_low"] > 0 for row in rows)
    page.figure(figure, f"As trained ({base['plan']}): {100 * base['accuracy']:.1f} % [{interval_text(base)}]. Of {len(rows)} settings {surely} are better with an interval above 0.",
                title=f"{name}: {size} call{'s' * (size > 1)} repeated")


def lines_page(title, note, rows, x_key, x_title, columns, name_of=lambda row: row["model"], x_log=True):
    """Accuracy over a number, a figure a task, a line a model."""
    rows = [row | {"model": name_of(row)} for row in rows]
    page = Page(title, note, models=uniques(rows, "model"))
    page.section("Accuracy", "In %, with 95 % bootstrap intervals.")
    for task in uniques(rows, "task"):
        own, series = [row for row in rows if row["task"] == task], []
        for name in uniques(own, "model"):
            line = sorted((row for row in own if row["model"] == name), key=lambda row: row[x_key])
            series.append(charts.Line(name, [row[x_key] for row in line], [100 * row["accuracy"] for row in line], [100 * row["low"] for row in line],
                                      [100 * row["high"] for row in line], points=True, n=[row["items"] for row in line]))
        log = x_log and min(row[x_key] for row in own) > 0
        figure = charts.level(charts.lines(series, x_title, "accuracy, %", x_log=log), 100 * own[0]["chance"], "chance")
        page.figure(figure, f"{own[0]['items']} items.", title=task)
    table_of(page, rows, columns)
    return page


def shots_page(rows):
    return lines_page("Solved examples before an item", "Up to what the context holds; nothing is cut.", rows, "shots", "solved examples",
                      {"model": "model", "task": "task", "shots": "shots", "plan": "plan"})


def sft_page(rows):
    members = len({(row["model"], row["loops"]) for row in rows}) > len(uniques(rows, "model"))
    name_of = lambda row: f"{row['model']}, {row['loops']}" if members else row["model"]  # noqa: E731
    return lines_page("Fine-tuning on few examples", "Size 0 is the model before fine-tuning. Intervals are over items and draws.", rows, "size", "training examples",
                      {"model": "model", "task": "task", "loops": "loops", "size": "examples", "draws": "draws"}, name_of, x_log=False)


def loss_cell(row, key):
    return Cell(f"{row[key]:.4f}", small="" if row[f"{key}_low"] is None else f"{row[f'{key}_low']:.4f} … {row[f'{key}_high']:.4f}")


def cooldown_page(rows, sources):
    """`sources`: of validation."""
    name_of = lambda row: f"{row['model']}, {'looped' if row['looped'] else 'as trained'}"  # noqa: E731
    page = Page("Cooldowns", "Branches of one plateau: mixtures with and without a middle block that runs once more.", models=uniques([{"name": name_of(row)} for row in rows], "name"))
    page.section("Accuracy", "In %, with 95 % bootstrap intervals over items, and over seeds where there are several.")
    mixtures = uniques(rows, "mixture")
    for task in uniques(rows, "task"):
        own = {(name_of(row), row["mixture"]): row for row in rows if row["task"] == task}
        series = []
        for name in dict.fromkeys(name for name, _ in own):
            line = [own[name, mixture] for mixture in mixtures]
            series.append(charts.Bars(name, [100 * row["accuracy"] for row in line], [100 * row["low"] for row in line], [100 * row["high"] for row in line], n=[row["items"] for row in line]))
        first = next(iter(own.values()))
        page.figure(charts.level(charts.bars(mixtures, series, "accuracy, %"), 100 * first["chance"], "chance"), f"{first['items']} items.", title=task)
    page.section("Validation loss at the end", "Nats per token, mean over seeds; behind it a 95 % bootstrap interval over seeds, where there are several.")
    ended = {(name_of(row), row["mixture"]): row for row in rows}
    page.table(["model", "mixture", "plan", *sources],
               [[Cell(name, model=name), mixture, row["plan"], *(loss_cell(row, f"loss_{source}") for source in sources)] for (name, mixture), row in ended.items()])
    table_of(page, [row | {"model": name_of(row)} for row in rows], {"model": "model", "task": "task", "mixture": "mixture", "shots": "shots"})
    return page
