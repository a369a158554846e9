"""Records of supervised fine-tuning: lines of JSONL to conversations. Every error names the record as FILE:LINE.

Three shapes are known by their keys: `messages`, `prompt` and `completion` (strings, or lists of messages), alpaca (`instruction`, `input`,
`output`, perhaps `system` and `history`)."""

import gzip
import json
from dataclasses import dataclass, field

from command_errors import UserError

SUFFIXES = (".jsonl", ".ndjson", ".jsonl.gz")
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


def records_of(inputs, prompt_key, completion_key, raw):
    """Yields a Record for each line that is not blank. `raw`: prompt and completion strings stay text, else they are a user's and an
    assistant's message."""
    for path in _files(inputs):
        for place, line in _lines(path):
            yield _record(place, _object(place, line), prompt_key, completion_key, raw)


def _files(inputs):
    for path in inputs:
        if path.is_dir():
            found = sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES) and file.is_file())
            if not found:
                raise UserError(f"{path}: a folder without a file that ends in {', '.join(SUFFIXES)}")
            yield from found
        elif not path.exists():
            raise UserError(f"{path}: no such file or folder")
        elif not path.name.endswith(SUFFIXES):
            raise UserError(f"{path}: --chat reads {', '.join(SUFFIXES)}")
        else:
            yield path


def _lines(path):
    offset = 0
    with (gzip.open if path.name.endswith(".gz") else open)(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{path}:{number}: byte {offset + error.start}: not UTF-8; convert the file first") from None
            offset += len(line)
            text = text.removeprefix("\ufeff").strip()
            if text:
                yield f"{path}:{number}", text


def _object(place, line):
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{place}: broken JSON at column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: broken JSON: {error}") from None
    if not isinstance(record, dict):
        raise UserError(f"{place}: found {type(record).__name__}, expected an object")
    return record


def _record(place, record, prompt_key, completion_key, raw):
    if "messages" in record:
        return Record(place, _messages(place, "messages", record["messages"], whole=True))
    if prompt_key in record or completion_key in record:
        return _prompt_completion(place, record, prompt_key, completion_key, raw)
    if "instruction" in record:
        return _alpaca(place, record)
    raise UserError(f"{place}: found the keys {', '.join(map(repr, list(record)[:8])) or 'none'}; expected messages, "
                    f"{prompt_key} and {completion_key}, or instruction and output (see --prompt-key, --completion-key)")


def _text(place, record, key, default=None):
    text = record.get(key, default)
    if text is None:
        raise UserError(f"{place}: key {key!r} is missing")
    if not isinstance(text, str):
        raise UserError(f"{place}: {key}: found {type(text).__name__}, expected a string")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{place}: {key}: holds half a character (a lone surrogate)") from None
    return text


def _messages(place, key, found, whole, before=None):
    """The messages of a list, their roles in order after role `before`; `whole`: they end with an answer."""
    if not isinstance(found, list) or not found:
        raise UserError(f"{place}: {key}: found {type(found).__name__ if not isinstance(found, list) else 'no message'}, expected a list of messages")
    for i, message in enumerate(found):
        at = f"{key}[{i}]"
        if not isinstance(message, dict):
            raise UserError(f"{place}: {at}: found {type(message).__name__}, expected an object with role and content")
        role = message.get("role")
        if not isinstance(role, str) or role not in FOLLOWS:
            raise UserError(f"{place}: {at}.role: found {role!r}, allowed: {', '.join(filter(None, FOLLOWS))}")
        if role not in FOLLOWS[before]:
            raise UserError(f"{place}: {at}.role: {role} cannot {f'follow {before}' if before else 'be the first'}; "
                            f"allowed here: {', '.join(sorted(FOLLOWS[before]))}")
        _text(place, message, "content") if "content" in message else _missing(place, at)
        before = role
    if whole and before != "assistant":
        raise UserError(f"{place}: {key}[{len(found) - 1}].role: the last message is the {before}'s; nothing answers it")
    return found


def _missing(place, at):
    raise UserError(f"{place}: {at}.content: is missing")


def _prompt_completion(place, record, prompt_key, completion_key, raw):
    for key in (prompt_key, completion_key):
        if key not in record:
            raise UserError(f"{place}: key {key!r} is missing; found: {', '.join(map(repr, list(record)[:8]))}")
    prompt, completion = record[prompt_key], record[completion_key]
    if isinstance(prompt, list) or isinstance(completion, list):
        prompt = _messages(place, prompt_key, prompt, whole=False)
        return Record(place, prompt + _messages(place, completion_key, completion, True, prompt[-1]["role"]), len(prompt))
    prompt, completion = _text(place, record, prompt_key), _text(place, record, completion_key)
    if raw:
        return Record(place, prompt=prompt, completion=completion)
    return Record(place, [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}], 1)


def _alpaca(place, record):
    """Answers in `history` are trained on too, which takes a template with markers."""
    system, instruction = _text(place, record, "system", ""), _text(place, record, "instruction")
    more, output = _text(place, record, "input", ""), _text(place, record, "output")
    messages = [{"role": "system", "content": system}] if system else []
    history = record.get("history") or []
    if not isinstance(history, list) or any(not isinstance(turn, list) or len(turn) != 2 or not all(isinstance(text, str) for text in turn)
                                            for turn in history):
        raise UserError(f"{place}: history: expected a list of [instruction, output] pairs of strings")
    for asked, answered in history:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    messages += [{"role": "user", "content": f"{instruction}\n\n{more}" if more else instruction}, {"role": "assistant", "content": output}]
    return Record(place, messages, 0 if history else len(messages) - 1)
