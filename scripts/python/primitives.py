"""Reasoning primitives (2602.16490, appendix D.1): copying and variable assignment as multiple choice, chance 10 % and 20 %.
Item i of a task is a function of (task, seed, i). Evaluation and training draw from disjoint seeds, so no training text is a test item's draw."""

import random
import string
from dataclasses import dataclass

COPY_LENGTH, COPY_SHOWN = 10, 5     # words of the list, words of it that are repeated before the blank
VARIABLES, VALUES = 5, range(1, 26)  # variables a level; values without replacement
DEPTHS = range(6)                    # 0-2 as in the papers, 3-5 beyond them
FORMS = ("basic", "math", "code")

WORDS = """able acid arch army back ball band bank barn base bath bear beat bell belt bird blue boat body bone book born bowl brick bridge bright
broad brown brush cake calm camp card care cart case chain chair chalk cheap chest child clay clean clock cloth cloud coal coast coat cold cook cool
copper corn cotton cover cream crop crowd cruel cup dance dark deep deer desk dish door dream dress drink dry duck dust early earth east edge eight
farm fast feast field fire fish flame flat floor flour fly fold food foot fork fresh frog fruit garden glass goat gold grain grape grass green ground
hair hall hand harbor hard hat heart heavy hill honey horse house ice iron island jar jewel journey key kind king kitchen knee knife lake lamp lamb
land large leaf leather letter light lion loud map market meadow metal milk mirror money moon morning mountain mouse music nail narrow needle nest
night noise north ocean oil old orange oven page paint paper path pear pencil piano pig pipe plain plant plate pocket pond pony potato pound quick
quiet rabbit rain red rice ring river road roof root rope rose round sail salt sand school sea seed seven shade sharp sheep shelf ship shirt shoe
silk silver simple six sky slow small smoke snow soap soft soldier song soup south spade spoon spring stable star steam stone storm straw street
strong sugar summer sun sweet table tail tall tea thin thread three throat ticket tiger tin tooth town train tree valley voice wagon wall warm water
wave wax weak west wheat wheel white wide wild window wine wing winter wire wolf wood wool yellow young""".split()


@dataclass(frozen=True)
class Item:
    context: str    # ends where the answer begins
    choices: tuple  # candidate answers; each is a continuation, its blank included
    gold: int

    @property
    def solved(self):
        return self.context + self.choices[self.gold]


def task_names():
    return ["copy-random", "copy-real-words"] + [f"variable-assignment-{form}-{depth}" for form in FORMS for depth in DEPTHS]


def chance(task):
    return 1 / COPY_LENGTH if task.startswith("copy") else 1 / VARIABLES


def make_item(task, seed, index):
    """Item `index` of the task, without examples before it. Positions of the right answer take turns."""
    draw = random.Random(f"{task}/{seed}/{index}")
    if task.startswith("copy"):
        return _copy(draw, real=task == "copy-real-words", gold=index % COPY_LENGTH)
    form, depth = task.removeprefix("variable-assignment-").rsplit("-", 1)
    return _assignment(draw, form, int(depth), gold=index % VARIABLES)


def with_shots(task, seed, index, shots, total):
    """Item `index` of `total` behind `shots` solved ones, which are no items of the test: indices from `total` on."""
    item = make_item(task, seed, index)
    examples = [make_item(task, seed, total + index * shots + k).solved for k in range(shots)]
    return Item("\n\n".join([*examples, item.context]), item.choices, item.gold)


def _placed(draw, answer, others, gold):
    """Choices with the answer at place `gold`, the others shuffled around it."""
    others = list(others)
    draw.shuffle(others)
    return tuple(others[:gold] + [answer] + others[gold:])


def _random_words(draw, count):
    words = set()
    while len(words) < count:
        words.add("".join(draw.choices(string.ascii_lowercase, k=3)))
    return draw.sample(sorted(words), count)


def _copy(draw, real, gold):
    words = draw.sample(WORDS, COPY_LENGTH) if real else _random_words(draw, COPY_LENGTH)
    begin = draw.randrange(COPY_LENGTH - COPY_SHOWN)
    shown, answer = words[begin:begin + COPY_SHOWN], words[begin + COPY_SHOWN]
    context = f"Fill in the blank:\n\n{' '.join(words + shown)} ___. ->"
    return Item(context, tuple(" " + choice for choice in _placed(draw, answer, (w for w in words if w != answer), gold)), gold)


def _assignments(draw, depth):
    """([(name, value or earlier name)] level by level, names of the last level, {name: value})."""
    letters = string.ascii_lowercase if VARIABLES * (depth + 1) <= 26 else string.ascii_letters
    names = draw.sample(letters, VARIABLES * (depth + 1))
    values = draw.sample(list(VALUES), VARIABLES)
    lines, value_of = list(zip(names, map(str, values))), dict(zip(names, map(str, values)))
    for level in range(1, depth + 1):
        new = names[VARIABLES * level:VARIABLES * (level + 1)]
        aliased = draw.sample(names[VARIABLES * (level - 1):VARIABLES * level], VARIABLES)
        lines += zip(new, aliased)
        value_of.update({name: value_of[source] for name, source in zip(new, aliased)})
    return lines, names[-VARIABLES:], value_of


def _assignment(draw, form, depth, gold):
    lines, last, value_of = _assignments(draw, depth)
    asked = draw.choice(last)
    answer = value_of[asked]
    body = "\n".join((f"{name} = {value}" if form == "code" else f"{name}={value}") for name, value in lines)
    context = {
        "basic": f"Fill in blank:\n\n{body}\n{asked}=___. ->",
        "math": f"The following is a set of simple mathematical equations.\n\n{body}\nWhat is the numerical value of {asked}?\nAnswer:",
        "code": "The following is a very short Python program. Use the program to resolve the value of the variable in the question.\n"
                f"Program:\n{body}\n\nQuestion:\nWhat is the value of {asked}?\nAnswer:",
    }[form]
    others = {value for value in value_of.values() if value != answer}
    return Item(context, tuple(" " + choice for choice in _placed(draw, answer, sorted(others), gold)), gold)
