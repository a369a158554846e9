"""`meristem sweep loops|shots` on a tiny model: the table is what `eval` says, a killed sweep ends with the same table, scores are kept by what decides them, bad input is refused
before anything is written."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests" / "e2e" / folder) for folder in ("train", "entry")] + [str(ROOT / "tests" / "support")]

import generate_test  # noqa: E402
import tiny_run  # noqa: E402
from pages import assert_fetches_nothing, data_of  # noqa: E402
from text_commands import SCRIPTS, call  # noqa: E402
from evaluation import evaluate  # noqa: E402
from sweeps import loops, shots  # noqa: E402

PROGRAM = os.environ["MERISTEM_BINARY"]
WORDS = ("be", "not", "to", "question", "that")
ITEMS = [{"context": a, "choices": [f" {word}" for word in WORDS if word != a], "gold": number % 4} for number, a in enumerate(WORDS * 2)]


def trained(root, name, *settings):
    code, _, err = tiny_run.run(PROGRAM, "train", tiny_run.write_config(root), f"run.name={name}", "model.vocab_size=280", "data.validation.every=0", *settings)
    assert code == 0, err
    generate_test.train_tokenizer(root / "runs" / name / "tokenizer.json")
    return root / "runs" / name


def rows_of(out):
    with (out / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


class SweepsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temporary.cleanup)
        cls.root = Path(temporary.name)
        cls.plain = trained(cls.root, "plain")
        cls.seeds = [cls.plain, trained(cls.root, "other", "run.seed=4")]
        alone = "growth=null", "phases=[{name: only, from_step: 0, mixture: {one: 1, two: 1}}]", "schedule.steps=10"
        cls.loop = trained(cls.root, "loop", *alone, "model.blocks=4", 'model.depth_plan="0, (1-2)x2, 3"')
        cls.injecting = trained(cls.root, "injecting", *alone, "model.blocks=4", 'model.depth_plan="0, (1-2)x2, 3"', "model.loop.injection=concat")
        cls.file = cls.root / "items.jsonl"
        cls.file.write_text("".join(json.dumps(item) + "\n" for item in ITEMS))

    def setUp(self):
        scratch = tempfile.TemporaryDirectory(dir=self.root)
        self.addCleanup(scratch.cleanup)
        self.out = Path(scratch.name) / "sweep"

    def sweep(self, tool, *arguments, out=None):
        code, shown, err = call(tool, *arguments, "--out", out or self.out)
        self.assertEqual(code, 0, err)
        return rows_of(out or self.out), shown, err

    def evaluated(self, folder, *arguments):
        out = self.root / "eval.json"
        code, _, err = call(evaluate, folder, *arguments, "--json", out)
        self.assertEqual(code, 0, err)
        return {result["task"]: result for result in json.loads(out.read_text())["results"]}

    def refused(self, tool, arguments, *parts):
        out = self.out.with_name("refused")
        code, _, err = call(tool, *arguments, "--out", out)
        self.assertEqual((code, err.count("\n"), out.exists()), (2, 1, False), err)
        for part in parts:
            self.assertIn(str(part), err)

    def test_every_row_is_what_eval_says_under_that_plan(self):
        rows, shown, _ = self.sweep(loops, self.plain, self.loop, "--tasks", f"{self.file},copy-random", "--items", 6, "--shots", 0, "--sizes", 2, "--starts", "0-3", "--repeats", "2,3")
        self.assertEqual([row["plan"] for row in rows if row["baseline"] == "True"], ["0-5", "0-5", "0, (1-2)x2, 3", "0, (1-2)x2, 3"])
        self.assertEqual(len(rows), 2 * (1 + 4 * 2) * 2)
        for row in (rows[0], rows[4], rows[12], rows[35]):
            said = self.evaluated(self.root / "runs" / row["model"], "--tasks", f"{self.file},copy-random", "--items", 6, "--shots", 0, "--plan", row["plan"])[row["task"]]
            self.assertEqual((float(row["accuracy"]), float(row["gold_log_probability"])), (said["accuracy"], said["gold_log_probability"]), row)
            self.assertTrue(float(row["low"]) - 1e-9 <= float(row["accuracy"]) <= float(row["high"]) + 1e-9, row)
        of_loop = {(row["start"], row["repeats"]): row["plan"] for row in rows if row["model"] == "loop"}
        self.assertEqual([of_loop[key] for key in (("1", "3"), ("3", "3"), ("0", "2"))], ["0, (1-2)x4, 3", "0, (1-2)x4, 3", "(0-1)x2, 2, 1-3"])
        self.assertIn("calls 3-4", shown)
        page = (self.out / "index.html").read_text()
        assert_fetches_nothing(self, page)
        self.assertEqual(len(data_of(page)["figures"]), 4, "a heatmap for each model and task")
        [heatmap] = data_of(page)["figures"][0]["data"]
        self.assertEqual([len(heatmap["z"]), len(heatmap["z"][0])], [3, 4], "x1 to x3, four starts")
        self.assertAlmostEqual(heatmap["z"][2][1], 100 * float(rows[4]["difference"]), places=4)
        self.assertEqual(json.loads((self.out / "table.json").read_text())["rows"][3]["plan"], rows[3]["plan"])

    def test_a_killed_sweep_ends_with_the_same_table(self):
        arguments = [self.plain, "--tasks", f"{self.file},copy-real-words", "--items", 4, "--sizes", "1,3", "--repeats", 2]
        whole = self.out.with_name("whole")
        self.sweep(loops, *arguments, out=whole)
        words = [sys.executable, SCRIPTS, "sweep", "loops", *arguments, "--out", self.out]
        process = subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=tiny_run.environment() | {"MERISTEM_BINARY": PROGRAM})
        while len(list(self.out.glob("cells/*.json"))) < 3 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kept = {path: path.stat().st_mtime_ns for path in self.out.glob("cells/*.json")}
        self.assertTrue(3 <= len(kept) < len(list(whole.glob("cells/*.json"))))
        self.sweep(loops, *arguments)
        for name in ("table.csv", "table.json", "index.html"):
            self.assertEqual((self.out / name).read_bytes(), (whole / name).read_bytes())
        self.assertEqual(kept, {path: path.stat().st_mtime_ns for path in kept})

    def test_scores_are_kept_by_what_decides_them(self):
        arguments = ["--tasks", "copy-random", "--items", 3, "--shots", 0, "--sizes", 2, "--repeats", 2, "--starts", "1"]
        rows, _, _ = self.sweep(loops, self.plain, *arguments)
        moved = self.out.with_name("plain")
        shutil.copytree(self.plain, moved)
        with mock.patch.dict(os.environ, {"MERISTEM_BINARY": "/bin/false"}):
            self.assertEqual(self.sweep(loops, moved, *arguments)[0], rows)
            for other in ([self.seeds[1], *arguments], [moved, *arguments, "--seed", 1], [moved, *arguments, "--items", 4], [moved, *arguments, "--repeats", 3]):
                self.assertNotEqual(call(loops, *other, "--out", self.out)[0], 0, other)
            cell = next(self.out.glob("cells/*.json"))
            cell.write_text(cell.read_text()[:-9])  # half of one is none
            self.assertNotEqual(call(loops, moved, *arguments, "--out", self.out)[0], 0)
        self.assertEqual(self.sweep(loops, moved, *arguments)[0], rows)

    def test_seeds_of_a_model(self):
        arguments = ["--tasks", self.file, "--sizes", 2, "--starts", 0, "--repeats", 2]
        both, _, _ = self.sweep(loops, *(f"model={folder}" for folder in self.seeds), *arguments)
        apart, _, _ = self.sweep(loops, *self.seeds, *arguments, out=self.out.with_name("apart"))
        self.assertEqual([(row["model"], row["seeds"]) for row in both], [("model", "2")] * 2)
        for row, first, second in zip(both, apart[:2], apart[2:]):
            self.assertAlmostEqual(float(row["accuracy"]), (float(first["accuracy"]) + float(second["accuracy"])) / 2)
            self.assertAlmostEqual(float(row["difference"]), (float(first["difference"]) + float(second["difference"])) / 2)

    def test_a_model_that_injects_repeats_its_loop_alone(self):
        rows, _, _ = self.sweep(loops, self.injecting, "--tasks", self.file, "--sizes", 2, "--repeats", "2,4")
        self.assertEqual([row["plan"] for row in rows], ["0, (1-2)x2, 3", "0, (1-2)x3, 3", "0, (1-2)x5, 3", "0, (1-2)x3, 3", "0, (1-2)x5, 3"])
        self.refused(loops, [self.injecting, "--tasks", self.file, "--sizes", 1], "injects", "--starts 1 --sizes 2")

    def test_shots_up_to_what_the_context_holds(self):
        rows, _, err = self.sweep(shots, self.plain, self.loop, "--tasks", self.file)
        found = [int(row["shots"]) for row in rows if row["model"] == "plain"]
        self.assertEqual(found, [int(row["shots"]) for row in rows if row["model"] == "loop"])
        self.assertEqual(found[:-1], [1, 2, 5, 10][: len(found) - 1])
        self.assertIn(f"shots {', '.join(map(str, found))}, as many as the context holds", err)
        page = (self.out / "index.html").read_text()
        assert_fetches_nothing(self, page)
        self.assertEqual([len(figure["data"]) for figure in data_of(page)["figures"]], [4], "two lines, each with its band")
        said = self.evaluated(self.plain, "--tasks", self.file, "--shots", found[-1])
        self.assertEqual(float(rows[len(found) - 1]["accuracy"]), said[self.file.name]["accuracy"])
        self.refused(shots, [self.plain, "--tasks", self.file, "--shots", f"0,{found[-1] + 1}"], f"--shots: found {found[-1] + 1}", f"{self.file}:", "32", "--context")
        rows, _, err = self.sweep(shots, self.plain, "--tasks", self.file, "--shots", f"0,{found[-1] + 1}", "--context", 500)
        self.assertEqual([int(row["shots"]) for row in rows], [0, found[-1] + 1])
        rows, _, err = self.sweep(shots, self.plain, "--tasks", self.file, "--context", 5000)
        self.assertEqual(int(rows[-1]["shots"]), len(ITEMS) - 1)
        self.assertIn("as many as the examples that there are", err)

    def test_what_is_refused(self):
        bad = self.root / "bad.jsonl"
        for text, part in (('{"context": "a", "choices": [], "gold": 0}\n', "choices"), ('{"context": NaN, "choices": ["a", "b"], "gold": 0}\n', "bad.jsonl:1"), ("\n", "no item")):
            bad.write_text(text)
            self.refused(loops, [self.plain, "--tasks", bad], part)
            self.refused(shots, [self.plain, "--tasks", bad], part)
        task = ["--tasks", self.file]
        self.refused(loops, [self.plain, *task, "--starts", "6"], "--starts", "6 calls")
        self.refused(loops, [self.plain, *task, "--starts", "1", "--sizes", "6"], "calls 1 to 6")
        self.refused(loops, [self.plain, *task, "--sizes", "7"], "--sizes: found 7")
        self.refused(loops, [self.plain, *task, "--sizes", "0"], "--sizes")
        self.refused(loops, [self.plain, *task, "--repeats", "1"], "--repeats")
        self.refused(loops, [self.plain, *task, "--repeats", "99999"], "--repeats")
        self.refused(loops, [self.plain, *task, "--repeats", "5-2"], "--repeats: found '5-2'")
        self.refused(loops, [self.plain, *task, "--repeats", "two"], "--repeats: found 'two'")
        self.refused(loops, [self.plain, *task, "--items", "0"], "--items")
        self.refused(loops, [self.plain, *task, "--shots", "-1"], "--shots: found -1; allowed: at least 0")
        self.refused(loops, [self.plain, self.plain, *task], "NAME=")
        self.refused(loops, [f"a={self.plain}", f"a={self.plain}", *task], "twice")
        self.refused(loops, [f"a={self.plain}", f"a={self.loop}", *task], "one plan")
        self.refused(loops, [self.root / "nowhere", *task], "nowhere")
        self.refused(loops, [self.root, *task], "holds no checkpoint")
        self.refused(loops, [self.plain, "--tasks", "copy-ranom"], "copy-ranom")
        self.refused(shots, [self.plain, *task, "--plan", "0-6"], "--plan", "block 6")
        self.refused(shots, [self.plain, *task, "--plan", "0-"], "--plan")
        self.refused(shots, [self.injecting, *task, "--plan", "0-3"], "injects")
        self.refused(shots, [self.plain, *task, "--shots", "-1"], "--shots")
        self.refused(shots, [self.plain, *task, "--shots", "10"], "10 items")

    def test_a_folder_of_something_else_stays(self):
        self.out.mkdir()
        (self.out / "thesis.txt").write_text("mine")
        code, _, err = call(loops, self.plain, "--tasks", self.file, "--out", self.out)
        self.assertEqual((code, err.count("\n"), [path.name for path in self.out.iterdir()]), (2, 1, ["thesis.txt"]), err)
        other = self.out.with_name("other")
        self.sweep(loops, self.plain, "--tasks", self.file, "--starts", 0, "--sizes", 1, "--repeats", 2, out=other)
        code, _, err = call(shots, self.plain, "--tasks", self.file, "--out", other)
        self.assertEqual((code, err.count("\n")), (2, 1), err)


if __name__ == "__main__":
    unittest.main()
