"""What `meristem report` knows about a run: its config, its curves, its marks, its final figures. Reads a run folder, writes nothing."""

import math
import statistics
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import yaml

from reports.metrics import RunError, RunMetrics, growth_steps, number, read_metrics, smoothed, stages_of, validation_points

SMOOTHING, FEWEST = 0.03, 7  # a mean is over 3 % of the run's lines, but over 7 at least: a short branch has few


@dataclass
class Event:
    step: int  # it happened after this update
    kind: str  # growth, phase, loop, branch, spike, skip
    text: str
    label: str = ""  # a few characters for a chart; without one it stands in the table only


MOST_SPIKES = 20
MOST_LOOPS = 20  # a run with more changes of its calls draws their number at random


@dataclass
class Run:
    folder: Path
    name: str
    metrics: RunMetrics
    config: dict
    trunk: "Run | None" = None  # the run that this one is a branch of, where its folder is still there
    branch_step: int = 0  # the step after which it began; 0: not a branch
    branch_of: str = ""
    notes: list = field(default_factory=list)

    @cached_property
    def last(self):
        return self.metrics.steps[-1]

    @property
    def begin(self):
        return self.branch_step

    @property
    def end(self):
        return self.last["step"]

    @cached_property
    def growths(self):
        return [growth for growth in growth_steps(self.metrics) if growth[0] >= self.begin]

    @cached_property
    def phases(self):
        """[(name, step after which it begins)]"""
        starts = {event["step"]: str(event.get("name", "")) for event in self.metrics.events_of("phase")}
        return [(name, step) for step, name in sorted(starts.items())]

    def _phases_with_plans(self):
        """[(name, start, ", plan …" where the phase changed it)]"""
        plans = {event["step"]: str(event.get("depth_plan", "")) for event in self.metrics.events_of("phase")}
        changed = {step for step, _, _ in self.loops} | ({self.branch_step} if self.branch_of else set())
        return [(name, start, f", plan {plans[start]}" if plans.get(start) and start in changed else "") for name, start in self.phases]

    @cached_property
    def loops(self):
        """[(step, calls before, calls after)] where the number of block calls changed without a growth."""
        pairs = [(a, b) for a, b in zip(self.metrics.steps, self.metrics.steps[1:]) if "calls" in a and b.get("calls", a["calls"]) != a["calls"]]
        pairs = [(a, b) for a, b in pairs if not any(a["step"] <= grown < b["step"] for grown, _, _ in self.growths)]
        starts = [step for _, step in self.phases]  # a phase's plan holds from its first update on, which may have no line of its own
        return [(next((s for s in starts if a["step"] <= s < b["step"]), a["step"]), a["calls"], b["calls"]) for a, b in pairs] if len(pairs) <= MOST_LOOPS else []

    @cached_property
    def events(self):
        """What happened, by step."""
        found = [Event(step, "growth", f"grew {before or '?'} → {after} blocks", f"{after} blocks") for step, before, after in self.growths]
        found += [Event(start, "phase", f"phase {name}{plan}", name if start > 0 else "") for name, start, plan in self._phases_with_plans()]
        found += [Event(step, "loop", f"{before} → {after} block calls a token", f"{after} calls") for step, before, after in self.loops]
        found += [Event(self.branch_step, "branch", f"branch of {self.branch_of}", "branch")] if self.branch_of else []
        spikes = [event for event in self.metrics.events if event["event"] in ("skip", "spike")][:MOST_SPIKES]
        return sorted(found + [Event(event["step"], event["event"], spike_text(event)) for event in spikes], key=lambda event: event.step)

    @cached_property
    def validation(self):
        return {source: (list(steps), list(losses)) for source, (steps, losses) in validation_points(self.metrics).items()}

    @cached_property
    def sources(self):
        """Names of the training sources, in the config's order."""
        return [str(name) for name in (self.config.get("data") or {}).get("sources") or {}]

    def curve(self, value_of):
        """(steps, values, smoothed values) of a number of the step lines; steps where it is missing or not finite are left out.
        No mean reaches across a growth."""
        values = np.array([number(value_of(line)) for line in self.metrics.steps])
        known = np.isfinite(values)
        steps, values = np.array([line["step"] for line in self.metrics.steps])[known].tolist(), values[known].tolist()
        window, curve = max(FEWEST, round(SMOOTHING * len(steps))), []
        for begin, end in stages_of(steps, self.growths):
            curve += smoothed(values[begin:end], window)
        return steps, values, curve

    def tail_mean(self, value_of):
        """Mean of the last values; NaN where there is none."""
        values = [number(value_of(line)) for line in self.metrics.steps]
        values = [value for value in values if math.isfinite(value)]
        return statistics.fmean(values[-max(FEWEST, round(SMOOTHING * len(values))):] or [math.nan])

    def finite(self, key):
        values = [number(line.get(key)) for line in self.metrics.steps]
        return [value for value in values if math.isfinite(value)]

    def median(self, key):
        return statistics.median(self.finite(key) or [math.nan])

    def mean(self, key):
        return statistics.fmean(self.finite(key) or [math.nan])

    def use(self, key="tokens_by_source"):
        """{source: tokens (or epochs) at the end}, empty for a run that did not write them."""
        return {str(name): number(value) for name, value in (self.last.get(key) or {}).items()}

    def use_before(self):
        """Tokens of each source at the branch, as far as the trunk wrote them."""
        lines = [line for line in self.trunk.metrics.steps if line["step"] <= self.branch_step] if self.trunk else []
        return {str(name): number(value) for name, value in (lines[-1].get("tokens_by_source") or {}).items()} if lines else {}

    @property
    def planned_steps(self):
        """The length of the run where the config says it in steps, else None."""
        steps = (self.config.get("schedule") or {}).get("steps")
        return steps if isinstance(steps, int) else None


def spike_text(event):
    """With both numbers: either of them can be what made it one."""
    return f"{event['event']}: loss {number(event.get('loss')):.4f}, gradient norm {number(event.get('grad_norm')):.3g}"


def name_apart(runs):
    """Runs of folders with the same name get as much of their paths as tells them apart; the same folder again gets a number."""
    folders = [run.folder.resolve() for run in runs]
    for run, folder in zip(runs, folders):
        others = {other.parts for other in folders if other.name == folder.name and other != folder}
        depth = next(depth for depth in range(1, len(folder.parts) + 1) if all(other[-depth:] != folder.parts[-depth:] for other in others))
        run.name = "/".join(folder.parts[-depth:])
    for i, run in enumerate(runs):
        again = folders[:i].count(folders[i])
        run.name += f" ({again + 1})" if again else ""


def read_config(folder):
    path = Path(folder) / "config.yaml"
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}; expected the folder of a run") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: is not the YAML of a run: {str(error).splitlines()[0]}") from error
    if not isinstance(config, dict):
        raise RunError(f"{path}: is not the YAML of a run: found {type(config).__name__}, allowed: a map")
    return config


def origin_of(metrics, folder):
    """(checkpoint, step) that a run began from, (None, 0) for one that began from nothing. Later resumes are of its own checkpoints."""
    own = (Path(folder) / "checkpoints").resolve()
    for event in metrics.events_of("resume"):
        checkpoint = Path(str(event.get("checkpoint", "")))
        if event["step"] < metrics.steps[0]["step"] and checkpoint.parent.resolve() != own:
            return checkpoint, event["step"]
    return None, 0


def read_run(folder, follow_branch=True):
    """A run with its trunk. RunError where the folder is not a run's or has no step yet."""
    folder = Path(folder)
    metrics = read_metrics(folder)
    if not metrics.steps:
        raise RunError(f"{folder}/metrics.jsonl: no training step in it yet")
    run = Run(folder, folder.resolve().name, metrics, read_config(folder))
    if metrics.skipped:
        run.notes.append(f"{metrics.skipped} line(s) of metrics.jsonl could not be read and were left out")
    checkpoint, run.branch_step = origin_of(metrics, folder)
    if checkpoint is None:
        return run
    run.branch_of = f"{checkpoint.parent.parent.name}, step {run.branch_step:,}"
    trunk = next((path for path in (checkpoint.parent.parent, folder.resolve().parent / checkpoint.parent.parent.name) if (path / "metrics.jsonl").exists()), None)
    if trunk and follow_branch:
        try:
            run.trunk = read_run(trunk, follow_branch=False)
        except RunError:
            pass  # the branch is what was asked for
    return run


def flatten(value, path=""):
    """{key path: value} of a config, as the trainer writes key paths."""
    if isinstance(value, dict) and value:
        parts = [flatten(item, f"{path}.{key}" if path else str(key)) for key, item in value.items()]
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        parts = [flatten(item, f"{path}[{i}]") for i, item in enumerate(value)]
    else:
        return {path: value}
    return {key: item for part in parts for key, item in part.items()}


def config_differences(runs):
    """[(key path, [value of each run, None where it has no such key])] of the keys that differ."""
    flats = [flatten(run.config) for run in runs]
    keys = list(dict.fromkeys(key for flat in flats for key in flat))
    rows = [(key, [flat.get(key) for flat in flats]) for key in keys if key != "run.name"]
    return [(key, values) for key, values in rows if any(value != values[0] for value in values[1:])]
