"""`meristem data tokenize INPUT… --tokenizer T --out PREFIX`: text to a token shard; each document ends with the end-of-text token. And what that does
with any kind of input, conversations too: read, encode in several processes, write a shard that a killed job can go on with.

The bytes written depend on the input, the tokenizer and the options, not on the number of workers, nor on how often the job was stopped."""

import os
import sys
import time
from pathlib import Path

import numpy as np

from command import Parser, UserError, reported
from cpus import usable_cpus
from text import documents
from text.encoding import LOST, InProcess, Pool, Recipe
from text.shard_writing import ResumableShard
from text.shards import prefix_of, xxh3_file
from text.tokenizer import END_OF_TEXT, add_bos_argument, begin_ids, end_of_text_id, known_vocabulary, load_tokenizer, vocabulary_size

BATCH_CHARACTERS, BATCH_DOCUMENTS = 1_000_000, 1024
SMALL = 8 << 20   # bytes of input for which starting workers takes longer than it saves
SHOWN_FAULTS = 5


def add_arguments(parser, files):
    """The arguments that say what is written, and how. `files`: which."""
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="T", help="tokenizer.json, or the folder that holds it")
    parser.add_argument("--out", required=True, metavar="PREFIX", help=f"writes {files}")
    add_bos_argument(parser)
    parser.add_argument("--vocab", type=int, metavar="N", help="the model's vocabulary: a tokenizer with larger ids is refused before any work "
                        "(default: that of the model in T's folder, where there is one)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one for each core within the CPU quota; none for small inputs)")
    parser.add_argument("--skip-bad", action="store_true", help="leave out what is broken and count it, instead of stopping at the first")
    parser.add_argument("--force", action="store_true", help="replace a shard that is there, and a stopped job")
    parser.add_argument("--commit-seconds", type=float, default=5, metavar="S", help="a killed job loses at most the last S seconds (default: 5)")


def check(arguments, vocab_size, path):
    if arguments.workers is not None and not 0 <= arguments.workers <= 1024:
        raise UserError(f"--workers: found {arguments.workers}, allowed: 0 to 1024")
    known, where = (arguments.vocab, "--vocab") if arguments.vocab is not None else known_vocabulary(path.parent)
    if known is not None and vocab_size > known:
        raise UserError(f"{path}: its ids go to {vocab_size - 1}; {where}: the model has {known}"
                        + ("" if arguments.vocab is not None else f"; for a model that has more, say --vocab {vocab_size}"))


def files_of(reader):
    """What of the input files a stopped job must find again."""
    return [[str(path), kind, path.stat().st_size, path.stat().st_mtime_ns] for path, kind in reader.files]


def batches(read, item_of):
    """((place after, bad documents as (good ones before, document), what is noted of good ones as (kind, place)), items), each about as long as
    BATCH_CHARACTERS."""
    items, characters, bad, noted, after = [], 0, [], [], None
    for document in read:
        after = document.after
        if document.noted:
            noted.append((document.noted, document.place))
        if document.text is None:
            bad.append((len(items), document))
        else:
            items.append(item_of(document))
            characters += len(document.text)
        if characters >= BATCH_CHARACTERS or len(items) >= BATCH_DOCUMENTS:
            yield (after, bad, noted), items
            items, characters, bad, noted = [], 0, [], []
    if after is not None and (items or bad):
        yield (after, bad, noted), items


class Faults:
    """What happens to a bad document: an error, or with --skip-bad a line for the first few."""

    def __init__(self, allowed, shard):
        self.allowed, self.shard, self.count = allowed, shard, 0

    def of_batch(self, bad, encoded):
        """Those that could not be read and those that could not be encoded, in the order of the input, whoever met them first."""
        found = [(at, 0, document.place, document.fault, document.what) for at, document in bad]
        found += [(at, 1, place, kind, what) for at, place, kind, what in encoded.faults]
        for _, _, place, kind, what in sorted(found):
            if not self.allowed:
                raise UserError(f"{place}: {what}")
            self.count += 1
            if self.count <= SHOWN_FAULTS:
                print(f"skipped {place}: {what}", file=sys.stderr)
            self.shard.skip(kind)


class Progress:
    """A bar on a terminal, redrawn about twice a second; nothing in a pipe."""

    def __init__(self, reader, shard):
        self.reader, self.shard, self.shown = reader, shard, 0.0
        self.begin, self.begin_share = time.monotonic(), reader.share()
        self.begin_tokens = shard.journal["tokens"]

    def show(self):
        now = time.monotonic()
        if not sys.stderr.isatty() or now - self.shown < 0.5:
            return
        self.shown = now
        share, took = min(1.0, self.reader.share()), max(1e-9, now - self.begin)
        rate = (self.shard.journal["tokens"] - self.begin_tokens) / took
        left = took * (1 - share) / max(1e-9, share - self.begin_share)
        bar = "█" * round(24 * share)
        print(f"\r{bar:·<24} {share:4.0%}  {self.shard.journal['documents']:,} documents  {self.shard.journal['tokens']:,} tokens  "
              f"{rate:,.0f} tokens/s  {int(left) // 60}:{int(left) % 60:02} left ", end="", file=sys.stderr, flush=True)

    def close(self):
        if self.shown:
            print(file=sys.stderr)


def encoder_of(workers, total_bytes, recipe):
    if workers is None:
        workers = usable_cpus() if total_bytes > SMALL else 0
    return Pool(workers, recipe) if workers else InProcess(recipe)


def write_documents(arguments, reader, shard, recipe, item_of):
    """From where the shard's journal stands to the end of the input. `item_of(document)` is what the recipe's encoder takes."""
    faults, progress = Faults(arguments.skip_bad, shard), Progress(reader, shard)
    if shard.resumed:
        print(f"{shard.prefix}: going on after {shard.journal['documents']:,} documents", file=sys.stderr)
    with encoder_of(arguments.workers, reader.total_bytes, recipe) as encoder:
        for (after, bad, noted), encoded in encoder.map(batches(reader, item_of)):
            faults.of_batch(bad, encoded)
            for kind, place in noted:
                shard.note(kind, place)
            shard.add(encoded)
            shard.came_to(after)
            progress.show()
    progress.close()


def say_notes(shard, what):
    """What of the input is not in the shard as it stood, each kind once."""
    skipped, noted = shard.journal["skipped"], shard.journal["noted"]
    if skipped:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(skipped.items()))
        print(f"{shard.prefix}: skipped {sum(skipped.values()):,} bad {what}: {counts}", file=sys.stderr)
    documents.say_line_ends(noted, what)
    if LOST in noted:
        print(f"meristem: note: {shard.journal['counts']['lost']:,} characters in {noted[LOST]['count']:,} {what} have no token in the tokenizer and are lost; "
              f"the first: {noted[LOST]['named'][0]}", file=sys.stderr)


# Plain text.


def job_of(arguments, reader, tokenizer_hash, begin, end):
    """What the shard's bytes depend on. --skip-bad is not among it: up to the first bad document nothing differs."""
    return {"input files": files_of(reader), "--key": arguments.key, "--split-on": arguments.split_on,
            "--document-separator": arguments.document_separator, "--line-ends": arguments.line_ends,
            "--max-document-bytes": arguments.max_document_bytes, "tokenizer": tokenizer_hash, "--bos": begin, "end-of-text token": end}


def write_shard(arguments, shard, recipe):
    reader = documents.Reader(arguments, shard.journal["input"])
    write_documents(arguments, reader, shard, recipe, lambda document: (document.place, document.text))
    if not shard.journal["documents"]:
        raise UserError(f"{arguments.inputs[0]}: no text found: every document is empty{' or was skipped' if shard.journal['skipped'] else ''}")


def parse(argv):
    parser = Parser(prog="meristem data tokenize", description="Turn text into a token shard.")
    documents.add_arguments(parser)
    add_arguments(parser, "PREFIX.bin, PREFIX.idx, PREFIX.json")
    parser.add_argument("--end-of-text", metavar="TOKEN",
                        help=f"the token that ends a document (default: the first of {' '.join(END_OF_TEXT)})")
    return parser.parse_args(argv)


@reported
def main(argv):
    arguments = parse(argv)
    tokenizer, path = load_tokenizer(arguments.tokenizer)
    end, vocab_size = end_of_text_id(tokenizer, arguments.end_of_text, path), vocabulary_size(tokenizer)
    check(arguments, vocab_size, path)
    prefix, dtype, tokenizer_hash = prefix_of(arguments.out), np.dtype(np.uint16 if vocab_size < 65536 else np.int32), xxh3_file(path)
    begin = begin_ids(tokenizer, path, arguments.bos)
    job = job_of(arguments, documents.Reader(arguments), tokenizer_hash, begin, end)
    with ResumableShard(prefix, dtype, job, arguments.force, arguments.commit_seconds) as shard:
        if not shard.journal["publishing"]:
            write_shard(arguments, shard, Recipe("text.encoding", {"tokenizer_path": str(path), "begin": begin, "end": end, "dtype": dtype}))
        shard.publish(vocab_size, {"tokenizer": str(path), "tokenizer_hash": tokenizer_hash, "end_of_text": end, "begin_of_text": begin or None})
    say_notes(shard, "documents")
    journal = shard.journal
    print(f"{prefix}: {journal['documents']:,} documents, {journal['tokens']:,} tokens ({dtype.name}, vocabulary {vocab_size:,}), "
          f"{journal['text_bytes'] / journal['tokens']:.2f} bytes a token")
    return 0
