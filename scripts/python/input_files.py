"""Which files an input names, in order, and of what kind they are: files, folders of them, and folders saved by Hugging Face `datasets`."""

import json
import re

from command_errors import UserError
from compressed_files import SUFFIXES as COMPRESSED

FORMATS = {".txt": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".arrow": "arrow"}
KINDS = ("txt", "jsonl", "parquet", "arrow")
TABLES = ("parquet", "arrow")
_SPLIT_FILE = re.compile(r"(train|validation|valid|test|dev)-\d+-of-\d+")


def names_of(kinds):
    packed = " and ".join(f".{kind}" for kind in kinds if kind not in TABLES)
    return ", ".join(suffix for suffix, kind in FORMATS.items() if kind in kinds) + f"; {packed} also with .gz or .zst"


def input_files(inputs, given_format, split, kinds=KINDS):
    """(path, format) of the inputs in order, folders unfolded in sorted order; of a folder the files of the given kinds."""
    files = []
    for path in inputs:
        if path.is_dir():
            files += _folder(path, given_format, split, kinds)
        elif not path.exists():
            raise UserError(f"{path}: no such file or folder")
        else:
            kind = given_format or format_of(path)
            if kind not in kinds:
                raise UserError(f"{path}: unknown kind of file; allowed: {names_of(kinds)}; or say --format {'|'.join(kinds)}")
            files.append((path, kind))
    return files


def format_of(path):
    """By name; None where it tells nothing."""
    if path.suffix not in COMPRESSED:
        return FORMATS.get(path.suffix)
    kind = FORMATS.get(path.with_suffix("").suffix)
    return None if kind in TABLES else kind


def _folder(path, given_format, split, kinds):
    if (path / "dataset_dict.json").is_file():
        path = _split_of(path, split)
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        return [(path / name, "arrow") for name in _saved_names(path / "state.json")]
    # cache-….arrow are results of `map` that `datasets` keeps beside the data.
    found = sorted(file for file in path.rglob("*") if format_of(file) in kinds and file.is_file() and not file.name.startswith("cache-"))
    found = _files_of_split(path, found, split)
    if not found:
        raise UserError(f"{path}: a folder without a file that ends in {names_of(kinds)}")
    return [(file, given_format or format_of(file)) for file in found]


def _split_of(path, split):
    try:
        splits = json.loads((path / "dataset_dict.json").read_text())["splits"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path / 'dataset_dict.json'}: lists no splits: {error!r}") from None
    return path / _chosen(path, split, splits)


def _chosen(path, split, splits):
    """Never several at once: a held-out split that is trained on unawares cannot be told from the loss."""
    if split is None and len(splits) == 1:
        return splits[0]
    if split not in splits:
        raise UserError(f"{path}: --split: found {split or 'none'}, allowed: {', '.join(splits)}")
    return split


def _files_of_split(path, files, split):
    names = {file: match[1] for file in files if (match := _SPLIT_FILE.match(file.name))}
    if not names:
        return files
    chosen = _chosen(path, split, sorted(set(names.values())))
    return [file for file in files if names.get(file, chosen) == chosen]


def _saved_names(state):
    try:
        return [entry["filename"] for entry in json.loads(state.read_text())["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{state}: lists no data files: {error!r}") from None
