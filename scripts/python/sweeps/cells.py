"""A cell of a sweep: one checkpoint, under one plan, on one task. Its scores are kept under DIR/cells by what decides them, so a sweep that was stopped, or that asks for more,
computes only what is missing, and ends with the same numbers to the bit: each cell is a process of its own, which sees nothing of the others."""

import contextlib
import hashlib
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from command import Bar, UserError, publish
from evaluation import evaluate, primitives
from sweeps.models import Model, read_json
from text.coverage import say_lost
from text.tokenizer import add_bos_argument

ITEMS = 200  # of a primitive: a sweep scores them many times
MARK = "sweep.json"  # in the folder of a sweep
SCORES = 1   # raised when the program's scores of the same weights, plan and ids change by more than a rounding


def add_arguments(parser, tasks=True):
    """What every sweep takes."""
    parser.add_argument("checkpoints", nargs="+", metavar="[NAME=]CHECKPOINT",
                        help="checkpoints or run folders (their newest checkpoint) to compare; several of one NAME are one model under several seeds")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="table.csv, table.json, index.html; what was computed there already is not computed again")
    parser.add_argument("--tasks", required=tasks, help="as for eval: primitives, names of single ones, JSONL files; separated by commas")
    parser.add_argument("--items", type=int, help=f"items of a task (default: {ITEMS} of a primitive, all of a file)")
    parser.add_argument("--seed", type=int, default=42, help="seed of the items and of the bootstrap")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json, where a checkpoint does not say")
    add_bos_argument(parser)
    parser.add_argument("--nproc", type=int, metavar="N", help="share the items out over N ranks on this machine")


def whole_numbers(option, text, least):
    """Of a list such as 1,2,5-8; each once, in the order given."""
    found = []
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        if not (first.isascii() and first.isdigit() and (not dash or (last.isascii() and last.isdigit()))) or max(len(first), len(last)) > 6:
            raise UserError(f"{option}: found {part!r}; allowed: whole numbers and ranges such as 2,4-8")
        span = range(int(first), int(last if dash else first) + 1)
        if not span or span[0] < least:
            raise UserError(f"{option}: found {part!r}; allowed: from {least} up")
        found += span
    return list(dict.fromkeys(found))


def check(arguments, kind):
    """What can be refused before anything is read. The folder of a sweep is new, empty, or of the same kind of sweep, whose cells are taken over."""
    for name, least in (("items", 1), ("nproc", 1), ("seed", 0), ("shots", 0)):
        value = getattr(arguments, name)
        if isinstance(value, int) and value < least:  # the shots of a sweep over shots are a list
            raise UserError(f"--{name}: found {value}; allowed: at least {least}")
    out = arguments.out
    if (out / MARK).is_file():
        found = read_json(out / MARK).get("sweep")
        if found != kind:
            raise UserError(f"--out: {out} holds a sweep of {found}; give this one of {kind} another folder")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out: {out} exists and is no folder of a sweep; nothing of it is overwritten")


def claim(out, kind):
    out.mkdir(parents=True, exist_ok=True)
    publish(out / MARK, lambda beside: beside.write_text(json.dumps({"sweep": kind, "format": 1}) + "\n"))


def task_words(arguments):
    """The names and files of the command's tasks, each once."""
    words = [word for given in arguments.tasks.split(",") for word in (primitives.task_names() if given == "primitives" else [given])]
    words = list(dict.fromkeys(words))
    names = [Path(word).name for word in words]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--tasks: found two called {name!r}; the table tells tasks apart by their names")
    return words


def task_of(arguments, word, shots):
    """`shots` as for eval."""
    return evaluate.tasks_of(word, arguments.items or (ITEMS if word in primitives.task_names() else None), shots, arguments.seed)[0]


@dataclass(frozen=True)
class Encoded:
    """A task's items as one model's tokens."""

    model: Model
    task: evaluate.Task
    path: Path
    digest: str   # of ids, choices and right answers
    longest: int  # tokens of an item's context and one of its choices
    longest_item: int


def encode(model, task, folder):
    """`folder`: where the ids are kept meanwhile."""
    kept, longest = io.StringIO(), (0, 0)
    evaluate.write_item_ids(kept, model.tokenizer, task, model.begin, model.ends)
    for number, line in enumerate(kept.getvalue().splitlines()):
        item = json.loads(line)
        longest = max(longest, (len(item["context"]) + max(map(len, item["choices"])), -number))
    answers = json.dumps([[item.choices, item.gold] for item in task.items])
    digest = hashlib.sha256((kept.getvalue() + answers).encode()).hexdigest()[:32]
    path = Path(folder) / f"{digest}.jsonl"
    path.write_text(kept.getvalue())
    return Encoded(model, task, path, digest, longest[0], -longest[1])


class Cells:
    """`total`: how many there are, for the bar."""

    def __init__(self, out, ranks, total):
        self.folder, self.ranks, self.said = out / "cells", ranks, set()
        self.bar, self.done, self.total = Bar("cells"), 0, total

    def scores(self, encoded, plan):
        """{"hits", "margins"} of each item: what it counts, and the log-probability of the right choice among the choices. `plan`: its text."""
        key = {"scores": SCORES, "weights": encoded.model.weights, "plan": plan, "items": encoded.digest}
        path = self.folder / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]}.json"
        self.bar.show(self.done, self.total)
        found = self._kept(path, key)
        if found is None:
            found = self._computed(encoded, plan)
            publish(path, lambda beside: beside.write_text(json.dumps({"key": key, "task": encoded.task.name, "log_likelihoods": found}) + "\n"))
        self.done += 1
        if self.done == self.total:
            self.bar.clear()
        return scores_of(encoded.task, found)

    @staticmethod
    def _kept(path, key):
        try:
            document = json.loads(path.read_text())
            return document["log_likelihoods"] if document["key"] == key else None
        except (OSError, ValueError, KeyError):
            return None

    def _computed(self, encoded, plan):
        task, said = encoded.task, io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                return evaluate.log_likelihoods(encoded.model.folder, encoded.path, ["--plan", plan], self.ranks, task.place)
        finally:  # what the program says of each cell is said once
            self.bar.clear()
            for line in said.getvalue().splitlines():
                if line not in self.said:
                    print(line, file=sys.stderr)
                self.said.add(line)


def scores_of(task, log_likelihoods):
    hits, margins = [], []
    for own, item in zip(map(np.array, log_likelihoods), task.items, strict=True):
        hits.append(evaluate.hit(own, item.gold))
        margins.append(own[item.gold] - np.logaddexp.reduce(own))
    return {"hits": np.array(hits), "margins": np.array(margins)}


def say_lost_characters(models, tasks):
    for seeds in models.values():
        say_lost(seeds[0].tokenizer, ((task.place(number), item.context + choice) for task in tasks for number, item in enumerate(task.items) for choice in item.choices))


def settings(kind, arguments, models):
    """What stands above the rows of table.json."""
    return {"sweep": kind, "seed": arguments.seed, "checkpoints": {name: [str(model.folder) for model in seeds] for name, seeds in models.items()}}
