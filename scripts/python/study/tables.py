"""From the files of results: what each member reached, and how members differ, with intervals. `Tables` holds rows of plain values; they are written as Markdown, as CSV and on
the page from the same rows."""

import csv
import io
from dataclasses import dataclass, field

import numpy as np

from bootstrap import bootstrap
from study.statistics import correlation, difference, joined, tokens_to_reach

ACCURACY, LOG_PROBABILITY, LOSS, SIGNATURE = "accuracy", "log-probability of the right choice", "loss", "signature"


@dataclass(frozen=True)
class Measure:
    """What is measured. `task`: of a score, the source of a loss, or the name of a signature that is one number."""
    kind: str
    task: str
    shots: int = None
    step: int = None

    def __str__(self):
        words = [self.task, *([f"{self.shots} shot{'s' * (self.shots > 1)}"] if self.shots else []), *([f"step {self.step}"] if self.step else [])]
        return ", ".join(words)


MEAN = "mean of tasks"


@dataclass
class Tables:
    values: list = field(default_factory=list)       # a row for each (phase, measure, member)
    differences: list = field(default_factory=list)  # for each (pair, phase, measure)
    tokens: list = field(default_factory=list)       # for each (pair, source): how soon the one reaches the other's loss
    agreement: list = field(default_factory=list)    # for each triple
    sweeps: dict = field(default_factory=dict)       # {name: rows of its table.json}
    missing: list = field(default_factory=list)      # names of jobs that have no whole result


def rows_of(found):
    """{Measure: row of items} of one job's result."""
    rows, tasks = {}, {}
    for source, curve in found["training"]["validation"].items():
        rows[Measure(LOSS, source)] = [curve[-1][2]]
    for score in found["scores"].values():
        place = score["shots"], score["step"]
        hits = [float(each) for each in score["hits"]]
        gold = [each / 100 for each in score["gold_log_probability"]]
        for kind, row in ((ACCURACY, hits), (LOG_PROBABILITY, gold)):
            rows[Measure(kind, score["task"], *place)] = row
            tasks.setdefault((kind, *place), []).append(row)
    for name, signature in (found.get("signatures") or {}).items():
        if isinstance(signature.get("values"), (int, float)):
            rows[Measure(SIGNATURE, name)] = [float(signature["values"])]
    for (kind, *place), each in tasks.items():
        if len(each) > 1:
            rows[Measure(kind, MEAN, *place)] = joined(each)
    return rows


def chances(results):
    """{(task, shots, step): what a guess scores}, of the mean of tasks too."""
    found = {}
    for result in results.values():
        by_place = {}
        for score in result["scores"].values():
            place = score["shots"], score["step"]
            found[score["task"], *place] = score["chance"]
            by_place.setdefault(place, []).append(score["chance"])
        for place, each in by_place.items():
            found[MEAN, *place] = sum(each) / len(each)
    return found


class Data:
    """All rows of a study's results: {(member, phase): {Measure: {seed: row}}}."""

    def __init__(self, results):
        self.results, self.rows = results, {}
        for (member, seed, phase), found in results.items():
            for measure, row in rows_of(found).items():
                self.rows.setdefault((member, phase), {}).setdefault(measure, {})[seed] = row

    def of(self, member, phase):
        return self.rows.get((member, phase), {})

    def phases(self, member):
        return [phase for own, phase in self.rows if own == member]


def pairs_of(data, one, other):
    """[(one's (member, phase), other's)] that a comparison means: the named phases, or all that both have."""
    first, second = one.partition("/"), other.partition("/")
    phases = [phase for phase in dict.fromkeys(data.phases(first[0])) if not first[2] or phase == first[2]]
    found = []
    for phase in phases:
        beside = second[2] or (phase if not first[2] else first[2])
        if (second[0], beside) in data.rows:
            found.append(((first[0], phase), (second[0], beside)))
    return found


def _matrix(by_seed):
    rows = [by_seed[seed] for seed in sorted(by_seed)]
    shortest = min(map(len, rows))
    return np.array([row[:shortest] for row in rows], float)


def value_rows(data):
    known = chances(data.results)
    for (member, phase), measures in data.rows.items():
        for measure, by_seed in measures.items():
            matrix = _matrix(by_seed)
            mean, low, high = bootstrap(matrix)
            chance = known.get((measure.task, measure.shots, measure.step)) if measure.kind == ACCURACY else None
            yield {"phase": phase, "measure": measure, "member": member, "seeds": len(by_seed), "items": matrix.shape[1], "mean": mean, "low": low, "high": high,
                   "chance": chance}


def difference_rows(data, compare):
    for one, other in compare:
        for first, second in pairs_of(data, one, other):
            ours, theirs = data.of(*first), data.of(*second)
            for measure in ours:
                if measure in theirs and (found := difference(ours[measure], theirs[measure])) is not None:
                    mean, low, high, seeds = found
                    yield {"one": "/".join(first), "other": "/".join(second), "measure": measure, "seeds": len(seeds), "difference": mean, "low": low, "high": high}


def token_rows(data, compare):
    """How many tokens the one needs to reach the loss that the other ends with, as a share of the other's."""
    for one, other in compare:
        for first, second in pairs_of(data, one, other):
            shares = {}
            for (member, seed, phase), found in data.results.items():
                beside = data.results.get((second[0], seed, second[1]))
                if (member, phase) == first and beside:
                    for source, curve in found["training"]["validation"].items():
                        if theirs := beside["training"]["validation"].get(source):
                            reached = tokens_to_reach([(tokens, loss) for _, tokens, loss in curve], theirs[-1][2])
                            shares.setdefault(source, []).append(reached and reached / theirs[-1][1])
            for source, each in shares.items():
                reached = [share for share in each if share is not None]
                mean, low, high = bootstrap(np.array(reached)[:, None]) if reached else (None, None, None)
                yield {"one": "/".join(first), "other": "/".join(second), "source": source, "seeds": len(each), "reached": len(reached), "share": mean, "low": low,
                       "high": high}


def _analyzed(data, name, seed):
    member, _, phase = name.partition("/")
    found = data.results.get((member, seed, phase or "pretrain"))
    return {} if found is None else {key: each["values"] for key, each in (found.get("signatures") or {}).items() if "values" in each}


def agreement_rows(data, triples):
    """Of [A, B, C]: how much better A's signatures correlate with B's than with C's, by seed and signature. Models of a seed share it, so A, B and C are paired."""
    seeds = sorted({seed for _, seed, _ in data.results})
    for names in triples:
        by_signature = {}
        for seed in seeds:
            first, second, third = (_analyzed(data, name, seed) for name in names)
            for key in first:
                near, far = (correlation(first[key], each[key]) if key in each else None for each in (second, third))
                if near is not None and far is not None:
                    by_signature.setdefault(key, {})[seed] = (near, far)
        complete = {key: found for key, found in by_signature.items() if len(found) == max(map(len, by_signature.values()))}
        for key, found in by_signature.items():
            yield _agreement(names, key, np.array([[found[seed]] for seed in sorted(found)]))
        if len(complete) > 1:
            yield _agreement(names, "all signatures", np.array([[found[seed] for found in complete.values()] for seed in sorted(next(iter(complete.values())))]))


def _agreement(names, signature, both):
    """`both`: [seed × signature × (near, far)]."""
    mean, low, high = bootstrap(both[:, :, 0] - both[:, :, 1])
    return {"one": names[0], "near": names[1], "far": names[2], "signature": signature, "seeds": both.shape[0], "near_correlation": float(both[:, :, 0].mean()),
            "far_correlation": float(both[:, :, 1].mean()), "difference": mean, "low": low, "high": high}


def asked_for(job, found):
    """Of a result what the study asks for now: a file may hold scores of an earlier number of items too."""
    tasks = {task.key for task in job.tasks}
    return {**found, "scores": {key: score for key, score in found["scores"].items() if key in tasks},
            "signatures": {key: each for key, each in (found.get("signatures") or {}).items() if key in job.signatures}}


def make_tables(study, jobs, results, sweeps):
    """`results`: {job's name: found}; `sweeps`: {name: rows}."""
    data = Data({(job.member, job.seed, job.phase): asked_for(job, results[job.name]) for job in jobs if job.name in results})
    return Tables(list(value_rows(data)), list(difference_rows(data, study.compare)), list(token_rows(data, study.compare)),
                  list(agreement_rows(data, study.agreement)), sweeps, [job.name for job in jobs if job.name not in results])


# As text.


def spread(row, name="mean", digits=3):
    """0.512 (0.480-0.544)"""
    def text(value):
        return f"{value:.{digits}f}"

    if row[name] is None:
        return "never"
    return text(row[name]) + (f" ({text(row['low'])} to {text(row['high'])})" if row["low"] is not None else "")


def _grid(rows, line, column, cell):
    """(header, lines) of a table whose lines and columns are values of two functions of the rows."""
    lines, columns, cells = {}, {}, {}
    for row in rows:
        lines[line(row)] = columns[column(row)] = None
        cells[line(row), column(row)] = cell(row)
    return list(columns), [[*at, *(cells.get((at, name), "") for name in columns)] for at in lines]


def sections(study, tables):
    """[(title, text, header, lines)]: what stands in the Markdown and on the page."""
    found = []
    for kind, text in ((ACCURACY, "Mean over seeds and items, 95 % interval in brackets. Where the interval holds chance, the number shows nothing."),
                       (LOG_PROBABILITY, "Of the right choice among the choices, in nats; it moves before accuracy does. A guess has -1.609 among five and -2.303 among ten."),
                       (LOSS, "On held-out text at the end of the phase, nats a token."),
                       (SIGNATURE, "Of `meristem analyze`, those that are one number (docs/analysis.md); means over seeds.")):
        rows = [row for row in tables.values if row["measure"].kind == kind]
        if rows:
            columns, lines = _grid(rows, lambda row: (row["phase"], str(row["measure"]), "" if row["chance"] is None else f"{row['chance']:.2f}"),
                                   lambda row: row["member"], spread)
            found.append((kind.capitalize(), text, ["phase", "measure", "chance", *columns], lines))
    if tables.differences:
        rows = [row for row in tables.differences if (row["measure"].kind != LOG_PROBABILITY or row["measure"].task == MEAN)]
        lines = [[row["one"], row["other"], row["measure"].kind, str(row["measure"]), str(row["seeds"]), spread(row, "difference"), _verdict(row)] for row in rows]
        found.append(("Paired differences", "First minus second, seed by seed and item by item. Only an interval without zero tells them apart; with few seeds it is too narrow rather "
                      "than too wide.", ["first", "second", "kind", "measure", "seeds", "difference", "interval without 0"], lines))
    if tables.tokens:
        lines = [[row["one"], row["other"], row["source"], f"{row['reached']} of {row['seeds']}", spread(row, "share", 2)] for row in tables.tokens]
        found.append(("Tokens to equal loss", "Tokens at which the first comes down to the second's final loss, as a share of the second's tokens: below 1 it is sooner.",
                      ["first", "second", "held-out source", "seeds that reach it", "share of tokens"], lines))
    if tables.agreement:
        lines = [[row["one"], row["near"], row["far"], row["signature"], str(row["seeds"]), f"{row['near_correlation']:.2f}", f"{row['far_correlation']:.2f}",
                  spread(row, "difference", 2), _verdict(row)] for row in tables.agreement]
        found.append(("Agreement of signatures", "Correlation of the first model's signature with the second's and with the third's, and the difference.",
                      ["first", "second", "third", "signature", "seeds", "with the second", "with the third", "difference", "interval without 0"], lines))
    for name, rows in tables.sweeps.items():
        kind = study.sweeps[name].kind
        found.append((f"Sweep: {name}", f"`meristem sweep {kind}`; means over seeds and items, 95 % intervals in brackets.", *_sweep_grid(rows)))
    return found


def _sweep_grid(rows):
    """(header, lines) of a sweep's rows, each number with its interval in one cell."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    intervals = {name: (f"{name}_low", f"{name}_high") for name in names if f"{name}_low" in names} | {"accuracy": ("low", "high")}
    hidden = {"baseline", "gold_log_probability", *(name for pair in intervals.values() for name in pair)}
    columns = [name for name in names if name not in hidden]

    def cell(row, name):
        value = row.get(name)
        if name in intervals and value is not None:
            low, high = (row.get(bound) for bound in intervals[name])
            return spread({"mean": value, "low": low, "high": high})
        return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)

    return columns, [[cell(row, name) for name in columns] for row in rows]


def _verdict(row):
    if row["low"] is None:
        return "no interval"
    return "yes" if row["low"] > 0 or row["high"] < 0 else "no"


def markdown(study, tables):
    text = [f"# {study.name}\n"] + ([study.text + "\n"] if study.text else [])
    if tables.missing:
        text.append(f"Not run yet: {len(tables.missing)} jobs ({', '.join(tables.missing[:8])}{', …' if len(tables.missing) > 8 else ''}).\n")
    for title, said, header, lines in sections(study, tables):
        text.append(f"## {title}\n\n{said}\n\n| " + " | ".join(header) + " |\n|" + "---|" * len(header))
        text += ["| " + " | ".join(line) + " |" for line in lines]
        text.append("")
    return "\n".join(text)


CSV_COLUMNS = ("table", "phase", "member", "other", "third", "kind", "task", "shots", "step", "seeds", "items", "value", "low", "high", "chance")


def csv_text(tables):
    """All tables in one, a line for each row, columns written out in full."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()

    def line(table, row, **own):
        measure = row.get("measure")
        told = {} if measure is None else {"kind": measure.kind, "task": measure.task, "shots": measure.shots, "step": measure.step}
        writer.writerow({"table": table, "seeds": row["seeds"], "low": row["low"], "high": row["high"], **told, **own})

    for row in tables.values:
        line("values", row, phase=row["phase"], member=row["member"], items=row["items"], value=row["mean"], chance=row["chance"])
    for row in tables.differences:
        line("differences", row, member=row["one"], other=row["other"], value=row["difference"])
    for row in tables.tokens:
        line("tokens to equal loss", row, member=row["one"], other=row["other"], task=row["source"], value=row["share"])
    for row in tables.agreement:
        line("agreement", row, member=row["one"], other=row["near"], third=row["far"], task=row["signature"], value=row["difference"])
    return out.getvalue()
