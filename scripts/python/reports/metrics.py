"""Reads a run folder's metrics.jsonl. Whole lines only: a run may be writing it, or may have been killed in a write."""

import bisect
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from command import UserError


class RunError(UserError):
    """One line about a folder that is not a run's."""


@dataclass
class RunMetrics:
    steps: list = field(default_factory=list)  # the lines of training steps, by step
    events: list = field(default_factory=list)
    skipped: int = 0  # lines that could not be read

    def events_of(self, kind):
        return [event for event in self.events if event["event"] == kind]


def number(value):
    """Floats that JSON has no number for stand as strings: "nan", "inf", "-inf"."""
    if type(value) is float:  # nearly always
        return value
    return float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else float("nan")


def read_metrics(run_dir):
    path = Path(run_dir) / "metrics.jsonl"
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}; expected the folder of a run") from error
    metrics, by_step = RunMetrics(), {}
    *lines, unfinished = text.split("\n")
    metrics.skipped = int(unfinished != "")
    for line in lines:
        record = parse_line(line)
        if record is None:
            metrics.skipped += 1
        elif "event" in record:
            metrics.events.append(record)
        else:
            by_step[record["step"]] = record  # a later line of the same step is the one that counts
    metrics.steps = [by_step[step] for step in sorted(by_step)]
    return metrics


class Tail:
    """The lines of a growing metrics.jsonl, each once: whole ones behind `offset` bytes. A run that resumes cuts its file back and writes it anew:
    then everything is read again from the start."""

    def __init__(self, run_dir, offset=0, last=""):
        self.path, self.offset, self.last = Path(run_dir) / "metrics.jsonl", offset, last  # `last`: the line that ends there

    def _stands(self, file):
        """Whether the file still holds, up to the offset, what was read."""
        expected = self.last.encode() + b"\n"
        if self.offset == 0:
            return True
        if os.fstat(file.fileno()).st_size < self.offset or self.offset < len(expected):
            return False
        file.seek(self.offset - len(expected))
        return file.read(len(expected)) == expected

    def lines(self):
        """Yields records; after each of them offset and last are those behind it."""
        try:
            file = open(self.path, "rb")
        except FileNotFoundError:
            return
        with file:
            if not self._stands(file):
                self.offset, self.last = 0, ""
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.offset, self.last = self.offset + len(line), line[:-1].decode(errors="replace")
                record = parse_line(self.last)
                if record is not None:
                    yield record


def parse_line(line):
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def smoothed(losses, window):
    """Centred mean over up to `window` values: it does not lag where the loss falls. At the start, which is steep, the window shrinks;
    at the end it looks back only, so that the last value is a mean, too."""
    values = np.asarray(losses, float)
    known = np.isfinite(values)
    sums, counts = (np.concatenate([[0], np.cumsum(part)]) for part in (np.where(known, values, 0.0), known.astype(int)))
    places = np.arange(len(values))
    back = np.minimum(window // 2, places)
    low, high = places - back, places + np.minimum(back, len(values) - 1 - places) + 1
    count = counts[high] - counts[low]
    return np.where(count > 0, (sums[high] - sums[low]) / np.maximum(count, 1), np.nan).tolist()


def stages_of(steps, growths):
    """[(begin, end)] of the runs of steps between two growth steps: no mean reaches across one."""
    cuts = {bisect.bisect_right(steps, grown) for grown, _, _ in growths}
    cuts = sorted(cuts | {0, len(steps)})
    return list(zip(cuts, cuts[1:]))


def growth_steps(metrics):
    """[(step, blocks before, blocks after)], from the events, else from the depth that the steps report."""
    found = {(e["step"], e.get("from_blocks"), e.get("to_blocks")) for e in metrics.events_of("growth")}
    if not found:
        pairs = zip(metrics.steps, metrics.steps[1:])
        found = {(a["step"], a["blocks"], b["blocks"]) for a, b in pairs if "blocks" in a and b.get("blocks") != a["blocks"]}
    return sorted(found, key=lambda growth: growth[0])


def phase_spans(metrics, end):
    """[(name, from step, to step)]; empty for a run of one phase."""
    starts = {}
    for event in metrics.events_of("phase"):
        starts[event["step"]] = str(event.get("name", ""))
    ordered = sorted(starts.items())
    if len(ordered) < 2:
        return []
    ends = [step for step, _ in ordered[1:]] + [end]
    return [(name, start, stop) for (start, name), stop in zip(ordered, ends)]


def validation_points(metrics):
    """{source: ([steps], [losses])}, the last value of a step counts."""
    by_source = {}
    for event in metrics.events_of("validation"):
        loss = number(event.get("loss"))
        if math.isfinite(loss):
            by_source.setdefault(str(event.get("source", "validation")), {})[event["step"]] = loss
    return {source: zip(*sorted(points.items())) for source, points in sorted(by_source.items())}
