"""A tokenizer.json: opened, its end-of-text token, the size of its vocabulary."""

from command_errors import UserError

END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")


def load_tokenizer(path):
    """(tokenizer, path of its file). Special tokens inside a text are text: one that holds "<|endoftext|>" must not end a document."""
    from tokenizers import Tokenizer

    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.exists():
        raise UserError(f"{path}: no such tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"{path}: not a tokenizer: {str(error).splitlines()[0]}") from None
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


def vocabulary_size(tokenizer):
    """One more than the largest id."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
