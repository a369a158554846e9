"""The texts that models are analysed on: those of a file, held-out text of a run, or word problems made here. The same for all models of one call; what is not
measured on is left for the tuned lens to be trained on."""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from command import UserError, read_utf8
from text.documents import json_lines, string_of
from text.shards import Shard, xxh3_bytes
from text.tokenizer import find_tokenizer, load_tokenizer, own_folders

LEAST = 13  # tokens of a text that calls can be cut out of: two boundaries of eight, and four tokens behind
QUESTION = ("Given the following problem, reason and give a final answer to the problem.\nProblem: {question}\n"
            'Your response should end with "The final answer is [answer]" where [answer] is the response to the problem.\n\n')


@dataclass
class Prompts:
    file: str                                   # where they are from, for people
    texts: list                                 # measured on
    places: list                                # of each, for messages
    others: list = field(default_factory=list)  # for the tuned lens

    @property
    def hash(self):
        return xxh3_bytes("\0".join(self.texts).encode())


def of_file(path, count, tokens, tokenizer):
    """A .jsonl has a text a line, under "text", or a "question" with its "answer", as GSM8K has them. Any other file is running text, cut into pieces."""
    if path.suffix == ".jsonl":
        read = [(place, text_of(record, place)) for place, record in json_lines(path)]
    else:
        ids = tokenizer.encode(read_utf8(path), add_special_tokens=False).ids
        pieces = [ids[begin : begin + tokens] for begin in range(0, len(ids), tokens)]
        whole = [piece for piece in pieces if len(piece) == tokens] or pieces
        read = [(f"{path}: piece {number}", decoded(tokenizer, piece)) for number, piece in enumerate(whole)]
    if not any(text.strip() for _, text in read):
        raise UserError(f"{path}: found no text; allowed: JSON lines with a text each, or running text")
    for place, text in read:
        if not text.strip():
            raise UserError(f"{place}: found an empty text")
    return Prompts(str(path), [text for _, text in read[:count]], [place for place, _ in read[:count]], [text for _, text in read[count:]])


def text_of(record, place):
    try:
        if "text" in record:
            return string_of(record, "text")
        if {"question", "answer"} <= set(record):
            answer = string_of(record, "answer")
            reason, _, last = answer.partition("####")
            ending = f"{reason.strip()}\nThe final answer is {last.strip()}" if last else answer
            return QUESTION.format(question=string_of(record, "question")) + ending
    except Exception as fault:  # documents.Fault says what is wrong
        raise UserError(f"{place}: {getattr(fault, 'what', fault)}") from None
    raise UserError(f'{place}: found {", ".join(map(ascii, record)) or "no key"}; allowed: text, or question and answer')


def decoded(tokenizer, ids):
    """A piece of a text; halves of characters at its ends are no part of it."""
    return tokenizer.decode([int(token) for token in ids], skip_special_tokens=True).strip("\ufffd")


def held_out(checkpoint, count, others, tokens):
    """Pieces of the run's own validation text, spread over it; None where there is none to be found."""
    shard = next((Shard(path) for path in validation_paths(checkpoint) if any(Path(f"{path}{end}").is_file() for end in (".idx", ".bin", ""))), None)
    if shard is None:
        return None
    tokenizer, _ = load_tokenizer(find_tokenizer(checkpoint), read_special=True)
    places = [(number, begin) for number in range(shard.documents) for begin in range(0, max(1, shard.document(number).size - tokens // 2), tokens)]
    chosen = [places[at] for at in np.unique(np.linspace(0, len(places) - 1, count + others).astype(int))]
    texts = [(f"{shard.prefix}: document {number}, token {begin}", decoded(tokenizer, shard.document(number)[begin : begin + tokens])) for number, begin in chosen]
    texts = [(place, text) for place, text in texts if len(tokenizer.encode(text, add_special_tokens=False).ids) >= LEAST]
    if not texts:
        return None
    measured = set(np.linspace(0, len(texts) - 1, min(count, len(texts))).astype(int).tolist())
    own, rest = [texts[at] for at in sorted(measured)], [texts[at][1] for at in range(len(texts)) if at not in measured]
    return Prompts(shard.prefix, [text for _, text in own], [place for place, _ in own], rest)


def validation_paths(checkpoint):
    import yaml

    for folder in own_folders(checkpoint):
        if (folder / "state.json").is_file():
            config = yaml.safe_load(json.loads((folder / "state.json").read_text()).get("config_yaml", ""))
        elif (folder / "config.yaml").is_file():
            config = yaml.safe_load((folder / "config.yaml").read_text())
        else:
            continue
        validation = ((config or {}).get("data") or {}).get("validation") or {}
        yield from (source["path"] for source in validation.values() if isinstance(source, dict) and source.get("path"))


NAMES = ("Ada", "Bruno", "Clara", "David", "Emma", "Felix", "Greta", "Hugo", "Ida", "Jonas")
THINGS = ("apples", "marbles", "stamps", "pencils", "shells", "cards", "coins", "books", "beads", "stickers")


def word_problem(number):
    """One of arithmetic in two or three steps, with its solution."""
    draw = random.Random(f"meristem analyze {number}")
    name, friend = draw.sample(NAMES, 2)
    thing = draw.choice(THINGS)
    boxes, each, given, bought = draw.randint(3, 9), draw.randint(4, 12), draw.randint(2, 9), draw.randint(5, 30)
    kind = number % 3
    if kind == 0:
        question = f"{name} has {boxes} boxes with {each} {thing} in each. {name} gives {given} {thing} to {friend} and buys {bought} more. How many {thing} does {name} have now?"
        solution = (f"In the boxes there are {boxes} * {each} = {boxes * each} {thing}.\nAfter the gift there are {boxes * each} - {given} = {boxes * each - given}.\n"
                    f"With those bought there are {boxes * each - given} + {bought} = {boxes * each - given + bought}.")
        answer = boxes * each - given + bought
    elif kind == 1:
        question = (f"{name} sells {each} {thing} a day for {given} dollars each. {friend} sells twice as many at the same price. How many dollars do both earn together in {boxes} "
                    "days?")
        solution = (f"{name} earns {each} * {given} = {each * given} dollars a day.\n{friend} earns 2 * {each * given} = {2 * each * given} dollars a day.\n"
                    f"Both earn {3 * each * given} a day, so in {boxes} days {3 * each * given} * {boxes} = {3 * each * given * boxes} dollars.")
        answer = 3 * each * given * boxes
    else:
        question = f"{name} puts {boxes * each} {thing} into {boxes} equal rows and then adds {given} to every row. {friend} takes one whole row away. How many {thing} are left?"
        solution = (f"A row has {boxes * each} / {boxes} = {each} {thing}.\nWith those added it has {each} + {given} = {each + given}.\n"
                    f"There are {boxes} - 1 = {boxes - 1} rows left, with {boxes - 1} * {each + given} = {(boxes - 1) * (each + given)} {thing}.")
        answer = (boxes - 1) * (each + given)
    return QUESTION.format(question=question) + f"{solution}\nThe final answer is {answer}."


def word_problems(count, others):
    texts = [word_problem(number) for number in range(count + others)]
    return Prompts("word problems", texts[:count], [f"word problem {number}" for number in range(count)], texts[count:])
