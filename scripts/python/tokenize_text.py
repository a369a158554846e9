"""`meristem data tokenize INPUT… --tokenizer T --out PREFIX`: text to a token shard. Each document ends with the end-of-text token.

The bytes written depend on the input, the tokenizer and the options, not on the number of workers, nor on how often the job was stopped."""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np

import encode_pool
import text_documents
from command_errors import UserError, reported
from encode_worker import load_tokenizer
from resumable_shard import ResumableShard
from token_shards import prefix_of, xxh3_file

END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
BATCH_CHARACTERS, BATCH_DOCUMENTS = 1_000_000, 1024
SMALL = 8 << 20   # bytes of input for which starting workers takes longer than it saves
SHOWN_FAULTS = 5


def end_of_text_id(tokenizer, given, path):
    names = (given,) if given else END_OF_TEXT
    for name in names:
        found = tokenizer.token_to_id(name)
        if found is not None:
            return found
    raise UserError(f"{path}: has no token {' or '.join(names)}; name its end-of-text token with --end-of-text")


def batches(documents, skip):
    """((place after, counts of skipped), texts), each about as long as BATCH_CHARACTERS. `skip(document)` raises or says that it was counted."""
    texts, characters, skipped, after = [], 0, [], None
    for document in documents:
        after = document.after
        if document.text is None:
            skipped.append(skip(document))
        else:
            texts.append(document.text)
            characters += len(document.text)
        if characters >= BATCH_CHARACTERS or len(texts) >= BATCH_DOCUMENTS:
            yield (after, skipped), texts
            texts, characters, skipped = [], 0, []
    if after is not None and (texts or skipped):
        yield (after, skipped), texts


class Faults:
    """What happens to a bad document: an error, or with --skip-bad a line for the first few."""

    def __init__(self, allowed):
        self.allowed, self.count = allowed, 0

    def __call__(self, document):
        if not self.allowed:
            raise UserError(f"{document.place}: {document.what}")
        self.count += 1
        if self.count <= SHOWN_FAULTS:
            print(f"skipped {document.place}: {document.what}", file=sys.stderr)
        return document.fault


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


def job_of(arguments, reader, tokenizer_hash, end):
    """What the shard's bytes depend on. --skip-bad is not among it: up to the first bad document nothing differs."""
    files = [[str(path), kind, path.stat().st_size, path.stat().st_mtime_ns] for path, kind in reader.files]
    return {"input files": files, "--key": arguments.key, "--split-on": arguments.split_on, "--document-separator": arguments.document_separator,
            "--max-document-bytes": arguments.max_document_bytes, "tokenizer": tokenizer_hash, "end-of-text token": end}


def write_shard(arguments, shard, encoder):
    reader = text_documents.Reader(arguments, shard.journal["input"])
    progress = Progress(reader, shard)
    with encoder:
        for (after, skipped), encoded in encoder.map(batches(reader, Faults(arguments.skip_bad))):
            if encoded is not None:
                shard.add(*encoded)
            for kind in skipped:
                shard.skip(kind)
            shard.came_to(after)
            progress.show()
    progress.close()
    if not shard.journal["documents"]:
        raise UserError(f"{arguments.inputs[0]}: no text found: every document is empty{' or was skipped' if shard.journal['skipped'] else ''}")


def encoder_of(arguments, total_bytes, tokenizer, path, end, dtype):
    workers = arguments.workers
    if workers is None:
        workers = len(os.sched_getaffinity(0)) if total_bytes > SMALL else 0
    return encode_pool.Pool(workers, path, end, dtype) if workers else encode_pool.InProcess(tokenizer, end, dtype)


def parse(argv):
    parser = argparse.ArgumentParser(prog="meristem data tokenize", allow_abbrev=False, description="Turn text into a token shard.")
    text_documents.add_arguments(parser)
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="T", help="tokenizer.json, or the folder that holds it")
    parser.add_argument("--out", required=True, metavar="PREFIX", help="writes PREFIX.bin, PREFIX.idx, PREFIX.json")
    parser.add_argument("--end-of-text", metavar="TOKEN",
                        help=f"the token that ends a document (default: the first of {' '.join(END_OF_TEXT)})")
    parser.add_argument("--vocab", type=int, metavar="N", help="the model's vocabulary: a tokenizer with larger ids is refused before any work")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one for each core; none for small inputs)")
    parser.add_argument("--skip-bad", action="store_true", help="leave bad documents out and count them, instead of stopping at the first")
    parser.add_argument("--force", action="store_true", help="replace a shard that is there, and a stopped job")
    parser.add_argument("--commit-seconds", type=float, default=5, metavar="S", help="a killed job loses at most the last S seconds (default: 5)")
    arguments = parser.parse_args(argv)
    if arguments.workers is not None and not 0 <= arguments.workers <= 1024:
        raise UserError(f"--workers: found {arguments.workers}, allowed: 0 to 1024")
    return arguments


@reported
def main(argv):
    arguments = parse(argv)
    tokenizer, path = load_tokenizer(arguments.tokenizer)
    end = end_of_text_id(tokenizer, arguments.end_of_text, path)
    vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    if arguments.vocab is not None and vocab_size > arguments.vocab:
        raise UserError(f"{path}: its ids go to {vocab_size - 1}; --vocab: the model has {arguments.vocab}")
    prefix, dtype, tokenizer_hash = prefix_of(arguments.out), np.dtype(np.uint16 if vocab_size < 65536 else np.int32), xxh3_file(path)
    reader = text_documents.Reader(arguments)
    with ResumableShard(prefix, dtype, job_of(arguments, reader, tokenizer_hash, end), arguments.force, arguments.commit_seconds) as shard:
        if shard.resumed:
            print(f"{prefix}: going on after {shard.journal['documents']:,} documents", file=sys.stderr)
        if not shard.journal["publishing"]:
            write_shard(arguments, shard, encoder_of(arguments, reader.total_bytes, tokenizer, path, end, dtype))
        shard.publish(vocab_size, {"tokenizer": str(path), "tokenizer_hash": tokenizer_hash, "end_of_text": end})
    journal = shard.journal
    if journal["skipped"]:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in sorted(journal["skipped"].items()))
        print(f"{prefix}: skipped {sum(journal['skipped'].values()):,} bad documents: {counts}", file=sys.stderr)
    print(f"{prefix}: {journal['documents']:,} documents, {journal['tokens']:,} tokens ({dtype.name}, vocabulary {vocab_size:,}), "
          f"{journal['text_bytes'] / journal['tokens']:.2f} bytes a token")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
