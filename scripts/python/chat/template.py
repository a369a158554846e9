"""A tokenizer's own chat template (Jinja, as transformers has it): conversations to text, and which characters the assistant wrote."""

import json
import re
from pathlib import Path

from command import UserError, read_utf8

MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")


class TemplateFails(UserError):
    """On one conversation, named by its place; `what` is the message without it."""

    def __init__(self, place, what):
        super().__init__(f"{place}: {what}")
        self.what = what


class ChatTemplate:
    """`tokens`: what the template knows as bos_token, eos_token and so on."""

    def __init__(self, text, path, tokens):
        self.text, self.path, self.tokens = text, path, tokens
        self.has_markers = MARKER.search(text) is not None

    def render(self, place, messages, add_generation_prompt=False):
        """(text, spans): spans are the [begin, end) characters inside {% generation %}; none where the template has no such markers."""
        from jinja2.exceptions import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            texts, spans = render_jinja_template([messages], chat_template=self.text, return_assistant_tokens_mask=self.has_markers,
                                                 add_generation_prompt=add_generation_prompt, **self.tokens)
        except TemplateError as error:  # also what a template raises by itself, such as for roles that it does not know
            raise TemplateFails(place, f"the chat template {self.path} fails: {error.message or type(error).__name__}") from None
        except (TypeError, ValueError, KeyError) as error:
            raise TemplateFails(place, f"the chat template {self.path} fails: {error}") from None
        return texts[0], [tuple(span) for span in spans[0]] if spans else []


def _json_beside(folder, name):
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
        for key, value in _json_beside(folder, name).items():
            value = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(value, str):
                tokens[key] = value
    if end_of_text is not None:
        tokens.setdefault("eos_token", end_of_text)
    return tokens


def find_template(folder, given, tokens):
    """The template in the file `given`, else the one beside tokenizer.json; None where there is none."""
    if given is not None:
        path = Path(given)
        if not path.is_file():
            raise UserError(f"{path}: no such chat template")
        return ChatTemplate(read_utf8(path), path, tokens)
    path = folder / "chat_template.jinja"
    if path.is_file():
        return ChatTemplate(read_utf8(path), path, tokens)
    found, path = _json_beside(folder, "tokenizer_config.json").get("chat_template"), folder / "tokenizer_config.json"
    if isinstance(found, list):  # several by name
        found = {item.get("name"): item.get("template") for item in found if isinstance(item, dict)}.get("default")
        if found is None:
            raise UserError(f"{path}: chat_template: several, and none is called default; give one with --chat-template")
    return ChatTemplate(found, path, tokens) if isinstance(found, str) else None
