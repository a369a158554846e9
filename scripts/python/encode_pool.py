"""Batches through several worker processes, results in the order of the batches whatever the number of workers."""

import collections
import contextlib
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import encode_worker
from encoded import Encoded


class InProcess:
    """No workers: `tokenizers` spreads a batch over the cores itself. What small inputs take, since it starts at once."""

    def __init__(self, recipe):
        self.encode = recipe.make()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, batches):
        """Yields (tag, Encoded) for the (tag, items) of `batches`."""
        for tag, items in batches:
            yield tag, self.encode(items) if items else Encoded()


class Pool:
    """A thread for each worker writes and reads its pipes, so that none of them waits for another."""

    def __init__(self, count, recipe):
        self.recipe = recipe
        self.count, self.children, self.local = count, [], threading.local()
        self.threads = ThreadPoolExecutor(count)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.threads.shutdown(wait=False, cancel_futures=True)
        for child in self.children:
            child.kill()
        self.threads.shutdown(wait=True)  # a thread that was about to start its worker has done so now
        for child in self.children:
            child.kill()
            child.wait()
            child.stdout.close()
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()

    def map(self, batches):
        """As above; two batches a worker are on their way at most."""
        waiting = collections.deque()
        for tag, items in batches:
            waiting.append((tag, self.threads.submit(self._encode, items)))
            if len(waiting) > 2 * self.count:
                yield self._first(waiting)
        while waiting:
            yield self._first(waiting)

    @staticmethod
    def _first(waiting):
        tag, future = waiting.popleft()
        return tag, future.result()

    def _child(self):
        if not hasattr(self.local, "child"):
            # The workers are the parallelism; threads inside each of them would only get in each other's way.
            alone = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
            self.local.child = subprocess.Popen([sys.executable, encode_worker.__file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=alone)
            self.children.append(self.local.child)
            encode_worker.send(self.local.child.stdin, self.recipe)
        return self.local.child

    def _encode(self, items):
        if not items:
            return Encoded()
        child = self._child()
        try:
            encode_worker.send(child.stdin, items)
            result = encode_worker.receive(child.stdout)
        except BrokenPipeError:
            result = None
        if result is None:
            code = child.wait()
            raise OSError(f"a tokenizing worker ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}; "
                          "the same command goes on from what is written")
        if isinstance(result, Exception):
            raise result
        return result
