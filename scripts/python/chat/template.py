"""A tokenizer's own chat template (Jinja, as transformers has it): conversations to text, and which characters the assistant wrote."""

import json
import re
from datetime import datetime
from pathlib import Path

from command import UserError, read_utf8
from text.tokenizer import json_beside

PROBE = "Probe"
MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")


class TemplateFails(UserError):
    """On one conversation, named by its place; `what` is the message without it."""

    def __init__(self, place, what):
        super().__init__(f"{place}: {what}")
        self.what = what


class ChatTemplate:
    """`tokens`: what the template knows as bos_token, eos_token and so on. `now`: what it takes for the time (strftime_now), which stands still: what is
    rendered after midnight is to agree with what was rendered before."""

    def __init__(self, text, path, tokens, now=None):
        self.text, self.path, self.tokens, self.now = text, path, tokens, now or datetime.now()
        self.has_markers = MARKER.search(text) is not None

    def settings(self):
        """For a process that makes its own."""
        return self.text, str(self.path), self.tokens, self.now

    def at(self, now):
        return ChatTemplate(self.text, self.path, self.tokens, now)

    def knows(self, name):
        """Whether it speaks of a variable or key at all."""
        return re.search(rf"\b{name}\b", self.text) is not None

    def render(self, place, messages, tools=None, add_generation_prompt=False):
        """(text, spans): spans are the [begin, end) characters inside {% generation %}; none where the template has no such markers, and none of a prompt."""
        from jinja2.exceptions import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            marked = self.has_markers and not add_generation_prompt
            texts, spans = render_jinja_template([messages], tools=tools, chat_template=self.text, return_assistant_tokens_mask=marked,
                                                 add_generation_prompt=add_generation_prompt, strftime_now=self.now.strftime, **self.tokens)
        except TemplateError as error:  # also what a template raises by itself, such as for roles that it does not know
            raise TemplateFails(place, f"the chat template {self.path} fails: {error.message or type(error).__name__}") from None
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise TemplateFails(place, f"the chat template {self.path} fails: {error}") from None
        return texts[0], [tuple(span) for span in spans[0]] if spans else []

    def _probe(self):
        return self.render(self.path, [{"role": "user", "content": PROBE}, {"role": "assistant", "content": PROBE}])[0]

    def end_of_turn(self, tokenizer):
        """The id of what it puts behind an answer, where that is a special token: [] or [id]."""
        try:
            text = self._probe()
        except TemplateFails:  # it wants other messages
            return []
        behind = tokenizer.encode(text[text.rindex(PROBE) + len(PROBE) :], add_special_tokens=False).ids if PROBE in text else []
        added = tokenizer.get_added_tokens_decoder()
        return behind[:1] if behind and behind[0] in added and added[behind[0]].special else []

    def beginning_with(self, begin):
        """This template where its texts begin with `begin` already; else one whose do."""
        try:
            begins = self._probe().startswith(begin)
        except TemplateFails:  # it wants other messages
            begins = self.knows("bos_token") or begin in self.text
        return self if begins else ChatTemplate("{{ " + json.dumps(begin, ensure_ascii=False) + " }}" + self.text, self.path, self.tokens, self.now)


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
    found, path = json_beside(folder, "tokenizer_config.json").get("chat_template"), folder / "tokenizer_config.json"
    if isinstance(found, list):  # several by name
        found = {item.get("name"): item.get("template") for item in found if isinstance(item, dict)}.get("default")
        if found is None:
            raise UserError(f"{path}: chat_template: several, and none is called default; give one with --chat-template")
    return ChatTemplate(found, path, tokens) if isinstance(found, str) else None
