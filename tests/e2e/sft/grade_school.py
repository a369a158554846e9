"""Word problems in the style of GSM8K, made here: questions, worked answers that end in `#### N`."""

import json
import random

NAMES = ("Ada", "Bruno", "Chen", "Dalia", "Emil", "Farah", "Goran", "Hanna")
THINGS = ("apples", "stamps", "books", "marbles", "tickets", "shells")


def problem(draw):
    name, thing = draw.choice(NAMES), draw.choice(THINGS)
    a, b, c = draw.randint(2, 30), draw.randint(2, 20), draw.randint(2, 6)
    kind = draw.randrange(3)
    if kind == 0:
        return (f"{name} has {a} {thing} and buys {b} more. How many {thing} does {name} have now?",
                f"{name} has {a}+{b} = <<{a}+{b}={a + b}>>{a + b} {thing}.\n#### {a + b}")
    if kind == 1:
        return (f"There are {c} boxes with {a} {thing} each. {name} takes out {c} {thing} in all. How many are left?",
                f"The boxes hold {c}*{a} = <<{c}*{a}={c * a}>>{c * a} {thing}.\n{c * a}-{c} = <<{c * a}-{c}={c * a - c}>>{c * a - c} are left.\n#### {c * a - c}")
    return (f"{name} reads {a} pages a day for {c} days, then {b} pages on a holiday. How many pages are that?",
            f"In {c} days {name} reads {a}*{c} = <<{a}*{c}={a * c}>>{a * c} pages.\nWith the holiday: {a * c}+{b} = <<{a * c}+{b}={a * c + b}>>{a * c + b}.\n"
            f"#### {a * c + b}")


def write_problems(path, count, seed, shape="prompt"):
    draw = random.Random(seed)
    with open(path, "w", encoding="utf-8") as file:
        for _ in range(count):
            question, answer = problem(draw)
            record = {"prompt": {"prompt": question, "completion": answer},
                      "messages": {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]},
                      "alpaca": {"instruction": question, "input": "", "output": answer}, "text": {"text": f"{question}\n{answer}"}}[shape]
            file.write(json.dumps(record) + "\n")
    return path
