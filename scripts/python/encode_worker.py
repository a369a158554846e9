"""A process that encodes: a pickled Recipe on stdin, then one batch after another; an Encoded on stdout for each, or the error it met.

It ends when its stdin does, so that none outlives a parent that was killed."""

import pickle
import signal
import struct
import sys

from command_errors import DamagedError, UserError

LENGTH = struct.Struct("<Q")


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


def main():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    encode = receive(sys.stdin.buffer).make()
    while (items := receive(sys.stdin.buffer)) is not None:
        try:
            result = encode(items)
        except (UserError, DamagedError) as error:
            result = error
        send(sys.stdout.buffer, result)


if __name__ == "__main__":
    main()
