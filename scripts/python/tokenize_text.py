"""`meristem data tokenize INPUT… --tokenizer T --out PREFIX`: text to a token shard. Each document ends with the end-of-text token."""

import argparse
import sys
import time
from pathlib import Path

import text_documents
from command_errors import UserError, reported
from token_shards import Writer, prefix_of, xxh3_file

END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
BATCH_CHARACTERS, BATCH_DOCUMENTS = 4_000_000, 4096


def load_tokenizer(path):
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


def end_of_text_id(tokenizer, given, path):
    names = (given,) if given else END_OF_TEXT
    for name in names:
        found = tokenizer.token_to_id(name)
        if found is not None:
            return found
    raise UserError(f"{path}: has no token {' or '.join(names)}; name its end-of-text token with --end-of-text")


def batches(documents):
    """Lists of texts, each about as long as BATCH_CHARACTERS."""
    batch, characters = [], 0
    for _, text in documents:
        batch.append(text)
        characters += len(text)
        if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


class Progress:
    """A line on a terminal, rewritten about once a second; nothing in a pipe."""

    def __init__(self):
        self.begin = self.last = time.monotonic()

    def show(self, writer):
        now = time.monotonic()
        if sys.stderr.isatty() and now - self.last > 1:
            self.last = now
            rate = writer.tokens / (now - self.begin)
            line = f"\r{len(writer.lengths):,} documents, {writer.tokens:,} tokens, {rate:,.0f} tokens/s "
            print(line, end="", file=sys.stderr, flush=True)

    def close(self):
        if self.last != self.begin:
            print(file=sys.stderr)


def tokenize(arguments, tokenizer, end, writer):
    """Writes all documents; returns the bytes of text they had."""
    text_bytes = 0
    progress = Progress()
    for batch in batches(text_documents.documents_of(arguments)):
        for text, encoding in zip(batch, tokenizer.encode_batch_fast(batch, add_special_tokens=False)):
            writer.add(encoding.ids + [end])
            text_bytes += len(text.encode())
        progress.show(writer)
    progress.close()
    if not writer.lengths:
        raise UserError(f"{arguments.inputs[0]}: no text found: every document is empty")
    return text_bytes


@reported
def main(argv):
    parser = argparse.ArgumentParser(prog="meristem data tokenize", allow_abbrev=False, description="Turn text into a token shard.")
    text_documents.add_arguments(parser)
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="T", help="tokenizer.json, or the folder that holds it")
    parser.add_argument("--out", required=True, metavar="PREFIX", help="writes PREFIX.bin, PREFIX.idx, PREFIX.json")
    parser.add_argument("--end-of-text", metavar="TOKEN",
                        help=f"the token that ends a document (default: the first of {' '.join(END_OF_TEXT)})")
    parser.add_argument("--force", action="store_true", help="replace a shard that is there")
    arguments = parser.parse_args(argv)
    tokenizer, path = load_tokenizer(arguments.tokenizer)
    end = end_of_text_id(tokenizer, arguments.end_of_text, path)
    vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    prefix = prefix_of(arguments.out)
    with Writer(prefix, vocab_size, str(path), xxh3_file(path), end, arguments.force) as writer:
        text_bytes = tokenize(arguments, tokenizer, end, writer)
    print(f"{prefix}: {len(writer.lengths):,} documents, {writer.tokens:,} tokens ({writer.dtype.name}, vocabulary {vocab_size:,}), "
          f"{text_bytes / writer.tokens:.2f} bytes a token")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
