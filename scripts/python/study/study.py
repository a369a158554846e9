"""`meristem study FILE`: trains, scores and analyses the members of a study over its seeds, one job after another, and ends in one table and one page. What is done stays done: the
same command goes on with what is missing, whenever it was stopped."""

import os
import shlex
import subprocess
from pathlib import Path

from command import Parser, UserError, publish, reported
from study import matching, pages, tables
from study.jobs import Results, all_jobs, selected, selected_sweeps
from study.running import Failed, Worker, prepare
from study.study_file import read_study

ROOT = Path(__file__).resolve().parents[3]


def parse(argv):
    parser = Parser(prog="meristem study", description=__doc__)
    parser.add_argument("file", type=Path, metavar="STUDY.yaml", help="members, seeds, phases, comparisons (docs/studies.md)")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for the config of every member; study.key=value: for the study itself")
    parser.add_argument("--scale", metavar="NAME", help="one of the file's scales, such as smoke or gpu")
    parser.add_argument("--parts", default="", metavar="A,B", help="only these parts of the study (default: all)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of runs, results, table and page (default: runs/studies/NAME, or NAME-SCALE)")
    parser.add_argument("--results", type=Path, metavar="DIR", help="folder of the results' small files (default: OUT/results)")
    parser.add_argument("--list", action="store_true", help="say what is done and what is missing; run nothing")
    parser.add_argument("--tables", action="store_true", help="table and page from the results that are there; run nothing")
    parser.add_argument("--job", metavar="MEMBER/SEED/PHASE", help="run this job alone, and what it needs")
    parser.add_argument("--jobs", choices=["list"], help="print a command for each job that is missing, to be shared out")
    parser.add_argument("--slurm", metavar="OPTIONS", help="submit each missing job to Slurm with these options of sbatch, phases of a member one after another")
    return parser.parse_intermixed_args(argv)  # key=value may stand behind options


class Session:
    """A study at a scale, its jobs and its folders."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.study = read_study(arguments.file, arguments.scale, arguments.overrides)
        name = self.study.name + (f"-{arguments.scale}" if arguments.scale else "")
        self.out = arguments.out or Path("runs/studies") / name
        self.results = Results(arguments.results or self.out / "results")
        self.every_job = all_jobs(self.study, matching.matched_settings(self.study))
        parts = [part for part in arguments.parts.split(",") if part]
        self.jobs, self.sweeps = selected(self.study, self.every_job, parts), selected_sweeps(self.study, parts)
        if arguments.job is not None:
            self.jobs, self.sweeps = [job for job in self.every_job if job.name == arguments.job], []
            if not self.jobs:
                raise UserError(f"--job: found {arguments.job!r}; allowed: {', '.join(job.name for job in self.every_job)}")

    def missing(self):
        return [job for job in self.jobs if not self.results.is_done(job)]

    def command(self, job):
        """What a user types to run one job."""
        asked = self.arguments
        words = ["study", str(asked.file), *asked.overrides, *(["--scale", asked.scale] if asked.scale else []), "--out", str(self.out),
                 *(["--results", str(asked.results)] if asked.results else []), "--job", job.name]
        return ["scripts/meristem", *words]

    def work(self):
        missing = self.missing()
        if missing:
            prepare(self.study, self.out)
        worker = Worker(self.study, self.out, self.results)
        for number, job in enumerate(missing, 1):
            print(f"[{number}/{len(missing)}] {job.name}  ({worker.log(job)})", flush=True)
            worker.work(job)
        for sweep in self.missing_sweeps():
            print(f"sweep {sweep.name}", flush=True)
            worker.sweep(sweep, self.swept(sweep))

    def swept(self, sweep):
        """Jobs whose runs a sweep compares, a member's seeds beside each other."""
        return [job for member in sweep.members for job in self.every_job if (job.member, job.phase) == (member, sweep.phase)]

    def missing_sweeps(self):
        return [sweep for sweep in self.sweeps if self.results.sweep_rows(sweep, self.swept(sweep)) is None]

    def write(self):
        """Table and page of all results that are there; those of other parts too."""
        found = {job.name: result for job in self.every_job if (result := self.results.read(job)) is not None}
        if not found:
            raise UserError(f"{self.results.folder}: found no result of this study; allowed: the folder of one that has run")
        sweeps = {name: rows for name, sweep in self.study.sweeps.items() if (rows := self.results.sweep_rows(sweep, self.swept(sweep))) is not None}
        made = tables.make_tables(self.study, self.every_job, found, sweeps)
        self.out.mkdir(parents=True, exist_ok=True)
        publish(self.out / "table.md", lambda beside: beside.write_text(tables.markdown(self.study, made)))
        publish(self.out / "table.csv", lambda beside: beside.write_text(tables.csv_text(made)))
        by_place = {(job.member, job.seed, job.phase): found[job.name] for job in self.every_job if job.name in found}
        pages.write_page(self.study, made, by_place, self.out / "index.html")
        print(f"{self.out}/table.md, table.csv, index.html: {len(found)} of {len(self.every_job)} jobs")


def say_list(session):
    for job in session.jobs:
        found = session.results.read(job)
        untrained, tasks, signatures = session.results.missing(job, found)
        lacks = [word for word, is_missing in (("training", untrained), (f"{len(tasks)} scores", tasks), (f"{len(signatures)} signatures", signatures)) if is_missing]
        print(f"{'done' if not lacks else 'missing: ' + ', '.join(lacks):40} {job.name}")
    for sweep in session.missing_sweeps():
        print(f"{'missing':40} sweep {sweep.name}")
    print(f"{len(session.jobs) - len(session.missing())} of {len(session.jobs)} jobs are done")


def submit(session, options):
    """One Slurm job for each missing job, after those of the same member and seed that it needs. The data are made first, here."""
    prepare(session.study, session.out)
    numbers = {}
    for job in session.missing():
        after = [numbers[each.name] for each in job.before if each.name in numbers]
        words = ["sbatch", "--parsable", f"--job-name=meristem-{job.name.replace('/', '-')}", *shlex.split(options),
                 *([f"--dependency=afterok:{':'.join(after)}"] if after else []), str(ROOT / "scripts" / "launch" / "study.sbatch"), *session.command(job)[2:]]
        try:
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
        except FileNotFoundError:
            raise UserError("--slurm: found no sbatch on this machine; allowed: a machine that submits to Slurm, or --jobs list") from None
        if done.returncode != 0:
            raise Failed(done.returncode)
        numbers[job.name] = done.stdout.strip().partition(";")[0]
        print(f"{numbers[job.name]}  {job.name}", flush=True)


@reported
def main(argv):
    arguments = parse(argv)
    os.environ.setdefault("MERISTEM_ROOT", str(ROOT))
    session = Session(arguments)
    try:
        if arguments.list:
            say_list(session)
        elif arguments.jobs:
            for job in session.missing():
                print(shlex.join(session.command(job)))
        elif arguments.slurm is not None:
            submit(session, arguments.slurm)
        elif arguments.tables:
            session.write()
        else:
            session.work()
            if arguments.job is None:
                session.write()
    except Failed as failure:
        return failure.code
    return 0
