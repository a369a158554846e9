"""`meristem data tokenize INPUT… --tokenizer T --out PREFIX --chat`: conversations to a token shard with a mask of what is trained on."""

import argparse
import re
import sys
from pathlib import Path

import numpy as np

import chat_records
import chat_template
import tokenize_text
from chat_shards import MaskedWriter
from command_errors import UserError, reported
from token_shards import prefix_of, xxh3_file

BATCH = 1024  # records encoded at a time
MOST_FAULTY = 0.01  # of all records
NAMED = 10  # records that a message names


class Encoder:
    """Records to (ids, mask): text by the template, tokens by the tokenizer, the end-of-text token behind."""

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
        """(text, spans of it that are trained on)."""
        if record.prompt is not None:
            return record.prompt + record.completion, [(len(record.prompt), len(record.prompt) + len(record.completion))]
        text, spans = self.template.render(record.place, record.messages)
        if record.prompt_messages:
            prompt, _ = self.template.render(record.place, record.messages[: record.prompt_messages], add_generation_prompt=True)
            if not text.startswith(prompt):
                raise UserError(f"{record.place}: the chat template {self.template.path} writes the prompt otherwise where an answer follows, so "
                                "where the answer begins cannot be told; give messages and a template with {% generation %} markers")
            return text, [(len(prompt), len(text))]
        if not self.template.has_markers:
            raise UserError(f"{record.place}: messages, but the chat template {self.template.path} does not mark what the assistant writes; put "
                            "{% generation %} and {% endgeneration %} around it (docs/sft.md), or give prompt and completion")
        return text, spans

    def encode(self, records):
        texts = [self.rendered(record) for record in records]
        for encoding, (text, spans) in zip(self.tokenizer.encode_batch([text for text, _ in texts], add_special_tokens=False), texts):
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


class Faults:
    """Records that are left out, by what is wrong with them."""

    def __init__(self):
        self.places = {}

    def add(self, what, place, detail=""):
        self.places.setdefault(what, []).append(place + (f" ({detail})" if detail else ""))

    def count(self, *names):
        return sum(len(self.places.get(name, ())) for name in names)

    def say(self, name):
        places = self.places[name]
        return ", ".join(places[:NAMED]) + (f" and {len(places) - NAMED} more" if len(places) > NAMED else "")


EMPTY, SPECIAL, LONG = "nothing to train on", "a special token inside a text", "too long"


def tokenize(arguments, encoder, writer):
    """Writes all records; returns (number of records, Faults)."""
    faults, total, batch = Faults(), 0, []

    def flush():
        for record, (ids, mask) in zip(batch, encoder.encode(batch)):
            add(record, ids, mask)
        batch.clear()

    def add(record, ids, mask):
        limit = arguments.max_tokens
        if limit and ids.size > limit:
            faults.add(LONG, record.place, f"{ids.size} tokens, {int(mask[limit:].sum())} of {int(mask.sum())} trained ones would be cut")
            if arguments.on_long != "cut":
                return
            ids, mask = ids[:limit], mask[:limit]
        if not mask[1:].any():  # the first token is no target
            faults.add(EMPTY, record.place)
            return
        writer.add(ids, mask)

    for record in chat_records.records_of(arguments.inputs, arguments.prompt_key, arguments.completion_key,
                                          arguments.raw or encoder.template is None):
        total += 1
        if encoder.template is None and record.prompt is None:
            raise UserError(f"{record.place}: messages need a chat template: none beside {arguments.tokenizer}; give one with --chat-template")
        hidden = encoder.hidden_special(record)
        if hidden:
            faults.add(SPECIAL, record.place, hidden)
        elif not record_answer(record):
            faults.add(EMPTY, record.place)
        else:
            batch.append(record)
        if len(batch) >= BATCH:
            flush()
    flush()
    if total == 0:
        raise UserError(f"{arguments.inputs[0]}: no record found")
    return total, faults


def record_answer(record):
    """Whether the assistant says anything at all."""
    answers = [record.completion] if record.prompt is not None else [m["content"] for m in record.messages if m["role"] == "assistant"]
    return any(text.strip() for text in answers)


def judge(arguments, total, faults):
    """Refuses a file with too many faulty records; says which ones were left out or cut."""
    faulty = faults.count(EMPTY, SPECIAL)
    if faulty > MOST_FAULTY * total:
        worst = EMPTY if faults.count(EMPTY) >= faults.count(SPECIAL) else SPECIAL
        raise UserError(f"{faulty} of {total} records are of no use, at most 1 % may be left out; {worst}: {faults.say(worst)}")
    if faults.count(LONG) and arguments.on_long == "refuse":
        raise UserError(f"--max-tokens {arguments.max_tokens}: {faults.count(LONG)} of {total} records are longer: {faults.say(LONG)}; allow more, "
                        "or say --on-long drop (leave them out) or cut (train on truncated answers)")
    for what, places in faults.places.items():
        done = "cut" if what == LONG and arguments.on_long == "cut" else "left out"
        print(f"meristem: note: {len(places)} of {total} records {done}, {what}: {faults.say(what)}", file=sys.stderr)


def notes(encoder):
    if encoder.straddling:
        yield (f"{encoder.straddling} answers begin inside a token that also ends the prompt, which generation will not see cut like that: let the "
               "prompt end with a line break or a special token")
    if encoder.unending:
        yield (f"{encoder.unending} records train on no end of turn after the last answer, so the model will not learn to stop: move "
               "{% endgeneration %} behind the token that ends a turn")


def arguments_of(argv):
    parser = argparse.ArgumentParser(prog="meristem data tokenize --chat", allow_abbrev=False,
                                     description="Turn conversations into a token shard with a mask: loss on the assistant's tokens only.")
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="a .jsonl file, or a folder of them: messages, prompt and completion, or alpaca")
    parser.add_argument("--chat", action="store_true", required=True, help="conversations in place of plain text")
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="T", help="tokenizer.json, or the folder that holds it")
    parser.add_argument("--out", required=True, metavar="PREFIX", help="writes PREFIX.bin, .idx, .mask, .json")
    parser.add_argument("--chat-template", type=Path, metavar="FILE", help="Jinja (default: chat_template.jinja or tokenizer_config.json beside T)")
    parser.add_argument("--raw", action="store_true", help="prompt and completion as they are, without a template")
    parser.add_argument("--prompt-key", default="prompt", metavar="KEY", help="the key that holds the prompt (default: prompt)")
    parser.add_argument("--completion-key", default="completion", metavar="KEY", help="the key that holds the answer (default: completion)")
    parser.add_argument("--end-of-text", metavar="TOKEN", help="the token that ends a record (default: the tokenizer's eos_token)")
    parser.add_argument("--train-on", choices=("assistant", "all"), default="assistant", help="all: a mask of ones, to compare with")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="longest record, such as data.sequence_length (default: no limit)")
    parser.add_argument("--on-long", choices=("refuse", "drop", "cut"), default="refuse", help="what becomes of longer ones (default: refuse)")
    parser.add_argument("--force", action="store_true", help="replace a shard that is there")
    arguments = parser.parse_args(argv)
    if arguments.max_tokens is not None and arguments.max_tokens < 2:
        raise UserError(f"--max-tokens: found {arguments.max_tokens}, allowed: at least 2")
    if arguments.raw and arguments.chat_template:
        raise UserError("--raw and --chat-template exclude each other")
    return arguments


def special_end(arguments, tokenizer, path):
    """Name and id of the token that ends a record."""
    known = chat_template.special_tokens(path.parent, None).get("eos_token")
    end = tokenize_text.end_of_text_id(tokenizer, arguments.end_of_text or known, path)
    return tokenizer.id_to_token(end), end


@reported
def main(argv):
    arguments = arguments_of(argv)
    tokenizer, path = tokenize_text.load_tokenizer(arguments.tokenizer)
    tokenizer.encode_special_tokens = False  # those that the template writes are meant; texts are searched for them
    name, end = special_end(arguments, tokenizer, path)
    template = None if arguments.raw else chat_template.find_template(path.parent, arguments.chat_template,
                                                                      chat_template.special_tokens(path.parent, name))
    encoder = Encoder(tokenizer, template, end, arguments.train_on)
    vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1
    prefix = prefix_of(arguments.out)
    with MaskedWriter(prefix, vocab_size, str(path), xxh3_file(path), end, force=arguments.force) as writer:
        total, faults = tokenize(arguments, encoder, writer)
        judge(arguments, total, faults)
    for note in notes(encoder):
        print(f"meristem: note: {note}", file=sys.stderr)
    print(f"{prefix}: {len(writer.lengths):,} of {total:,} records, {writer.tokens:,} tokens, {writer.trained:,} of them trained on "
          f"({writer.trained / writer.tokens:.1%}); longest {max(writer.lengths):,}; "
          + (f"chat template {template.path}" if template else "no chat template: prompt and completion as they are"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
