"""Documents to token ids in several processes. A Recipe says how an encoder is made; each worker makes its own and turns batches into Encoded
ones, which come back in the order of the batches whatever the number of workers.

A worker is started as `encoding-worker`: a pickled Recipe on its stdin, then one batch after another; an Encoded on its stdout for each, or the
error it met. It ends when its stdin does, so that none outlives a parent that was killed."""

import collections
import contextlib
import importlib
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from command import DamagedError, UserError
from text.coverage import Coverage, encoded_texts
from text.tokenizer import load_tokenizer

LENGTH = struct.Struct("<Q")
LOST = "characters without a token"
COMMANDS = Path(__file__).resolve().parents[1]


@dataclass
class Recipe:
    """`make()` gives module.make_encoder(**settings): a function of a list of items that returns Encoded. Settings can be pickled."""

    module: str
    settings: dict

    def make(self):
        return importlib.import_module(self.module).make_encoder(**self.settings)


@dataclass
class Encoded:
    ids: bytes = b""        # of all documents, in the shard's type of ids
    lengths: bytes = b""    # tokens of each, int32
    text_bytes: int = 0
    mask: bytes = b""       # a byte a token, in masked shards
    faults: list = field(default_factory=list)    # (number of the item, place, kind, what): items that are bad, which end the job or are skipped
    left_out: list = field(default_factory=list)  # (kind, what): items that are no use or were cut, to be judged in the end
    noted: list = field(default_factory=list)     # (kind, place): items that were taken, but not as they stood
    counts: dict = field(default_factory=dict)    # numbers to add up over the batches
    longest: int = 0        # tokens of a document

    def note_lost(self, coverage, place, text, ids):
        """Of one text: the characters that have no token."""
        if count := coverage.lost(text, ids):
            self.noted.append((LOST, f"{place} ({coverage.example(text)!r})" if not self.noted else place))
            self.counts["lost"] = self.counts.get("lost", 0) + count


def make_encoder(tokenizer_path, begin, end, dtype):
    """The encoder of plain texts, items (place, text): `begin` stands before each, the end-of-text token `end` behind it."""
    tokenizer, _ = load_tokenizer(Path(tokenizer_path))
    coverage = Coverage(tokenizer)

    def encode(items):
        ids, out = [], Encoded()
        encodings, faults = encoded_texts(tokenizer, [text for _, text in items], offsets=False)
        out.faults = [(number, items[number][0], "no token", what) for number, what in faults]
        for (place, text), encoding in zip(items, encodings):
            if encoding is None:
                continue
            own = encoding.ids
            if not coverage.whole:
                out.note_lost(coverage, place, text, own)
            ids.append(np.array([*begin, *own, end], dtype))
            out.text_bytes += len(text.encode())
        out.ids, out.lengths = np.concatenate([*ids, np.zeros(0, dtype)]).tobytes(), np.array([one.size for one in ids], np.int32).tobytes()
        return out

    return encode


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
            self.local.child = subprocess.Popen([sys.executable, COMMANDS, "encoding-worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=alone)
            self.children.append(self.local.child)
            send(self.local.child.stdin, self.recipe)
        return self.local.child

    def _encode(self, items):
        if not items:
            return Encoded()
        child = self._child()
        try:
            send(child.stdin, items)
            result = receive(child.stdout)
        except BrokenPipeError:
            result = None
        if result is None:
            code = child.wait()
            raise OSError(f"a tokenizing worker ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}; "
                          "the same command goes on from what is written")
        if isinstance(result, Exception):
            raise result
        return result


def send(stream, value):
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    stream.write(LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def receive(stream):
    """The next value; None at the end of the stream."""
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (size,) = LENGTH.unpack(head)
    data = stream.read(size)
    return pickle.loads(data) if len(data) == size else None


def main(_):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    encode = receive(sys.stdin.buffer).make()
    while (items := receive(sys.stdin.buffer)) is not None:
        try:
            result = encode(items)
        except (UserError, DamagedError) as error:
            result = error
        send(sys.stdout.buffer, result)
    return 0
