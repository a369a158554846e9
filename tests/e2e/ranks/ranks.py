"""A program as several ranks of one job, started directly with the variables that torchrun and Slurm set, each rank's end collected; nothing waits without a
deadline. Also what the tests of ranks read: losses, how far two runs are apart, which weights a run ended with."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "train"))

import numpy as np  # noqa: E402
import tiny_run  # noqa: E402

DEADLINE = 100  # seconds: all that the program promises to notice within a minute, on a machine that is busy
SEQUENCE = 32   # tokens, as tiny_run's config has it


class End(namedtuple("End", "code out err")):
    def errors(self):
        return [line for line in self.err.splitlines() if line.startswith("meristem: error: ")]


def write_data(folder):
    """Documents that count upwards, by 7 or by 11, so that there is something to learn. In `masked` every document fills one sequence, and no token of two in five
    of them is trained on."""
    folder.mkdir()
    counted = {name: [[(first + by * i) % tiny_run.VOCAB for i in range(20 + first % 50)] for first in range(count)]
               for name, by, count in (("one", 7, 60), ("two", 11, 40), ("held", 7, 6))}
    for name, documents in counted.items():
        tiny_run.write_shard(folder / name, tiny_run.VOCAB, documents)
    documents = [[(first + 7 * i) % tiny_run.VOCAB for i in range(SEQUENCE)] for first in range(50)]
    tiny_run.write_shard(folder / "masked", tiny_run.VOCAB, documents, [np.full(SEQUENCE, first % 5 >= 2) for first in range(50)])


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Job:
    """`world` ranks of `program ARGUMENTS`.
    only: the ranks that are started; the others never come.
    each: {rank: arguments that it alone has, before the others}; prefix: {rank: words before its command, which end by becoming it}.
    links: the hosts that they run on (links.py), this one without. local_rank: of each, its rank without."""

    def __init__(self, program, *arguments, world, only=None, each=None, prefix=None, links=None, port=None, environment=None, local_rank=None):
        self.port = port or free_port()
        given = tiny_run.environment() | {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": self.port,
                                          "GLOO_SOCKET_IFNAME": "lo"}
        given |= (links.environment() if links else {}) | (environment or {})
        self.processes, self.readers, self.ends = {}, {}, {}
        for rank in range(world) if only is None else only:
            before = [*(links.prefix(rank) if links else []), *(prefix or {}).get(rank, [])]
            words = [*before, *(program if isinstance(program, list) else [program])]
            env = {key: str(value) for key, value in (given | {"RANK": rank, "LOCAL_RANK": rank if local_rank is None else local_rank}).items()}
            self.processes[rank] = tiny_run.start(words, *arguments, *(each or {}).get(rank, []), env=env)
            self.readers[rank] = threading.Thread(target=self._read, args=(rank,), daemon=True)
            self.readers[rank].start()

    def _read(self, rank):
        process = self.processes[rank]
        out, err = process.communicate(timeout=10 * DEADLINE)
        self.ends[rank] = End(process.returncode, out, err)

    def pid(self, rank):
        return self.processes[rank].pid

    def running(self, rank):
        return rank not in self.ends

    def signal(self, rank, number):
        if self.running(rank):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid(rank), number)

    def stop(self):
        for rank in self.processes:
            self.signal(rank, signal.SIGKILL)
        for reader in self.readers.values():
            reader.join(DEADLINE)

    def wait(self, deadline=DEADLINE, only=None):
        """{rank: End} of all, or of these; who has not ended by then is killed, with the others, and named."""
        until = time.monotonic() + deadline
        for rank in self.processes if only is None else only:
            self.readers[rank].join(max(0, until - time.monotonic()))
        late = [rank for rank in (self.processes if only is None else only) if self.running(rank)]
        if late:
            self.stop()
            said = {rank: end.err[-1000:] for rank, end in sorted(self.ends.items())}
            raise AssertionError(f"ranks {late} had not ended after {deadline} s; stderr of all: {said}")
        return dict(sorted(self.ends.items()))

    def until(self, condition, deadline=DEADLINE):
        """Waits for it while all are running."""
        end = time.monotonic() + deadline
        while not condition():
            ended = {rank: (found.code, found.err[-1000:]) for rank, found in list(self.ends.items())}
            if ended or time.monotonic() > end:
                self.stop()
                raise AssertionError(f"ended too early: {ended}" if ended else f"not within {deadline} s")
            time.sleep(0.001)


def run(program, *arguments, world, deadline=DEADLINE, **options):
    """{rank: End}. World 1: alone, as a single process."""
    if world > 1:
        return Job(program, *arguments, world=world, **options).wait(deadline)
    return {0: End(*tiny_run.run(program, *arguments, timeout=deadline))}


def train(program, config, *arguments, world, **options):
    """Ends well on all ranks."""
    ends = run(program, "train", config, *arguments, world=world, **options)
    assert {end.code for end in ends.values()} == {0}, {rank: (end.code, end.err[-1500:]) for rank, end in ends.items()}
    return ends


def steps(folder):
    """Lines of updates, numbers as numbers."""
    return [{key: number(value) for key, value in line.items()} for line in tiny_run.numbers(folder) if "event" not in line]


def number(text):
    return float(text) if isinstance(text, str) else {key: number(value) for key, value in text.items()} if isinstance(text, dict) else text


def losses(folder):
    return [line["loss"] for line in steps(folder)]


def apart(one, other):
    """The largest relative difference of the losses of two runs, an update against the same update."""
    a, b = losses(one), losses(other)
    assert len(a) == len(b) > 0, (one, other)
    return max(abs(x - y) / abs(x) for x, y in zip(a, b))


def weights(folder):
    """The bytes that a run ended with."""
    return (tiny_run.published(folder)[-1] / "model.safetensors").read_bytes()
