"""Tab completion: what the printed scripts offer, in the shells themselves, is what the parsers know; and every help says its defaults."""

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests" / "support")]

from text_commands import call  # noqa: E402
import completion  # noqa: E402
from command import Parser  # noqa: E402
import program  # noqa: E402

PROGRAM = os.environ["MERISTEM_BINARY"]
ENTRY = completion.table_of_commands()
PROGRAMS = completion.described_by_program()


def help_of(main, *arguments):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([*arguments, "--help"])
    return out.getvalue()


def entrys_commands():
    """Those that scripts/meristem takes, as it names them to a user who mistypes one."""
    line = subprocess.run([ROOT / "scripts" / "meristem", "no-such"], capture_output=True, text=True).stderr
    return set(re.search(r"allowed: (.*) \(", line)[1].split(", "))


class CompletionTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.scripts = {}
        for shell in ("bash", "zsh"):
            code, out, err = call(completion, shell)
            assert (code, err) == (0, ""), err
            cls.scripts[shell] = Path(folder.name) / shell
            cls.scripts[shell].write_text(out)
        cls.commands = completion.all_commands(ENTRY.COMMANDS, ENTRY.CHAT, PROGRAMS)

    def offered(self, *many):
        """What bash offers for the last of the words of each line."""
        ask = "".join(f"COMP_WORDS=({' '.join(repr(word) for word in words)}); COMP_CWORD={len(words) - 1}; _meristem; echo \"${{COMPREPLY[*]}}\"\n" for words in many)
        done = subprocess.run(["bash", "--norc", "-c", f"source {self.scripts['bash']}\n{ask}complete -p meristem"], capture_output=True, text=True, timeout=60)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        *lines, registered = done.stdout.splitlines()
        self.assertIn("-F _meristem meristem", registered)
        return [line.split() for line in lines]

    def test_commands_are_those_of_the_entry(self):
        first, data, started = self.offered(["scripts/meristem", ""], ["meristem", "data", ""], ["meristem", "data", "tok"])
        self.assertEqual(set(first), entrys_commands())
        self.assertEqual(started, ["tokenize"])
        shown = subprocess.run([ROOT / "scripts" / "meristem", "data"], capture_output=True, text=True).stderr
        self.assertEqual(set(data), set(re.search(r"allowed: (.*)", shown)[1].split(", ")))

    def test_every_option_of_every_command_is_offered(self):
        lines = [["meristem", *words.split(), "x", "--"] for words in self.commands]
        for words, found in zip(self.commands, self.offered(*lines)):
            with self.subTest(words):
                self.assertEqual(set(found), {name for name in self.commands[words].options if name.startswith("--")})
                help_texts = []
                if words in ENTRY.COMMANDS:
                    second = words.split()[1:] if ENTRY.COMMANDS[words] == "text.inspection" else []
                    for module in {ENTRY.COMMANDS[words], ENTRY.CHAT.get(words, ENTRY.COMMANDS[words])}:
                        help_texts.append(help_of(completion.importlib.import_module(module).main, *second))
                if words in PROGRAMS:
                    help_texts.append(program.run(PROGRAM, words, "--help")[1])
                self.assertTrue(help_texts)
                listed = {name for text in help_texts for name in re.findall(r"^ {2,}(?:-\w(?: \w+)?,\s?)?(--[a-z][a-z-]*)", text, re.M)}
                self.assertTrue(listed)
                self.assertLessEqual(listed, set(found))

    def test_values_options_and_files(self):
        for words, wanted in ((["meristem", "train", "r.yaml", "--res"], ["--resume"]), (["meristem", "train", "r.yaml", "--n"], ["--nproc"]),
                              (["./scripts/meristem", "follow", "r", "--to", ""], ["trackio", "wandb", "mlflow"]), (["meristem", "completion", "z"], ["zsh"]),
                              (["meristem", "generate", "c", "--top"], ["--top-k", "--top-p"]), (["meristem", "generate", "c", "--sys"], ["--system"]),
                              (["meristem", "data", "tokenize", "a", "--format", "par"], ["parquet"]), (["meristem", "train", "conf"], []), (["meristem", "nothing", "--"], [])):
            (found,) = self.offered(words)
            self.assertEqual(sorted(found), sorted(wanted), words)

    def test_a_shell_reads_the_scripts(self):
        self.assertEqual(subprocess.run(["bash", "-n", self.scripts["bash"]]).returncode, 0)
        zsh = shutil.which("zsh")
        if zsh:
            loaded = f"autoload -U compinit; compinit -D -u; source {self.scripts['zsh']}; echo ${{_comps[meristem]}}"
            self.assertEqual(subprocess.run([zsh, "-f", "-c", loaded], capture_output=True, text=True).stdout.strip(), "_meristem")
        text = self.scripts["zsh"].read_text()
        self.assertTrue(text.startswith("#compdef meristem\n"))
        for name in {name for command in self.commands.values() for name in command.options}:
            self.assertRegex(text, rf"'{name}(:|')")

    def test_no_other_shell(self):
        code, out, err = call(completion, "fish")
        self.assertEqual((code, out, err.count("\n")), (2, "", 1))


class HelpTest(unittest.TestCase):
    def test_the_programs_help_says_defaults(self):
        for words, command in PROGRAMS.items():
            for option in command["options"]:
                if not option["value"] or option["required"]:
                    continue
                one_of_several = option["names"] in (["--branch"], ["--prompt-ids"], ["--prompts-ids"], ["--gpus"], ["--gbps"], ["--dollars-per-hour"])
                says = option["default"] or "default" in option["help"].lower() or one_of_several
                self.assertTrue(says, f"{words} {option['names']}: {option['help']}")

    def test_what_goes_on_to_the_program_is_in_the_help_too(self):
        shown = " ".join(help_of(completion.importlib.import_module("evaluation.generate").main).split())
        for option, default in (("--max-tokens", "200"), ("--temperature", "0.8"), ("--top-k", "0"), ("--seed", "1"), ("--plan", "as trained"), ("--repeats", "as the plan says")):
            self.assertRegex(shown, rf"{option} X ((?! --).)*\(default: {default}\)")

    def test_the_text_commands_help_says_defaults(self):
        for words, module in ENTRY.COMMANDS.items():
            if words in completion.INTERNAL:
                continue
            second = words.split()[1:] if module == "text.inspection" else []
            for each in {module, ENTRY.CHAT.get(words, module)}:
                parser = completion.parser_of(each, second)
                self.assertIsInstance(parser, Parser, each)
                for action in parser._actions:
                    if not action.option_strings or action.default in (None, False, "==SUPPRESS=="):
                        continue
                    shown = " ".join(help_of(completion.importlib.import_module(each).main, *second).split())
                    value = re.escape(str(action.default))
                    self.assertRegex(shown, rf"{action.option_strings[0]} .*?(default:? {value}|{value}, the default)", f"{words} {action.option_strings}")


if __name__ == "__main__":
    unittest.main(verbosity=2)
