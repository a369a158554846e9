"""`meristem sweep sft|cooldown` on tiny models: real runs, evaluated; killed and gone on with; what is refused before a run."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests" / "e2e" / folder) for folder in ("train", "entry", "sweeps")]

import tiny_run  # noqa: E402
from sweeps_test import rows_of, trained  # noqa: E402
from pages import assert_fetches_nothing  # noqa: E402
from text_commands import SCRIPTS, call  # noqa: E402
from evaluation import primitives  # noqa: E402
from sweeps import cooldown, sft  # noqa: E402

PROGRAM = os.environ["MERISTEM_BINARY"]
TASKS = "variable-assignment-basic-0,variable-assignment-basic-1"
QUICK = ["--set", "schedule.steps=4", "--set", "schedule.warmup=1", "--set", "schedule.decay.from_step=1", "--set", "batch.tokens=512"]


class TrainingSweepsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temporary.cleanup)
        cls.root = Path(temporary.name)
        alone = ["growth=null", "phases=[{name: only, from_step: 0, mixture: {one: 1, two: 1}}]", "schedule.steps=4", "schedule.warmup=1", "data.sequence_length=256", "batch.tokens=256", "model.blocks=4"]
        cls.plain = trained(cls.root, "plain", *alone)
        cls.loop = trained(cls.root, "loop", *alone, 'model.depth_plan="0, (1-2)x2, 3"')
        cls.injecting = trained(cls.root, "injecting", *alone, 'model.depth_plan="0, (1-2)x2, 3"', "model.loop.injection=concat")
        (cls.root / "cool.yaml").write_text("include: run.yaml\nrun: {name: cool}\ngrowth: null\nmodel: {blocks: 4, vocab_size: 280}\nschedule: {steps: 8, warmup: 1}\n"
                                            "phases:\n  - {name: stable, from_step: 0, mixture: {one: 0.7, two: 0.3}}\n  - {name: cooldown, from_step: 4, mixture: {one: 0.2, two: 0.8}}\n")

    def setUp(self):
        scratch = tempfile.TemporaryDirectory(dir=self.root)
        self.addCleanup(scratch.cleanup)
        self.out = Path(scratch.name) / "sweep"

    def sweep(self, tool, *arguments, out=None):
        code, shown, err = call(tool, *arguments, "--out", out or self.out)
        self.assertEqual(code, 0, err)
        return rows_of(out or self.out), shown

    def refused(self, tool, arguments, *parts):
        code, _, err = call(tool, *arguments, "--out", self.out)
        self.assertEqual((code, err.count("\n"), self.out.exists()), (2, 1, False), err)
        for part in parts:
            self.assertIn(str(part), err)

    def test_sft(self):
        rows, shown = self.sweep(sft, self.plain, self.loop, "--train", TASKS, "--sizes", "4,8", "--draws", 2, "--items", 5, *QUICK)
        self.assertEqual([(row["model"], row["loops"], row["size"], row["seeds"]) for row in rows if row["task"].endswith("0")],
                         [(*member, size, seeds) for member in (("plain", "none"), ("loop", "tied"), ("loop", "untied")) for size, seeds in (("0", "1"), ("4", "2"), ("8", "2"))])
        self.assertEqual({row["plan"] for row in rows if row["loops"] == "untied"}, {"0-5"})
        self.assertEqual(rows[6 + 0]["gold_log_probability"], rows[12 + 0]["gold_log_probability"], "untying changes nothing before training")
        self.assertNotEqual(rows[6 + 1]["gold_log_probability"], rows[12 + 1]["gold_log_probability"])
        self.assertIn("loop, untied", shown)
        assert_fetches_nothing(self, (self.out / "index.html").read_text())
        config = yaml.safe_load((self.out / "runs" / "loop-untied-8-2" / "config.yaml").read_text())
        self.assertEqual((config["model"]["blocks"], config["initial"]["source_of"], config["run"]["seed"]), (6, [0, 1, 2, 1, 2, 3], 2))
        self.assertEqual(len(list((self.out / "runs").iterdir())), 3 * 2 * 2)
        before = {name: (self.out / name).read_bytes() for name in ("table.csv", "table.json", "index.html")}
        self.sweep(sft, self.plain, self.loop, "--train", TASKS, "--sizes", "4,8", "--draws", 2, "--items", 5, *QUICK)
        self.assertEqual(before, {name: (self.out / name).read_bytes() for name in before})

    def test_sets_are_equal_parts_nested_and_no_items_of_a_test(self):
        names = TASKS.split(",")
        small, large = (sft.records(names, size, 1, 42).splitlines() for size in (10, 40))
        self.assertEqual(small, large[:10])
        self.assertNotEqual(small, sft.records(names, 10, 2, 42).splitlines())
        depths = [primitives.make_item(name, "train/sft/42/1", index) for index in range(5) for name in names]
        self.assertEqual([json.loads(line)["prompt"] for line in small], [item.context for item in depths])
        tested = {primitives.make_item(name, f"eval/{seed}", index).context for name in names for seed in (1, 42) for index in range(500)}
        self.assertFalse({json.loads(line)["prompt"] for line in large} & tested)

    def test_cooldown(self):
        trunk = next((self.plain / "checkpoints").glob("step-*4"))
        arguments = [f"plain={trunk}", "--config", self.root / "cool.yaml", "--mixture", "same=one: 0.7, two: 0.3", "--mixture", "more={two: 1}", "--tasks", "copy-random", "--items", 4, "--shots", 0]
        rows, shown = self.sweep(cooldown, *arguments, "--seeds", "1,2")
        self.assertEqual([(row["mixture"], row["looped"], row["plan"], row["seeds"]) for row in rows],
                         [("same", "False", "0-3", "2"), ("same", "True", "0, (1-2)x2, 3", "2"), ("more", "False", "0-3", "2"), ("more", "True", "0, (1-2)x2, 3", "2")])
        self.assertEqual(float(rows[0]["difference"]), 0)
        self.assertEqual(len({row["loss_held"] for row in rows}), 4)
        config = yaml.safe_load((self.out / "runs" / "plain-seed2-looped-more" / "config.yaml").read_text())
        self.assertEqual((config["phases"][1]["mixture"], config["phases"][1]["depth_plan"], config["run"]["seed"]), ({"two": 1}, "0, (1-2)x2, 3", 2))
        self.assertIn("loss held", shown)
        self.assertTrue(all(float(row["loss_held_low"]) < float(row["loss_held"]) < float(row["loss_held_high"]) for row in rows))
        assert_fetches_nothing(self, (self.out / "index.html").read_text())
        # Its variants are mixtures too.
        variants = self.root / "variants.yaml"
        variants.write_text((self.root / "cool.yaml").read_text() + "variants:\n  same: {}\n  more:\n    phases[1].mixture: {two: 1}\n")
        again, _ = self.sweep(cooldown, f"plain={trunk}", "--config", variants, *arguments[7:], "--loop", "0-3, 3", out=self.out.with_name("variants"))
        self.assertEqual([(row["mixture"], row["plan"]) for row in again], [("same", "0-3"), ("same", "0-2, (3)x2"), ("more", "0-3"), ("more", "0-2, (3)x2")])

    def test_stopped_and_gone_on_with(self):
        """By SIGKILL, and by Ctrl-C, which every process of the terminal gets: the run saves before it ends."""
        trunk = next((self.plain / "checkpoints").glob("step-*4"))
        arguments = [f"plain={trunk}", "--config", self.root / "cool.yaml", "--tasks", "copy-random", "--items", 4, "--shots", 0, "--set", "schedule.steps=100", "--set", "checkpoint.every=40"]
        whole = self.out.with_name("whole")
        self.sweep(cooldown, *arguments, out=whole)
        for stop, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 75)):
            out = self.out.with_name(stop.name)
            words = [sys.executable, SCRIPTS, "sweep", "cooldown", *arguments, "--out", out]
            process = subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                                       env=tiny_run.environment() | {"MERISTEM_BINARY": PROGRAM})
            while tiny_run.last_step(out / "runs" / "plain-plain-cooldown") < 10 and process.poll() is None:
                time.sleep(0.005)
            os.killpg(process.pid, stop)
            _, said = process.communicate()
            self.assertEqual((process.returncode, (out / "table.csv").exists()), (code, False), said)
            if stop == signal.SIGINT:
                self.assertTrue(tiny_run.published(out / "runs" / "plain-plain-cooldown"))
            self.sweep(cooldown, *arguments, out=out)
            self.assertEqual((out / "table.csv").read_bytes(), (whole / "table.csv").read_bytes())

    def test_what_is_refused(self):
        for arguments, part in ((["--sizes", "5"], "--sizes: found 5"), (["--train", "copy"], "--train"), (["--draws", "0"], "--draws"), (["--loops", "free"], "--loops"),
                                (["--config", "no.yaml"], "no.yaml"), (["--set", "schedule"], "--set"), (["--set", "optimizer.rate=1"], "optimizer.rate"),
                                (["--set", "data.sequence_length=32"], "32")):
            self.refused(sft, [self.plain, "--train", TASKS, "--sizes", "4", *arguments], part)
        self.refused(sft, [self.plain, "--train", TASKS, "--sizes", "4", "--shots", "-1"], "--shots: found -1; allowed: at least 0")
        self.refused(sft, [self.injecting, "--train", TASKS, "--sizes", "4"], "injects")
        trunk = next((self.plain / "checkpoints").glob("step-*4"))
        for arguments, part in ((["--mixture", "a"], "--mixture"), (["--mixture", "a=three: 1"], "three"), (["--loop", "0-4"], "block 4"), (["--seeds", "x"], "--seeds"),
                                (["--set", "schedule.steps=2"], "steps")):
            self.refused(cooldown, [f"plain={trunk}", "--config", self.root / "cool.yaml", "--tasks", "copy-random", *arguments], part)


if __name__ == "__main__":
    unittest.main()
