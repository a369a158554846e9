"""Conversations to (ids, mask): text by the chat template, tokens by the tokenizer, the end-of-text token behind."""

import re
from pathlib import Path

import numpy as np

from chat.records import record_of
from chat.template import ChatTemplate, TemplateFails
from command import UserError
from text.coverage import Coverage, encoded_texts
from text.documents import KEPT, MADE, Fault, plain_line_ends
from text.encoding import Encoded
from text.tokenizer import load_tokenizer

EMPTY, SPECIAL, LONG = "nothing to train on", "a special token inside a text", "too long"
TOOLS, REWRITTEN = "tools that no template writes", "answers written otherwise"


class Encoder:
    """Of records one by one; it also counts what makes a shard teach less than it seems to."""

    def __init__(self, tokenizer, template, begin, end, train_on):
        self.tokenizer, self.template, self.end, self.train_on = tokenizer, template, end, train_on
        self.begin = "".join(map(tokenizer.id_to_token, begin))  # before texts without a template: with one, it is in the template
        special = {token: added.content for token, added in tokenizer.get_added_tokens_decoder().items() if added.special}
        self.special = re.compile("|".join(map(re.escape, sorted(special.values(), key=len, reverse=True)))) if special else None
        self.enders, self.coverage = {end, *special}, Coverage(tokenizer)
        self.straddling = self.unending = 0  # answers that begin inside a token of the prompt; last answers without a trained end of turn

    def hidden_special(self, record):
        """Where a text of the record holds a special token, which would be read as one; None where none does."""
        for where, text in record.texts():
            found = self.special and self.special.search(text)
            if found:
                return f"{where} holds the special token {found[0]}"
        return None

    def rendered(self, record):
        """(text, spans of it that are trained on, how many answers in it are not, since generation would not show them like that). Fault where the template
        fails on this record; UserError where it is of no use at all."""
        if record.prompt is not None:
            text = self.begin + record.prompt
            return text + record.completion, [(len(text), len(text) + len(record.completion))], 0
        if self.template is None:
            raise UserError(f"{record.place}: messages need a chat template: none beside the tokenizer; give one with --chat-template")
        calling = next((at for at, message in enumerate(record.messages) if message.get("tool_calls")), None)
        if calling is not None and not self.template.knows("tool_calls"):
            raise Fault("tool calls", f"messages[{calling}].tool_calls: the chat template {self.template.path} does not write them, so the answer would be lost")
        try:
            text, spans = self._render(record, len(record.messages))
            return self._after_prompt(record, text) if record.prompt_messages else (text, *self._as_generated(record, text, spans))
        except TemplateFails as error:
            raise Fault("template fails", error.what) from None

    def _render(self, record, count, answering=False):
        return self.template.render(record.place, record.messages[:count], record.tools, add_generation_prompt=answering)

    def _after_prompt(self, record, text):
        """Everything behind the messages of the prompt."""
        begin, end = record.prompt_messages, len(record.messages)
        prompt, _ = self._render(record, begin, answering=True)
        if not text.startswith(prompt):
            raise self._written_otherwise(record)
        for at in range(begin, end - 1):  # an answer that is not the last
            if record.messages[at]["role"] == "assistant" and not text.startswith(self._render(record, at + 1)[0].rstrip()):
                raise Fault("template rewrites", f"messages[{at}]: the chat template {self.template.path} writes this answer otherwise once another message "
                            "follows, so generation would not show it like that; let each answer be the last of a record of its own")
        return text, [(len(prompt), len(text))], 0

    def _as_generated(self, record, text, spans):
        """(spans of the answers that stand in the text as they would if each were the last, and behind the prompt that generation would give; how many
        others there are). Some templates write an answer otherwise once another follows: without its thinking, say."""
        if not self.template.has_markers:
            raise UserError(f"{record.place}: messages, but the chat template {self.template.path} does not mark what the assistant writes; put "
                            "{% generation %} and {% endgeneration %} around it (docs/sft.md), or give prompt and completion")
        kept, others = [], 0
        for at, message in enumerate(record.messages):
            if message["role"] != "assistant":
                continue
            last = at + 1 == len(record.messages)
            alone, own = (text, spans) if last else self._render(record, at + 1)
            prompt, _ = self._render(record, at, answering=True)
            own = [span for span in own if span[1] > len(prompt)]
            if alone.startswith(prompt) and own and text.startswith(alone[: own[-1][1]]):
                kept += own
            elif last and spans and not alone.startswith(prompt):
                raise self._written_otherwise(record)
            else:
                others += 1
        return kept, others

    def _written_otherwise(self, record):
        return UserError(f"{record.place}: the chat template {self.template.path} writes the prompt otherwise where an answer follows, so where the answer begins "
                         "cannot be told, and generation would go on from another prompt; give a template that writes both alike")

    def encode(self, texts):
        """(encodings, faults), as encoded_texts has them, with offsets."""
        return encoded_texts(self.tokenizer, texts, offsets=True)

    def masked(self, encoding, text, spans):
        """(ids, mask) of an encoding."""
        return self._closed(np.asarray(encoding.ids, np.int64), self._mask(encoding, spans, text))

    def _mask(self, encoding, spans, text):
        offsets = np.asarray(encoding.offsets, np.int64).reshape(-1, 2)
        mask = np.zeros(len(offsets), np.uint8)
        for begin, end in spans:
            inside = (offsets[:, 0] < end) & (offsets[:, 1] > begin)
            mask[inside] = 1
            if inside.any():
                first = int(np.argmax(inside))
                self.straddling += int(offsets[first, 0] < begin and bool(text[offsets[first, 0] : begin]))
        return mask

    def _closed(self, ids, mask):
        """With the end-of-text token behind, unless the text ends with it already, perhaps with a line break after it. It is trained on where
        what stands before it is: the model has to learn to end."""
        if self.end not in ids[-2:]:
            ids, mask = np.append(ids, self.end), np.append(mask, mask[-1] if mask.size else 0).astype(np.uint8)
        answered = mask.any()
        self.unending += bool(answered and int(ids[np.flatnonzero(mask)[-1]]) not in self.enders)
        return ids, np.ones_like(mask) if self.train_on == "all" and answered else mask


class Batch:
    """What becomes of the records of one batch."""

    def __init__(self, encoder, keys, dtype, max_tokens, on_long, line_ends):
        self.encoder, self.keys, self.dtype, self.max_tokens, self.on_long, self.line_ends = encoder, keys, dtype, max_tokens, on_long, line_ends
        self.left_out, self.ids, self.masks, self.out = [], [], [], Encoded()  # left_out: (number, kind, what)

    def take(self, items):
        chosen = [(number, place, *rendered) for number, (place, line) in enumerate(items) if (rendered := self._rendered(number, place, line))]
        encodings, failing = self.encoder.encode([text for _, _, text, _ in chosen])
        self.out.faults = sorted([*self.out.faults, *((*chosen[at][:2], "no token", what) for at, what in failing)])
        for (number, place, text, spans), encoding in zip(chosen, encodings):
            if encoding is not None:
                if not self.encoder.coverage.whole:
                    self.out.note_lost(self.encoder.coverage, place, text, encoding.ids)
                self._add(number, place, text, *self.encoder.masked(encoding, text, spans))
        return self

    def _rendered(self, number, place, line):
        try:
            record = self._with_line_ends(record_of(place, line, self.keys))
            hidden = self.encoder.hidden_special(record)
            if hidden or not record.answers:
                self.left_out.append((number, SPECIAL if hidden else EMPTY, place + (f" ({hidden})" if hidden else "")))
                return None
            text, spans, others = self.encoder.rendered(record)
            if self.encoder.coverage.count_dropped(text):
                raise Fault("no token", f"the tokenizer has no token for {self.encoder.coverage.example(text)!r} and leaves it out, so which tokens are the answer's "
                            "cannot be told")
        except Fault as fault:
            self.out.faults.append((number, place, fault.kind, fault.what))
            return None
        if record.tools and not (self.encoder.template and self.encoder.template.knows("tools")):
            self.out.noted.append((TOOLS, place))
        if others:
            self.out.noted.append((REWRITTEN, place))
            self.out.counts["rewritten"] = self.out.counts.get("rewritten", 0) + others
        return text, spans

    def _with_line_ends(self, record):
        if self.line_ends == "keep" or not any("\r" in text for _, text in record.texts()):
            return record
        self.out.noted.append((MADE if self.line_ends == "lf" else KEPT, record.place))
        return record.with_line_ends(plain_line_ends) if self.line_ends == "lf" else record

    def _add(self, number, place, text, ids, mask):
        limit = self.max_tokens
        if limit and ids.size > limit:
            cut = f"{ids.size} tokens, {int(mask[limit:].sum())} of {int(mask.sum())} trained ones would be cut"
            self.left_out.append((number, LONG, f"{place} ({cut})"))
            if self.on_long != "cut":
                return
            ids, mask = ids[:limit], mask[:limit]
        if not mask[1:].any():  # the first token is no target
            self.left_out.append((number, EMPTY, place))
            return
        self.ids.append(ids)
        self.masks.append(mask)
        self.out.text_bytes += len(text.encode())

    def encoded(self, records):
        out, lengths = self.out, np.array([ids.size for ids in self.ids], np.int32)
        out.ids, out.lengths, out.longest = b"".join(ids.astype(self.dtype).tobytes() for ids in self.ids), lengths.tobytes(), int(lengths.max(initial=0))
        out.mask = b"".join(mask.tobytes() for mask in self.masks)
        out.left_out = [(kind, what) for _, kind, what in sorted(self.left_out)]
        out.counts |= {"records": records - len(out.faults), "trained": sum(int(np.count_nonzero(mask)) for mask in self.masks),
                       "straddling": self.encoder.straddling, "unending": self.encoder.unending}
        self.encoder.straddling = self.encoder.unending = 0
        return out


def make_encoder(tokenizer_path, template, begin, end, train_on, keys, dtype, max_tokens, on_long, line_ends):
    """`template`: settings of a ChatTemplate, or None. Items are (place, JSON line)."""
    tokenizer, _ = load_tokenizer(Path(tokenizer_path), read_special=True)  # those that the template writes are meant; texts are searched for them
    encoder = Encoder(tokenizer, template and ChatTemplate(*template), begin, end, train_on)
    return lambda items: Batch(encoder, keys, dtype, max_tokens, on_long, line_ends).take(items).encoded(len(items))
