"""Documents out of text files: .txt (a file is a document, unless it is split) and .jsonl (a line is a document)."""

import json
import re
from pathlib import Path

from command_errors import UserError

FORMATS = {".txt": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl"}


def add_arguments(parser):
    """The arguments that say what is read."""
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT",
                        help="a .txt or .jsonl file, or a folder of them (read in sorted order)")
    parser.add_argument("--key", default="text", help="the key of a JSON line that holds the text (default: text)")
    parser.add_argument("--format", choices=("txt", "jsonl"), help="what the files are, where their names do not say")
    split = parser.add_mutually_exclusive_group()
    split.add_argument("--split-on", choices=("blank",), help="in .txt files, blank lines separate documents")
    split.add_argument("--document-separator", metavar="TEXT", help="in .txt files, this text separates documents, such as '<|endoftext|>'")


def documents_of(arguments):
    """Yields (place, text) of every document that is not empty; `place` is FILE, FILE:LINE or FILE: document N, for messages."""
    if arguments.document_separator == "":
        raise UserError("--document-separator: found an empty text")
    for path, kind in _files(arguments.inputs, arguments.format):
        if kind == "jsonl":
            yield from _json_lines(path, arguments.key)
        else:
            yield from _text_file(path, arguments.split_on, arguments.document_separator)


def _files(inputs, given_format):
    """Yields (path, format) of the inputs in order, folders unfolded."""
    for path in inputs:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.suffix in FORMATS and file.is_file())
            if not found:
                raise UserError(f"{path}: a folder without a file that ends in {', '.join(FORMATS)}")
            for file in found:
                yield file, given_format or FORMATS[file.suffix]
        elif not path.exists():
            raise UserError(f"{path}: no such file or folder")
        elif given_format is None and path.suffix not in FORMATS:
            raise UserError(f"{path}: unknown kind of file; allowed: {', '.join(FORMATS)}, or say --format txt|jsonl")
        else:
            yield path, given_format or FORMATS[path.suffix]


def _decode(data, offset, place):
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"0x{data[error.start]:02x}"
        raise UserError(f"{place}: byte {offset + error.start}: not UTF-8 (found {found}); convert the file first") from None
    return text.removeprefix("\ufeff") if offset == 0 else text


def _text_file(path, split_on, separator):
    text = _decode(path.read_bytes(), 0, path)
    if split_on is None and separator is None:
        if text.strip():
            yield str(path), text
        return
    # Behind a blank line may follow more of them; a document keeps its own line ends.
    parts = re.split(r"\n(?:[ \t\r]*\n)+", text) if split_on else text.split(separator)
    for number, part in enumerate(parts, start=1):
        if part.strip():
            yield f"{path}: document {number}", part


def _json_lines(path, key):
    offset = 0
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            place = f"{path}:{number}"
            text = _decode(line, offset, place)
            offset += len(line)
            if not text.strip():
                continue
            document = _text_of(text, key, place)
            if document.strip():
                yield place, document


def _text_of(line, key, place):
    try:
        record = json.loads(line.rstrip("\r\n"))
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: broken JSON at column {error.colno}: {error.msg}") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{place}: broken JSON: {error}") from None
    except RecursionError:
        raise UserError(f"{place}: broken JSON: nested too deeply") from None
    if not isinstance(record, dict):
        raise UserError(f"{place}: found {type(record).__name__}, expected an object with the key {key!r}")
    if key not in record:
        raise UserError(f"{place}: key {key!r} is missing; found: {', '.join(map(repr, list(record)[:8])) or 'no key'} (see --key)")
    text = record[key]
    if not isinstance(text, str):
        raise UserError(f"{place}: {key}: found {type(text).__name__}, expected a string")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{place}: {key}: holds half a character (a lone surrogate)") from None
    return text
