"""Records of supervised fine-tuning: JSON objects to conversations. What is wrong with one is a Fault; whoever reads names its place.

Three shapes are known by their keys: `messages`, `prompt` and `completion` (strings, or lists of messages), alpaca (`instruction`, `input`,
`output`, perhaps `system` and `history`). In files a JSON line is a record, and so is a row of a table, turned into such a line."""

import json
from dataclasses import dataclass, field
from typing import NamedTuple

from command import UserError
from text.documents import Fault, Reader, object_of_line, string_of, too_long

KINDS = ("jsonl", "parquet", "arrow")
ROWS = 64  # turned into Python objects at a time

# Which roles may follow which; None is the beginning.
FOLLOWS = {None: {"system", "developer", "user"}, "system": {"user"}, "developer": {"user"}, "user": {"assistant"},
           "assistant": {"user", "tool"}, "tool": {"assistant", "tool"}}


@dataclass
class Record:
    """Either all of `messages`, the assistant's trained on; or what comes after `prompt`, which are the first messages or raw text."""

    place: str
    messages: list = field(default_factory=list)
    prompt_messages: int = 0  # that many of `messages` are the prompt; 0: markers in the template tell what is trained on
    prompt: str = None
    completion: str = None

    def texts(self):
        """Everything that was written by hand, as (where, text)."""
        if self.prompt is not None:
            return [("prompt", self.prompt), ("completion", self.completion)]
        return [(f"messages[{i}].content", message["content"]) for i, message in enumerate(self.messages)]


class Keys(NamedTuple):
    """How prompt and completion are called. `raw`: strings stay text, else they are a user's and an assistant's message."""

    prompt: str = "prompt"
    completion: str = "completion"
    raw: bool = False

    def known(self):
        return "messages", self.prompt, self.completion, "instruction", "input", "output", "system", "history"


def record_of(place, line, keys):
    """The Record of a JSON line."""
    record = object_of_line(line, "")
    if "messages" in record:
        return Record(place, _messages("messages", record["messages"], whole=True))
    if keys.prompt in record or keys.completion in record:
        return _prompt_completion(place, record, keys)
    if "instruction" in record:
        return _alpaca(place, record)
    raise Fault("no record", f"found the keys {', '.join(map(repr, list(record)[:8])) or 'none'}; expected messages, "
                f"{keys.prompt} and {keys.completion}, or instruction and output (see --prompt-key, --completion-key)")


def _text(record, key, default=None):
    if record.get(key) is None and default is not None:
        return default
    if record.get(key) is None:
        raise Fault("no text", f"key {key!r} is missing")
    return string_of(record, key)


def _messages(key, found, whole, before=None):
    """The messages of a list, their roles in order after role `before`; `whole`: they end with an answer."""
    if not isinstance(found, list) or not found:
        raise Fault("no messages", f"{key}: found {'no message' if isinstance(found, list) else type(found).__name__}, expected a list of messages")
    for i, message in enumerate(found):
        at = f"{key}[{i}]"
        if not isinstance(message, dict):
            raise Fault("no messages", f"{at}: found {type(message).__name__}, expected an object with role and content")
        role = message.get("role")
        if not isinstance(role, str) or role not in FOLLOWS:
            raise Fault("wrong role", f"{at}.role: found {role!r}, allowed: {', '.join(filter(None, FOLLOWS))}")
        if role not in FOLLOWS[before]:
            raise Fault("wrong role", f"{at}.role: {role} cannot {f'follow {before}' if before else 'be the first'}; "
                        f"allowed here: {', '.join(sorted(FOLLOWS[before]))}")
        _content(at, message)
        before = role
    if whole and before != "assistant":
        raise Fault("wrong role", f"{key}[{len(found) - 1}].role: the last message is the {before}'s; nothing answers it")
    return found


def _content(at, message):
    if "content" not in message:
        raise Fault("no text", f"{at}.content: is missing")
    try:
        string_of(message, "content")
    except Fault as fault:
        raise Fault(fault.kind, f"{at}.{fault.what}") from None


def _prompt_completion(place, record, keys):
    for key in (keys.prompt, keys.completion):
        if key not in record:
            raise Fault("no text", f"key {key!r} is missing; found: {', '.join(map(repr, list(record)[:8]))}")
    prompt, completion = record[keys.prompt], record[keys.completion]
    if isinstance(prompt, list) or isinstance(completion, list):
        prompt = _messages(keys.prompt, prompt, whole=False)
        return Record(place, prompt + _messages(keys.completion, completion, True, prompt[-1]["role"]), len(prompt))
    prompt, completion = _text(record, keys.prompt), _text(record, keys.completion)
    if keys.raw:
        return Record(place, prompt=prompt, completion=completion)
    return Record(place, [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}], 1)


def _alpaca(place, record):
    """Answers in `history` are trained on too, which takes a template with markers."""
    system, instruction = _text(record, "system", ""), _text(record, "instruction")
    more, output = _text(record, "input", ""), _text(record, "output")
    messages = [{"role": "system", "content": system}] if system else []
    history = record.get("history") or []
    if not isinstance(history, list) or any(not isinstance(turn, list) or len(turn) != 2 or not all(isinstance(text, str) for text in turn)
                                            for turn in history):
        raise Fault("no messages", f"history: expected a list of [instruction, output] pairs of strings")
    for asked, answered in history:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    messages += [{"role": "user", "content": f"{instruction}\n\n{more}" if more else instruction}, {"role": "assistant", "content": output}]
    return Record(place, messages, 0 if history else len(messages) - 1)


class RecordReader(Reader):
    """`keys`: which columns of a table are read, as record_of knows them."""

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
