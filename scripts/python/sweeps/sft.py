"""`meristem sweep sft`: how many examples a model needs to learn a reasoning primitive by fine-tuning, with its loop as it is and with the loop untied into blocks of its own
(2602.16490, section 5.1). Every size is drawn several times; each draw is a run under DIR/runs, and the smaller sets are parts of the larger ones."""

import contextlib
import hashlib
import io
import json
import sys
import tempfile
from pathlib import Path

from chat import tokenizing
from command import Parser, UserError, publish, reported
from evaluation import primitives
from sweeps import cells, pages, results, training
from sweeps.models import read_models

CONFIG = Path(__file__).resolve().parents[3] / "configs" / "sft" / "sweep.yaml"
TASKS = "variable-assignment-code-1,variable-assignment-code-2"
KINDS = ("tied", "untied")


def records(names, size, draw, seed):
    """`size` items as lines of JSON, the tasks in turn; the answer is what is trained on. The seed's name is that of no other use, so no record is an item of a test."""
    items = (primitives.make_item(names[number % len(names)], f"train/sft/{seed}/{draw}", number // len(names)) for number in range(size))
    return "".join(json.dumps({"prompt": item.context, "completion": item.choices[item.gold]}) + "\n" for item in items)


def write_shard(folder, text, tokenizer, bos, most):
    """The prefix of the records' tokens, made where it is not there yet; its name says what is in it. A record of more than `most` tokens is refused: the run would cut it."""
    said = hashlib.sha256("\n".join([text, bos]).encode() + Path(tokenizer).read_bytes()).hexdigest()[:16]
    prefix, source = folder / said, folder / f"{said}.jsonl"
    if not prefix.with_suffix(".json").is_file():
        publish(source, lambda beside: beside.write_text(text))
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            code = tokenizing.main([str(source), "--chat", "--raw", "--tokenizer", str(tokenizer), "--out", str(prefix), "--bos", bos, "--max-tokens", str(most), "--force"])
        if code != 0:
            sys.stderr.write(out.getvalue())
            raise SystemExit(code)
    return prefix


def kinds_of(model, wish):
    """How the model's loop can be trained; "none" where it has none."""
    if len(set(model.plan.calls)) == len(model.plan.calls):
        return ["none"]
    if model.injects and "untied" in wish:
        raise UserError(f"{model}: injects into its loop, so that cannot be untied; --loops tied")
    return wish


def words_of(model, kind, prefix, draw, length):
    """Arguments of `meristem train`."""
    untied = [f"initial.source_of=[{', '.join(map(str, model.plan.calls))}]"] if kind == "untied" else []
    return [f"run.seed={draw}", f"initial.checkpoint={model.folder}", *untied, f"data.tokenizer={model.tokenizer_path}", f"data.sequence_length={length}",
            f"data.sources={{items: {{path: {json.dumps(str(prefix))}}}}}"]


def parse(argv):
    parser = Parser(prog="meristem sweep sft", description=__doc__)
    cells.add_arguments(parser, tasks=False)
    parser.add_argument("--train", default=TASKS, help="primitives to train on, equal parts of each")
    parser.add_argument("--sizes", default="64,128,256,512", help="numbers of training items")
    parser.add_argument("--draws", type=int, default=3, metavar="N", help="sets of each size")
    parser.add_argument("--loops", default="tied,untied", help="tied: the plan as it is; untied: a block of its own for each call; models without a loop are trained once")
    parser.add_argument("--shots", type=int, default=0, help="solved examples before each item of the evaluation")
    training.add_arguments(parser, "config of a run, without model, data sources and run", CONFIG)
    arguments = parser.parse_args(argv)
    arguments.tasks = arguments.tasks or arguments.train
    cells.check(arguments, "sft")
    training.check(arguments)
    for name, least in (("draws", 1), ("shots", 0)):
        if getattr(arguments, name) < least:
            raise UserError(f"--{name}: found {getattr(arguments, name)}; allowed: at least {least}")
    if not (wish := arguments.loops.split(",")) or set(wish) - set(KINDS):
        raise UserError(f"--loops: found {arguments.loops!r}; allowed: {', '.join(KINDS)}")
    return arguments


def trained_names(arguments, sizes):
    known, names = primitives.task_names(), arguments.train.split(",")
    for name in names:
        if name not in known:
            raise UserError(f"--train: found {name!r}; allowed: {', '.join(known)}")
    for size in sizes:
        if size % len(names):
            raise UserError(f"--sizes: found {size}, which cannot be equal parts of {len(names)} tasks")
    return names


def rows_of(name, kind, task, plan, by_size, seed, draws):
    """`by_size`: {training-set size: scores of each seed and draw}; 0: before training, of each seed."""
    rows = []
    for size, scores in by_size.items():
        before = by_size[0] if size == 0 else [own for own in by_size[0] for _ in range(draws)]
        rows.append({"model": name, "task": task.name, "loops": kind, "plan": plan, "size": size, "draws": draws if size else 0, "shots": task.shots, "chance": task.chance}
                    | results.accuracy(scores, seed, before))
    return rows


def show(rows):
    for task in dict.fromkeys(row["task"] for row in rows):
        own = {(row["model"], row["loops"], row["size"]): row for row in rows if row["task"] == task}
        first, members = next(iter(own.values())), list(dict.fromkeys(key[:2] for key in own))
        print(f"\n{task}: {first['items']} items, chance {first['chance']:.1%}; size 0 is the model before fine-tuning")
        lines = [[str(size), *(results.percent(own[(*member, size)]) for member in members)] for size in dict.fromkeys(size for *_, size in own)]
        print("\n".join(results.aligned(["size", *(f"{name}, {kind}" for name, kind in members)], lines)))


class Experiment:
    """The command's members, (name, [Model of each seed], kind), and their runs."""

    def __init__(self, arguments, sizes):
        self.arguments, self.sizes, self.names, self.models = arguments, sizes, trained_names(arguments, sizes), read_models(arguments)
        self.members = [(name, seeds, kind) for name, seeds in self.models.items() for kind in kinds_of(seeds[0], arguments.loops.split(","))]
        self.length = training.number_of(arguments, "data", "sequence_length")
        self.runs = training.Runs(arguments.out, arguments.config, arguments.set, len(sizes) * arguments.draws * sum(len(seeds) for _, seeds, _ in self.members))

    def words(self, model, kind, size, draw, folder):
        text = records(self.names, size, draw, self.arguments.seed)
        length = self.length or model.positions
        prefix = write_shard(folder, text, model.tokenizer_path, self.arguments.bos, length)
        return words_of(model, kind, prefix, draw, length)

    def check(self, scratch):
        for name, seeds, kind in self.members:
            self.runs.check(training.run_name(name, kind), self.words(seeds[0], kind, self.sizes[0], 1, scratch))

    def train(self, name, seeds, kind, size):
        """The models of each seed and draw."""
        found = []
        for number, model in enumerate(seeds):
            for draw in range(1, self.arguments.draws + 1):
                run = training.run_name(name, *([number + 1] if len(seeds) > 1 else []), kind, size, draw)
                folder = self.runs.train(run, self.words(model, kind, size, draw, self.arguments.out / "data"))
                found.append(training.trained_model(folder, model, self.arguments))
        return found


@reported
def main(argv):
    arguments = parse(argv)
    experiment = Experiment(arguments, cells.whole_numbers("--sizes", arguments.sizes, 1))
    tasks = [cells.task_of(arguments, word, arguments.shots) for word in cells.task_words(arguments)]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        experiment.check(Path(scratch))
        cells.claim(arguments.out, "sft")
        kept = cells.Cells(arguments.out, arguments.nproc, len(tasks) * (experiment.runs.total + sum(len(seeds) for _, seeds, _ in experiment.members)))
        for name, seeds, kind in experiment.members:
            checkpoints = {0: seeds} | {size: experiment.train(name, seeds, kind, size) for size in experiment.sizes}
            for task in tasks:
                by_size = {size: [kept.scores(cells.encode(model, task, scratch), model.plan_text) for model in own] for size, own in checkpoints.items()}
                rows += rows_of(name, kind, task, checkpoints[experiment.sizes[-1]][0].plan_text, by_size, arguments.seed, arguments.draws)
    results.write_table(arguments.out, cells.settings("sft", arguments, experiment.models) | {"train": experiment.names}, rows)
    pages.sft_page(rows).write(arguments.out / "index.html")
    show(rows)
    return 0
