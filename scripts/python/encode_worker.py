"""Text to token ids: the function, and a process that does it for `tokenize_text.py`, one pickled batch after another on stdin and stdout.

A worker ends when its stdin does, so that none outlives a parent that was killed."""

import pickle
import signal
import struct
import sys
from pathlib import Path

import numpy as np

from command_errors import UserError

LENGTH = struct.Struct("<Q")


def load_tokenizer(path):
    """(tokenizer, path of its file)."""
    from tokenizers import Tokenizer

    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.exists():
        raise UserError(f"{path}: no such tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"{path}: not a tokenizer: {str(error).splitlines()[0]}") from None
    # A text that happens to hold "<|endoftext|>" must not end a document.
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, path


def encode(tokenizer, texts, end, dtype):
    """(ids of all texts, each followed by `end`, as bytes of `dtype`; tokens of each text, int32; bytes of text)."""
    ids, lengths = [], np.empty(len(texts), np.int32)
    for number, encoding in enumerate(tokenizer.encode_batch_fast(texts, add_special_tokens=False)):
        one = encoding.ids
        one.append(end)
        lengths[number] = len(one)
        ids.append(np.array(one, dtype))
    return np.concatenate(ids).tobytes(), lengths.tobytes(), sum(len(text.encode()) for text in texts)


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


def main(tokenizer_path, end, dtype):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    tokenizer, _ = load_tokenizer(Path(tokenizer_path))
    while (texts := receive(sys.stdin.buffer)) is not None:
        send(sys.stdout.buffer, encode(tokenizer, texts, int(end), np.dtype(dtype)))


if __name__ == "__main__":
    main(*sys.argv[1:])
