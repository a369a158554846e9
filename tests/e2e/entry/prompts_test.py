"""`meristem generate --prompts FILE`: the answers are those of the prompts one at a time; what is refused."""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests" / "e2e" / "train")]

import generate_test  # noqa: E402
import tiny_run  # noqa: E402
from text_commands import SCRIPTS  # noqa: E402

PROGRAM = os.environ["MERISTEM_BINARY"]
PROMPTS = ["To be, or not to be", "that", "naïve café — that is the question.\nTo be", "To be, or not to be", "", "is the question"]


class PromptsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temporary.cleanup)
        cls.root = Path(temporary.name)
        code, _, err = tiny_run.run(PROGRAM, "train", tiny_run.write_config(cls.root), "model.vocab_size=280", "data.validation.every=0")
        assert code == 0, err
        cls.folder = cls.root / "runs" / "tiny"
        generate_test.train_tokenizer(cls.folder / "tokenizer.json")

    def generate(self, *words):
        environment = tiny_run.environment() | {"MERISTEM_BINARY": PROGRAM}
        return subprocess.run([str(word) for word in (sys.executable, SCRIPTS, "generate", self.folder, *words)], capture_output=True, text=True, env=environment, timeout=300)

    def file(self, name, text):
        path = self.root / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def test_answers_are_those_of_the_prompts_one_at_a_time(self):
        file = self.file("prompts.jsonl", "".join(json.dumps({"prompt": prompt, "number": number}) + "\n" for number, prompt in enumerate(PROMPTS)))
        options = ["--max-tokens", 24, "--temperature", 0.9, "--stop-id", "260,270,40"]
        alone = []
        for number, prompt in enumerate(PROMPTS):
            result = self.generate("--prompt", prompt, "--seed", 1 + number, *options)
            self.assertEqual(result.returncode, 0, result.stderr)
            alone.append({"prompt": prompt, "number": number, "answer": result.stdout.removeprefix(prompt).removesuffix("\n")})
        self.assertGreater(len({len(answer["answer"]) for answer in alone}), 2)  # they end at different places
        for batch in (1, 4, 32):
            result = self.generate("--prompts", file, "--batch", batch, *options)
            self.assertEqual(result.returncode, 0, result.stderr)
            self.assertEqual([json.loads(line) for line in result.stdout.splitlines()], alone)

    def test_a_text_file_has_a_prompt_a_line(self):
        file = self.file("prompts.txt", "To be\r\n\n  \nthat is")
        result = self.generate("--prompts", file, "--max-tokens", 3, "--temperature", 0)
        self.assertEqual((result.returncode, [json.loads(line)["prompt"] for line in result.stdout.splitlines()]), (0, ["To be", "that is"]), result.stderr)

    def test_another_precision(self):
        for precision, expected in (("bf16", 0), ("fp32", 0), ("fp64", 2)):
            result = self.generate("--prompt", "To be", "--max-tokens", 3, "--precision", precision)
            self.assertEqual(result.returncode, expected, result.stderr)
        self.assertIn("--precision: found 'fp64'; allowed: fp32, bf16", result.stderr)

    def test_bad_input_is_one_line_and_code_2(self):
        good = '{"prompt": "To be"}\n'
        for name, text, part in (("a.jsonl", "", "has no prompt"), ("b.txt", " \n\n", "has no prompt"), ("c.jsonl", good + '{"text": "a"}\n', "c.jsonl:2: found 'text'; allowed: prompt"),
                                 ("d.jsonl", '{"prompt": 3}\n', "d.jsonl:1: prompt: found int"), ("e.jsonl", '{"prompt": "\\ud800"}\n', "e.jsonl:1: prompt"),
                                 ("f.jsonl", good + "{\n", "f.jsonl:2: broken JSON"), ("g.txt", b"caf\xe9\n", "byte 3: not UTF-8"), ("h.jsonl", '{"prompt": NaN}\n', "h.jsonl:1: prompt: found float"),
                                 ("i.jsonl", '{"prompt": "a", "answer": "b"}\n', "i.jsonl:1: has the key answer"), ("j.jsonl", "[1]\n", "j.jsonl:1: found list")):
            with self.subTest(name):
                result = self.generate("--prompts", self.file(name, text))
                self.assertEqual((result.returncode, result.stdout, result.stderr.count("\n")), (2, "", 1), result.stderr)
                self.assertIn(part, result.stderr)
        file = self.file("good.jsonl", good)
        for words, part in ((["--prompts", self.root / "none.txt"], "no such file"), (["--prompts", file, "--prompt", "a"], "--prompt"), ([], "--prompt"),
                            (["--prompts", file, "--batch", 0], "--batch"), (["--prompts", file, "--batch", 33], "--batch")):
            with self.subTest(words):
                result = self.generate(*words)
                self.assertEqual((result.returncode, result.stdout, result.stderr.count("\n")), (2, "", 1), result.stderr)
                self.assertIn(part, result.stderr)

    def test_files_of_ids(self):
        run = lambda *words: tiny_run.run(PROGRAM, "generate", self.folder, *words)  # noqa: E731
        code, out, err = run("--prompts-ids", self.file("ids.jsonl", '{"prompt": [1, 2, 3]}\n{"prompt": [4]}\n'), "--batch", 2, "--max-tokens", 4, "--seconds")
        self.assertEqual((code, sorted(json.loads(line)["prompt"] for line in out.splitlines())), (0, [0, 1]), err)
        self.assertRegex(err, r"(?m)^seconds \d+\.\d+$")
        for text, expected, part in (('{"prompt": [1]}\n{"prompt": []}\n', 2, "bad.jsonl:2: is empty"), ('{"prompt": [280]}\n', 2, "bad.jsonl:1: token id 280 is outside the vocabulary of 280"),
                                     ('{"prompt": [1.5]}\n', 4, "prompt[0]"), ('{"prompt": [1], "x": 1}\n', 4, "unknown key"), ("", 2, "has no prompt")):
            code, out, err = run("--prompts-ids", self.file("bad.jsonl", text))
            self.assertEqual((code, out, err.count("\n")), (expected, "", 1), err)
            self.assertIn(part, err)
        code, _, err = run("--prompts-ids", self.root / "ids.jsonl", "--serve")
        self.assertEqual((code, err.count("\n")), (2, 1), err)


if __name__ == "__main__":
    unittest.main(verbosity=2)
