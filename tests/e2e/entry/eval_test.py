"""`meristem eval` on a checkpoint: tasks by name and from a file, under the trained plan and another; what is refused."""

import contextlib
import json
import os
import pty
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests" / "e2e" / "train"), str(ROOT / "tests" / "e2e" / "ranks")]

import generate_test  # noqa: E402
import tiny_run  # noqa: E402
from ranks import free_port  # noqa: E402
from text_commands import SCRIPTS, call  # noqa: E402
from evaluation import evaluate, items  # noqa: E402

PROGRAM = os.environ["MERISTEM_BINARY"]
LINES = [{"context": "To be, or not to", "choices": [" be", " naïve", " question"], "gold": 0}, {"context": "that is the", "choices": [" café", " question"], "gold": 1},
         {"context": "not", "choices": [" to", " or"], "gold": 0}]


class EvalTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temporary.cleanup)
        cls.root = Path(temporary.name)
        code, _, err = tiny_run.run(PROGRAM, "train", tiny_run.write_config(cls.root), "model.vocab_size=280", "data.validation.every=0")
        assert code == 0, err
        cls.folder = cls.root / "runs" / "tiny"
        generate_test.train_tokenizer(cls.folder / "tokenizer.json")
        cls.file = cls.root / "items.jsonl"
        cls.file.write_text("".join(json.dumps(line) + "\n" for line in LINES))

    def results(self, *arguments):
        out = self.root / "out.json"
        code, shown, err = call(evaluate, self.folder, *arguments, "--json", out)
        self.assertEqual((code, [line for line in err.splitlines() if not line.startswith("meristem: note: trained on 32 positions")]), (0, []))
        document = json.loads(out.read_text())
        return {r["task"]: r for r in document["results"]}, shown

    def test_tasks_from_a_file_and_by_name(self):
        results, shown = self.results("--tasks", f"{self.file},copy-random", "--items", 5)
        self.assertEqual([(r["items"], r["shots"]) for r in results.values()], [(3, 0), (5, 5)])
        self.assertAlmostEqual(results["items.jsonl"]["chance"], (1 / 3 + 1 / 2 + 1 / 2) / 3)
        for result in results.values():
            low, high = result["interval"]
            self.assertTrue(0 <= low <= result["accuracy"] <= high <= 1, result)
            self.assertIn(result["task"], shown)
        again, _ = self.results("--tasks", f"{self.file},copy-random", "--items", 5)
        self.assertEqual(again, results)

    def test_another_plan_gives_other_scores_and_shots_stand_before_the_item(self):
        plain, _ = self.results("--tasks", self.file)
        same, _ = self.results("--tasks", self.file, "--plan", "0-5")
        looped, _ = self.results("--tasks", self.file, "--plan", "0-1, (2-3)x3, 4-5")
        shots, _ = self.results("--tasks", self.file, "--shots", 2)
        score = lambda results: results["items.jsonl"]["gold_log_probability"]  # noqa: E731
        self.assertEqual(score(plain), score(same))
        self.assertNotEqual(score(plain), score(looped))
        self.assertNotEqual(score(plain), score(shots))

    def test_plans_and_repeats_in_every_command_that_runs_a_model(self):
        """Semicolons are commas, and --repeats is a plan whose loop runs so often."""
        items = self.root / "plans.jsonl"
        items.write_text('{"context": [1, 2, 3], "choices": [[4], [5, 6]]}\n')
        config = self.root / "run.yaml"
        bare = ["growth=null", "phases=[{name: only, from_step: 0, mixture: {one: 1, two: 1}}]"]
        commands = {"eval": ["eval", self.folder, "--item-ids", items], "generate": ["generate", self.folder, "--prompt-ids", "1,2", "--max-tokens", "40", "--temperature", "0.05"],
                    "plan": ["plan", config, *bare, "--json"], "grow": ["grow", self.folder, "--add", "2"]}
        for name, command in commands.items():
            last = 7 if name == "grow" else 5
            forms = [["--plan", f"0-1, (2-3)x3, 4-{last}"], ["--plan", f"0-1; (2-3)x3; 4-{last}"], ["--plan", f"0-1;(2-3)x1;4-{last}", "--repeats", "3"], ["--plan", f"0-{last}"]]
            said = []
            for number, form in enumerate(forms):
                out = self.root / f"grown-{number}"
                code, shown, err = tiny_run.run(PROGRAM, *command, *form, *(["--out", out] if name == "grow" else []))
                self.assertEqual(code, 0, (name, form, err))
                said.append(json.loads(shown)["flops_per_token"] if name == "plan" else shown.replace(str(out), "OUT"))
            self.assertEqual(said[0], said[1], name)
            self.assertEqual(said[0], said[2], name)
            self.assertNotEqual(said[0], said[3], name)
            for form, part in ((["--repeats", "3"], "loop"), (["--plan", f"0-{last}", "--repeats", "2"], "loop"), (["--plan", f"0-1, (2-3)x2, 4-{last}", "--repeats", "0"], "--repeats"),
                               (["--plan", f"0-1, (2-3)x2, 4-{last}", "--repeats", "99999"], "--repeats"), (["--plan", "0-1; ; 2"], "plan")):
                out = self.root / "refused"
                code, _, err = tiny_run.run(PROGRAM, *command, *form, *(["--out", out] if name == "grow" else []))
                self.assertEqual((code, err.count("\n"), out.exists()), (2, 1, False), (name, form, err))
                self.assertIn(part, err)

    def test_text_commands_take_them_too(self):
        loop, _ = self.results("--tasks", self.file, "--plan", "0-1, (2-3)x3, 4-5")
        for form in (["--plan", "0-1; (2-3)x3; 4-5"], ["--plan", "0-1, (2-3)x2, 4-5", "--repeats", 3], ["--plan", "0-1; (2-3)x9; 4-5", "--repeats", 3, "--nproc", 2]):
            self.assertEqual(self.results("--tasks", self.file, *form)[0], loop)
        code, _, err = call(evaluate, self.folder, "--tasks", self.file, "--repeats", 0)
        self.assertEqual((code, err.count("\n")), (2, 1), err)

    def test_a_bar_on_a_terminal_and_nothing_elsewhere(self):
        """On a terminal stderr shows how far it is; stdout and the JSON are the same as in a pipe."""
        shown, ids = {}, self.root / "bar.jsonl"
        ids.write_text('{"context": [1, 2, 3], "choices": [[4], [5, 6]]}\n' * 5)
        texts = [sys.executable, str(SCRIPTS), "eval", str(self.folder), "--tasks", f"{self.file},copy-random", "--items", "4", "--json"]
        for name, words in (("text", texts), ("ranks", [*texts[:-1], "--nproc", "2", "--json"]), ("ids", [PROGRAM, "eval", str(self.folder), "--item-ids", str(ids)])):
            for terminal in (True, False):
                out = self.root / f"bar-{terminal}.json"
                ours, theirs = pty.openpty() if terminal else os.pipe()
                environment = tiny_run.environment() | {"MERISTEM_BINARY": PROGRAM, "TERM": "xterm"}
                process = subprocess.Popen([*words, str(out)] if name != "ids" else words, stdout=subprocess.PIPE, stderr=theirs, env=environment)
                os.close(theirs)
                said = b""
                with contextlib.suppress(OSError):  # a terminal whose other side is closed
                    while piece := os.read(ours, 65536):
                        said += piece
                os.close(ours)
                result = process.stdout.read()
                process.stdout.close()
                self.assertEqual(process.wait(), 0, said)
                shown[terminal] = result, out.read_text() if name != "ids" else ""
                self.assertEqual("█" in said.decode(), terminal, (name, said))
                self.assertNotIn(b"progress", said)
                if terminal:
                    self.assertIn("100%", said.decode())
            self.assertEqual(shown[True], shown[False])

    def test_ranks_share_the_items_out_and_change_no_score(self):
        tasks = ("--tasks", f"{self.file},copy-random", "--items", 8)  # several batches
        alone, shown = self.results(*tasks)
        for ranks in (1, 3):
            self.assertEqual(self.results(*tasks, "--nproc", ranks), (alone, shown), ranks)
        # Under torchrun and srun each rank is such a command of its own; the first one shows the table.
        script = [sys.executable, SCRIPTS, "eval", self.folder, *map(str, tasks)]
        port = free_port()
        started = [subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=tiny_run.environment() | {
            "MERISTEM_BINARY": PROGRAM, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}) for rank in (0, 1)]
        said = [process.communicate(timeout=120) for process in started]
        self.assertEqual([(process.returncode, out) for process, (out, _) in zip(started, said)], [(0, shown), (0, "")], said)

    def test_ranks_refuse_together(self):
        for arguments, part in ((["--plan", "0-6"], "block 6"), (["--nproc", 0], "--nproc")):
            result = subprocess.run([str(word) for word in (sys.executable, SCRIPTS, "eval", self.folder, "--tasks", self.file, "--nproc", 2, *arguments)], capture_output=True,
                                    text=True, env=tiny_run.environment() | {"MERISTEM_BINARY": PROGRAM}, timeout=120)
            self.assertEqual((result.returncode, result.stdout, result.stderr.count("\n")), (2, "", 1), result.stderr)
            self.assertIn(part, result.stderr)

    def test_bad_input_is_one_line_and_code_2(self):
        broken = self.root / "broken.jsonl"
        broken.write_text(json.dumps(LINES[0]) + "\n{\n")
        for arguments, part in ((["--tasks", "nothing"], "nothing"), (["--tasks", broken], "broken.jsonl:2: broken JSON at column 2"), (["--tasks", self.file, "--shots", 3], "--shots"),
                                (["--tasks", self.file, "--items", 0], "--items")):
            code, _, err = call(evaluate, self.folder, *arguments)
            self.assertEqual((code, err.count("\n")), (2, 1), err)
            self.assertIn(part, err)

    def test_task_files_that_are_none(self):
        line = json.dumps(LINES[0])
        for number, (content, part) in enumerate(((b'{"context": "caf\xe9", "choices": ["a", "b"], "gold": 0}\n', ":1: byte 16: not UTF-8"),
                                                  (line.encode() + b'\n{"context": "\\ud800", "choices": ["a", "b"], "gold": 0}\n', ":2: context: found '\\ud800'"),
                                                  (b'{"context": "a", "choices": ["\\udfff", "b"], "gold": 0}\n', ":1: choices"),
                                                  (b"[" * 100_000 + b"\n", ":1: broken JSON: nested too deeply"),
                                                  (b'{"context": "a", "choices": ["a", "b"], "gold": NaN}\n', ":1: gold"),
                                                  (b'{"context": "a", "choices": [], "gold": 0}\n', ":1: choices"),
                                                  (b"3\n", ":1: found int, expected an object"), (b"", "has no item"))):
            with self.subTest(part):
                file = self.root / f"bad-{number}.jsonl"
                file.write_bytes(content)
                code, out, err = call(evaluate, self.folder, "--tasks", file)
                self.assertEqual((code, out, err.count("\n")), (2, "", 1), err)
                self.assertIn(f"{file}{part}" if part.startswith(":") else part, err)

    def test_a_line_ends_with_a_line_feed_alone(self):
        file = self.root / "separators.jsonl"
        file.write_text("\n".join(json.dumps(LINES[0] | {"context": f"To be{end}or"}, ensure_ascii=False) for end in ("\u2028", "\u2029", "\x85")) + "\r\n\n", encoding="utf-8")
        results, _ = self.results("--tasks", file)
        self.assertEqual(results[file.name]["items"], 3)

    def test_choices_are_scored_from_one_border(self):
        tokenizer, _ = evaluate.load_tokenizer(self.folder / "tokenizer.json")
        tokens = lambda ids: [tokenizer.id_to_token(i) for i in ids]  # noqa: E731
        for context, choices, before, behind in (("To be ", ("or", "not"), None, ["\u0120or", "\u0120not"]), ("To be", (" or", " not"), None, ["\u0120or", "\u0120not"]),
                                                 ("", ("or", "not to"), ["<|endoftext|>"], ["or", "not to"]), ("  ", ("or", "not"), ["<|endoftext|>"], ["  or", "  not"])):
            with self.subTest(context):
                ids, scored = next(items.encoded_items(tokenizer, [evaluate.primitives.Item(context, choices, 0)], str))
                self.assertEqual(tokens(ids), before or tokens(tokenizer.encode("To be").ids))
                self.assertEqual([tokenizer.decode(one).strip() for one in scored], [text.replace("\u0120", "").strip() for text in behind])
                whole = [tokenizer.decode(ids + one, skip_special_tokens=True) for one in scored]
                self.assertEqual(whole, [context + choice for choice in choices])

    def test_a_tie_counts_its_share_and_is_counted(self):
        file = self.root / "ties.jsonl"
        file.write_text("".join(json.dumps({"context": "To be", "choices": [" or"] * count, "gold": gold}) + "\n" for count, gold in ((2, 0), (2, 1), (4, 2))))
        results, shown = self.results("--tasks", file)
        self.assertEqual((results[file.name]["accuracy"], results[file.name]["ties"]), ((1 / 2 + 1 / 2 + 1 / 4) / 3, 3))
        self.assertIn("in 3 items k choices", shown)
        for item in results[file.name]["item_results"]:
            self.assertEqual(len(set(item["log_likelihoods"])), 1)

    def test_results_that_could_not_be_written_are_refused_before_the_work(self):
        for out, part in ((self.root / "no" / "out.json", "no such folder"), (self.root, "is a folder")):
            code, shown, err = call(evaluate, self.folder, "--tasks", self.file, "--json", out)
            self.assertEqual((code, shown, err.count("\n")), (2, "", 1), err)
            self.assertIn(part, err)

    def test_weights_that_are_not_finite_are_named(self):
        broken = self.root / "broken"
        shutil.copytree(tiny_run.published(self.folder)[-1], broken)
        shutil.copy(self.folder / "tokenizer.json", broken)
        file = broken / "model.safetensors"
        raw = bytearray(file.read_bytes())
        header = json.loads(raw[8:8 + int.from_bytes(raw[:8], "little")])
        at = 8 + int.from_bytes(raw[:8], "little") + header["blocks.1.attention.qkv.weight"]["data_offsets"][0] + 4 * 5
        raw[at:at + 4] = np.float32(np.nan).tobytes()
        file.write_bytes(raw)
        manifest = json.loads((broken / "manifest.json").read_text())
        manifest["files"]["model.safetensors"]["xxh3"] = tiny_run.xxh3_file(file)
        (broken / "manifest.json").write_text(json.dumps(manifest))
        ids = self.root / "finite.jsonl"
        ids.write_text('{"context": [1], "choices": [[2], [3]]}\n')
        for command in (("eval", broken, "--item-ids", ids), ("generate", broken, "--prompt-ids", "1"), ("inspect", broken), ("export", broken, "--out", self.root / "exported"),
                        ("grow", broken, "--out", self.root / "grown", "--add", "1")):
            with self.subTest(command[0]):
                code, out, err = tiny_run.run(PROGRAM, *command)
                self.assertEqual((code, err.count("\n")), (3, 1), err)
                self.assertIn("blocks.1.attention.qkv.weight holds 1 value that is not finite, the first at 5", err)
                self.assertEqual(out != "", command[0] == "inspect")
        self.assertFalse((self.root / "exported").exists() or (self.root / "grown").exists())

    def test_numbers_that_an_option_does_not_take(self):
        huge, out = "99999999999999999999", self.root / "never"
        generate = ("generate", self.folder, "--prompt-ids", "1")
        for command, option, values in ((generate, "--max-tokens", (huge, "-1", "1.5", "1e3", " 1", "")), (generate, "--top-k", (huge, "-1", "x")),
                                        (generate, "--seed", ("18446744073709551616", "-1", "1.0")), (generate, "--stop-id", ("-1", "280", "1,-1", huge, "1,")),
                                        (generate, "--temperature", ("-1", "nan", "x")), (generate, "--top-p", ("0", "2", "nan")),
                                        (("generate", self.folder), "--prompt-ids", ("-1", "280", huge, "1,,2")), (("grow", self.folder, "--out", out), "--add", (huge, "0", "-2")),
                                        (("export", self.folder, "--out", out), "--shard-bytes", (huge, "0", "-1"))):
            for value in values:
                with self.subTest(f"{command[0]} {option}={value}"):
                    code, shown, err = tiny_run.run(PROGRAM, *command, f"{option}={value}")
                    errors = [line for line in err.splitlines() if not line.startswith("meristem: note: ")]
                    self.assertEqual((code, shown, len(errors)), (2, "", 1), err)
                    self.assertIn(option.removeprefix("--").removesuffix("-ids"), errors[0])
        self.assertFalse(out.exists())

    def test_settings_that_would_have_no_effect_and_weights_out_of_range(self):
        config, newest = self.root / "run.yaml", tiny_run.published(self.folder)[-1]
        for words, part in ((("train", config, "--branch", newest, "run.name=branch", "initial.checkpoint=/nonexistent"), "initial.checkpoint"),
                            (("plan", config, "phases=[{name: a, from_step: 0, mixture: {one: 1, two: 1e-12}}]"), "phases[0].mixture.two: found 1e-12; allowed: 0, or 1e-9 to 1e6"),
                            (("plan", config, "kernels={nothing: auto}"), "unknown key")):
            with self.subTest(part):
                code, shown, err = tiny_run.run(PROGRAM, *words)
                self.assertEqual((code, shown, err.count("\n")), (2, "", 1), err)
                self.assertIn(part, err)
        allowed = err.split("allowed: ")[1].split(" (did")[0].strip().split(", ")
        self.assertEqual(len(allowed), len(set(allowed)), allowed)

    def test_an_export_carries_the_tokenizer_that_the_run_was_trained_with(self):
        named = self.root / "named" / "tokenizer.json"
        named.parent.mkdir()
        generate_test.train_tokenizer(named)
        words = ("train", self.root / "run.yaml", "run.name=carried", "model.vocab_size=280", "data.validation.every=0", f"data.tokenizer={named}", "schedule.steps=41", "phases=[]")
        code, _, err = tiny_run.run(PROGRAM, *words)
        self.assertEqual(code, 0, err)
        trained_with = named.read_bytes()
        for changed in (False, True):
            out = self.root / f"exported-{changed}"
            if changed:
                named.write_bytes(trained_with + b" ")
            code, _, err = tiny_run.run(PROGRAM, "export", self.root / "runs" / "carried", "--out", out)
            self.assertEqual((code, "is not what the run was trained with" in err), (0, changed), err)
            self.assertEqual((out / "tokenizer.json").read_bytes(), trained_with)

    def test_a_validation_source_without_a_target_is_refused_before_work(self):
        place = self.root / "held-late"  # only its last document is trained on
        tiny_run.write_shard(place, tiny_run.VOCAB, [list(range(1, 40)) for _ in range(4)], [np.full(39, at == 3) for at in range(4)])
        for tokens, code in ((64, 2), (0, 0)):
            found, _, err = tiny_run.run(PROGRAM, "train", self.root / "run.yaml", "--dry-run", "run.name=targets", f"data.validation.held.path={place}",
                                         f"data.validation.tokens={tokens}")
            self.assertEqual(found, code, err)
            if code:
                self.assertEqual(err.count("\n"), 1, err)
                self.assertIn("data.validation.held", err)
                self.assertIn("no token to validate on", err)
            self.assertFalse((self.root / "runs" / "targets").exists())

    def test_what_the_program_refuses_is_its_one_line(self):
        for plan, part in (("0-6", "block 6"), ("0-", "plan")):
            result = subprocess.run([sys.executable, SCRIPTS, "eval", self.folder, "--tasks", self.file, "--plan", plan], capture_output=True, text=True,
                                    env=tiny_run.environment() | {"MERISTEM_BINARY": PROGRAM}, timeout=120)
            self.assertEqual((result.returncode, result.stderr.count("\n")), (2, 1), result.stderr)
            self.assertIn(part, result.stderr)

    def test_ids_that_the_model_does_not_have(self):
        ids = self.root / "ids.jsonl"
        for text, part, code in (('{"context": [1], "choices": [[280]]}', "280", 2), ('{"context": [1]}', "ids.jsonl:1", 4), ("", "has no item", 2)):
            ids.write_text(text)
            found, _, err = tiny_run.run(PROGRAM, "eval", self.folder, "--item-ids", ids)
            self.assertEqual((found, part in err), (code, True), err)


if __name__ == "__main__":
    unittest.main(verbosity=2)
