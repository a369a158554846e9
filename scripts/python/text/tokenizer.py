"""A tokenizer.json: opened, the one of a checkpoint found, its end-of-text token, what it puts before a text, the size of its vocabulary; and
`meristem data train-tokenizer INPUT… --vocab N --out DIR`, which trains a byte-level BPE on text and writes DIR/tokenizer.json.

Every byte has a token, so every text can be written; <|endoftext|> has id 0. The same text in the same order gives the same tokenizer."""

import json
import sys
from pathlib import Path

from command import Parser, UserError, publish, read_utf8, reported
from text import documents

END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>")
FEWEST = 257  # 256 bytes and the end of text


def load_tokenizer(path, read_special=False):
    """(tokenizer, path of its file). Special tokens inside a text are text: one that holds "<|endoftext|>" must not end a document. Unless
    `read_special`: in a prompt they are what they say."""
    from tokenizers import Tokenizer

    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.exists():
        raise UserError(f"{path}: no such tokenizer")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"{path}: not a tokenizer: {str(error).splitlines()[0]}") from None
    tokenizer.encode_special_tokens = not read_special
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer, path


def find_tokenizer(checkpoint):
    """The tokenizer.json that belongs to a checkpoint or run folder: in it, or in the run folder of a checkpoint (a run keeps its own copy), else the one its
    config names. What else lies above is somebody else's."""
    for folder in own_folders(checkpoint):
        if (folder / "tokenizer.json").is_file():
            return folder / "tokenizer.json"
    for folder in own_folders(checkpoint):
        path = _configured_tokenizer(folder)
        if path is not None and path.is_file():
            return path
    raise UserError(f"{checkpoint}: no tokenizer.json there, and its config names none that exists; give one with --tokenizer, or ids with --prompt-ids")


def own_folders(checkpoint):
    """Of a checkpoint or run folder: itself, and the run folder of a checkpoint."""
    own = checkpoint.resolve()
    return [checkpoint, *([own.parents[1]] if own.parent.name == "checkpoints" else [])]


def _configured_tokenizer(folder):
    import yaml

    if (folder / "state.json").is_file():
        text = json.loads((folder / "state.json").read_text()).get("config_yaml", "")
    elif (folder / "config.yaml").is_file():
        text = (folder / "config.yaml").read_text()
    else:
        return None
    name = ((yaml.safe_load(text) or {}).get("data") or {}).get("tokenizer")
    return Path(name) if name else None


def known_end_of_text(tokenizer, names=END_OF_TEXT):
    """The id of the first of the names that the tokenizer knows, else None."""
    return next((found for name in names if (found := tokenizer.token_to_id(name)) is not None), None)


def end_of_text_id(tokenizer, given, path):
    names = (given,) if given else END_OF_TEXT
    found = known_end_of_text(tokenizer, names)
    if found is None:
        raise UserError(f"{path}: has no token {' or '.join(names)}; name its end-of-text token with --end-of-text")
    return found


def vocabulary_size(tokenizer):
    """One more than the largest id."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def known_vocabulary(folder):
    """(size, where it says so) of the model in the tokenizer's folder: of config.json as Hugging Face writes it, or of a checkpoint; (None, "") without one."""
    import yaml

    size, where = json_beside(folder, "config.json").get("vocab_size"), folder / "config.json"
    if size is None and (folder / "state.json").is_file():
        config, where = yaml.safe_load(json_beside(folder, "state.json").get("config_yaml", "")), folder / "state.json"
        size = ((config or {}).get("model") or {}).get("vocab_size")
    return (size, where) if isinstance(size, int) else (None, "")


def json_beside(folder, name):
    """The object in a JSON file of the tokenizer's folder; empty where there is no such file."""
    path = folder / name
    if not path.is_file():
        return {}
    try:
        found = json.loads(read_utf8(path))
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from None
    except RecursionError:
        raise UserError(f"{path}: not JSON: nested too deeply") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: found {type(found).__name__}, expected an object")
    return found


def special_tokens(folder, end_of_text):
    """Special tokens by the names that templates use, from tokenizer_config.json and special_tokens_map.json; eos_token is `end_of_text`
    where they name none."""
    tokens = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        for key, value in json_beside(folder, name).items():
            value = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(value, str):
                tokens[key] = value
    if end_of_text is not None:
        tokens.setdefault("eos_token", end_of_text)
    return tokens


# What stands before every text.


def add_bos_argument(parser):
    parser.add_argument("--bos", choices=("auto", "yes", "no"), default="auto",
                        help="the token before every text: where the tokenizer's post-processor puts one (auto, the default), always, or never")


def begin_ids(tokenizer, path, wish, trained_with=None):
    """The ids before every text, often none. `wish`: what --bos says. `trained_with`: those of the run, which is what auto means for its checkpoints."""
    if wish == "no":
        return []
    if wish == "auto" and trained_with is not None:
        return trained_with
    found = _post_processed(tokenizer)
    if not found and wish == "yes":
        name = special_tokens(path.parent, None).get("bos_token")
        token = name and tokenizer.token_to_id(name)
        if token is None:
            raise UserError(f"--bos yes: {path}: its post-processor puts no token before a text, and "
                            + (f"it has no token {name}" if name else "no tokenizer_config.json beside it names a bos_token"))
        found = [token]
    return found


def _post_processed(tokenizer):
    """What the post-processor puts before a text."""
    def ids_of(text, special):
        try:
            return tokenizer.encode(text, add_special_tokens=special).ids
        except Exception:  # a tokenizer without an unknown token, at a character that it does not know
            return []

    probe = next((text for text in ("a", *tokenizer.get_vocab()) if ids_of(text, special=False)), "")
    bare, whole = ids_of(probe, special=False), ids_of(probe, special=True)
    at = next((at for at in range(len(whole)) if whole[at : at + len(bare)] == bare), 0)
    return whole[:at]


def texts_of_run(checkpoint):
    """(ids before every text, id behind it) of what the run was trained on; None for what its folder does not tell."""
    found = _text_json(checkpoint)
    return found.get("begin_of_text"), found.get("end_of_text")


def _text_json(checkpoint):
    for folder in own_folders(checkpoint):
        found, path = json_beside(folder, "text.json"), folder / "text.json"
        if not found:
            continue
        lists = [found.get(key) or [] for key in ("begin_of_text", "end_of_turn")]
        if not all(isinstance(ids, list) for ids in lists) or not all(isinstance(token, int) for token in [*sum(lists, []), found.get("end_of_text") or 0]):
            raise UserError(f"{path}: found {found}, expected begin_of_text and end_of_turn, lists of token ids, and end_of_text, an id")
        return found
    return {}


def ending_ids(checkpoint, tokenizer, path):
    """The ids at which a text of the checkpoint ends: what its training data ended with, which comes first, and what the files beside the tokenizer
    name; where nothing is named, the usual end of text. An export says the same (src/interop/token_ids.h)."""
    made, folder = _text_json(checkpoint), path.parent
    ids = [made["end_of_text"]] if made.get("end_of_text") is not None else []
    ids += made.get("end_of_turn") or []
    for name in ("generation_config.json", "config.json"):
        found = json_beside(folder, name).get("eos_token_id")
        named = found if isinstance(found, list) else [] if found is None else [found]
        if not all(isinstance(token, int) for token in named):
            raise UserError(f"{folder / name}: eos_token_id: found {found}, expected a token id or a list of them")
        ids += named
    eos = tokenizer.token_to_id(special_tokens(folder, None).get("eos_token", ""))
    ids += [] if eos is None else [eos]
    usual = known_end_of_text(tokenizer)
    return list(dict.fromkeys(ids if ids or usual is None else [usual]))


def begun(begin, ids):
    """With what stands before every text, unless it stands there already."""
    return ids if ids[: len(begin)] == begin else [*begin, *ids]


def train(texts, vocab_size):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[END_OF_TEXT[0]], show_progress=sys.stderr.isatty(),
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def parse(argv):
    parser = Parser(prog="meristem data train-tokenizer", description="Train a byte-level BPE tokenizer on text.")
    documents.add_arguments(parser)
    parser.add_argument("--vocab", type=int, required=True, metavar="N", help=f"number of tokens, at least {FEWEST}")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for tokenizer.json")
    parser.add_argument("--force", action="store_true", help="replace a tokenizer that is there")
    arguments = parser.parse_args(argv)
    if not FEWEST <= arguments.vocab < 2**31:
        raise UserError(f"--vocab: found {arguments.vocab}, allowed: {FEWEST} to 2^31 - 1")
    if (arguments.out / "tokenizer.json").exists() and not arguments.force:
        raise UserError(f"{arguments.out / 'tokenizer.json'}: exists already; --force replaces it")
    return arguments


@reported
def main(argv):
    arguments = parse(argv)
    # Faults of the input come up inside the iterator: read once before, so that they do not get lost on the way through the library.
    count = characters = 0
    for _, text in documents.documents_of(arguments):
        count, characters = count + 1, characters + len(text)
    if count == 0:
        raise UserError(f"{arguments.inputs[0]}: no text found to train on")
    tokenizer = train((text for _, text in documents.documents_of(arguments, say=False)), arguments.vocab)
    path = arguments.out / "tokenizer.json"
    publish(path, lambda beside: beside.write_text(tokenizer.to_str(), encoding="utf-8"), replace=arguments.force)
    size = tokenizer.get_vocab_size()
    note = "" if size == arguments.vocab else f" (asked for {arguments.vocab}: the text has no more pairs to merge)"
    print(f"{path}: {size} tokens{note}, from {count} documents of {characters} characters")
    return 0
