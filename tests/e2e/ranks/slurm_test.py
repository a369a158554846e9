"""A job of two ranks on a Slurm of its own: munged, slurmctld and two slurmd on this host, each a process of this test, with folder and ports of their
own. The job is stopped in the middle, as at the end of its time, then queued again by hand; it must end as one that nobody disturbed."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "train"))

import tiny_run  # noqa: E402

PROGRAM = sys.argv[1]
SCRIPT = tiny_run.ROOT / "scripts" / "launch" / "slurm.sbatch"
DEADLINE = 240
CLOCKS = ("communication_exposed", "slowest_rank", "slowest_rank_ratio")  # what differs from run to run

CONF = """\
ClusterName=meristem
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
StateSaveLocation={folder}/state
SlurmdLogFile={folder}/%n.log
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
NodeName=one NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 State=UNKNOWN
NodeName=two NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def needed():
    """What is missing here, None where nothing is."""
    if os.geteuid() != 0:
        return "Slurm's daemons want to be root"
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol") if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]
    return f"not installed: {', '.join(missing)} (apt-get install slurm-wlm)" if missing else None


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for found in sockets:
        found.bind(("127.0.0.1", 0))
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


def until(condition, what, seconds=DEADLINE):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(0.2)


class Cluster:
    def __init__(self, folder):
        self.folder, self.daemons = folder, []
        self.environment = tiny_run.environment() | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
        folder.chmod(0o755)  # whoever may not reach the socket is refused
        for name in ("munge", "state", "one", "two"):
            (folder / name).mkdir()
        key = folder / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        (folder / "slurm.conf").write_text(CONF.format(folder=folder, ports=free_ports(3), host=socket.gethostname().split(".")[0]))

    def __enter__(self):
        try:
            munge = self.folder / "munge"
            self.daemon("munged", "--foreground", "--force", f"--key-file={munge}/key", f"--socket={munge}/socket", f"--pid-file={munge}/pid",
                        f"--seed-file={munge}/seed")
            until((munge / "socket").exists, "munged's socket", 20)
            self.daemon("slurmctld", "-D", "-i")
            for node in ("one", "two"):
                self.daemon("slurmd", "-D", "-N", node)
            until(lambda: self.ask("sinfo", "--noheader", "--format=%T %D") == "idle 2", "two idle nodes", 60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        """Jobs first, then the daemons in the order in which they depend on each other."""
        self.ask("scancel", "--user=root", "--signal=KILL", "--full")
        self.ask("scancel", "--user=root")
        end = time.monotonic() + 20
        while self.ask("squeue", "--noheader") and time.monotonic() < end:
            time.sleep(0.1)
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def daemon(self, *command):
        log = open(self.folder / f"{len(self.daemons)}-{command[0]}.out", "w")
        with log:
            self.daemons.append(subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def ask(self, *command, **options):
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, **options).stdout.strip()

    def job(self, number, field):
        """A field of `scontrol show job`."""
        words = self.ask("scontrol", "show", "job", number).split()
        return next((word.partition("=")[2] for word in words if word.startswith(f"{field}=")), "")


class Jobs(unittest.TestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="meristem-slurm-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.clone = self.folder / "clone"  # its entry is the program itself: nothing is built here
        (self.clone / "scripts").mkdir(parents=True)
        entry = self.clone / "scripts" / "meristem"
        entry.write_text(f'#!/bin/sh\nexec "{PROGRAM}" "$@"\n')
        entry.chmod(0o755)
        self.cluster = self.enterContext(Cluster(self.folder))
        self.cluster.environment["GLOO_SOCKET_IFNAME"] = "lo"

    def submit(self, *words):
        done = subprocess.run(["sbatch", "--parsable", "--nodes=2", "--ntasks-per-node=1", SCRIPT, *map(str, words)], env=self.cluster.environment,
                              cwd=self.clone, capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.strip()

    def log(self, job):
        path = self.clone / f"meristem-{job}.log"
        return path.read_text() if path.exists() else ""

    def until_ended(self, job):
        until(lambda: self.cluster.job(job, "JobState") not in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED"), f"the end of job {job}")
        return self.cluster.job(job, "JobState"), self.cluster.job(job, "ExitCode")

    def until_step(self, folder, step, job):
        def reached():
            self.assertIn(self.cluster.job(job, "JobState"), ("PENDING", "RUNNING", "COMPLETING"), self.log(job))
            return tiny_run.last_step(folder) >= step

        until(reached, f"step {step} of job {job}")

    def test_a_job_that_was_queued_again_ends_as_one_that_nobody_disturbed(self):
        more = ("schedule.steps=900", "checkpoint.every=50", "data.validation.every=100")
        calm = self.submit(tiny_run.write_config(self.folder, "calm", "calm.yaml"), *more)
        self.assertEqual(self.until_ended(calm), ("COMPLETED", "0:0"), self.log(calm))

        job = self.submit(tiny_run.write_config(self.folder), *more)
        folder = self.folder / "runs" / "tiny"
        self.until_step(folder, 100, job)
        self.cluster.ask("scancel", "--signal=USR1", job)  # what --signal sends before the time is over
        until(lambda: self.cluster.job(job, "Restarts") == "1", "the first restart")
        stopped = tiny_run.last_step(folder)
        self.until_step(folder, stopped + 100, job)
        self.cluster.ask("scontrol", "requeue", job)
        self.assertEqual(self.until_ended(job), ("COMPLETED", "0:0"), self.log(job))
        self.assertEqual(self.cluster.job(job, "Restarts"), "2")
        self.assertLess(stopped, 700, "the stops came too late to mean anything")

        self.compare(folder, self.folder / "calm" / "tiny")

    def compare(self, folder, reference):
        found, expected = ([{key: value for key, value in line.items() if key not in CLOCKS} for line in tiny_run.numbers(path)] for path in (folder, reference))
        self.assertEqual({line["world_size"] for line in found if "event" not in line}, {"2"})
        self.assertEqual(found, expected)
        last, other = (tiny_run.published(path)[-1] for path in (folder, reference))
        files = set(json.loads((other / "manifest.json").read_text())["files"]) - {"state.json"}
        self.assertGreaterEqual(len(files), 2)
        for name in files:
            self.assertEqual((last / name).read_bytes(), (other / name).read_bytes(), name)

    def test_a_job_that_cannot_be_ends_and_is_not_queued_again(self):
        job = self.submit(tiny_run.write_config(self.folder), "optimizer.lr=fast")
        self.assertEqual(self.until_ended(job), ("FAILED", "2:0"), self.log(job))
        self.assertEqual(self.cluster.job(job, "Restarts"), "0")
        self.assertIn("optimizer.lr", self.log(job))


if __name__ == "__main__":
    if missing := needed():
        print(f"skipped: {missing}")
        sys.exit(4)
    unittest.main(argv=sys.argv[:1] + sys.argv[2:], verbosity=2)
