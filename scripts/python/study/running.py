"""A job is run: training, scoring, analysis, each as the command that a user would type, and what they gave goes into the job's file of results. Everything
that is done stays done: a job that was killed goes on with what its file does not hold."""

import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from command import UserError, publish
from evaluation.evaluate import hit
from reports.metrics import number, read_metrics
from study.jobs import FORMAT, config_hash
from study.matching import words_of

PROGRAM = {"train", "plan", "grow", "import", "export", "inspect"}
SCRIPTS = Path(__file__).resolve().parents[1]


class Failed(Exception):
    """A command did not succeed and has said why; holds the exit code to leave with."""

    def __init__(self, code):
        super().__init__(code)
        self.code = code


def command_of(words):
    """A command of `meristem` as a process of its own: the program's, or the scripts'."""
    return [os.environ["MERISTEM_BINARY"], *words] if words[0] in PROGRAM else [sys.executable, str(SCRIPTS), *words]


def run(words, log):
    """Runs a command, its output at the end of a log. A signal that ends this process goes to it first: a run saves, and the study leaves with its code. Ctrl-C it hears
    itself; a second one would end it at once."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        file.write(f"$ meristem {shlex.join(map(str, words))}\n")
        file.flush()
        child = subprocess.Popen(command_of(list(map(str, words))), stdout=file, stderr=subprocess.STDOUT)
        heard = []

        def pass_on(received, _):
            heard.append(received)
            if received != signal.SIGINT:
                child.send_signal(received)

        before = {each: signal.signal(each, pass_on) for each in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)}
        try:
            code = child.wait()
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)
    if code != 0:
        if code != 75:
            said = [line for line in log.read_text(errors="replace").splitlines() if line]
            print(f"{said[-1] if said else ''}\n({log})", file=sys.stderr)
        raise Failed(code if code > 0 else 128 - code)
    if heard:
        raise Failed(75)


def prepare(study, out):
    """Makes the data that are not there yet."""
    for entry in study.prepare:
        if not Path(entry["makes"]).exists():
            print(f"data: meristem {entry['run']}", flush=True)
            Path(entry["makes"]).parent.mkdir(parents=True, exist_ok=True)
            run(shlex.split(entry["run"]), out / "prepare.log")
            if not Path(entry["makes"]).exists():
                raise UserError(f"{study.file}: prepare: found no {entry['makes']} after `{entry['run']}`; allowed: a command that makes it")


@contextmanager
def alone(path):
    """Refuses to work at what another process works at."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{path}: found another process at this job; allowed: one at a time") from None
        yield


class Worker:
    """Runs the jobs of a study in a folder."""

    def __init__(self, study, out, results):
        self.study, self.out, self.results = study, Path(out), results
        self.trained = set()

    def folder(self, job):
        return self.out / job.member / f"seed-{job.seed}" / job.phase

    def log(self, job):
        return self.folder(job).with_name(f"{job.phase}.log")

    def checkpoint(self, job, step):
        path = self.folder(job) / "checkpoints" / f"step-{step:010}"
        if not path.is_dir():
            there = ", ".join(sorted(each.name for each in path.parent.glob("step-*")))
            raise UserError(f"{path}: found no such checkpoint; allowed: a step at which the run wrote one ({there}); `checkpoint.keep_every` keeps more")
        return path

    def train_words(self, job):
        folder = self.folder(job)
        words = ["train", str(job.base), *words_of(job.settings), f"run.out={json.dumps(str(folder.parent))}", f"run.name={job.phase}", f"run.seed={job.seed}"]
        if job.kind == "weights":
            words.append(f"initial.checkpoint={json.dumps(str(self.folder(job.after)))}")
        if job.kind == "branch":
            words += ["--branch", str(self.checkpoint(job.after, job.from_step) if job.from_step is not None else self.folder(job.after))]
        return [*words, "--resume", "auto"]

    def train(self, job):
        """The job's run, finished. What it goes on from is trained first where its folder is no longer there."""
        if job.name in self.trained:
            return
        if job.after is not None:
            self.train(job.after)
        if config_hash(job.base) != job.config:
            raise UserError(f"{job.base}: was changed while the study ran; start it again")
        run(self.train_words(job), self.log(job))
        self.require_same(job)
        self.trained.add(job.name)

    def require_same(self, job):
        """A run whose folder is gone is trained again, and on another machine or by another version it comes out otherwise: what is there of it must not stand beside what goes
        on from the new one."""
        found = self.results.read(job)
        if found is not None and found["training"] != json.loads(json.dumps(training_of(self.folder(job)))):
            raise UserError(f"{self.results.path(job)}: found results of another run; {self.folder(job)} was trained again and came out otherwise. Remove the file, and the study scores the new run")

    def work(self, job):
        """All that a job still lacks. The file of results is written anew after each piece."""
        with alone(self.folder(job).with_name(f".{job.phase}.lock")):
            found = self.results.read(job)
            untrained, tasks, signatures = self.results.missing(job, found)
            if not (untrained or tasks or signatures):
                return
            self.train(job)
            if untrained:
                found = {"format": FORMAT, "study": self.study.name, "scale": self.study.scale, "member": job.member, "seed": job.seed, "phase": job.phase,
                         "made_of": job.made_of(), "training": training_of(self.folder(job)), "scores": {}, "signatures": {}}
                self.write(job, found)
            for group in groups(tasks):
                found["scores"] |= self.score(job, group)
                self.write(job, found)
            if signatures:
                found["signatures"] |= self.analyze(job, signatures)
                self.write(job, found)

    def write(self, job, found):
        publish(self.results.path(job), lambda beside: beside.write_text(compact(found)))

    def score(self, job, group):
        """{key: scores} of tasks that one call of `eval` takes."""
        first = group[0]
        checkpoint = self.folder(job) if first.step is None else self.checkpoint(job, first.step)
        words = ["eval", checkpoint, "--tasks", ",".join(task.task for task in group), "--shots", first.shots, "--items", first.items]
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "scores.json"
            run([*words, "--json", path], self.log(job))
            said = json.loads(path.read_text())["results"]
        return {task.key: {"task": task.task, "shots": task.shots, "step": task.step, **scores_of(result)} for task, result in zip(group, said, strict=True)}

    def analyze(self, job, names):
        """{signature: what analysis.json has of it, or why it is left out}"""
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "analysis"
            run(["analyze", self.folder(job), "--out", out, "--signatures", ",".join(names), *job.analyze_options], self.log(job))
            model = json.loads((out / "analysis.json").read_text())["models"][0]
        found = {}
        for name in names:
            if (said := model["signatures"].get(name)) is not None:
                found[name] = {"values": rounded(said.get("values")), "variants": {key: rounded(each.get("values")) for key, each in said.get("variants", {}).items()}}
            else:
                found[name] = {"left_out": model["left_out"].get(name, "not in analysis.json")}
            found[name]["options"] = job.analyze_options
        return found

    def sweep(self, sweep, jobs):
        """One `meristem sweep` over the runs of jobs; its table is kept with the results. The sweep itself keeps what it has computed."""
        for job in jobs:
            self.train(job)
        out = self.out / "sweeps" / sweep.name
        run(["sweep", sweep.kind, *(f"{job.member}={self.folder(job)}" for job in jobs), "--out", out, *sweep.options], out.with_name(f"{sweep.name}.log"))
        table = json.loads((out / "table.json").read_text())
        found = {"format": FORMAT, "made_of": self.results.sweep_made_of(sweep, jobs), "rows": table["rows"]}
        lines = ",\n".join(f"  {json.dumps(row)}" for row in found["rows"])
        text = json.dumps({**found, "rows": []}, indent=1).replace('"rows": []', f'"rows": [\n{lines}\n ]')
        publish(self.results.sweep_path(sweep), lambda beside: beside.write_text(text + "\n"))


def groups(tasks):
    """Tasks that can be scored together, in their order."""
    found = {}
    for task in tasks:
        found.setdefault((task.shots, task.items, task.step), []).append(task)
    return list(found.values())


def scores_of(result):
    """Of a task of `eval --json`: what is paired with other members, item by item. Hits are 0, 1, or 1/k in a tie; log-probabilities of the right choice are in
    hundredths of a nat."""
    hits, log_probabilities = [], []
    for item in result["item_results"]:
        scores = np.array(item["log_likelihoods"])
        hits.append(hit(scores, item["gold"]))
        log_probabilities.append(int(round(100 * float(scores[item["gold"]] - np.logaddexp.reduce(scores)))))
    plain = all(each in (0.0, 1.0) for each in hits)
    return {"items": len(hits), "chance": result["chance"], "accuracy": float(np.mean(hits)), "hits": "".join(str(int(each)) for each in hits) if plain else hits,
            "gold_log_probability": log_probabilities}


def training_of(folder):
    """What a finished run tells: its last line, and the loss on held-out text as it went."""
    metrics = read_metrics(folder)
    last = metrics.steps[-1]
    tokens = {line["step"]: line["tokens"] for line in metrics.steps}
    per_step = last["tokens"] / last["step"]
    curves = {}
    for event in metrics.events_of("validation"):
        curves.setdefault(event["source"], {})[event["step"]] = number(event["loss"])
    return {"step": last["step"], "tokens": last["tokens"], "parameters": last["parameters"], "blocks": last["blocks"], "calls": last["calls"],
            "growths": sorted({event["step"] for event in metrics.events_of("growth")}),
            "validation": {source: [[step, tokens.get(step, round(step * per_step)), loss] for step, loss in sorted(curve.items())] for source, curve in curves.items()}}


def rounded(values):
    """Six digits are more than an interval shows, and keep the file small."""
    if isinstance(values, list):
        return [rounded(each) for each in values]
    return float(f"{values:.6g}") if isinstance(values, float) else values


def compact(found):
    """JSON with a line for each score and curve: small, and two versions can be compared line by line."""
    lines = json.dumps({key: value for key, value in found.items() if key not in ("scores", "signatures")}, indent=1)[:-2]
    for name in ("scores", "signatures"):
        own = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(found.get(name, {}).items()))
        lines += f",\n {json.dumps(name)}: {{" + (f"\n{own}\n " if own else "") + "}"
    return lines + "\n}\n"
