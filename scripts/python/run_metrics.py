"""Reads a run folder's metrics.jsonl. Whole lines only: a run may be writing it, or may have been killed in a write."""

import json
from dataclasses import dataclass, field
from pathlib import Path


class RunError(Exception):
    """One line about a folder that is not a run's: exit code 2."""


@dataclass
class RunMetrics:
    steps: list = field(default_factory=list)  # the lines of training steps, by step
    events: list = field(default_factory=list)
    skipped: int = 0  # lines that could not be read

    def events_of(self, kind):
        return [event for event in self.events if event["event"] == kind]


def number(value):
    """Floats that JSON has no number for stand as strings: "nan", "inf", "-inf"."""
    return float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else float("nan")


def read_metrics(run_dir):
    path = Path(run_dir) / "metrics.jsonl"
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise RunError(f"{path}: {error.strerror}; expected the folder of a run") from error
    metrics, by_step = RunMetrics(), {}
    for line in text.splitlines(keepends=True):
        record = parse_line(line)
        if record is None:
            metrics.skipped += 1
        elif "event" in record:
            metrics.events.append(record)
        else:
            by_step[record["step"]] = record  # a later line of the same step is the one that counts
    metrics.steps = [by_step[step] for step in sorted(by_step)]
    return metrics


def parse_line(line):
    if not line.endswith("\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None
