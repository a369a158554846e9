"""Items of a task as token ids. Context and choice are encoded together, as the model would read them. Where the tokenizer cuts a text into
pieces that it encodes one by one, only the context's last pieces are encoded again with each choice; that gives the same ids."""

import json

from command import UserError
from text.coverage import Coverage, encoded_texts
from text.tokenizer import begun, known_end_of_text

BATCH = 512  # items that are encoded together

# How known tokenizers cut (GPT-2's own; Llama 3, Qwen 2). None of these looks behind itself, and none looks further ahead than the blanks that follow and three
# letters more: so what stands behind a border is cut as if nothing stood before it, and what stands before one as if nothing came after the next piece.
CUTS = (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


class Pieces:
    """Where the ids of a text no longer depend on what is written behind it."""

    def __init__(self, tokenizer):
        self.tokenizer, self.sizes = tokenizer, {}
        added = tokenizer.get_added_tokens_decoder().values()
        self.longest = max((len(token.content) for token in added), default=0)
        self.added = {token.content for token in added}
        normalizer = json.loads(tokenizer.normalizer.__getstate__()) if tokenizer.normalizer else None
        self.ascii_alone = normalizer is not None  # which NFC leaves as it is
        self.known = (self._bytes_by_piece() and not any(token.lstrip or token.rstrip or token.single_word for token in added)
                      and normalizer in (None, {"type": "NFC"}) and Coverage(tokenizer).whole)

    def _bytes_by_piece(self):
        """Whether the tokenizer cuts in a known way and joins bytes within a piece alone."""
        from tokenizers import models

        cutter, model = self.tokenizer.pre_tokenizer, self.tokenizer.model
        if cutter is None or not isinstance(model, models.BPE) or model.dropout or model.end_of_word_suffix or model.continuing_subword_prefix:
            return False
        state = json.loads(cutter.__getstate__())
        steps = state["pretokenizers"] if state["type"] == "Sequence" else [state]
        *first, last = steps
        if last["type"] != "ByteLevel" or last["add_prefix_space"]:
            return False
        cuts = [step["type"] == "Digits" or step["type"] == "Split" and step["pattern"].get("Regex") in CUTS and step["behavior"] == "Isolated" and not step["invert"]
                for step in first]
        return all(cuts) and (last["use_regex"] or any(step["type"] == "Split" for step in first))

    def _size(self, token):
        """Bytes that a token stands for."""
        if token not in self.sizes:
            text = self.tokenizer.id_to_token(token)
            self.sizes[token] = len(text.encode()) if text in self.added else len(text)
        return self.sizes[token]

    def tail(self, text, encoding):
        """(n, rest): whatever follows the text, which ends with no blank, its first n ids stay, and those behind them are the ids of `rest` and what follows."""
        if not self.known or self.ascii_alone and not text.isascii():
            return 0, text
        ids, pieces = encoding.ids, encoding.word_ids
        at, size, count = len(ids), 0, 0
        while at > 0 and (count < 2 or size < max(4, self.longest)):  # a special token may begin in the text and end behind it
            piece, count = pieces[at - 1], count + 1
            while at > 0 and pieces[at - 1] == piece:
                at -= 1
                size += self._size(ids[at])
        return at, text.encode()[len(text.encode()) - size:].decode()


def encodings_of(tokenizer, places, texts, offsets=False):
    """UserError where the tokenizer fails on one."""
    encodings, faults = encoded_texts(tokenizer, texts, offsets)
    if faults:
        raise UserError(f"{places[faults[0][0]]}: {faults[0][1]}")
    return encodings


def count_common(ids, others):
    """How many ids two lists begin with alike."""
    return next((at for at, (one, other) in enumerate(zip(ids, others)) if one != other), min(len(ids), len(others)))


def bordered(tokenizer, item, place, head, before, whole, begin, ends):
    """(context ids, choices' ids). head: ids with which the context begins, whatever is behind it; before: its others, without blanks at its end; whole: for each
    choice the ids of context and choice behind `head`."""
    border = min(count_common(before, ids) for ids in whole)
    border = min(border, *(len(ids) - 1 for ids in whole))
    if len(head) + border > 0:
        return begun(list(begin), head + whole[0][:border]), [ids[border:] for ids in whole]
    end = next(iter(ends), known_end_of_text(tokenizer))
    if not begin and end is None:
        raise UserError(f"{place}: the context is empty, and the tokenizer has no end-of-text token to begin with")
    empty = next((number for number, ids in enumerate(whole) if not ids), None)
    if empty is not None:
        raise UserError(f"{place}: choices: {item.choices[empty]!r} has no token")
    return list(begin) or [end], whole


def encoded_items(tokenizer, items, place, begin=(), ends=()):
    """Yields (context ids, choices' ids) of each item, behind the ids `begin` with which every text begins; place(number) names an item for messages.
    All choices of an item are scored from one border: where the context ends, or earlier, where the first letters of a choice change the tokens before them.
    Blanks at the end of a context belong to its choices, since tokenizers join a blank to the word behind it. Where nothing stands before the border, and texts
    begin with no token of their own, the first of `ends` does, which end a text."""
    pieces = Pieces(tokenizer)
    for first in range(0, len(items), BATCH):
        some = items[first:first + BATCH]
        places = [place(first + number) for number in range(len(some))]
        contexts = [item.context.rstrip() for item in some]
        befores = encodings_of(tokenizer, places, contexts, offsets=True)
        tails = [pieces.tail(context, encoding) for context, encoding in zip(contexts, befores)]
        asked = [(number, tails[number][1] + item.context[len(contexts[number]):] + choice) for number, item in enumerate(some) for choice in item.choices]
        behind = iter(encodings_of(tokenizer, [places[number] for number, _ in asked], [text for _, text in asked]))
        for number, item in enumerate(some):
            before, (kept, _) = befores[number].ids, tails[number]
            whole = [next(behind).ids for _ in item.choices]
            yield bordered(tokenizer, item, places[number], before[:kept], before[kept:], whole, begin, ends)
