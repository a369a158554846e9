"""`meristem sweep loops`: calls of a trained model repeated at inference. Every `size` neighbouring calls of the trained plan, from every start, run so and so often in place
of once; the table says what that does to each task, and how surely (2602.16490, figure 6)."""

import tempfile

from command import Parser, UserError, reported
from depth_plan import MOST_CALLS
from sweeps import cells, pages, results
from sweeps.models import read_models


def grid(models, sizes, starts, repeats):
    """[(start, size, repeats)] that every model has the calls for; the trained plan is not among them."""
    calls = min(len(seeds[0].plan.calls) for seeds in models.values())
    found = []
    for size in sizes or [min(4, calls)]:
        for start in starts if starts is not None else range(max(len(seeds[0].plan.calls) for seeds in models.values()) - size + 1):
            if starts is not None and start + size > calls:
                raise UserError(f"--starts, --sizes: found calls {start} to {start + size - 1}; the plan of {short(models)} has {calls} calls, numbered from 0")
            found += [(start, size, times) for times in repeats]
        if size > calls:
            raise UserError(f"--sizes: found {size}; the plan of {short(models)} has {calls} calls")
    longest = max(len(seeds[0].plan.calls) for seeds in models.values()) + max(size * (times - 1) for _, size, times in found)
    if longest > MOST_CALLS:
        raise UserError(f"--repeats: found a plan of {longest:,} calls; allowed: at most {MOST_CALLS:,}")
    return found


def short(models):
    return min(models, key=lambda name: len(models[name][0].plan.calls))


def plans(model, windows):
    """{(start, size, repeats): plan's text} of the windows that the model has; the trained plan under None."""
    if model.injects:  # what it injects is the input of its loop, which a repeat within would change
        found = {window: model.plan.repeated(*window).loop_text() for window in windows if model.plan.is_round(*window[:2])}
        if not found:
            start, size, _ = model.plan.loop
            raise UserError(f"{model}: injects into its loop, so only that can be repeated: --starts {start} --sizes {size}")
    else:
        found = {window: model.plan.repeated(*window).text for window in windows if window[0] + window[1] <= len(model.plan.calls)}
    return {None: model.plan_text} | found


def rows_of(name, task, own_plans, scores, seed):
    """`scores`: {window: [scores of each seed]}."""
    rows = []
    for window, plan in own_plans.items():
        start, size, repeats = window or (None, None, 1)
        rows.append({"model": name, "task": task.name, "plan": plan, "baseline": window is None, "start": start, "size": size, "repeats": repeats, "shots": task.shots,
                     "chance": task.chance} | results.accuracy(scores[window], seed, scores[None]))
    return rows


def show(rows):
    """Of every model and task a grid of accuracies, start by repeats. A star: the interval of the difference to the trained plan does not hold 0."""
    for name, task in dict.fromkeys((row["model"], row["task"]) for row in rows):
        own = [row for row in rows if (row["model"], row["task"]) == (name, task)]
        print(f"\n{name}, {task}: {own[0]['items']} items, chance {own[0]['chance']:.1%}; as trained, {own[0]['plan']}: {results.percent(own[0])}")
        for size in dict.fromkeys(row["size"] for row in own[1:]):
            of_size = {(row["start"], row["repeats"]): row for row in own[1:] if row["size"] == size}
            times = list(dict.fromkeys(repeats for _, repeats in of_size))
            cell = lambda row: f"{row['accuracy']:.1%}{' ' if row['difference_low'] <= 0 <= row['difference_high'] else '*'}"  # noqa: E731
            lines = [[f"calls {start}-{start + size - 1}", *(cell(of_size[start, repeats]) for repeats in times)] for start in dict.fromkeys(start for start, _ in of_size)]
            print("\n".join(results.aligned(["repeated", *(f"x{repeats} " for repeats in times)], lines)))
    if any(row["difference_low"] > 0 or row["difference_high"] < 0 for row in rows):
        print("\n* differs from the trained plan: 95 % of the bootstrap's differences, item by item, are on one side of 0")


def parse(argv):
    parser = Parser(prog="meristem sweep loops", description=__doc__)
    cells.add_arguments(parser)
    parser.add_argument("--starts", help="first calls of what is repeated, such as 0-8 (default: all)")
    parser.add_argument("--sizes", help="how many neighbouring calls are repeated (default: 4)")
    parser.add_argument("--repeats", default="2-5", help="how often they run in all")
    parser.add_argument("--shots", type=int, help="solved examples before each item (default: 5 for primitives, 0 for a file)")
    arguments = parser.parse_args(argv)
    cells.check(arguments, "loops")
    return arguments


@reported
def main(argv):
    arguments = parse(argv)
    starts = cells.whole_numbers("--starts", arguments.starts, 0) if arguments.starts else None
    sizes = cells.whole_numbers("--sizes", arguments.sizes, 1) if arguments.sizes else None
    repeats = cells.whole_numbers("--repeats", arguments.repeats, 2)
    models = read_models(arguments)
    windows = grid(models, sizes, starts, repeats)
    plans_of = {name: plans(seeds[0], windows) for name, seeds in models.items()}
    tasks = [cells.task_of(arguments, word, arguments.shots) for word in cells.task_words(arguments)]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        encoded = {(name, task.name): [cells.encode(model, task, scratch) for model in seeds] for name, seeds in models.items() for task in tasks}
        cells.say_lost_characters(models, tasks)
        cells.claim(arguments.out, "loops")
        kept = cells.Cells(arguments.out, arguments.nproc, sum(len(plans_of[name]) * len(seeds) * len(tasks) for name, seeds in models.items()))
        for name in models:
            for task in tasks:
                scores = {window: [kept.scores(own, plan) for own in encoded[name, task.name]] for window, plan in plans_of[name].items()}
                rows += rows_of(name, task, plans_of[name], scores, arguments.seed)
    results.write_table(arguments.out, cells.settings("loops", arguments, models), rows)
    pages.loops_page(rows).write(arguments.out / "index.html")
    show(rows)
    return 0
