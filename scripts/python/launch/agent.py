"""The ranks as processes. torchrun's agent starts them, hosts their store and starts them again; here it learns how a run of Meristem ends: which
codes no restart helps, that ranks are waited for and not stopped when the first one ends, and that a stop signal is the ranks' to obey."""

import contextlib
import datetime
import os
import re
import select
import signal
import time

from torch.distributed import TCPStore
from torch.distributed.elastic.agent.server.api import RunResult, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure
from torch.distributed.elastic.rendezvous.static_tcp_rendezvous import StaticTCPRendezvous

from launch.output import Output, say

SAVED, TWICE = 75, 130  # stopped by a signal after saving; stopped at once by a second Ctrl-C
FINAL = {2, 3, 4, TWICE}  # bad input, not finite, damaged: the same would happen again
LEAVE_SECONDS = 10  # for ranks to leave by themselves after one has failed: its reason stands in the store
CATCH_SECONDS = 5  # for a rank that starts to get ready for stop signals, before it gets one all the same

# How ranks name the one that made them leave: "rank 2 failed: …", "rank 2 (HOST, process 77) is gone".
BLAMED = re.compile(r"^(?:\[rank \d+\] )?rank (\d+) (?:failed: |\(.*\) (?:is gone|are gone|has not been heard of))")


class LocalRendezvous(StaticTCPRendezvous):
    """One machine: a store on a port that is free."""

    def __init__(self, run):
        store = TCPStore("127.0.0.1", 0, is_master=True, timeout=datetime.timedelta(minutes=5), wait_for_workers=False)
        super().__init__("127.0.0.1", store.port, rank=0, world_size=1, run_id=run, timeout=300)
        self._store = store


def catches(process, number):
    """Whether a process has a handler of its own for a signal."""
    try:
        with open(f"/proc/{process}/status") as status:
            mask = next(line for line in status if line.startswith("SigCgt:"))
    except (OSError, StopIteration):
        return True
    return bool(int(mask.split()[1], 16) >> (number - 1) & 1)


class Stops:
    """Stop signals on their way to the ranks. One that came while a rank was starting is kept until the rank can obey it."""

    def __init__(self):
        self.come, self.sent = [], set()
        self.waiting = []  # (signal, when it came, processes that have not got it)
        self.woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)  # ends a poll that waits
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                signal.signal(number, lambda come, _frame: self.come.append(come))

    def forward(self, processes):
        with contextlib.suppress(BlockingIOError):
            os.read(self.woken, 4096)
        while self.come:
            number = self.come.pop(0)
            number = signal.SIGTERM if number in (signal.SIGHUP, signal.SIGQUIT) else signal.Signals(number)
            pressed_again = number == signal.SIGINT and number in self.sent
            self.sent.add(number)
            self.waiting.append((number, -CATCH_SECONDS if pressed_again else time.monotonic(), list(processes)))
        still = []
        for number, since, left in self.waiting:
            late = time.monotonic() >= since + CATCH_SECONDS
            unready = [process for process in left if not late and not catches(process.pid, number)]
            for process in left:
                if process not in unready:
                    process.send_signal(number)  # does nothing where it has ended
            if unready:
                still.append((number, since, unready))
        self.waiting = still


class Agent(LocalElasticAgent):
    def __init__(self, spec, output):
        super().__init__(spec, logs_specs=output)
        self.output = output
        self.stops = Stops()
        self.code, self.line = 0, None  # how it ended: the exit code, and what is to be said

    def _start_workers(self, worker_group):
        pids = super()._start_workers(worker_group)
        self.processes = {rank: handler.proc for rank, handler in self._pcontext.subprocess_handlers.items()}
        self.ended = {}  # rank: exit code, in the order in which they ended
        self.killed = set()  # by us
        self.failed_at = None
        self.watched = {os.pidfd_open(process.pid): rank for rank, process in self.processes.items()}
        self.poll = select.poll()
        for descriptor in (self.stops.woken, *self.watched):
            self.poll.register(descriptor, select.POLLIN)
        self._pcontext.subprocess_handlers[0]._stderr.close()  # ours of the two: what comes from rank 0 ends when it does
        return pids

    def _monitor_workers(self, worker_group):
        self.stops.forward(self.processes.values())
        self._note_ends()
        if self.failed_at is not None and time.monotonic() > self.failed_at + LEAVE_SECONDS:
            self._kill_the_rest()
        if self.watched:
            return RunResult(state=WorkerState.HEALTHY)
        self.output.through.finish()
        failed = [rank for rank, code in self.ended.items() if code not in (0, SAVED) and rank not in self.killed]
        if not failed and SAVED not in self.ended.values():
            self.code, self.line = 0, None
            return RunResult(state=WorkerState.SUCCEEDED, return_values=dict.fromkeys(self.ended))
        first = self._judge(failed)
        if self._remaining_restarts > 0:
            spec = worker_group.spec
            say(f"restart {spec.max_restarts - self._remaining_restarts + 1} of {spec.max_restarts}: {self.line}")
        failure = ProcessFailure(first, self.processes[first].pid, self.ended[first], os.devnull)
        return RunResult(state=WorkerState.FAILED, failures={first: failure})

    def _note_ends(self):
        """Waits for the next end, not longer than a moment where there is more to do than to wait."""
        wait = 50 if self.stops.waiting or self.failed_at is not None else 1000
        for descriptor in sorted(descriptor for descriptor, _ in self.poll.poll(wait) if descriptor in self.watched):
            rank = self.watched.pop(descriptor)
            self.poll.unregister(descriptor)
            os.close(descriptor)
            code = self.ended[rank] = self.processes[rank].wait()
            if code not in (0, SAVED) and self.failed_at is None:
                self.failed_at = time.monotonic()

    def _kill_the_rest(self):
        for rank in self.watched.values():
            self.killed.add(rank)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.processes[rank].pid, signal.SIGKILL)
        self.failed_at = float("inf")

    def _judge(self, failed):
        """Decides code and line, and that no restart follows where it would not help. Returns the rank that it is about."""
        if not failed:
            self._remaining_restarts = 0
            self.code, self.line = SAVED, None
            return next(rank for rank, code in self.ended.items() if code == SAVED)
        first = failed[0]
        blamed = BLAMED.match(self.output.error_of(first))
        if blamed and int(blamed[1]) in failed:
            first = int(blamed[1])  # it was slower to end than the one that it made leave
        said = self.output.error_of(first)
        if 0 in failed and said == f"[rank {first}] {self.output.error_of(0)}" and self.ended[0] == self.ended[first]:
            first, said = 0, self.output.error_of(0)  # all of them say so: it is nobody's own
        code = self.ended[first]
        if code < 0 and -code in self.stops.sent:  # before it could obey: it ended as it would have alone
            self.code, self.line = 128 - code, None
        elif code < 0:
            self.code, self.line = 1, f"rank {first} (process {self.processes[first].pid}) was ended by {signal.Signals(-code).name}"
        else:
            self.code, self.line = code, said or f"rank {first} (process {self.processes[first].pid}) ended with exit code {code}"
        if self.code == TWICE:
            self.line = None
        if self.code in FINAL or self.stops.sent:
            self._remaining_restarts = 0
        return first


def launch(command, ranks, restarts, folder):
    """Runs command as ranks 0 … ranks - 1 to their end; says what has to be said and returns the exit code."""
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "none"  # they are ours
    output = Output(folder)
    spec = WorkerSpec(role="rank", local_world_size=ranks, rdzv_handler=LocalRendezvous(f"meristem-{os.getpid()}"), entrypoint=command[0],
                      args=tuple(command[1:]), max_restarts=restarts, monitor_interval=0.001)
    agent = Agent(spec, output)
    signal.signal(signal.SIGWINCH, lambda *_: output.through and output.through.resize())
    try:
        agent.run()
    except RuntimeError as error:  # of the store or the agent itself
        agent.code, agent.line = 1, str(error).splitlines()[0]
    if agent.line:
        say(f"error: {agent.line}")
    return agent.code
