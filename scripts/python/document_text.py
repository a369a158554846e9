"""The text of one document from bytes, a JSON line or a table's row; what is wrong with it is a Fault."""

import json


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


def text_of_line(line, key):
    if not line.strip():
        return ""
    record = object_of_line(line, f" with the key {key!r}")
    if key not in record:
        raise Fault("no text", f"key {key!r} is missing; found: {', '.join(map(repr, list(record)[:8])) or 'no key'} (see --key)")
    return string_of(record, key)
