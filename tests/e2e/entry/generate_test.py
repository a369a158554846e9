"""`meristem generate --prompt` with a stand-in for the binary: how text becomes ids on the way in, and ids text on the way out."""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parents[3]
TEXT_COMMANDS = ROOT / "scripts" / "python"
TEXT = "To be, or not to be: naïve café — that is the question.\n" * 20


def train_tokenizer(path):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=280, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.save(str(path))
    return tokenizer


class GenerateTest(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        self.run_folder = self.folder / "run"
        self.checkpoint = self.run_folder / "checkpoints" / "step-0000000001"
        self.checkpoint.mkdir(parents=True)
        self.tokenizer = train_tokenizer(self.run_folder / "tokenizer.json")
        self.answer("")

    def answer(self, text, code=0, special=()):
        """The stand-in prints the ids of `text`, then those in `special`, and writes its arguments down."""
        ids = [*self.tokenizer.encode(text, add_special_tokens=False).ids, *special]
        binary = self.folder / "binary"
        lines = "\\n".join(map(str, ids)) + ("\\n" if ids else "")
        binary.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" >"{self.folder}/arguments"\nprintf "{lines}"\nexit {code}\n')
        binary.chmod(0o755)

    def generate(self, *arguments, cwd=None):
        environment = dict(os.environ, MERISTEM_BINARY=str(self.folder / "binary"), PYTHONIOENCODING="utf-8")
        return subprocess.run([sys.executable, str(TEXT_COMMANDS), "generate", *map(str, arguments)], env=environment, capture_output=True, text=True, encoding="utf-8", cwd=cwd,
                              timeout=120)

    def arguments(self):
        return (self.folder / "arguments").read_text().splitlines()

    def test_a_tokenizer_above_the_run_is_somebody_elses(self):
        train_tokenizer(self.folder / "tokenizer.json")
        (self.run_folder / "tokenizer.json").unlink()
        for place in (self.run_folder, self.checkpoint):
            result = self.generate(place, "--prompt", "To be")
            self.assertEqual((result.returncode, result.stderr.count("\n")), (2, 1), result.stderr)
            self.assertIn("no tokenizer.json there", result.stderr)

    def test_text_that_is_no_utf_8_is_refused(self):
        for arguments, part in ((["--prompt", b"\xff"], "--prompt: not UTF-8 at character 0 (found 0xff)"),):
            command = [sys.executable.encode(), str(TEXT_COMMANDS).encode(), b"generate", str(self.checkpoint).encode(), *(x if isinstance(x, bytes) else x.encode() for x in arguments)]
            result = subprocess.run(command, env=dict(os.environ, MERISTEM_BINARY=str(self.folder / "binary")), capture_output=True, timeout=120)
            self.assertEqual((result.returncode, result.stderr.count(b"\n")), (2, 1), result.stderr)
            self.assertIn(part, result.stderr.decode())

    def test_the_blank_behind_the_prompt_stays_and_so_does_a_broken_end(self):
        self.answer(" be")
        self.assertEqual(self.generate(self.checkpoint, "--prompt", "To").stdout, "To be\n")
        tail = self.tokenizer.token_to_id("\u00c3")  # the first byte of é
        self.answer("caf", special=(tail,))
        self.assertEqual(self.generate(self.checkpoint, "--prompt", "To ").stdout, "To caf\ufffd\n")

    def test_prompt_in_ids_answer_in_text(self):
        self.answer(" naïve — café")  # bytes of one character may come in two tokens
        result = self.generate(self.checkpoint, "--prompt", "To be", "--top-k", "5", "--plan", "0-3, (4-7)x2")
        self.assertEqual((result.returncode, result.stdout), (0, "To be naïve — café\n"), result.stderr)
        ids = ",".join(map(str, self.tokenizer.encode("To be").ids))
        self.assertEqual(self.arguments(), ["generate", str(self.checkpoint), "--prompt-ids", ids, "--stop-id", "0", "--top-k", "5", "--plan", "0-3, (4-7)x2"])

    def test_empty_prompt_begins_a_text_and_special_tokens_are_not_shown(self):
        self.answer("that", special=[0])
        result = self.generate(self.run_folder, "--prompt", "")
        self.assertEqual(result.stdout, "that\n")
        self.assertEqual(self.arguments()[3], "0")

    def test_tokenizer_of_the_checkpoints_config(self):
        (self.run_folder / "tokenizer.json").rename(self.folder / "elsewhere.json")
        (self.checkpoint / "state.json").write_text(json.dumps({"config_yaml": "data: {tokenizer: elsewhere.json}"}))
        self.answer("be")
        self.assertEqual(self.generate(self.checkpoint, "--prompt", "to ", cwd=self.folder).stdout, "to be\n")

    def test_the_binarys_exit_code_is_ours(self):
        self.answer("", code=4)
        self.assertEqual(self.generate(self.checkpoint, "--prompt", "x").returncode, 4)

    def test_wrong_input_is_one_line_and_code_2(self):
        (self.folder / "broken.json").write_text("{")
        (self.folder / "bare").mkdir()
        for arguments, part in (([self.folder / "nothing", "--prompt", "x"], "nothing: no such checkpoint"), ([self.folder / "bare", "--prompt", "x"], "bare: no tokenizer.json"),
                                ([self.checkpoint, "--prompt", "x", "--tokenizer", self.folder / "broken.json"], "broken.json: not a tokenizer")):
            result = self.generate(*arguments)
            self.assertEqual(result.returncode, 2, result.stderr)
            self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
            self.assertIn(part, result.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
