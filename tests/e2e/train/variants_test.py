"""Cooldown experiments: one file, several branches of one checkpoint, in order, resumable, compared on one page."""

import json
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import tiny_run

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
from pages import Elements, assert_fetches_nothing, data_of  # noqa: E402

PROGRAM = sys.argv[1]
VARIANTS = """\
include: run.yaml
run: {name: cool}
phases:
  - {name: first, from_step: 0, mixture: {one: 0.7, two: 0.3}}
  - {name: second, from_step: 40, mixture: {one: 0.2, two: 0.8}, ramp_steps: 10}
variants:
  same: {}
  more:
    phases[1].mixture: {one: 1}
    optimizer: {lr: 1e-3}
    data: {sources: {three: {path: DATA/held}}}
  longer:
    schedule.steps: 64
"""


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temporary.cleanup)
        cls.root = Path(temporary.name)
        tiny_run.write_config(cls.root)
        (cls.root / "variants.yaml").write_text(VARIANTS.replace("DATA", str(cls.root / "data")))
        cls.runs = cls.root / "runs"
        code, _, err = tiny_run.run(PROGRAM, "train", cls.root / "run.yaml")
        assert code == 0, err
        cls.origin = next(path for path in tiny_run.published(cls.runs / "tiny") if path.name.endswith("40"))
        # With the scripts' environment, so that plots and report are made; the other starts go without, for time.
        with_scripts = tiny_run.environment() | {"MERISTEM_ROOT": str(tiny_run.ROOT), "MERISTEM_PYTHON": sys.executable}
        done = subprocess.run(cls.command(), capture_output=True, text=True, env=with_scripts, timeout=120)
        assert done.returncode == 0, done.stderr

    @classmethod
    def command(cls, *arguments):
        return [PROGRAM, "train", str(cls.root / "variants.yaml"), "--branch", str(cls.origin), *map(str, arguments)]

    @classmethod
    def train(cls, *arguments):
        return tiny_run.run(*cls.command(*arguments))

    def refused(self, named, *arguments):
        code, _, err = self.train(*arguments)
        self.assertEqual(code, 2, err)
        for part in named:
            self.assertIn(part, err.strip().splitlines()[-1])

    def start_until(self, folder, step, *arguments):
        process = tiny_run.start(*self.command(*arguments))
        self.addCleanup(lambda: process.poll() is None and process.kill())
        while tiny_run.last_step(folder) < step:
            self.assertIsNone(process.poll(), "ended before its step")
            time.sleep(0.001)
        return process


class Branches(Case):
    def test_each_variant_is_the_branch_that_it_would_be_alone(self):
        for name, last in (("same", 60), ("more", 60), ("longer", 64)):
            steps = [json.loads(line) for line in tiny_run.lines(self.runs / f"cool-{name}") if line.startswith('{"step"')]
            self.assertEqual([line["step"] for line in steps], list(range(41, last + 1)))
            code, _, err = self.train(f"variant={name}", f"run.out={self.root / 'alone'}")
            self.assertEqual(code, 0, err)
            self.assertEqual(tiny_run.numbers(self.root / "alone" / f"cool-{name}"), tiny_run.numbers(self.runs / f"cool-{name}"))

    def test_known_sources_keep_their_cursors_and_new_ones_begin_at_0(self):
        before = json.loads(json.loads((self.origin / "state.json").read_text())["loader"])
        known = {source["name"]: source["tokens"] for source in before["sources"]}
        steps = [json.loads(line) for line in tiny_run.lines(self.runs / "cool-more") if line.startswith('{"step"')]
        use = steps[-1]["tokens_by_source"]
        self.assertGreater(use["one"], known["one"])
        self.assertEqual(use["three"], 0)
        self.assertEqual(use["one"] + use["two"], 60 * 64)
        # The shares went from 0.7 and 0.3 in a straight line to 1 and 0 over 10 updates of two sequences.
        self.assertEqual(use["two"] - known["two"], 32 * 3)

    def test_the_loss_of_a_source_is_the_mean_since_the_line_before(self):
        code, _, err = self.train("variant=same", f"run.out={self.root / 'rare'}", "logging.every=10")
        self.assertEqual(code, 0, err)
        each, rare = ([json.loads(line) for line in tiny_run.lines(folder / "cool-same") if line.startswith('{"step"')] for folder in (self.runs, self.root / "rare"))
        self.assertEqual([line["step"] for line in rare], [50, 60])
        for line in rare:
            window = [one["loss_by_source"]["two"] for one in each if line["step"] - 10 < one["step"] <= line["step"] and "two" in one["loss_by_source"]]
            self.assertTrue(min(window) < line["loss_by_source"]["two"] < max(window))
            self.assertNotIn(line["loss_by_source"]["two"], window)

    def test_finished_variants_are_passed_over_and_a_stopped_one_goes_on_inside_its_ramp(self):
        out = f"run.out={self.root / 'stopped'}"
        process = self.start_until(self.root / "stopped" / "cool-more", 44, out)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(timeout=60), 75)
        self.assertFalse((self.root / "stopped" / "cool-longer").exists())
        finished = tiny_run.snapshot(self.root / "stopped" / "cool-same")
        code, _, err = self.train(out, "--resume", "auto")
        self.assertEqual(code, 0, err)
        self.assertEqual(tiny_run.snapshot(self.root / "stopped" / "cool-same"), finished)
        for name in ("same", "more", "longer"):
            self.assertEqual(tiny_run.numbers(self.root / "stopped" / f"cool-{name}"), tiny_run.numbers(self.runs / f"cool-{name}"))

    def test_a_branch_killed_before_its_first_checkpoint_begins_again_and_never_from_nothing(self):
        rare = [f"run.out={self.root / 'killed'}", "variant=same", "checkpoint.every=0"]
        folder = self.root / "killed" / "cool-same"
        process = self.start_until(folder, 43, *rare)
        process.kill()
        process.wait()
        self.assertEqual(tiny_run.published(folder), [])
        again = ("train", self.root / "variants.yaml", *rare, "--resume", "auto")
        code, _, err = tiny_run.run(PROGRAM, *again)
        self.assertEqual(code, 2, err)
        self.assertIn(f"add --branch {self.origin}", err)
        other = next(path for path in tiny_run.published(self.runs / "tiny") if path.name.endswith("20"))
        code, _, err = tiny_run.run(PROGRAM, *again, "--branch", other)
        self.assertEqual(code, 2, err)
        self.assertIn("is a branch of", err)
        code, _, err = self.train(*rare, "--resume", "auto")
        self.assertEqual(code, 0, err)
        self.assertEqual(tiny_run.numbers(folder), tiny_run.numbers(self.runs / "cool-same"))


class Refusals(Case):
    def test_everything_is_checked_before_the_first_variant_begins(self):
        self.refused(["cool-same: the run folder exists", "--resume auto"])
        out = f"run.out={self.root / 'refused'}"
        config = self.root / "variants.yaml"
        good = config.read_text()
        self.addCleanup(config.write_text, good)
        for change, named in (
            ("  last: {data: {sources: {two: {max_repeats: 0.1}}}}", ["data.sources.two: runs out at step"]),
            ("  last: {run: {name: x}}", ["variants.yaml:14: variants.last.run.name", "NAME-last"]),
        ):
            config.write_text(good + change + "\n")
            self.refused(named, out)
            self.assertFalse((self.root / "refused").exists())

    def test_one_of_several(self):
        self.refused(["no such variant", "same, more, longer"], "variant=none")
        self.refused(["--resume"], "--resume", self.origin)
        code, _, err = tiny_run.run(PROGRAM, "plan", self.root / "variants.yaml")
        self.assertEqual(code, 2)
        self.assertIn("variant=NAME", err)


class Report(Case):
    def test_one_page_compares_them(self):
        text = (self.runs / "cool-report.html").read_text()
        assert_fetches_nothing(self, text)
        page = Elements(text)
        for part in ("cool-same", "cool-more", "cool-longer", "tiny, before the branch", "Validation: held", "Training loss: two", "phases[1].mixture.one",
                     "optimizer.lr", "branch of", "since the branch", "done, 60 steps", "done, 64 steps"):
            self.assertIn(part, page.text)
        self.assertNotIn("nan", page.text.lower())
        self.assertEqual({trace["name"] for trace in data_of(text)["figures"][0]["data"]}, {"cool-same", "cool-more", "cool-longer", "tiny, before the branch"})
        self.assertTrue((self.runs / "cool-same" / "plots" / "loss.png").exists())


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[2:], verbosity=2)
