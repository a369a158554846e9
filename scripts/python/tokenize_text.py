"""`meristem data tokenize INPUT… --tokenizer T --out PREFIX`: text to a token shard. Each document ends with the end-of-text token."""

import argparse
import sys

import numpy as np

import text_documents
import tokenize_job
from command_errors import UserError, reported
from encoded import Recipe
from resumable_shard import ResumableShard
from token_shards import prefix_of, xxh3_file
from tokenizer_file import END_OF_TEXT, end_of_text_id, load_tokenizer, vocabulary_size


def job_of(arguments, reader, tokenizer_hash, end):
    """What the shard's bytes depend on. --skip-bad is not among it: up to the first bad document nothing differs."""
    return {"input files": tokenize_job.files_of(reader), "--key": arguments.key, "--split-on": arguments.split_on,
            "--document-separator": arguments.document_separator, "--max-document-bytes": arguments.max_document_bytes, "tokenizer": tokenizer_hash,
            "end-of-text token": end}


def write_shard(arguments, shard, recipe):
    reader = text_documents.Reader(arguments, shard.journal["input"])
    tokenize_job.write_documents(arguments, reader, shard, recipe, lambda document: document.text)
    if not shard.journal["documents"]:
        raise UserError(f"{arguments.inputs[0]}: no text found: every document is empty{' or was skipped' if shard.journal['skipped'] else ''}")


def parse(argv):
    parser = argparse.ArgumentParser(prog="meristem data tokenize", allow_abbrev=False, description="Turn text into a token shard.")
    text_documents.add_arguments(parser)
    tokenize_job.add_arguments(parser, "PREFIX.bin, PREFIX.idx, PREFIX.json")
    parser.add_argument("--end-of-text", metavar="TOKEN",
                        help=f"the token that ends a document (default: the first of {' '.join(END_OF_TEXT)})")
    return parser.parse_args(argv)


@reported
def main(argv):
    arguments = parse(argv)
    tokenizer, path = load_tokenizer(arguments.tokenizer)
    end, vocab_size = end_of_text_id(tokenizer, arguments.end_of_text, path), vocabulary_size(tokenizer)
    tokenize_job.check(arguments, vocab_size, path)
    prefix, dtype, tokenizer_hash = prefix_of(arguments.out), np.dtype(np.uint16 if vocab_size < 65536 else np.int32), xxh3_file(path)
    job = job_of(arguments, text_documents.Reader(arguments), tokenizer_hash, end)
    with ResumableShard(prefix, dtype, job, arguments.force, arguments.commit_seconds) as shard:
        if not shard.journal["publishing"]:
            write_shard(arguments, shard, Recipe("text_encoder", {"tokenizer_path": str(path), "end": end, "dtype": dtype}))
        shard.publish(vocab_size, {"tokenizer": str(path), "tokenizer_hash": tokenizer_hash, "end_of_text": end})
    tokenize_job.say_skipped(shard, "documents")
    journal = shard.journal
    print(f"{prefix}: {journal['documents']:,} documents, {journal['tokens']:,} tokens ({dtype.name}, vocabulary {vocab_size:,}), "
          f"{journal['text_bytes'] / journal['tokens']:.2f} bytes a token")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
