"""`meristem data verify PREFIX`: hashes, structure and every token id.

`meristem data inspect PREFIX`: what a shard holds, one document as text; of a masked shard what is trained on in colour on a terminal and in
⟦brackets⟧ in a pipe."""

import hashlib
import sys
from pathlib import Path

import numpy as np

from command import DamagedError, Parser, UserError, reported
from text.shards import Mask, Shard, xxh3_bytes, xxh3_file
from text.tokenizer import load_tokenizer

PIECE = 1 << 24  # tokens looked at in one go
TRAINED, PLAIN = "\033[1;32m", "\033[0m"
OPEN, CLOSE = "⟦", "⟧"


def check_hashes(shard):
    for name, path in (("bin", shard.bin_path), ("idx", shard.idx_path)):
        found, said = xxh3_file(path), shard.manifest["files"][name]["xxh3"]
        if found != said:
            raise DamagedError(f"{path}: xxh3 {found}, {shard.json_path} says {said}")
    template, said = (shard.manifest.get(key) for key in ("chat_template", "chat_template_hash"))
    if template is not None and xxh3_bytes(template.encode()) != said:
        raise DamagedError(f"{shard.json_path}: chat_template: xxh3 {xxh3_bytes(template.encode())}, chat_template_hash says {said}")


def check_ids(shard, vocab_size):
    for begin in range(0, shard.tokens.size, PIECE):
        piece = shard.tokens[begin : begin + PIECE]
        wrong = (piece < 0) | (piece >= vocab_size)
        if wrong.any():
            at = begin + int(np.argmax(wrong))
            place = f"{shard.bin_path}: byte {at * shard.tokens.itemsize}"
            raise DamagedError(f"{place}: token id {shard.tokens[at]}, the vocabulary has {vocab_size}")


def verify(arguments):
    shard = Shard(arguments.prefix)
    if shard.manifest is not None:
        check_hashes(shard)
    mask = Mask.of(shard)
    trained = mask and mask.verify((shard.manifest or {}).get("trained_tokens"))
    vocab_size = arguments.vocab or (shard.manifest and shard.manifest["vocab_size"])
    if vocab_size:
        check_ids(shard, vocab_size)
    notes = [] if shard.manifest else ["no manifest, so no hashes to compare"]
    if mask:
        notes.append(f"{trained:,} of them trained on")
    if not vocab_size:
        notes.append("token ids not checked: give --vocab N")
    print(f"{shard.prefix}: whole, {shard.documents:,} documents, {shard.tokens.size:,} tokens ({shard.tokens.dtype.name}){''.join('; ' + note for note in notes)}")


def print_lengths(shard):
    lengths = np.diff(shard.starts)
    quantiles = np.quantile(lengths, [0, 0.5, 0.9, 1]).astype(int)
    names = ("shortest", "median", "90 %", "longest")
    print("tokens a document: " + ", ".join(f"{name} {value:,}" for name, value in zip(names, quantiles)))
    # A bin for each power of two: documents differ by orders of magnitude.
    bins = np.bincount(np.ceil(np.log2(np.maximum(lengths, 1))).astype(int))
    for power, count in enumerate(bins):
        if count:
            print(f"  up to {2**power:>10,}  {count:>10,}  {'#' * max(1, round(40 * count / bins.max()))}")


def print_duplicates(shard):
    """Documents that are, id for id, one that came before. Eight bytes of hash a document are held."""
    hashes = np.fromiter((int.from_bytes(hashlib.blake2b(shard.document(number).tobytes(), digest_size=8).digest(), "little")
                          for number in range(shard.documents)), np.uint64, shard.documents)
    copies = shard.documents - np.unique(hashes).size
    print(f"duplicates: {copies:,} of {shard.documents:,} documents ({100 * copies / shard.documents:.1f} %)")


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


def print_document(shard, number, count, tokenizer_path):
    document = shard.document(number)
    ids = document[:count].tolist()
    more = f", the first {len(ids):,} of them" if len(ids) < document.size else ""
    print(f"document {number}: {document.size:,} tokens{more}")
    print("  ids: " + " ".join(map(str, ids[:32])) + (" …" if len(ids) > 32 else ""))
    if tokenizer_path is None:
        print("  (text: give the tokenizer with --tokenizer)")
        return
    tokenizer = load_tokenizer(Path(tokenizer_path))[0]
    mask = Mask.of(shard)
    if mask:
        begin = int(shard.starts[number])
        print_marked(tokenizer, ids, mask.bytes[begin : begin + len(ids)], (shard.manifest or {}).get("trained_tokens", int(mask.bytes.sum())))
        return
    print(tokenizer.decode(ids, skip_special_tokens=False))


def inspect(arguments):
    shard = Shard(arguments.prefix)
    about = shard.manifest or {}
    print(f"{shard.prefix}: {shard.documents:,} documents, {shard.tokens.size:,} tokens, {shard.tokens.dtype.name}"
          + (f", vocabulary {about['vocab_size']:,}" if about else ", no manifest"))
    if shard.documents == 0:
        return
    print_lengths(shard)
    print_duplicates(shard)
    if not 0 <= arguments.document < shard.documents:
        raise UserError(f"--document: found {arguments.document}, allowed: 0 to {shard.documents - 1}")
    known = about.get("tokenizer")
    print_document(shard, arguments.document, arguments.tokens, arguments.tokenizer or (known if known and Path(known).exists() else None))


@reported
def main(argv):
    parser = Parser(prog="meristem data", description="Check a token shard, or look into it.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("verify", help="compare hashes, check the structure and every token id")
    one.add_argument("prefix", metavar="PREFIX")
    one.add_argument("--vocab", type=int, metavar="N", help="ids must be below N (default: the manifest's vocabulary)")
    one.set_defaults(run=verify)
    one = commands.add_parser("inspect", help="counts, lengths, one document as text")
    one.add_argument("prefix", metavar="PREFIX")
    one.add_argument("--document", type=int, default=0, metavar="N", help="which document to show (default: 0)")
    one.add_argument("--tokens", type=int, default=256, metavar="N", help="how many of its tokens (default: 256)")
    one.add_argument("--tokenizer", metavar="T", help="tokenizer.json (default: the one the manifest names)")
    one.set_defaults(run=inspect)
    arguments = parser.parse_args(argv)
    arguments.run(arguments)
    return 0
