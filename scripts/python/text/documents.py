"""Documents out of files, one at a time: .txt (a file is a document, unless it is split), .jsonl (a line is one), parquet and arrow (a row is one).

Reading can begin at any place it came to before, so that a job that was stopped goes on; memory is bounded by the longest document allowed."""

import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

from command import UserError
from text import tables
from text.inputs import KINDS, ByteStream, input_files

LONGEST = 4 << 20


class Fault(Exception):
    """Its kind, by which bad documents are counted, and what is wrong, for a message that names the place."""

    def __init__(self, kind, what):
        self.kind, self.what = kind, what


def too_long(found, longest):
    return Fault("too long", f"more than --max-document-bytes: found {found} bytes or more, allowed {longest}; raise it (tokenizing takes about 150 "
                 "times a document's bytes of memory), or leave such documents out with --skip-bad")


def decoded(data, offset, longest):
    if data is None:  # a part that was too long to keep
        raise too_long(longest + 1, longest)
    if len(data) > longest:
        raise too_long(len(data), longest)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"0x{data[error.start]:02x}"
        hint = "; it looks like UTF-16" if offset == 0 and bytes(data[:2]) in (b"\xff\xfe", b"\xfe\xff") else ""
        raise Fault("not UTF-8", f"byte {offset + error.start}: not UTF-8 (found {found}){hint}; convert the file first") from None
    return text.removeprefix("\ufeff") if offset == 0 else text


def text_of_row(data, arguments):
    if data is None:
        raise Fault("null", f"{arguments.key}: found null, expected a string")
    return decoded(data, 0, arguments.max_document_bytes)


def object_of_line(line, expected):
    """The object of a line that is not blank."""
    try:
        record = json.loads(line.rstrip("\r\n"))
    except json.JSONDecodeError as error:
        raise Fault("broken JSON", f"broken JSON at column {error.colno}: {error.msg}") from None
    except ValueError as error:  # a number of thousands of digits
        raise Fault("broken JSON", f"broken JSON: {error}") from None
    except RecursionError:
        raise Fault("broken JSON", "broken JSON: nested too deeply") from None
    if not isinstance(record, dict):
        raise Fault("no object", f"found {type(record).__name__}, expected an object{expected}")
    return record


def string_of(record, key):
    """The text under a key that is there."""
    text = record[key]
    if not isinstance(text, str):
        raise Fault("no text", f"{key}: found {type(text).__name__}, expected a string")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise Fault("half a character", f"{key}: holds half a character (a lone surrogate)") from None
    return text


def json_lines(path):
    """(FILE:LINE, object) of every line that is not blank. A line ends with a line feed, and with no other of the characters that Unicode calls line ends; a bad
    one is a UserError."""
    with ByteStream(path) as stream:
        offset = number = 0
        while line := stream.readline(-1):
            number += 1
            place = f"{path}:{number}"
            try:
                text = decoded(line, offset, len(line))
                if text.strip():
                    yield place, object_of_line(text, "")
            except Fault as fault:
                raise UserError(f"{place}: {fault.what}") from None
            offset += len(line)


def text_of_line(line, key):
    if not line.strip():
        return ""
    record = object_of_line(line, f" with the key {key!r}")
    if key not in record:
        raise Fault("no text", f"key {key!r} is missing; found: {', '.join(map(repr, list(record)[:8])) or 'no key'} (see --key)")
    return string_of(record, key)


MADE, KEPT = "line ends made", "line ends kept"  # what became of \r\n and \r


def plain_line_ends(text):
    return text.replace("\r\n", "\n").replace("\r", "\n")


def say_line_ends(noted, what):
    """`noted`: entries of a count and the first places, by MADE and KEPT."""
    for kind, done in ((MADE, "made \\n; --line-ends keep leaves them as they are"),
                       (KEPT, "left as they are; --line-ends lf makes them \\n")):
        if kind in noted:
            print(f"meristem: note: line ends \\r\\n or \\r in {noted[kind]['count']:,} {what} {done}; the first: {noted[kind]['named'][0]}", file=sys.stderr)


class Document(NamedTuple):
    place: str            # FILE, FILE:LINE, FILE: document N or FILE: row N, for messages
    text: str | None      # None where the document is bad
    after: list           # [file number, position in the file]: what follows, for Reader(start=…)
    fault: str = ""       # of a bad document: its kind,
    what: str = ""        # and what is wrong, without the place
    noted: str = ""       # what became of its line ends, where there is something to say: MADE or KEPT


def add_input_arguments(parser, kinds):
    """The arguments that say which files are read."""
    names = {"txt": ".txt (also .gz, .zst)", "jsonl": ".jsonl (also .gz, .zst)", "parquet": ".parquet", "arrow": ".arrow"}
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT",
                        help=f"a {', '.join(names[kind] for kind in kinds)} file, a folder of them (read in sorted order), "
                             "or a folder saved by Hugging Face datasets")
    parser.add_argument("--format", choices=kinds, help="what the files are, where their names do not say")
    parser.add_argument("--split", metavar="NAME", help="which split of a data set, where a folder holds several")
    parser.add_argument("--max-document-bytes", type=int, default=LONGEST, metavar="N",
                        help=f"a longer document or JSON line is an error (default: {LONGEST}); memory follows it")
    parser.add_argument("--line-ends", choices=("auto", "lf", "keep"), default="auto",
                        help="\\r\\n and \\r become \\n in .txt files (auto, the default), also inside the strings of JSON and of tables (lf), or nowhere (keep)")


def add_arguments(parser):
    """The arguments that say what is read of plain text."""
    add_input_arguments(parser, KINDS)
    parser.add_argument("--key", default="text", help="the key of a JSON line, or the column of a table, that holds the text (default: text)")
    split = parser.add_mutually_exclusive_group()
    split.add_argument("--split-on", choices=("blank",), help="in .txt files, blank lines separate documents")
    split.add_argument("--document-separator", metavar="TEXT", help="in .txt files, this text separates documents, such as '<|endoftext|>'")


def documents_of(arguments, say=True):
    """Yields (place, text) of every document that is not empty; the first bad one is a UserError. With `say`, what became of line ends is said
    in the end."""
    noted = {}
    for document in Reader(arguments):
        if document.text is None:
            raise UserError(f"{document.place}: {document.what}")
        if document.noted:
            noted.setdefault(document.noted, {"count": 0, "named": [document.place]})["count"] += 1
        yield document.place, document.text
    if say:
        say_line_ends(noted, "documents")


class Reader:
    """Iterates over Documents, empty ones left out. `share()` says how much of the input has been read, 0 to 1.

    A subclass may read other things than texts: it says of which `kinds` its files are, and what a line and a row are worth."""

    kinds = KINDS

    def __init__(self, arguments, start=None):
        if arguments.document_separator == "":
            raise UserError("--document-separator: found an empty text")
        if arguments.max_document_bytes < 1:
            raise UserError(f"--max-document-bytes: found {arguments.max_document_bytes}, allowed: 1 or more")
        self.files = input_files(arguments.inputs, arguments.format, arguments.split, self.kinds)
        self.arguments, self.start = arguments, start or [0, None]
        self.undivided = []  # files without the separator that should divide them
        self.sizes = [path.stat().st_size for path, _ in self.files]
        self.finished, self.position = sum(self.sizes[: self.start[0]]), lambda: 0

    @property
    def total_bytes(self):
        return sum(self.sizes)

    def share(self):
        return (self.finished + self.position()) / max(1, self.total_bytes)

    def __iter__(self):
        read = {"txt": self._text, "jsonl": self._json_lines, "parquet": self._table, "arrow": self._table}
        for number in range(self.start[0], len(self.files)):
            path, kind = self.files[number]
            start = self.start[1] if number == self.start[0] else None
            for place, content, position in read[kind](path, kind, start):
                after = [number, position] if position is not None else [number + 1, None]
                if isinstance(content, Fault):
                    yield Document(place, None, after, content.kind, content.what)
                elif content.strip():
                    content, noted = self.with_line_ends(content, kind)
                    yield Document(place, content, after, noted=noted)
            self.finished, self.position = self.finished + self.sizes[number], lambda: 0
        if self.undivided:
            print(f"meristem: note: the separator {self.arguments.document_separator!r} does not occur in {len(self.undivided)} of {len(self.files)} files: "
                  f"{self.undivided[0]}{' and others' if len(self.undivided) > 1 else ''}", file=sys.stderr)

    def with_line_ends(self, text, kind):
        """(text, what became of its line ends). Of a .txt file they are how it was saved; a string of JSON or of a table says \\r where it means it."""
        if "\r" not in text:
            return text, ""
        if self.arguments.line_ends == "lf" or (kind == "txt" and self.arguments.line_ends == "auto"):
            return plain_line_ends(text), MADE
        return text, KEPT if self.arguments.line_ends == "auto" else ""

    def of_line(self, line):
        return text_of_line(line, self.arguments.key)

    def columns(self):
        return tables.text_column(self.arguments.key)

    def of_row(self, data):
        return text_of_row(data, self.arguments)

    # Each yields (place, text or Fault, position after it; None at the end of the file).

    def _table(self, path, kind, start):
        rows = tables.parquet_rows if kind == "parquet" else tables.arrow_rows
        for row, data in rows(path, self.columns(), start or 0):
            place = f"{path}: row {row}"
            yield place, self._checked(lambda: self.of_row(data)), row + 1

    def _text(self, path, kind, start):
        with ByteStream(path) as stream:
            self.position = lambda: stream.raw_position
            longest = self.arguments.max_document_bytes
            split = self.arguments.split_on or self.arguments.document_separator
            offset, number = start or (0, 0)
            stream.skip(offset)
            if not split:
                if start is None:
                    yield str(path), self._one_text(stream), None
                return
            parts, divided = blank_parts if self.arguments.split_on else separated_parts, False
            for begin, offset, data in parts(stream, self.arguments, offset):
                number += 1
                divided = divided or number > 1 or (data is not None and offset > begin + len(data))
                yield f"{path}: document {number}", self._checked(lambda: decoded(data, begin, longest)), [offset, number]
            if self.arguments.document_separator and number and not divided:
                self.undivided.append(path)

    def _one_text(self, stream):
        data, longest = bytearray(), self.arguments.max_document_bytes
        while len(data) <= longest and (piece := stream.read(1 << 20)):
            data += piece
        fault = self._checked(lambda: decoded(data, 0, longest))
        if isinstance(fault, Fault) and fault.kind == "too long":
            fault.what += "; --split-on blank or --document-separator TEXT make several documents of a file"
        return fault

    def _json_lines(self, path, kind, start):
        longest = self.arguments.max_document_bytes
        offset, number = start or (0, 0)
        with ByteStream(path) as stream:
            self.position = lambda: stream.raw_position
            stream.skip(offset)
            while line := stream.readline(longest + 2):
                number += 1
                length = len(line)
                begin, offset = offset, offset + length
                if length > longest and not line.endswith(b"\n"):
                    offset += rest_of_line(stream)
                    content = too_long(offset - begin, longest)
                else:
                    content = self._checked(lambda: self.of_line(decoded(line, begin, longest + 2)))
                yield f"{path}:{number}", content, [offset, number]

    @staticmethod
    def _checked(read):
        try:
            return read()
        except Fault as fault:
            return fault


# A stream of bytes cut into lines and documents without holding more than one of them.


def rest_of_line(stream):
    """Reads to the end of the line; returns how many bytes that took."""
    count = 0
    while piece := stream.readline(1 << 20):
        count += len(piece)
        if piece.endswith(b"\n"):
            break
    return count


def text_lines(stream, longest=1 << 20):
    """Lines that end with \\n, \\r\\n or \\r, in pieces where they are long."""
    while piece := stream.readline(longest):
        if piece.endswith(b"\r"):
            piece += stream.readline(1)  # its \n, or the first byte of the next line
        yield from re.split(rb"(?<=\r)(?!\n|\Z)", piece) if b"\r" in piece else (piece,)


def blank_parts(stream, arguments, offset):
    """(begin, offset after, bytes) of what one or more blank lines separate. A document keeps its own line ends but the last before a blank
    line; its first line may be blank itself. Bytes are None where they are too many."""
    longest = arguments.max_document_bytes
    begin, part, new_line, between = offset, bytearray(), True, offset > 0  # where reading goes on, a separator went before
    for piece in text_lines(stream):
        blank = new_line and piece.endswith((b"\n", b"\r")) and not piece.strip(b" \t\r\n")
        new_line = piece.endswith((b"\n", b"\r"))
        offset += len(piece)
        if blank and between:
            begin = offset
        elif blank and part != b"":
            yield begin, offset, part.removesuffix(b"\n").removesuffix(b"\r") if part is not None else None
            begin, part, between = offset, bytearray(), True
        else:
            between = False
            if part is not None:
                part += piece
                part = part if len(part) <= longest + 2 else None
    if part != b"":
        yield begin, offset, part


def separated_parts(stream, arguments, offset):
    """The same, of what the separator's bytes separate; a line break in it may be written in any of the ways that files have."""
    separator, longest = arguments.document_separator.encode(), arguments.max_document_bytes
    pattern = re.escape(separator)
    if arguments.line_ends != "keep":
        pattern = pattern.replace(b"\\\n", rb"(?:\r\n|\n|\r)")
    pattern, most = re.compile(pattern), len(separator) + separator.count(b"\n")
    begin, part, long, piece = offset, bytearray(), False, b"first"
    while piece:
        piece = stream.read(1 << 18)
        seen = max(0, len(part) - most)
        part += piece
        while (found := pattern.search(part, seen)) and (found.end() < len(part) or not piece):  # at the very end it may go on
            at, after = found.start(), begin + found.end()
            yield begin, after, None if long or at > longest else part[:at]
            del part[: found.end()]
            begin, seen, long = after, 0, False
        if long or len(part) > longest + most:  # keep what may be the beginning of a separator
            keep = min(len(part), most)
            begin += len(part) - keep
            del part[: len(part) - keep]
            long = True
    if part or long:
        yield begin, begin + len(part), None if long else part
