"""`meristem sweep shots`: how accuracy goes with the number of solved examples before each item, up to what the model's context holds (2602.16490, figure 7). The items stay the
same; nothing is ever cut."""

import sys
import tempfile

from command import Parser, UserError, reported
from sweeps import cells, pages, results
from sweeps.models import plan_for, read_models

STEPS = (1, 2, 5, 10, 20, 40, 80, 160, 320, 640)


class Encodings:
    """Tasks as tokens, by task and number of shots, made when they are asked for."""

    def __init__(self, arguments, models, scratch):
        self.arguments, self.models, self.scratch, self.known = arguments, models, scratch, {}

    def task(self, word, shots):
        return cells.task_of(self.arguments, word, shots)

    def of(self, word, shots):
        """{model's name: [Encoded of each seed]}"""
        if (word, shots) not in self.known:
            task = self.task(word, shots)
            self.known[word, shots] = {name: [cells.encode(model, task, self.scratch) for model in seeds] for name, seeds in self.models.items()}
        return self.known[word, shots]

    def too_long(self, word, shots):
        """The first encoding that its model's context does not hold, None where there is none."""
        return next((own for seeds in self.of(word, shots).values() for own in seeds if own.longest > self.context(own.model)), None)

    def context(self, model):
        return self.arguments.context or model.positions


def refusal(encodings, own, shots):
    task, model = own.task, own.model
    return (f"--shots: found {shots}; {task.place(own.longest_item)} then has {own.longest:,} tokens, and {model.name} reads {encodings.context(model):,}; "
            f"allowed: fewer, max, or --context {own.longest} to read beyond what it was trained with")


def most(encodings, word, bound):
    """The largest number of shots that fits, at least one; `bound`: there are no more examples than that."""
    if own := encodings.too_long(word, 1):
        raise UserError(refusal(encodings, own, 1))
    fits, fails = 1, None
    while fails is None and fits < bound:
        step = min(2 * fits, bound)
        fits, fails = (fits, step) if encodings.too_long(word, step) else (step, None)
    while fails is not None and fails - fits > 1:
        middle = (fits + fails) // 2
        fits, fails = (fits, middle) if encodings.too_long(word, middle) else (middle, fails)
    return fits


def chosen(encodings, word, wish):
    """The numbers of shots of a task. `wish`: those of the command, None for max."""
    if wish is None:
        task = encodings.task(word, 0)
        bound = STEPS[-1] if task.places is None else min(STEPS[-1], len(task.places) - 1)
        last = most(encodings, word, bound)
        found = [*(step for step in STEPS if step < last), last]
        why = "as many as the examples that there are" if last == bound else "as many as the context holds"
        print(f"meristem: note: {task.name}: shots {', '.join(map(str, found))}, {why}", file=sys.stderr)
        return found
    for shots in wish:
        if own := encodings.too_long(word, shots):
            raise UserError(refusal(encodings, own, shots))
    return wish


def show(rows):
    """Of every task a table, shots by model."""
    names = list(dict.fromkeys(row["model"] for row in rows))
    for task in dict.fromkeys(row["task"] for row in rows):
        own = {(row["model"], row["shots"]): row for row in rows if row["task"] == task}
        first = next(iter(own.values()))
        print(f"\n{task}: {first['items']} items, chance {first['chance']:.1%}")
        lines = [[str(shots), *(results.percent(own[name, shots]) for name in names)] for shots in dict.fromkeys(shots for _, shots in own)]
        print("\n".join(results.aligned(["shots", *names], lines)))


def parse(argv):
    parser = Parser(prog="meristem sweep shots", description=__doc__)
    cells.add_arguments(parser)
    parser.add_argument("--shots", default="max", help="numbers of examples such as 0,1,2,5-8; max: 1, 2, 5, 10, … and the most that the context holds, which is said")
    parser.add_argument("--context", type=int, metavar="N", help="tokens that an item may have with its examples (default: what each model was trained with)")
    parser.add_argument("--plan", help="depth plan for all checkpoints (default: as trained)")
    arguments = parser.parse_args(argv)
    cells.check(arguments, "shots")
    if arguments.context is not None and arguments.context < 2:
        raise UserError(f"--context: found {arguments.context}; allowed: at least 2")
    return arguments


@reported
def main(argv):
    arguments = parse(argv)
    wish = None if arguments.shots == "max" else cells.whole_numbers("--shots", arguments.shots, 0)
    models, rows = read_models(arguments), []
    plan = arguments.plan and plan_for(arguments.plan, models)
    with tempfile.TemporaryDirectory() as scratch:
        encodings = Encodings(arguments, models, scratch)
        counts = {word: chosen(encodings, word, wish) for word in cells.task_words(arguments)}
        cells.say_lost_characters(models, [encodings.task(word, 0) for word in counts])
        cells.claim(arguments.out, "shots")
        kept = cells.Cells(arguments.out, arguments.nproc, sum(map(len, counts.values())) * sum(map(len, models.values())))
        for name, seeds in models.items():
            for word, numbers in counts.items():
                scores = {shots: [kept.scores(own, plan or own.model.plan_text) for own in encodings.of(word, shots)[name]] for shots in numbers}
                for shots in numbers:
                    task = encodings.of(word, shots)[name][0].task
                    rows.append({"model": name, "task": task.name, "plan": plan or seeds[0].plan_text, "shots": shots, "chance": task.chance}
                                | results.accuracy(scores[shots], arguments.seed, scores[numbers[0]]))
    results.write_table(arguments.out, cells.settings("shots", arguments, models), rows)
    pages.shots_page(rows).write(arguments.out / "index.html")
    show(rows)
    return 0
