"""A job under torchrun with restarts, and what can befall it. Each event does its harm at its moment, and waits until the job goes on or, where it must not notice
anything, for a while. What an event asserts: nothing waits longer than DEADLINE; a checkpoint that was there before is whole afterwards, and the next attempt
begins at it or later."""

import collections
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import ranks
import tiny_run
from links import SWITCH

DEADLINE = 75  # seconds from an event to the next attempt's first update: 60 to leave, the rest to begin again
LEAVE = 60    # of these; a rank that is frozen before all have met is waited for as long as join_seconds
HEARTBEAT = 4
SETTINGS = ("batch.tokens=256", "batch.micro_sequences=1", f"parallel.heartbeat_seconds={HEARTBEAT}", "parallel.join_seconds=30", "parallel.timeout_seconds=30",
            "parallel.bucket_mb=0.02", "logging.tensorboard=false")
# On hosts of its own: a worker enters the network namespace of its rank and becomes the program.
ENTER = 'eval "net=\\$NET_$RANK"; exec nsenter --net="$net" -- "$@"'


class Fault(AssertionError):
    pass


class Elastic:
    def __init__(self, program, config, folder, logs, world=2, links=None):
        self.folder, self.logs, self.world, self.links = folder, logs, world, links
        words = [program, "train", config, *SETTINGS, "--resume", "auto"]
        env = tiny_run.environment() | {"GLOO_SOCKET_IFNAME": "lo"}
        address, before = "127.0.0.1", []
        if links:
            address, before = SWITCH, links.switch.prefix()
            env |= links.environment() | {f"NET_{rank}": f"/proc/{links.hosts[rank].holder.pid}/ns/net" for rank in range(world)}
            words = ["sh", "-c", ENTER, "sh", *words]
        logs.mkdir(parents=True, exist_ok=True)
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--no-python", "--nproc-per-node", world, "--max-restarts", 1000, "--monitor-interval", 0.05,
                    "--master-addr", address, "--master-port", ranks.free_port(), "--log-dir", logs, "--redirects", 3]
        with open(logs / "torchrun.log", "ab") as log:
            self.process = subprocess.Popen([*before, *map(str, torchrun), *map(str, words)], stdout=log, stderr=log, env=env)

    def workers(self):
        """({rank: process id}, attempt) of those that are there now."""
        found, attempt = {}, -1
        with contextlib.suppress(OSError):
            children = [pid for task in Path(f"/proc/{self.process.pid}/task").iterdir() for pid in (task / "children").read_text().split()]
            for pid in children:
                with contextlib.suppress(OSError):
                    variables = dict(part.split("=", 1) for part in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in part)
                    if "TORCHELASTIC_RESTART_COUNT" in variables:
                        found[int(variables["RANK"])] = int(pid)
                        attempt = max(attempt, int(variables["TORCHELASTIC_RESTART_COUNT"]))
        return found, attempt

    def ended(self):
        return self.process.poll() is not None

    def until(self, holds, deadline=DEADLINE, what="a condition"):
        """True as soon as it holds, False where the job ends before."""
        end = time.monotonic() + deadline
        while not holds():
            if self.ended():
                return bool(holds())
            if time.monotonic() > end:
                raise Fault(f"{what}: not within {deadline} s; {self.said()}")
            time.sleep(0.001)
        return True

    def said(self):
        """The last words of each worker of the last two attempts, for who reads a failure."""
        attempts = sorted(self.logs.glob("*/attempt_*"), key=lambda path: (path.stat().st_mtime, path.name))[-2:]
        return {f"{path.parent.parent.name}/{path.parent.name}": path.read_text().strip().splitlines()[-1:]
                for attempt in attempts for path in sorted(attempt.glob("*/stderr.log"))}

    def began(self, attempt):
        """The step after which the first attempt that trains, of those after `attempt`, began; None before there is one."""
        logs = {int(path.parts[-3].rpartition("_")[2]): path for path in self.logs.glob("*/attempt_*/0/stderr.log")}
        for number in sorted(number for number in logs if number > attempt):
            text = logs[number].read_text()
            if "kernels: " in text:
                found = re.search(r"resuming after step (\d+)", text)
                return int(found[1]) if found else 0
        return None

    def signal(self, pid, number):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def stop(self):
        """Ends all of it at once, by their ids."""
        pids = self.workers()[0].values()
        self.process.kill()
        self.process.wait()
        for pid in pids:
            self.signal(pid, signal.SIGKILL)


def saved_step(folder):
    found = tiny_run.published(folder)
    return int(found[-1].name[5:]) if found else 0


def trouble(folder):
    """Of checkpoints while the job may be turning them over: one that is still there, unchanged, and wrong a moment later."""
    for checkpoint in tiny_run.published(folder):
        first = tiny_run.trouble_of(checkpoint)
        if not first:
            continue
        time.sleep(0.5)
        if checkpoint.exists() and tiny_run.trouble_of(checkpoint):
            return first
    damaged = [path.name for path in (folder / "checkpoints").glob("*.damaged-*")]
    return f"set aside as damaged: {damaged}" if damaged else None


class Event:
    """One harm to a job, at the first moment from update `step` on."""

    def __init__(self, job, draw, step=0):
        self.job, self.draw, self.step, self.folder = job, draw, step, job.folder

    def happen(self):
        """False where the job came to its end before the moment did."""
        if not self.job.until(self.moment, what=f"{type(self).__name__}: its moment"):
            return False
        self.pids, self.attempt = self.job.workers()
        if len(self.pids) < self.job.world:
            return self.happen() if self.job.until(lambda: len(self.job.workers()[0]) == self.job.world, what="all workers") else False
        self.saved = saved_step(self.folder)
        self.harm()
        self.see()
        if found := trouble(self.folder):
            raise Fault(f"{type(self).__name__}: {found}")
        return True

    def moment(self):
        return tiny_run.last_step(self.folder) >= self.step

    def rank(self):
        return self.draw.randrange(self.job.world)

    def see(self):
        """The job begins anew, where it was."""
        name = type(self).__name__
        if not self.job.until(lambda: self.job.began(self.attempt) is not None, what=f"{name}: another attempt that trains"):
            if self.job.process.returncode != 0:
                raise Fault(f"{name}: torchrun ended with {self.job.process.returncode}; {self.job.said()}")
            return
        if self.job.began(self.attempt) < self.saved:
            raise Fault(f"{name}: step {self.saved} was saved, the run went on from {self.job.began(self.attempt)}")


class Kill(Event):
    """SIGKILL to a rank, at any time."""

    def moment(self):
        if not hasattr(self, "wait"):
            self.wait = self.draw.uniform(0, 0.01)
        if not super().moment():
            return False
        time.sleep(self.wait)
        return True

    def harm(self):
        self.job.signal(self.pids[self.rank()], signal.SIGKILL)


class KillAll(Kill):
    def harm(self):
        for pid in self.pids.values():
            self.job.signal(pid, signal.SIGKILL)


class KillInWrite(Kill):
    """While a checkpoint is being written."""

    def moment(self):
        return Event.moment(self) and bool(tiny_run.pending(self.folder))


class KillAtGrowth(Kill):
    """Within an update of a growth that is still to come; at any time where none is."""

    def moment(self):
        last = tiny_run.last_step(self.folder)
        if last >= self.step and (last > max(tiny_run.GROWTHS) or any(growth - 1 <= last <= growth for growth in tiny_run.GROWTHS)):
            time.sleep(self.draw.uniform(0, 0.01))
            return True
        return False


class Term(Event):
    """SIGTERM to a rank: all save, and the launcher starts them again."""

    def harm(self):
        self.before = tiny_run.last_step(self.folder)
        self.job.signal(self.pids[self.rank()], signal.SIGTERM)

    def see(self):
        self.saved = max(self.saved, self.before)
        super().see()


class Freeze(Event):
    """SIGSTOP to a rank: the others say so and leave. The launcher asks the frozen one to end, too; it is thawed, or killed."""

    def harm(self):
        frozen = self.rank()
        self.job.signal(self.pids[frozen], signal.SIGSTOP)
        others = [pid for rank, pid in self.pids.items() if rank != frozen]
        begun = time.monotonic()
        self.job.until(lambda: not any(alive(pid) for pid in others), LEAVE, "Freeze: the others leave")
        if time.monotonic() - begun < HEARTBEAT - 1:
            raise Fault(f"Freeze: they left after {time.monotonic() - begun:.1f} s already")
        self.job.signal(self.pids[frozen], self.draw.choice((signal.SIGKILL, signal.SIGCONT)))


class Unnoticed(Event):
    """A hiccup that is shorter than the heartbeat: nobody may leave."""

    def see(self):
        end = time.monotonic() + HEARTBEAT + 1
        while time.monotonic() < end and not self.job.ended():
            if self.job.workers()[1] > self.attempt:
                raise Fault(f"{type(self).__name__}: the job began anew; {self.job.said()}")
            time.sleep(0.05)
        if self.job.ended() and self.job.process.returncode != 0:
            raise Fault(f"{type(self).__name__}: torchrun ended with {self.job.process.returncode}; {self.job.said()}")


class Pause(Unnoticed):
    def harm(self):
        pid = self.pids[self.rank()]
        self.job.signal(pid, signal.SIGSTOP)
        time.sleep(1)
        self.job.signal(pid, signal.SIGCONT)


class Flap(Unnoticed):
    def harm(self):
        rank = self.rank()
        self.job.links.down(rank)
        time.sleep(0.7)
        self.job.links.up(rank)


class Cable(Event):
    """The link of a rank is down until all have left."""

    def harm(self):
        rank = self.rank()
        self.job.links.down(rank)
        try:
            self.job.until(lambda: not any(alive(pid) for pid in self.pids.values()), DEADLINE, "Cable: the ranks leave")
        finally:
            self.job.links.up(rank)


class FullDisk(Event):
    """Somebody else takes all room until a rank has left for want of it."""

    def harm(self):
        zeros = self.folder.parent / "zeros"
        try:
            with contextlib.suppress(OSError), open(zeros, "wb", buffering=0) as file:
                while file.write(bytes(1 << 16)):
                    pass
            self.job.until(lambda: not all(alive(pid) for pid in self.pids.values()), DEADLINE, "FullDisk: a rank leaves")
            self.job.until(lambda: any("No space left" in line or "not enough free disk" in line for lines in self.job.said().values() for line in lines), 10,
                           "FullDisk: it says so")
        finally:
            zeros.unlink(missing_ok=True)


def alive(pid):
    """Not ended: a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


ANYWHERE = (Kill, KillAll, KillInWrite, KillAtGrowth, Term, Freeze, Pause)
Tally = collections.Counter
