"""What the tests of fine-tuning share: made-up problems, a tokenizer trained on them, masked shards."""

import json
import random
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1] / "support"), str(HERE)]

from text_commands import ROOT, call  # noqa: E402
from chat import tokenizing  # noqa: E402
from text import tokenizer as train_tokenizer  # noqa: E402

VOCAB = 384
TEMPLATE = ROOT / "configs" / "sft" / "plain.jinja"
# Turns that end in a special token, as in ChatML; a line break behind it that nobody trains on.
CHATML = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}{% generation %}"
          "{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


# Word problems in the style of GSM8K: questions, worked answers that end in `#### N`.
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


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temporary.cleanup)
        cls.folder = Path(temporary.name)
        write_problems(cls.folder / "text.jsonl", 200, 1, "text")
        code, _, err = call(train_tokenizer, cls.folder / "text.jsonl", "--vocab", VOCAB, "--out", cls.folder / "tokenizer")
        assert code == 0, err
        shutil.copy(TEMPLATE, cls.folder / "tokenizer" / "chat_template.jinja")

    def file(self, name, *records):
        path = self.folder / name
        path.write_text("".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records))
        return path

    def tokenize(self, *arguments, out, tokenizer="tokenizer"):
        return call(tokenizing, *arguments, "--chat", "--tokenizer", self.folder / tokenizer, "--out", self.folder / out, "--force")

    def bytes_of(self, name):
        return [(self.folder / f"{name}{extension}").read_bytes() for extension in (".bin", ".idx", ".mask", ".json")]
