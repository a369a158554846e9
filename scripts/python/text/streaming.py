"""Text of tokens that come one at a time. Together the pieces are exactly what the tokenizer makes of all tokens at once."""

import re

BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
NO_CHARACTER = "\ufffd"
KEPT = 16  # tokens before a piece that are decoded again with it: what a piece looks like may depend on what stands before it


class TextStream:
    """The text behind a prompt of token ids, whose own text is not given again.

    A piece is held back while it may still change: where it ends inside a character, and inside a run of byte tokens, which becomes text only if all of it is
    UTF-8. flush() gives what is left at the end."""

    def __init__(self, tokenizer, prompt):
        self.tokenizer, self.ids = tokenizer, list(prompt)
        self.begin, self.given = 0, len(self.ids)  # ids [begin, given) are the context of the next piece
        self.borders = []  # between pieces, as places in ids
        self.unseen = {token for token, added in tokenizer.get_added_tokens_decoder().items() if added.special}  # they end no run of bytes either

    def step(self, token):
        """The text that the token makes certain, often ""."""
        self.ids.append(token)
        if token in self.unseen or BYTE.fullmatch(self.tokenizer.id_to_token(token) or ""):
            return ""
        return self._rest(certain=True)

    def flush(self):
        return self._rest(certain=False)

    def _text(self, begin, end=None):
        return self.tokenizer.decode(self.ids[begin:end], skip_special_tokens=True)

    def _rest(self, certain):
        before, now = self._text(self.begin, self.given), self._text(self.begin)
        if len(now) <= len(before) or (certain and now.endswith(NO_CHARACTER)):
            return ""
        self.given = len(self.ids)
        self.borders.append(self.given)
        while len(self.borders) > 1 and self.borders[0] <= self.given - KEPT and self._text(self.borders[0]).strip():
            self.begin = self.borders.pop(0)
        return now[len(before) :]
