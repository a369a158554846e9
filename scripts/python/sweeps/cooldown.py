"""`meristem sweep cooldown`: from the end of a plateau, every mixture with and without a middle block that runs once more (2602.16490, section 5.3). Each is a branch of the
checkpoint, in a run folder under DIR/runs; the table has its validation losses and its accuracies."""

import re
import tempfile

from bootstrap import bootstrap
from command import Parser, UserError, reported
from reports.metrics import read_metrics, validation_points
from sweeps import cells, pages, results, training
from sweeps.models import plan_for, read_models


def middle_looped(model):
    """The trained plan with its loop, or the four calls in its middle, run once more."""
    plan = model.plan
    if plan.loop:
        return plan.repeated(*plan.loop[:2], 2).loop_text()
    size = min(4, len(plan.calls) // 2)
    if size == 0:
        raise UserError(f"{model}: has one call, so none in the middle; --loop names a plan")
    return plan.repeated((len(plan.calls) - size) // 2, size, 2).text


def mixtures_of(arguments):
    """(index of the last phase, {name: key=value arguments of the run}): the variants of the config, or what --mixture says."""
    document = training.read_config(arguments.config)
    phases, variants = document.get("phases"), document.get("variants") or {}
    if not isinstance(phases, list) or not phases or not isinstance(variants, dict):
        raise UserError(f"{arguments.config}: phases: found none; the cooldown is the last of them")
    last = len(phases) - 1
    found = {}
    for word in arguments.mixture:
        name, equals, shares = word.partition("=")
        if not equals or not training.NAME.fullmatch(name) or name in found or not re.fullmatch(r"\s*\{?[^{}=]+:[^{}=]+\}?\s*", shares):
            raise UserError(f"--mixture: found {word!r}; allowed: NAME=SOURCE: SHARE, SOURCE: SHARE …, each NAME once")
        found[name] = [f"phases[{last}].mixture={{{shares.strip().strip('{}')}}}"]
    if found and variants:
        raise UserError(f"--mixture: {arguments.config} has variants, {', '.join(variants)}, which are the mixtures; allowed: one of the two")
    return last, found or {str(name): [f"variant={name}"] for name in variants} or {str(phases[last].get("name", "cooldown")): []}


def losses_of(folder):
    """{source: validation loss at the end}."""
    return {source: list(losses)[-1] for source, (_, losses) in validation_points(read_metrics(folder)).items()}


class Experiment:
    def __init__(self, arguments):
        self.arguments, self.models = arguments, read_models(arguments)
        self.seeds = cells.whole_numbers("--seeds", arguments.seeds, 0) if arguments.seeds else [None]  # None: what the config says
        self.last, self.mixtures = mixtures_of(arguments)
        self.loops = {name: plan_for(arguments.loop, {name: trunks}) if arguments.loop else middle_looped(trunks[0]) for name, trunks in self.models.items()}
        count = len(self.mixtures) * 2 * len(self.seeds) * sum(map(len, self.models.values()))
        self.runs = training.Runs(arguments.out, arguments.config, arguments.set, count)

    def words(self, model, mixture, looped, seed):
        plan = [f'phases[{self.last}].depth_plan="{self.loops[model.name]}"'] if looped else []
        return [*self.mixtures[mixture], *plan, *([] if seed is None else [f"run.seed={seed}"]), "--branch", str(model.folder)]

    def name(self, model, looped, seed, number):
        parts = [model.name, *([number + 1] if len(self.models[model.name]) > 1 else []), *([] if seed is None else [f"seed{seed}"]), "looped" if looped else "plain"]
        return training.run_name(*parts)

    def folder(self, run, mixture):
        """A variant's run has its name behind that of the run."""
        return f"{run}-{mixture}"

    def check(self):
        for name, trunks in self.models.items():
            for mixture in self.mixtures:
                for looped in (False, True):
                    self.runs.check(self.run(self.name(trunks[0], looped, self.seeds[0], 0), mixture), self.words(trunks[0], mixture, looped, self.seeds[0]))

    def run(self, run, mixture):
        return run if f"variant={mixture}" in self.mixtures[mixture] else self.folder(run, mixture)

    def train(self, name, mixture, looped):
        """[(Model, losses)] of each trunk and seed."""
        found = []
        for number, trunk in enumerate(self.models[name]):
            for seed in self.seeds:
                run = self.name(trunk, looped, seed, number)
                folder = self.runs.train(self.run(run, mixture), self.words(trunk, mixture, looped, seed), self.folder(run, mixture))
                found.append((training.trained_model(folder, trunk, self.arguments), losses_of(folder)))
        return found


def loss_columns(losses, seed):
    """Of each validation source the mean over runs, and its interval where there are several."""
    columns = {}
    for source in losses[0]:
        columns |= dict(zip((f"loss_{source}", f"loss_{source}_low", f"loss_{source}_high"), bootstrap([[each[source]] for each in losses], seed)))
    return columns


def sources_of(rows):
    return [key.removeprefix("loss_") for key in rows[0] if key.startswith("loss_") and f"{key}_low" in rows[0]]


def show(rows):
    sources = sources_of(rows)
    for task in dict.fromkeys(row["task"] for row in rows):
        own = [row for row in rows if row["task"] == task]
        print(f"\n{task}: {own[0]['items']} items, chance {own[0]['chance']:.1%}")
        lines = [[row["model"], row["mixture"], row["plan"], results.percent(row), f"{row['difference']:+.1%} [{row['difference_low']:+.1%}, {row['difference_high']:+.1%}]",
                  *(f"{row[f'loss_{source}']:.4f}" for source in sources)] for row in own]
        print("\n".join(results.aligned(["model", "mixture", "plan", "accuracy", "difference to the first cooldown", *(f"loss {source}" for source in sources)], lines)))


def parse(argv):
    parser = Parser(prog="meristem sweep cooldown", description=__doc__)
    cells.add_arguments(parser)
    training.add_arguments(parser, "config of the cooldown: its last phase is what differs; its variants, where it has some, are the mixtures")
    parser.add_argument("--mixture", action="append", default=[], metavar="NAME=SHARES", help='a mixture of the last phase, such as "math=plays: 0.4, math: 0.6"; may be given several times')
    parser.add_argument("--loop", metavar="PLAN", help="the looped plan (default: the plan's loop, or the four calls in its middle, once more)")
    parser.add_argument("--seeds", help="seeds of the branches, such as 1-3 (default: the one that the config says)")
    parser.add_argument("--shots", type=int, help="solved examples before each item (default: 5 for primitives, 0 for a file)")
    arguments = parser.parse_args(argv)
    cells.check(arguments, "cooldown")
    training.check(arguments)
    return arguments


@reported
def main(argv):
    arguments = parse(argv)
    experiment, rows = Experiment(arguments), []
    tasks = [cells.task_of(arguments, word, arguments.shots) for word in cells.task_words(arguments)]
    settings = [(mixture, looped) for mixture in experiment.mixtures for looped in (False, True)]
    with tempfile.TemporaryDirectory() as scratch:
        experiment.check()
        cells.claim(arguments.out, "cooldown")
        kept = cells.Cells(arguments.out, arguments.nproc, len(tasks) * experiment.runs.total)
        for name, trunks in experiment.models.items():
            ended = {setting: experiment.train(name, *setting) for setting in settings}
            for task in tasks:
                score = lambda models, task=task: [kept.scores(cells.encode(model, task, scratch), model.plan_text) for model in models]  # noqa: E731
                scores = {setting: score([model for model, _ in found]) for setting, found in ended.items()}
                base = scores[settings[0]]
                for (mixture, looped), found in ended.items():
                    rows.append({"model": name, "task": task.name, "mixture": mixture, "looped": looped, "plan": found[0][0].plan_text, "shots": task.shots, "chance": task.chance}
                                | results.accuracy(scores[mixture, looped], arguments.seed, base) | loss_columns([losses for _, losses in found], arguments.seed))
    results.write_table(arguments.out, cells.settings("cooldown", arguments, experiment.models) | {"config": str(arguments.config)}, rows)
    pages.cooldown_page(rows, sources_of(rows)).write(arguments.out / "index.html")
    show(rows)
    return 0
