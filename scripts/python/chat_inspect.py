"""A document of a masked shard as text, what is trained on in colour on a terminal and in ⟦brackets⟧ in a pipe."""

import sys

import numpy as np

TRAINED, PLAIN = "\033[1;32m", "\033[0m"
OPEN, CLOSE = "⟦", "⟧"


def runs(mask):
    """(begin, end, trained) of the stretches of equal values."""
    cuts = np.flatnonzero(np.diff(mask)) + 1
    edges = [0, *cuts.tolist(), len(mask)]
    return [(begin, end, bool(mask[begin])) for begin, end in zip(edges, edges[1:]) if begin < end]


def marked_text(tokenizer, ids, mask, colour):
    """A character that several tokens make up belongs to the stretch in which it is completed."""
    from tokenizers.decoders import DecodeStream

    before, after = (TRAINED, PLAIN) if colour else (OPEN, CLOSE)
    stream, text = DecodeStream(skip_special_tokens=False), ""
    for begin, end, trained in runs(mask):
        piece = "".join(stream.step(tokenizer, int(token)) or "" for token in ids[begin:end])
        if colour:  # a coloured line break colours what a terminal prints after it
            piece = piece.replace("\n", f"{after}\n{before}") if trained else piece
        text += before + piece + after if trained else piece
    return text


def print_marked(tokenizer, ids, mask, trained_in_all):
    print(f"  trained on: {int(np.count_nonzero(mask)):,} of these {len(ids):,} tokens ({trained_in_all:,} in the shard), "
          + ("in green" if sys.stdout.isatty() else f"in {OPEN} {CLOSE}"))
    print(marked_text(tokenizer, ids, mask, sys.stdout.isatty()))
