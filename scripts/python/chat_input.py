"""Records of conversations out of files: a JSON line is one, and so is a row of a table, turned into such a line."""

import json

from command_errors import UserError
from document_text import Fault, too_long
from text_documents import Reader

KINDS = ("jsonl", "parquet", "arrow")
ROWS = 64  # turned into Python objects at a time


class RecordReader(Reader):
    """`keys`: which columns of a table are read, as chat_records knows them."""

    kinds = KINDS

    def __init__(self, arguments, keys, start=None):
        super().__init__(arguments, start)
        self.keys = keys

    def of_line(self, line):
        return line

    def columns(self):
        def columns(schema, path):
            names = [name for name in schema.names if name in self.keys.known()]
            if not names:
                raise UserError(f"{path}: found the columns {', '.join(map(repr, schema.names[:8])) or 'none'}; expected messages, {self.keys.prompt} "
                                f"and {self.keys.completion}, or instruction and output (see --prompt-key, --completion-key)")
            return names, rows_of

        return columns

    def of_row(self, row):
        if row is None:
            raise Fault("not UTF-8", "holds a text that is not UTF-8")
        line = json.dumps(without_nulls(row), ensure_ascii=False)
        size = len(line.encode("utf-8", "surrogatepass"))
        if size > self.arguments.max_document_bytes:
            raise too_long(size, self.arguments.max_document_bytes)
        return line


def rows_of(batch):
    """Rows as dicts, None for one whose text is not UTF-8: tables promise that it is, nothing holds them to it."""
    for begin in range(0, batch.num_rows, ROWS):
        piece = batch.slice(begin, ROWS)
        try:
            yield from piece.to_pylist()
        except UnicodeDecodeError:
            for number in range(piece.num_rows):
                try:
                    yield piece.slice(number, 1).to_pylist()[0]
                except UnicodeDecodeError:
                    yield None


def without_nulls(value):
    """Columns give every message all keys that any of them has."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value
