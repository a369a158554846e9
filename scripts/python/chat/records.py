"""Records of supervised fine-tuning: JSON objects to conversations. What is wrong with one is a Fault; whoever reads names its place.

Three shapes are known by their keys: `messages`, `prompt` and `completion` (strings, or lists of messages), alpaca (`instruction`, `input`,
`output`, perhaps `system` and `history`). In files a JSON line is a record, and so is a row of a table, turned into such a line."""

import json
import re
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from command import UserError
from text.documents import Fault, Reader, object_of_line, string_of, too_long

HALF = re.compile("[\ud800-\udfff]")
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
    tools: list = None  # that the assistant may call

    def texts(self):
        """Everything that was written by hand, as (where, text)."""
        if self.prompt is not None:
            return [("prompt", self.prompt), ("completion", self.completion)]
        return [*texts_of("messages", self.messages), *texts_of("tools", self.tools or [])]

    @property
    def answers(self):
        """Whether the assistant says or does anything at all."""
        if self.prompt is not None:
            return bool(self.completion.strip())
        return any((message["content"] or "").strip() or calls_of(message) for message in self.messages if message["role"] == "assistant")

    def with_line_ends(self, change):
        """The record with change(text) in place of every text."""
        if self.prompt is not None:
            return replace(self, prompt=change(self.prompt), completion=change(self.completion))
        return replace(self, messages=changed(self.messages, change), tools=changed(self.tools, change))


def texts_of(where, value):
    """(where, text) of the texts of a JSON value, keys included."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from texts_of(f"{where}[{number}]", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield where, key
            yield from texts_of(f"{where}.{key}", item)


def changed(value, change):
    """The JSON value with change(text) in place of its texts."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [changed(item, change) for item in value]
    return {key: changed(item, change) for key, item in value.items()} if isinstance(value, dict) else value


def calls_of(message):
    return message.get("tool_calls") or message.get("function_call")


class Keys(NamedTuple):
    """How prompt and completion are called. `raw`: strings stay text, else they are a user's and an assistant's message."""

    prompt: str = "prompt"
    completion: str = "completion"
    raw: bool = False

    def known(self):
        return "messages", self.prompt, self.completion, "instruction", "input", "output", "system", "history", "tools", "functions"


def record_of(place, line, keys):
    """The Record of a JSON line."""
    found = object_of_line(line, "")
    record = replace(_record_of(place, found, keys), tools=_tools(found))
    for where, text in record.texts():
        if HALF.search(text):
            raise Fault("half a character", f"{where}: holds half a character (a lone surrogate)")
    return record


def _record_of(place, record, keys):
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
        role = {"function": "tool"}.get(message.get("role"), message.get("role")) if isinstance(message.get("role"), str) else message.get("role")
        if not isinstance(role, str) or role not in FOLLOWS:
            raise Fault("wrong role", f"{at}.role: found {role!r}, allowed: {', '.join(filter(None, FOLLOWS))}")
        if role not in FOLLOWS[before]:
            raise Fault("wrong role", f"{at}.role: {role} cannot {f'follow {before}' if before else 'be the first'}; "
                        f"allowed here: {', '.join(sorted(FOLLOWS[before]))}")
        found[i] = _with_content(at, {**message, "role": role})
        before = role
    if whole and before != "assistant":
        raise Fault("wrong role", f"{key}[{len(found) - 1}].role: the last message is the {before}'s; nothing answers it")
    return found


def _with_content(at, message):
    """The message with a content, which is null where it calls tools and says nothing, and with what it calls them with as an object, which is how templates
    expect it."""
    calls = calls_of(message)
    if message.get("content") is None and not (calls and message["role"] == "assistant"):
        raise Fault("no text", f"{at}.content: {'found null, expected a string' if 'content' in message else 'is missing'}")
    if isinstance(message.get("content"), list):
        message = {**message, "content": _joined(f"{at}.content", message["content"])}
    if message.get("content") is not None:
        try:
            string_of(message, "content")
        except Fault as fault:
            raise Fault(fault.kind, f"{at}.{fault.what}") from None
    message = {**message, "content": message.get("content")}
    if message.get("tool_calls"):
        if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
            raise Fault("wrong tool call", f"{at}.tool_calls: expected a list of objects")
        message["tool_calls"] = [_parsed_call(call) for call in calls]
    elif message.get("function_call"):
        if not isinstance(calls, dict):
            raise Fault("wrong tool call", f"{at}.function_call: found {type(calls).__name__}, expected an object")
        message["tool_calls"] = [{"type": "function", "function": _parsed_call(message.pop("function_call"))}]
    return message


def _joined(at, parts):
    """The text of a content that is written as a list of parts, as chat services have it."""
    for i, part in enumerate(parts):
        kind = part.get("type") if isinstance(part, dict) else type(part).__name__
        if kind not in ("text", "input_text", "output_text") or not isinstance(part.get("text"), str):
            raise Fault("wrong content", f"{at}[{i}]: found a part of type {kind!r}; allowed: parts of type text, with a text")
    return "".join(part["text"] for part in parts)


def _parsed_call(call):
    """With its arguments as an object, where they are the text of one."""
    if isinstance(call.get("function"), dict):
        return {**call, "function": _parsed_call(call["function"])}
    if isinstance(call.get("arguments"), str):
        try:
            parsed = json.loads(call["arguments"])
        except (ValueError, RecursionError):
            return call
        return {**call, "arguments": parsed} if isinstance(parsed, dict) else call
    return call


def _tools(record):
    """The tools of a record: a list of objects, or its JSON text, as tables keep it; older ones are called functions. None where it has none."""
    key = "tools" if record.get("tools") is not None else "functions"
    found = record.get(key)
    if isinstance(found, str):
        try:
            found = json.loads(found) if found.strip() else None
        except (ValueError, RecursionError):
            raise Fault("wrong tools", f"{key}: a text that is not JSON") from None
    if not found:
        return None
    if not isinstance(found, list) or not all(isinstance(tool, dict) for tool in found):
        raise Fault("wrong tools", f"{key}: found {type(found).__name__}, expected a list of objects")
    return [{"type": "function", "function": tool} for tool in found] if key == "functions" else found


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

    def with_line_ends(self, text, kind):
        return text, ""  # those inside the strings of the record are looked at where it is one

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
