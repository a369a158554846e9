"""Reasoning primitives (2602.16490, appendix D.1): copying and variable assignment as multiple choice, chance 10 % and 20 %.
Item i of a task is a function of (task, seed, i). Evaluation and training draw from disjoint seeds, so no training text is a test item's draw.

`meristem data primitives --tasks … --items N --out FILE.jsonl` writes solved ones as training text, a document a line."""

import json
import random
import string
from dataclasses import dataclass
from pathlib import Path

from command import Parser, UserError, publish, reported, require_writable

COPY_LENGTH, COPY_SHOWN = 10, 5     # words of the list, words of it that are repeated before the blank
VARIABLES, VALUES = 5, range(1, 26)  # variables a level; values without replacement
MOST_QUESTIONS = 100                 # about one list, in training texts
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


def make_item(task, seed, index, questions=1):
    """Item `index` of the task, without examples before it. Positions of the right answer take turns. With several questions about the one list, which only training
    texts have, all but the last are answered."""
    draw = random.Random(f"{task}/{seed}/{index}")
    if task.startswith("copy"):
        return _copy(draw, task == "copy-real-words", index % COPY_LENGTH, questions)
    form, depth = task.removeprefix("variable-assignment-").rsplit("-", 1)
    return _assignment(draw, form, int(depth), index % VARIABLES, questions)


def with_shots(task, seed, index, shots, total, questions=1):
    """Item `index` of `total` behind `shots` solved ones, which are no items of the test: indices from `total` on."""
    item = make_item(task, seed, index, questions)
    examples = [make_item(task, seed, total + index * shots + k, questions).solved for k in range(shots)]
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


def _copy(draw, real, gold, questions):
    words = draw.sample(WORDS, COPY_LENGTH) if real else _random_words(draw, COPY_LENGTH)
    begin = draw.randrange(COPY_LENGTH - COPY_SHOWN)
    before = _others(draw, range(COPY_LENGTH - COPY_SHOWN), begin, questions)
    answered = [f"{' '.join(words[at:at + COPY_SHOWN])} ___. -> {words[at + COPY_SHOWN]}\n" for at in before]
    shown, answer = words[begin:begin + COPY_SHOWN], words[begin + COPY_SHOWN]
    asked = " ".join([*answered, *shown])  # each line begins with a blank, so that its words are the tokens that they are elsewhere
    context = f"Fill in the blank:\n\n{' '.join(words)} {asked} ___. ->"
    return Item(context, tuple(" " + choice for choice in _placed(draw, answer, (w for w in words if w != answer), gold)), gold)


def _others(draw, all_of, one, questions):
    """What the questions before the last one ask: in rounds that ask of each once, and in the last round not what the last one asks. The draws of an item with one question are
    what they always were."""
    if questions == 1:
        return []
    found = draw.sample([each for each in all_of if each != one], min(questions, len(all_of)) - 1)
    while len(found) < questions - 1:
        found = draw.sample(list(all_of), min(len(all_of), questions - 1 - len(found))) + found
    return found


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


_ASKED = {"basic": "{0}=___. ->", "math": "What is the numerical value of {0}?\nAnswer:", "code": "What is the value of {0}?\nAnswer:"}


def _assignment(draw, form, depth, gold, questions):
    lines, last, value_of = _assignments(draw, depth)
    asked = draw.choice(last)
    answer = value_of[asked]
    body = "\n".join((f"{name} = {value}" if form == "code" else f"{name}={value}") for name, value in lines)
    before = "".join(f"{_ASKED[form].format(name)} {value_of[name]}\n" for name in _others(draw, last, asked, questions))
    context = {
        "basic": f"Fill in blank:\n\n{body}\n",
        "math": f"The following is a set of simple mathematical equations.\n\n{body}\n",
        "code": "The following is a very short Python program. Use the program to resolve the value of the variable in the question.\n"
                f"Program:\n{body}\n\nQuestion:\n",
    }[form] + before + _ASKED[form].format(asked)
    others = {value for value in value_of.values() if value != answer}
    return Item(context, tuple(" " + choice for choice in _placed(draw, answer, sorted(others), gold)), gold)


def documents(names, items, shots, seed, questions=1):
    """Tasks take turns; a document is `shots` solved items and one more."""
    for index in range(items):
        for name in names:
            yield with_shots(name, f"train/{seed}", index, shots, items, questions).solved


@reported
def main(argv):
    parser = Parser(prog="meristem data primitives",
                    description="Solved reasoning primitives as training text, a document a line. The code is the evaluation's, the seeds "
                                "are others, so no document is one of its items.")
    parser.add_argument("--tasks", default="primitives", help="primitives, or names of single ones separated by commas")
    parser.add_argument("--items", type=int, default=1000, help="documents of each task")
    parser.add_argument("--shots", type=int, default=5, help="solved items before the last in a document")
    parser.add_argument("--questions", type=int, default=1, help=f"questions about each list, 1 to {MOST_QUESTIONS}: more of them teach more per token")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.jsonl")
    parser.add_argument("--force", action="store_true", help="replace the file where it exists")
    arguments = parser.parse_args(argv)
    known = task_names()
    names = known if arguments.tasks == "primitives" else arguments.tasks.split(",")
    for name in names:
        if name not in known:
            raise UserError(f"--tasks: found {name!r}; allowed: primitives, {', '.join(known)}")
    if arguments.items < 1 or arguments.shots < 0:
        raise UserError(f"--items, --shots: found {arguments.items}, {arguments.shots}; allowed: at least 1 and 0")
    if not 1 <= arguments.questions <= MOST_QUESTIONS:
        raise UserError(f"--questions: found {arguments.questions}; allowed: 1 to {MOST_QUESTIONS}")
    if arguments.out.exists() and not arguments.force:
        raise UserError(f"{arguments.out}: exists; --force replaces it")
    require_writable(arguments.out)

    def write(path):
        with path.open("w") as file:
            for text in documents(names, arguments.items, arguments.shots, arguments.seed, arguments.questions):
                file.write(json.dumps({"text": text}) + "\n")

    publish(arguments.out, write, replace=arguments.force)
    print(f"{arguments.out}: {arguments.items * len(names):,} documents of {len(names)} tasks")
    return 0
