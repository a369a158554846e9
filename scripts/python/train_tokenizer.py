"""`meristem data train-tokenizer INPUT… --vocab N --out DIR`: trains a byte-level BPE on text and writes DIR/tokenizer.json.

Every byte has a token, so every text can be written; <|endoftext|> has id 0. The same text in the same order gives the same tokenizer."""

import argparse
import os
import sys
from pathlib import Path

import text_documents
from command_errors import UserError, reported

END_OF_TEXT = "<|endoftext|>"
FEWEST = 257  # 256 bytes and the end of text


def train(texts, vocab_size):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[END_OF_TEXT], show_progress=sys.stderr.isatty(),
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def write(tokenizer, path):
    """Under its name only when it is whole and on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pending = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with open(pending, "w", encoding="utf-8") as file:
            file.write(tokenizer.to_str())
            file.flush()
            os.fsync(file.fileno())
        pending.replace(path)
    finally:
        pending.unlink(missing_ok=True)


@reported
def main(argv):
    parser = argparse.ArgumentParser(prog="meristem data train-tokenizer", allow_abbrev=False,
                                     description="Train a byte-level BPE tokenizer on text.")
    text_documents.add_arguments(parser)
    parser.add_argument("--vocab", type=int, required=True, metavar="N", help=f"number of tokens, at least {FEWEST}")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for tokenizer.json")
    parser.add_argument("--force", action="store_true", help="replace a tokenizer that is there")
    arguments = parser.parse_args(argv)
    path = arguments.out / "tokenizer.json"
    if not FEWEST <= arguments.vocab < 2**31:
        raise UserError(f"--vocab: found {arguments.vocab}, allowed: {FEWEST} to 2^31 - 1")
    if path.exists() and not arguments.force:
        raise UserError(f"{path}: exists already; --force replaces it")
    count = [0, 0]

    def texts():
        for _, text in text_documents.documents_of(arguments):
            count[0] += 1
            count[1] += len(text)
            yield text

    # Faults of the input come up inside the iterator: read once before, so that they do not get lost on the way through the library.
    for _ in texts():
        pass
    if count[0] == 0:
        raise UserError(f"{arguments.inputs[0]}: no text found to train on")
    tokenizer = train((text for _, text in text_documents.documents_of(arguments)), arguments.vocab)
    write(tokenizer, path)
    size = tokenizer.get_vocab_size()
    note = "" if size == arguments.vocab else f" (asked for {arguments.vocab}: the text has no more pairs to merge)"
    print(f"{path}: {size} tokens{note}, from {count[0]} documents of {count[1]} characters")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
