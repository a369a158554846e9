"""The page of a study: what is in its tables, and pictures of it (reports/page.py)."""

from reports import charts
from reports.page import Page
from study.tables import ACCURACY, LOG_PROBABILITY, LOSS, MEAN, SIGNATURE, sections

_MOST_PAIRS = 40  # differences in one picture


def _bars(rows, members, x_title):
    """A bar for each member in each measure."""
    names = list(dict.fromkeys(str(row["measure"]) for row in rows))
    at = {(row["member"], str(row["measure"])): row for row in rows}
    series = []
    for member in members:
        own = [at.get((member, name)) for name in names]
        if any(own):
            series.append(charts.Bars(member, *([row and row[key] for row in own] for key in ("mean", "low", "high")), n=[row and row["seeds"] for row in own]))
    figure = charts.bars(names, series, x_title)
    chances = {row["chance"] for row in rows}
    if len(chances) == 1 and None not in chances:
        figure = charts.level(figure, chances.pop(), "chance")
    return figure


def _phase(page, tables, members, phase):
    for kind, title in ((ACCURACY, "Accuracy"), (LOG_PROBABILITY, "Log-probability of the right choice"), (LOSS, "Loss on held-out text")):
        rows = [row for row in tables.values if row["phase"] == phase and row["measure"].kind == kind]
        by_chance = {}
        for row in rows:
            by_chance.setdefault(row["chance"], []).append(row)
        for chance, own in by_chance.items():
            names = {str(row["measure"]) for row in own}
            what = f"{title} on {next(iter(names))}" if len(names) == 1 and kind != LOSS else title  # a lone measure has no label in the picture
            page.figure(_bars(own, members, kind), f"{what} after {phase}: means over seeds and items, 95 % intervals"
                        + (f"; a guess scores {chance:.0%}" if chance is not None else "") + ".", title=f"{what}: {phase}")


def _curves(page, results, members, phase):
    """Held-out loss over tokens, a line for each member: mean, lowest and highest of its seeds."""
    sources = sorted({source for (_, _, own), found in results.items() if own == phase for source in found["training"]["validation"]})
    for source in sources:
        series = []
        for member in members:
            curves = [found["training"]["validation"].get(source) for (own, _, at), found in results.items() if (own, at) == (member, phase)]
            curves = [curve for curve in curves if curve]
            length = min(map(len, curves), default=0)
            columns = [[curve[i][2] for curve in curves] for i in range(length)]
            if length > 1:
                series.append(charts.Line(member, [curves[0][i][1] for i in range(length)], [sum(each) / len(each) for each in columns],
                                          [min(each) for each in columns], [max(each) for each in columns], points=True, n=len(curves)))
        if series:
            page.figure(charts.lines(series, "tokens", "nats a token"), f"Loss on {source} during {phase}; the band is from the lowest to the highest seed.",
                        title=f"Loss on {source}: {phase}")


def _differences(page, tables):
    for kind in (ACCURACY, LOSS, SIGNATURE):
        rows = [row for row in tables.differences if row["measure"].kind == kind]
        whole = [row for row in rows if row["measure"].task == MEAN]
        rows = whole if kind == ACCURACY and whole else rows
        if rows:
            page.figure(charts.forest([(f"{row['one']} minus {row['other']}: {row['measure']}", row["difference"], row["low"], row["high"], row["seeds"]) for row in rows[:_MOST_PAIRS]],
                                      f"difference in {kind}"), "Paired over seeds and items; n is the number of seeds.", title=f"Paired differences in {kind}")


def write_page(study, tables, results, path):
    """`results`: {(member, seed, phase): found}"""
    members = [name for name in study.members if any(row["member"] == name for row in tables.values)]
    note = " ".join([study.text, f"Scale: {study.scale}." if study.scale else "", f"{len(tables.missing)} jobs are not run yet." if tables.missing else ""]).strip()
    page = Page(f"Study: {study.name}", note, models=members)
    for phase in dict.fromkeys(row["phase"] for row in tables.values):
        page.section(phase.capitalize(), study.phases[phase].text)
        _phase(page, tables, members, phase)
        _curves(page, results, members, phase)
    page.section("Differences", "Only an interval without zero tells two members apart.")
    _differences(page, tables)
    page.section("Tables")
    for title, text, header, lines in sections(study, tables):
        page.section(title, text)
        page.table(header, lines)
    page.write(path)
