"""`meristem follow RUN --to trackio|wandb|mlflow`: sends a run's metrics to an experiment tracker while the run writes them, and ends when the run does.

How far it has come stands in RUN/follow-TRACKER.json, so that the same call goes on where an earlier one ended, in the same run of the tracker. No training
step is sent twice, even where the run itself was resumed and has written some of its lines again."""

import argparse
import contextlib
import fcntl
import importlib
import json
import math
import re
import sys
import time
import uuid
from pathlib import Path

from command import Parser, UserError, publish, reported
from reports.metrics import RunError, Tail, number
from reports.runs import read_config

SENT_EVENTS = ("validation", "growth", "phase", "spike", "skip", "early_stop")


def metrics_of(record):
    """{name: number} of a line; what is text or a list stays out."""
    event, found = record.get("event"), {}
    if event == "validation":
        return {f"validation/{record.get('source')}": number(record.get("loss"))}
    for key, value in record.items():
        if key in ("step", "event"):
            continue
        for name, one in ((f"{key}/{part}", part_value) for part, part_value in value.items()) if isinstance(value, dict) else ((key, value),):
            if isinstance(one, (int, float)) and not isinstance(one, bool) or one in ("nan", "inf", "-inf"):
                found[f"{event}/{name}" if event else name] = number(one)
    return found


def flat(config, prefix=""):
    """{"optimizer.lr": 0.001}: the config as trackers compare it."""
    values = {}
    for key, value in config.items():
        if isinstance(value, dict):
            values.update(flat(value, f"{prefix}{key}."))
        else:
            values[prefix + str(key)] = value if isinstance(value, (int, float, str)) else json.dumps(value)
    return values


class Trackio:
    """It knows a run by its name."""

    def __init__(self, package, project, name, state, config):
        self.package = package
        package.init(project=project, name=name, config=config, resume="allow")

    def send(self, step, metrics):
        self.package.log(metrics, step=step)

    def finish(self):
        self.package.finish()


class Wandb(Trackio):
    def __init__(self, package, project, name, state, config):
        self.package = package
        package.init(project=project, name=name, config=config, resume="allow", id=state["run"])


class Mlflow:
    def __init__(self, package, project, name, state, config):
        self.package = package
        package.set_experiment(project)
        if state.get("mlflow_run"):
            package.start_run(run_id=state["mlflow_run"])
            return
        state["mlflow_run"] = package.start_run(run_name=name).info.run_id
        parameters = [(key, str(value)[:500]) for key, value in config.items()]
        for begin in range(0, len(parameters), 100):  # its limits
            package.log_params({clean(key): value for key, value in parameters[begin:begin + 100]})

    def send(self, step, metrics):
        self.package.log_metrics({clean(name): value for name, value in metrics.items()}, step=step)

    def finish(self):
        self.package.end_run()


def clean(name):
    """A name as MLflow takes it."""
    return re.sub(r"[^\w\-. /]", "_", name)


TRACKERS = {"trackio": Trackio, "wandb": Wandb, "mlflow": Mlflow}


class Sent:
    """What the tracker has, kept in a file."""

    def __init__(self, folder, tracker):
        self.path = folder / f"follow-{tracker}.json"
        self.state = {"run": uuid.uuid4().hex, "offset": 0, "last": "", "step": -1, "events": {}}
        if self.path.exists():
            try:
                self.state |= json.loads(self.path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise UserError(f"{self.path}: found no state of an earlier call ({error}); remove it to begin anew") from None

    def is_new(self, record):
        """Events are known by their kind and source, since a step may have several."""
        if "event" not in record:
            return record["step"] > self.state["step"]
        return record["event"] in SENT_EVENTS and record["step"] > self.state["events"].get(self._key(record), -1)

    @staticmethod
    def _key(record):
        return f"{record['event']}/{record.get('source', '')}"

    def note(self, record):
        if "event" in record:
            self.state["events"][self._key(record)] = record["step"]
        else:
            self.state["step"] = record["step"]

    def came_to(self, tail):
        self.state["offset"], self.state["last"] = tail.offset, tail.last

    def save(self):
        publish(self.path, lambda beside: beside.write_text(json.dumps(self.state) + "\n", encoding="utf-8"), durable=False)


def is_running(folder):
    """Whether a job holds the run folder (src/run/run_folder.h)."""
    try:
        with open(folder / "lock", "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


@contextlib.contextmanager
def alone(folder, tracker):
    """One call a run and tracker: two would send everything twice."""
    with open(folder / f".follow-{tracker}.lock", "wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{folder}: another call is following this run to {tracker}") from None
        yield


@contextlib.contextmanager
def trouble_of(tracker):
    """What goes wrong inside a tracker is said in a line, exit 1: the same call goes on once it works again."""
    try:
        yield
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise OSError(f"{tracker}: {lines[0]}") from error


def load(tracker):
    try:
        return importlib.import_module(tracker)
    except ImportError as error:
        raise UserError(f"--to {tracker}: the package {tracker} is not here ({error}); install it: {sys.executable} -m pip install {tracker}") from None


def send_new(tail, sent, sink, tracker):
    """Lines sent."""
    count = 0
    for record in tail.lines():
        if sent.is_new(record):
            metrics = metrics_of(record)
            if metrics:
                with trouble_of(tracker):
                    sink.send(record["step"], metrics)
                count += 1
            sent.note(record)
            sent.came_to(tail)
            sent.save()  # a kill sends one line again at most
    sent.came_to(tail)
    return count


def follow(folder, arguments, sink, sent):
    tail, count = Tail(folder, sent.state["offset"], sent.state["last"]), 0
    try:
        while True:
            running = is_running(folder)  # asked first: what a run wrote before its end is read after it
            new = send_new(tail, sent, sink, arguments.to)
            count += new
            if not new and not running:
                return count
            if not new or running:
                time.sleep(arguments.poll)
    finally:
        sent.save()
        with trouble_of(arguments.to):
            sink.finish()
        print(f"{folder}: {count} lines sent to {arguments.to}, up to step {max(0, sent.state['step'])}")


def parse(argv):
    parser = Parser(prog="meristem follow", description="Send a run's metrics to an experiment tracker while it trains. Called again, it goes on where it was.")
    parser.add_argument("run", type=Path, help="the run's folder")
    parser.add_argument("--to", required=True, choices=list(TRACKERS), help="the tracker; its package is not installed along")
    parser.add_argument("--project", default="meristem", help="project, or MLflow's experiment")
    parser.add_argument("--name", help="of the run in the tracker (default: the folder's)")
    parser.add_argument("--poll", type=float, default=5.0, metavar="S", help="seconds between looks at metrics.jsonl")
    arguments = parser.parse_args(argv)
    if not 0.01 <= arguments.poll <= 3600:
        raise UserError(f"--poll: found {arguments.poll}; allowed: 0.01 to 3600")
    return arguments


@reported
def main(argv):
    arguments = parse(argv)
    folder = arguments.run
    if not (folder / "metrics.jsonl").is_file() and not is_running(folder):
        raise RunError(f"{folder / 'metrics.jsonl'}: no such file; expected the folder of a run")
    config = flat(read_config(folder))
    package = load(arguments.to)
    with alone(folder, arguments.to):
        sent = Sent(folder, arguments.to)
        with trouble_of(arguments.to):
            sink = TRACKERS[arguments.to](package, arguments.project, arguments.name or folder.resolve().name, sent.state, config)
        sent.save()
        follow(folder, arguments, sink, sent)
    return 0
