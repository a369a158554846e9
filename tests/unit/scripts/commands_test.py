"""scripts/python as a folder that is run: every command finds its module and explains itself, from any current folder; what all share."""

import contextlib
import errno
import importlib.util
import io
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts" / "python"
sys.path.insert(0, str(SCRIPTS))

import command  # noqa: E402

spec = importlib.util.spec_from_file_location("text_commands_main", SCRIPTS / "__main__.py")
entry = importlib.util.module_from_spec(spec)
spec.loader.exec_module(entry)


def call(main, *arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(arguments))
        except SystemExit as leaving:
            code = leaving.code
    return code, out.getvalue(), err.getvalue()


class Commands(unittest.TestCase):
    def test_each_explains_itself_under_its_name(self):
        for words in entry.COMMANDS:
            if words not in ("encoding-worker", "launch"):  # started by other commands
                with self.subTest(words):
                    code, out, err = call(entry.main, *words.split(), "--help")
                    self.assertEqual((code, err), (0, ""))
                    self.assertIn(f"usage: meristem {words} ", out)
        for words in entry.CHAT:
            code, out, _ = call(entry.main, *words.split(), "--chat", "--help")
            self.assertEqual(code, 0)
            self.assertIn(f"usage: meristem {words} --chat ", out)

    def test_others_are_refused(self):
        for words in ([], ["data"], ["data", "tokenise"], ["plots"]):
            code, out, err = call(entry.main, *words)
            self.assertEqual((code, out, err.count("\n")), (2, "", 1))

    def test_nothing_of_the_current_folder_is_imported(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("command", "text", "random", "numpy"):
                (Path(folder) / f"{name}.py").write_text("raise SystemExit('imported from the current folder')")
            done = subprocess.run([sys.executable, SCRIPTS, "data", "primitives", "--items", "1", "--out", "x.jsonl"], cwd=folder, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)


class Shared(unittest.TestCase):
    def code_of(self, error):
        @command.reported
        def main(_):
            raise error

        return call(main)[0]

    def test_exit_codes(self):
        self.assertEqual(self.code_of(command.UserError("x")), 2)
        self.assertEqual(self.code_of(command.DamagedError("x")), 4)
        self.assertEqual(self.code_of(FileNotFoundError(errno.ENOENT, "No such file", "x")), 2)
        self.assertEqual(self.code_of(OSError(errno.ENOSPC, "No space left on device", "x")), 1)
        self.assertEqual(self.code_of(KeyboardInterrupt()), 130)

    def test_a_file_appears_whole_or_not_at_all(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "deep" / "file"
            command.publish(path, lambda beside: beside.write_text("old"))

            def half(beside):
                beside.write_text("ne")
                raise OSError(errno.ENOSPC, "No space left on device")

            with self.assertRaises(OSError):
                command.publish(path, half)
            self.assertEqual({file.name: file.read_text() for file in path.parent.iterdir()}, {"file": "old"})

    def test_of_two_that_write_one_file_the_later_says_so_and_overwrites_nothing(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file"

            def while_another_is_quicker(beside):
                beside.write_text("late")
                path.write_text("first")

            for refused in ({}, {"link": mock.Mock(side_effect=OSError(errno.EPERM, "no hard links here"))}):
                with mock.patch.multiple(os, **refused) if refused else contextlib.nullcontext():
                    with self.assertRaisesRegex(command.UserError, f"^{path}: exists: another process was first"):
                        command.publish(path, while_another_is_quicker, replace=False)
                self.assertEqual({file.name: file.read_text() for file in path.parent.iterdir()}, {"file": "first"})
                path.unlink()
                with mock.patch.multiple(os, **refused) if refused else contextlib.nullcontext():
                    command.publish(path, lambda beside: beside.write_text("alone"), replace=False)
                self.assertEqual({file.name: file.read_text() for file in path.parent.iterdir()}, {"file": "alone"})
            command.publish(path, lambda beside: beside.write_text("forced"))
            self.assertEqual(path.read_text(), "forced")

    def test_each_command_that_makes_a_new_file_leaves_what_another_process_has_published_meanwhile(self):
        from text import shard_writing

        def first(path, answer):
            path.write_text("first")
            return answer

        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            (folder / "text.txt").write_text("To be, or not to be. " * 20)
            made = folder / "made.jsonl"
            with mock.patch("evaluation.primitives.documents", lambda *_: first(made, ["a text"])):
                answers = [(made, call(entry.main, "data", "primitives", "--items", "1", "--out", str(made)))]
            tokenizer = folder / "tokenizer" / "tokenizer.json"
            tokenizer.parent.mkdir()
            with mock.patch("text.tokenizer.train", lambda texts, size: first(tokenizer, mock.Mock(to_str=lambda: "{}"))):
                answers.append((tokenizer, call(entry.main, "data", "train-tokenizer", str(folder / "text.txt"), "--vocab", "300", "--out", str(tokenizer.parent))))
            for path, (code, _, err) in answers:
                self.assertEqual((code, err), (2, f"meristem: error: {path}: exists: another process was first; nothing of it is overwritten\n"))
                self.assertEqual(path.read_text(), "first")
            shard, lock = folder / "shard.bin", shard_writing.ResumableShard._lock
            with mock.patch.object(shard_writing.ResumableShard, "_lock", lambda self, opened: first(shard, lock(self, opened))):
                with self.assertRaisesRegex(command.UserError, f"^{shard}: exists already; --force replaces it"):
                    shard_writing.ResumableShard(folder / "shard", "uint16", {}, False, 60)
            self.assertEqual(shard.read_text(), "first")


if __name__ == "__main__":
    unittest.main()
