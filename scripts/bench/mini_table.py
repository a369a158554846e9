"""Reads the runs of scripts/bench/minis (folders NAME-seed-N) and prints their table; exit code 1 where a run diverged or its experts are out of balance.

Loss falls: the mean of the last ten logged losses lies at least two nats a token below the first logged one. Nothing diverges: every loss is finite, no smoothed loss lies
more than a quarter above the lowest before it, but for the steps right after a growth or a new plan. Experts, where at most an eighth of them are active:
in every logged line after the warmup, the largest load over the mean load is below 2."""

import statistics
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))
from reports.metrics import number, read_metrics, smoothed  # noqa: E402

SETTLING = 50  # steps after a growth or another plan in which the loss may stand higher


class Run:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.name, _, self.seed = self.folder.name.rpartition("-seed-")
        self.config = yaml.safe_load((self.folder / "config.yaml").read_text())
        metrics = read_metrics(folder)
        self.steps, self.events = metrics.steps, metrics.events
        self.losses = [number(step["loss"]) for step in self.steps]
        self.validation = {event["source"]: number(event["loss"]) for event in metrics.events_of("validation")}  # the last of each counts
        self.warmup = self.config["schedule"]["warmup"]

    def first(self):
        return self.losses[0]

    def last(self):
        return statistics.fmean(self.losses[-10:])

    def changes(self):
        """Steps at which the model became another one by plan; repeats that are drawn change it every step and count as none."""
        scheduled = (self.config["model"].get("loop") or {}).get("repeats") or {}
        events = [event["step"] for event in self.events if event["event"] in ("growth", "phase")]
        return [*events, *(step for step in scheduled if isinstance(step, int))]

    def worst_rise(self):
        """The largest smoothed loss over the lowest before it, outside of SETTLING."""
        worst, lowest, changes = 0.0, float("inf"), self.changes()
        for step, loss in zip(self.steps, smoothed(self.losses, 5)):
            if not any(change <= step["step"] < change + SETTLING for change in changes):
                worst = max(worst, loss / lowest)
            lowest = min(lowest, loss)
        return worst

    def loads(self):
        return [number(step["expert_load"]["all"]) for step in self.steps if "expert_load" in step and step["step"] > self.warmup]

    def sparse(self):
        feed_forward = self.config["model"]["feed_forward"]
        return feed_forward["kind"] == "experts" and 8 * feed_forward["active"] <= feed_forward["count"]

    def faults(self):
        if not all(loss == loss and abs(loss) != float("inf") for loss in self.losses):
            yield "a loss is not finite"
        if self.last() > self.first() - 2:
            yield f"the loss fell from {self.first():.2f} to {self.last():.2f} only"
        if self.worst_rise() > 1.25:
            yield f"the loss rose to {self.worst_rise():.2f} times the lowest before"
        if self.sparse() and max(self.loads()) >= 2:
            yield f"expert load: largest over mean up to {max(self.loads()):.2f} after the warmup"


def spread(values):
    """mean (lowest - highest)"""
    return f"{statistics.fmean(values):.3f} ({min(values):.3f}-{max(values):.3f})"


def row(name, runs):
    loads = [load for run in runs for load in run.loads()]
    means = [statistics.fmean(run.loads()) for run in runs if run.loads()]
    feed_forward = runs[0].config["model"]["feed_forward"]
    experts = f"{feed_forward['active']} of {feed_forward['count']}" if loads else ""
    return [name, f"{runs[0].steps[-1]['parameters']:,}", str(max(step["calls"] for step in runs[0].steps)), str(len(runs)),
            f"{statistics.fmean(run.first() for run in runs):.2f}", spread([run.last() for run in runs]),
            spread([run.validation["plays"] for run in runs]), spread([run.validation["assignments"] for run in runs]),
            f"{max(run.worst_rise() for run in runs):.2f}", experts, f"{spread(means)}, at most {max(loads):.2f}" if loads else ""]


def main(folders):
    by_name, faults = {}, []
    for run in map(Run, folders):
        by_name.setdefault(run.name, []).append(run)
        faults += [f"{run.folder.name}: {fault}" for fault in run.faults()]
    header = ["config", "parameters", "calls", "seeds", "first loss", "last loss", "held out: plays", "held out: assignments", "worst rise", "experts",
              "largest load / mean"]
    print("| " + " | ".join(header) + " |\n" + "|" + "---|" * len(header))
    for name, runs in by_name.items():
        print("| " + " | ".join(row(name, runs)) + " |")
    for fault in faults:
        print(f"NO: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
