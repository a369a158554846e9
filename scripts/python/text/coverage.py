"""Which characters of a text a tokenizer has no token for. Some tokenizers leave them out, some write their unknown token, some fail: what is
lost is counted, and said once."""

import json
import sys

from command import UserError

UTF8 = [byte for byte in range(256) if byte not in (0xC0, 0xC1) and byte < 0xF5]  # bytes that a text can hold


def byte_characters():
    """The character that stands for each byte in a byte-level vocabulary."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    names, more = {byte: chr(byte) for byte in visible}, 256
    for byte in range(256):
        if byte not in names:
            names[byte], more = chr(more), more + 1
    return names


class Coverage:
    """Asked once for a tokenizer; most can write every text, which is then known without a look at it."""

    def __init__(self, tokenizer):
        from tokenizers import models

        self.tokenizer, model = tokenizer, tokenizer.model
        self.unknown, self.missing_bytes, self.drops = self._unknown(model), b"", False
        if isinstance(model, models.BPE):
            names = {byte: f"<0x{byte:02X}>" for byte in UTF8} if model.byte_fallback else byte_characters() if "Ã©" in self._pieces("é") else {}
            missing = bytes(byte for byte in UTF8 if tokenizer.token_to_id(names.get(byte, "")) is None)
            if not missing:
                self.unknown = None
            elif self.unknown is None:
                self.missing_bytes = missing if names and not model.byte_fallback else b""
                self.drops = True
        self.dropped = {}  # character: whether it is

    @property
    def whole(self):
        """Whether nothing can get lost."""
        return self.unknown is None and not self.drops

    def _unknown(self, model):
        from tokenizers import models

        if isinstance(model, models.Unigram):
            return json.loads(model.__getstate__()).get("unk_id")
        return self.tokenizer.token_to_id(model.unk_token) if model.unk_token else None

    def _pieces(self, text):
        """What of the text is encoded: blanks and more may be left out on purpose."""
        normalizer, cutter = self.tokenizer.normalizer, self.tokenizer.pre_tokenizer
        text = normalizer.normalize_str(text) if normalizer else text
        return "".join(piece for piece, _ in cutter.pre_tokenize_str(text)) if cutter else text

    def _is_dropped(self, character):
        if character not in self.dropped:
            several = 3 * character  # a vocabulary may have another piece for the end of a word
            self.dropped[character] = (bool(set(character.encode()) & set(self.missing_bytes)) if self.missing_bytes else
                                       bool(self._pieces(several)) and not self.tokenizer.encode(several, add_special_tokens=False).ids)
        return self.dropped[character]

    def count_dropped(self, text):
        """Characters of the text that its ids know nothing of. Places that the tokenizer gives for the ids behind them are wrong."""
        return sum(text.count(character) for character in set(text) if self._is_dropped(character)) if self.drops else 0

    def lost(self, text, ids):
        """How many characters of the text its ids do not hold."""
        return self.count_dropped(text) + (ids.count(self.unknown) if self.unknown is not None else 0)

    def example(self, text):
        """The first of them."""
        if self.drops:
            return next((character for character in text if self._is_dropped(character)), "")
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        return next((text[begin:end][:20] for token, (begin, end) in zip(encoding.ids, encoding.offsets) if token == self.unknown), "")


def encoded_texts(tokenizer, texts, offsets):
    """(encodings, [(number, what)]) of the texts: None, and why, where the tokenizer fails on one, as some do at a character without a token. Without
    `offsets` it is faster."""
    def encode(some):
        if offsets:
            return tokenizer.encode_batch(some, add_special_tokens=False)
        return tokenizer.encode_batch_fast(some, add_special_tokens=False)

    try:
        return encode(texts), []
    except Exception:  # the library raises plain Exception, and does not say which text it was
        encodings, faults = [], []
    for number, text in enumerate(texts):
        try:
            encodings += encode([text])
        except Exception as error:
            encodings.append(None)
            faults.append((number, f"the tokenizer fails: {str(error).splitlines()[0]}"))
    return encodings, faults


def ids_of(tokenizer, place, text):
    """Of a text that somebody typed; UserError where the tokenizer fails on it."""
    encodings, faults = encoded_texts(tokenizer, [text], offsets=False)
    if faults:
        raise UserError(f"{place}: {faults[0][1]}")
    return encodings[0].ids


def say_lost(tokenizer, texts):
    """A note where texts that somebody typed, (place, text), lose characters."""
    coverage, count, first = Coverage(tokenizer), 0, ""
    if coverage.whole:
        return
    for place, text in texts:
        encoding = tokenizer.encode(text, add_special_tokens=False)
        if lost := coverage.lost(text, encoding.ids):
            first = first or f"{place} ({coverage.example(text)!r})"
            count += lost
    if count:
        print(f"meristem: note: {count:,} characters have no token in the tokenizer and are lost; the first: {first}", file=sys.stderr)
