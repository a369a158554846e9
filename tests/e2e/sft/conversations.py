"""What the tests of fine-tuning share: made-up problems, a tokenizer trained on them, masked shards."""

import json
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
from grade_school import write_problems  # noqa: E402

VOCAB = 384
TEMPLATE = ROOT / "configs" / "sft" / "plain.jinja"
# Turns that end in a special token, as in ChatML; a line break behind it that nobody trains on.
CHATML = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}{% generation %}"
          "{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


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
