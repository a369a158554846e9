"""Conversations to (ids, mask): text by the chat template, tokens by the tokenizer, the end-of-text token behind."""

import re
from pathlib import Path

import numpy as np

from chat.records import record_of
from chat.template import ChatTemplate, TemplateFails
from command import UserError
from text.documents import Fault
from text.encoding import Encoded
from text.tokenizer import load_tokenizer

EMPTY, SPECIAL, LONG = "nothing to train on", "a special token inside a text", "too long"


class Encoder:
    """Of records one by one; it also counts what makes a shard teach less than it seems to."""

    def __init__(self, tokenizer, template, end, train_on):
        self.tokenizer, self.template, self.end, self.train_on = tokenizer, template, end, train_on
        special = {token: added.content for token, added in tokenizer.get_added_tokens_decoder().items() if added.special}
        self.special = re.compile("|".join(map(re.escape, sorted(special.values(), key=len, reverse=True)))) if special else None
        self.enders = {end, *special}
        self.straddling = self.unending = 0  # answers that begin inside a token of the prompt; last answers without a trained end of turn

    def hidden_special(self, record):
        """Where a text of the record holds a special token, which would be read as one; None where none does."""
        for where, text in record.texts():
            found = self.special and self.special.search(text)
            if found:
                return f"{where} holds the special token {found[0]}"
        return None

    def rendered(self, record):
        """(text, spans of it that are trained on). Fault where the template fails on this record; UserError where it is of no use at all."""
        if record.prompt is not None:
            return record.prompt + record.completion, [(len(record.prompt), len(record.prompt) + len(record.completion))]
        if self.template is None:
            raise UserError(f"{record.place}: messages need a chat template: none beside the tokenizer; give one with --chat-template")
        try:
            text, spans = self.template.render(record.place, record.messages)
            prompt = record.prompt_messages and self.template.render(record.place, record.messages[: record.prompt_messages],
                                                                     add_generation_prompt=True)[0]
        except TemplateFails as error:
            raise Fault("template fails", error.what) from None
        if record.prompt_messages:
            if not text.startswith(prompt):
                raise UserError(f"{record.place}: the chat template {self.template.path} writes the prompt otherwise where an answer follows, so "
                                "where the answer begins cannot be told; give messages and a template with {% generation %} markers")
            return text, [(len(prompt), len(text))]
        if not self.template.has_markers:
            raise UserError(f"{record.place}: messages, but the chat template {self.template.path} does not mark what the assistant writes; put "
                            "{% generation %} and {% endgeneration %} around it (docs/sft.md), or give prompt and completion")
        return text, spans

    def encode(self, rendered):
        """Yields (ids, mask) of each (text, spans)."""
        encodings = self.tokenizer.encode_batch([text for text, _ in rendered], add_special_tokens=False)
        for encoding, (text, spans) in zip(encodings, rendered):
            yield self._closed(np.asarray(encoding.ids, np.int64), self._mask(encoding, spans, text))

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


def record_answer(record):
    """Whether the assistant says anything at all."""
    answers = [record.completion] if record.prompt is not None else [m["content"] for m in record.messages if m["role"] == "assistant"]
    return any(text.strip() for text in answers)


class Batch:
    """What becomes of the records of one batch."""

    def __init__(self, encoder, keys, dtype, max_tokens, on_long):
        self.encoder, self.keys, self.dtype, self.max_tokens, self.on_long = encoder, keys, dtype, max_tokens, on_long
        self.faults, self.left_out, self.ids, self.masks, self.text_bytes = [], [], [], [], 0  # left_out: (number, kind, what)

    def take(self, items):
        chosen = [(number, place, *rendered) for number, (place, line) in enumerate(items) if (rendered := self._rendered(number, place, line))]
        for (number, place, text, _), (ids, mask) in zip(chosen, self.encoder.encode([(text, spans) for _, _, text, spans in chosen])):
            self._add(number, place, text, ids, mask)
        return self

    def _rendered(self, number, place, line):
        try:
            record = record_of(place, line, self.keys)
            hidden = self.encoder.hidden_special(record)
            if hidden or not record_answer(record):
                self.left_out.append((number, SPECIAL if hidden else EMPTY, place + (f" ({hidden})" if hidden else "")))
                return None
            return self.encoder.rendered(record)
        except Fault as fault:
            self.faults.append((number, place, fault.kind, fault.what))
            return None

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
        self.text_bytes += len(text.encode())

    def encoded(self, records):
        lengths = np.array([ids.size for ids in self.ids], np.int32)
        masks = b"".join(mask.tobytes() for mask in self.masks)
        counts = {"records": records - len(self.faults), "trained": sum(int(np.count_nonzero(mask)) for mask in self.masks),
                  "straddling": self.encoder.straddling, "unending": self.encoder.unending}
        self.encoder.straddling = self.encoder.unending = 0
        return Encoded(b"".join(ids.astype(self.dtype).tobytes() for ids in self.ids), lengths.tobytes(), self.text_bytes, masks, self.faults,
                       [(kind, what) for _, kind, what in sorted(self.left_out)], counts, int(lengths.max(initial=0)))


def make_encoder(tokenizer_path, template, end, train_on, keys, dtype, max_tokens, on_long):
    """`template`: text, path and tokens of a ChatTemplate, or None. Items are (place, JSON line)."""
    tokenizer, _ = load_tokenizer(Path(tokenizer_path), read_special=True)  # those that the template writes are meant; texts are searched for them
    encoder = Encoder(tokenizer, template and ChatTemplate(*template), end, train_on)
    return lambda items: Batch(encoder, keys, dtype, max_tokens, on_long).take(items).encoded(len(items))
