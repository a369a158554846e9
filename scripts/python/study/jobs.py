"""What a study has to do: one job for each member, seed and phase. A job is a run, the scores and signatures of what it trained, and in the end one
small file of results; from those files alone table and page are made. A job is done where its file says so, under the settings that the study has now."""

import hashlib
import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from command import DamagedError, UserError, read_utf8

FORMAT = 1


@dataclass
class Job:
    member: str
    seed: int
    phase: str
    base: Path
    settings: dict         # of its config, over `base`
    kind: str              # run: from nothing; branch: the phase before, from a step on; weights: a run of its own from the phase before's weights
    after: "Job" = None
    from_step: int = None  # branch
    tasks: list = field(default_factory=list)
    signatures: list = field(default_factory=list)
    analyze_options: list = field(default_factory=list)  # words of `meristem analyze`
    config: str = ""  # hash of what `base` said when the study was read

    @property
    def name(self):
        return f"{self.member}/{self.seed}/{self.phase}"

    @property
    def before(self):
        """Jobs that must be done first, the nearest last."""
        return [] if self.after is None else [*self.after.before, self.after]

    def made_of(self):
        """Everything that decides what is trained, by name: what a finished result is compared with."""
        own = {"phase": self.kind, "config": self.config, "seed": self.seed, **{f"set {key}": value for key, value in self.settings.items()}}
        if self.kind == "branch":
            own["from_step"] = self.from_step
        if self.after is not None:
            own |= {f"{self.after.phase}: {key}": value for key, value in self.after.made_of().items()}
        return json.loads(json.dumps(own))


@dataclass(frozen=True)
class Task:
    """A task, its shots and items, and the checkpoint's step (None: the last)."""
    task: str
    shots: int
    items: int
    step: int = None

    @property
    def key(self):
        return ", ".join([self.task, f"{self.shots} shots", f"{self.items} items", *([f"step {self.step}"] if self.step else [])])


def config_hash(path):
    """Of a config and all that it includes, whatever their comments and layout."""
    def content(path, depth=0):
        data = yaml.safe_load(read_utf8(path)) or {}
        if depth < 16 and isinstance(data, dict) and isinstance(data.get("include"), str):
            data["include"] = content(path.parent / data["include"], depth + 1)
        return data

    try:
        text = json.dumps(content(Path(path)), sort_keys=True, default=str)
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path}: not YAML: {str(error).splitlines()[0]}") from None
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _meant(entry, member, phase):
    return member in entry.get("members", [member]) and phase in entry.get("phases", [phase])


def tasks_of(study, member, phase):
    """All that is scored of a member's phase, each once."""
    found = {}
    for entry in study.evaluate:
        if not _meant(entry, member, phase):
            continue
        shots = entry.get("shots", 0)
        for count in shots if isinstance(shots, list) else [shots]:
            for step in [*entry.get("steps", []), None]:
                for task in entry["tasks"]:
                    one = Task(task, count, entry.get("items", 1000), step)
                    found[one.key] = one
    return list(found.values())


def all_jobs(study, matched):
    """Jobs in an order in which each comes after those that it needs: the phases of a member and seed one after another, seeds outermost, so that
    every member has its first seed early. `matched`: {member: settings that its `same` asks for}."""
    bases = {path for path in [*(member.base for member in study.members.values()), *(phase.base for phase in study.phases.values())] if path is not None}
    hashes = {path: config_hash(path) for path in bases}
    jobs = []
    for seed in study.seeds:
        for member in study.members.values():
            by_phase = {}
            for phase_name, own in member.phases.items():
                phase = study.phases[phase_name]
                settings = {**phase.settings, **own}
                kind = "weights" if phase.base else "run" if phase.after is None else "branch"
                if kind != "weights":
                    settings = {**member.settings, **matched.get(member.name, {}), **settings}
                analyzed = study.analyze if _meant(study.analyze, member.name, phase_name) else {}
                base = phase.base or member.base
                job = Job(member.name, seed, phase_name, base, settings, kind, by_phase.get(phase.after), phase.from_step,
                          tasks_of(study, member.name, phase_name), analyzed.get("signatures", []),
                          shlex.split(analyzed.get("options", "")), hashes[base])
                by_phase[phase_name] = job
                jobs.append(job)
    return jobs


def _in_part(study, part, job):
    """A part that names sweeps alone has the jobs that these need."""
    swept = any(job.member in study.sweeps[name].members and job.phase == study.sweeps[name].phase for name in part.get("sweeps", []))
    return swept or (("members" in part or "phases" in part) and _meant(part, job.member, job.phase))


def selected_sweeps(study, parts):
    return [sweep for sweep in study.sweeps.values() if not parts or any(sweep.name in study.parts[name].get("sweeps", []) for name in parts)]


def selected(study, jobs, parts):
    """The jobs of the named parts of the study; all of them without names. What a job needs comes along."""
    for name in parts:
        if name not in study.parts:
            raise UserError(f"--parts: found {name!r}; allowed: {', '.join(study.parts) or f'none: {study.file} has no parts'}")
    if not parts:
        return jobs
    wanted = [job for job in jobs if any(_in_part(study, study.parts[name], job) for name in parts)]
    needed = {each.name for job in wanted for each in [*job.before, job]}
    return [job for job in jobs if job.name in needed]


class Results:
    """The folder of finished results, a file for each job."""

    def __init__(self, folder):
        self.folder = Path(folder)

    def path(self, job):
        return self.folder / f"{job.member}.seed-{job.seed}.{job.phase}.json"

    def read(self, job):
        """What is there of a job; None where nothing is. One that was made under other settings is refused: it must not stand in a table of these."""
        path = self.path(job)
        if not path.is_file():
            return None
        try:
            found = json.loads(read_utf8(path))
            made_of, _ = found["made_of"], (found["training"], found["scores"])
        except (ValueError, KeyError, TypeError):
            raise DamagedError(f"{path}: not a result of a study; remove it, and the study makes it again") from None
        if found.get("format") != FORMAT:
            raise UserError(f"{path}: found format {found.get('format')}; allowed: {FORMAT}")
        now = job.made_of()
        for key in [*now, *made_of]:
            if now.get(key) != made_of.get(key):
                raise UserError(f"{path}: {key}: found {json.dumps(made_of.get(key))}, the study has {json.dumps(now.get(key))}; "
                                "remove the file and its run to make it again, or give another --results")
        return found

    def sweep_path(self, sweep):
        return self.folder / f"sweep.{sweep.name}.json"

    def sweep_made_of(self, sweep, jobs):
        """What a sweep's table follows from: the jobs, and what each is made of."""
        return {"sweep": sweep.kind, "options": sweep.options, **{job.name: hashlib.sha256(json.dumps(job.made_of(), sort_keys=True).encode()).hexdigest()[:16] for job in jobs}}

    def sweep_rows(self, sweep, jobs):
        """Of a sweep's table; None where there is none, or one of fewer seeds or other settings: a sweep keeps what it has computed, so it is made again."""
        path = self.sweep_path(sweep)
        if not path.is_file():
            return None
        try:
            found = json.loads(read_utf8(path))
            return found["rows"] if found["made_of"] == self.sweep_made_of(sweep, jobs) else None
        except (ValueError, KeyError, TypeError):
            raise DamagedError(f"{path}: not a result of a study; remove it, and the study makes it again") from None

    def missing(self, job, found):
        """(whether it must be trained, tasks that are not scored, signatures that are not measured)."""
        if found is None:
            return True, job.tasks, wanted_signatures(job, {})
        return False, [task for task in job.tasks if task.key not in found["scores"]], wanted_signatures(job, found.get("signatures") or {})

    def is_done(self, job):
        found = self.read(job)
        return found is not None and not any(self.missing(job, found))


def wanted_signatures(job, measured):
    """Names of signatures that are still to be measured, or were with other options."""
    return [name for name in job.signatures if measured.get(name, {}).get("options") != job.analyze_options]
