"""Signals, and what `train` does with a run folder that exists: `--resume auto` on a finished run, `--branch`, no `--resume` at all."""

import json
import os
import signal
import sys
import tempfile
import time
import unittest
from pathlib import Path

import numpy as np

import storm
import tiny_run
from text_commands import write_shard

PROGRAM = sys.argv[1]


def last_line(text):
    return text.strip().splitlines()[-1]


class Case(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.root = Path(temporary.name)
        self.config = tiny_run.write_config(self.root)
        self.folder = self.root / "runs" / "tiny"

    def train(self, *arguments, config=None):
        return tiny_run.run(PROGRAM, "train", config or self.config, *arguments)

    def start_until(self, step, *arguments):
        process = tiny_run.start(PROGRAM, "train", self.config, *arguments)
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.stderr.close)
        self.addCleanup(lambda: process.poll() is None and process.kill())
        while tiny_run.last_step(self.folder) < step:
            self.assertIsNone(process.poll(), "ended before its step")
            time.sleep(0.001)
        return process


class Signals(Case):
    # A forked program would keep the one thread of the server (program.start).
    two_threads = {"env": tiny_run.environment() | {"OMP_NUM_THREADS": "2"}, "close_fds": True}

    def test_each_stop_signal_saves_and_the_resumed_run_ends_as_an_undisturbed_one(self):
        reference = storm.undisturbed(PROGRAM, self.root)
        resume = []
        for name, step in (("SIGTERM", 3), ("SIGUSR1", 19), ("SIGINT", 39), ("SIGTERM", 50)):
            process = self.start_until(step, *resume)
            process.send_signal(getattr(signal, name))
            err = process.communicate(timeout=60)[1]
            self.assertEqual(process.returncode, 75, err)
            self.assertIn("--resume auto", last_line(err))
            saved = tiny_run.published(self.folder)[-1]
            self.assertIsNone(tiny_run.trouble_of(saved))
            self.assertEqual(int(saved.name[5:]), tiny_run.last_step(self.folder), "the last step is the saved one")
            resume = ["--resume", "auto"]
        code, _, err = self.train(*resume)
        self.assertEqual(code, 0, err)
        self.assertIsNone(storm.difference(self.folder, reference))
        self.assertEqual(list(self.folder.glob("metrics.lost-*")), [], "a stop that saves loses no line")

    def test_a_run_whose_threads_take_sequences_goes_on_to_the_bit(self):
        strands = ["parallel.threads=sequences", "batch.micro_sequences=2"]
        train = lambda config, *arguments: tiny_run.run(PROGRAM, "train", config, *strands, *arguments, **self.two_threads)  # noqa: E731
        reference = tiny_run.write_config(self.root, "undisturbed", "undisturbed.yaml")
        code, _, err = train(reference)
        self.assertEqual(code, 0, err)
        self.assertIn("2 threads, each with sequences of its own", err)
        process = tiny_run.start(PROGRAM, "train", self.config, *strands, **self.two_threads)
        while tiny_run.last_step(self.folder) < 25 and process.poll() is None:
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.communicate(timeout=60) and process.returncode, 75)
        self.assertEqual(train(self.config, "--resume", "auto")[0], 0)
        self.assertIsNone(storm.difference(self.folder, self.root / "undisturbed" / "tiny"))

    def test_threads_that_cannot_take_sequences_are_refused_before_anything_is_written(self):
        code, _, err = tiny_run.run(PROGRAM, "train", self.config, "parallel.threads=sequences", **self.two_threads)
        self.assertEqual((code, last_line(err)), (2, "meristem: error: parallel.threads: found sequences; allowed: auto or operators, since 2 threads cannot share a "
                                                  "micro-batch of 1 (batch.micro_sequences) evenly"))
        self.assertFalse(self.folder.exists())

    def test_a_stop_inside_a_validation_owes_it_to_the_resumed_run(self):
        """Validations of many batches take most of the time here, so that some of the stops fall into one."""
        long = ["data.validation.every=2", "checkpoint.every=2", "schedule.steps=60"]
        reference = tiny_run.write_config(self.root, "undisturbed", "undisturbed.yaml")
        self.assertEqual(self.train(*long, config=reference)[0], 0)
        resume, stops = [], 0
        for wait in range(12):
            process = self.start_until(1 + 4 * wait, *long, *resume)
            time.sleep(0.0015 * wait)  # where in the step the signal falls
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)
            if process.returncode == 0:
                break
            self.assertEqual(process.returncode, 75)
            stops += 1
            resume = ["--resume", "auto"]
        self.assertGreaterEqual(stops, 6)
        self.assertEqual(self.train(*long, "--resume", "auto")[0], 0)
        self.assertIsNone(storm.difference(self.folder, self.root / "undisturbed" / "tiny"))

    def early_stop_of(self, checkpoint):
        self.assertIsNone(tiny_run.trouble_of(checkpoint))
        return json.loads((checkpoint / "state.json").read_text())["early_stop"]

    def test_a_stop_inside_a_validation_that_early_stop_heeds_is_made_good_in_the_checkpoint(self):
        """After the last update nothing else would write it down; and a run that it ends must not go on when it is resumed once more."""
        draw = np.random.default_rng(6)
        write_shard(self.root / "data" / "watched", tiny_run.VOCAB, [draw.integers(0, tiny_run.VOCAB, 500) for _ in range(60)])  # a second or so
        for name, patience, last in (("at the end", 9, tiny_run.STEPS), ("early", 1, 40)):
            settings = [f"run.out={self.root}/{patience}", f"data.validation={{every: 20, held: {{path: {self.root}/data/watched}}}}", f"early_stop.patience={patience}",
                        "early_stop.min_delta=1e-6" if patience > 1 else "early_stop.min_delta=9", "checkpoint.every=20"]
            with self.subTest(name):
                whole = [*settings, f"run.out={self.root}/{patience}-whole"]
                code, _, err = self.train(*whole)
                self.assertEqual(code, 0, err)
                expected = self.early_stop_of(tiny_run.published(self.root / f"{patience}-whole" / "tiny")[-1])
                self.folder = self.root / str(patience) / "tiny"
                process = self.start_until(last, *settings)
                process.send_signal(signal.SIGTERM)
                err = process.communicate(timeout=60)[1]
                self.assertEqual(process.returncode, 75, err)
                saved = tiny_run.published(self.folder)[-1]
                self.assertEqual(int(saved.name[5:]), last)
                self.assertNotEqual(self.early_stop_of(saved), expected, "the stop did not fall into the validation")
                code, _, err = self.train(*settings, "--resume", "auto")
                self.assertEqual(code, 0, err)
                self.assertEqual(tiny_run.published(self.folder)[-1], saved)
                self.assertEqual(self.early_stop_of(saved), expected)
                self.assertIn("nothing to do", self.train(*settings, "--resume", "auto")[2])
                self.assertEqual(tiny_run.pending(self.folder), [])

    def test_a_second_ctrl_c_ends_it_at_once(self):
        """The signals come well inside a step that is made long: a first one that came at a step's end would be obeyed before the second."""
        slow = ["batch.tokens=65536", "batch.micro_sequences=16", "model.width=64", "schedule.steps=100", "growth.schedule.at_steps=[1,2]",
                "phases.1.from_step=40", "checkpoint.every=1"]
        process = self.start_until(3, *slow)
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        while process.poll() is None and time.monotonic() - sent < 60:
            time.sleep(0.01)  # two of the same signal that wait together are one: so it is pressed again and again
            process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=60)[1]
        self.assertEqual(process.returncode, 130, err)
        self.assertLess(time.monotonic() - sent, 1.0)
        for checkpoint in tiny_run.published(self.folder):
            self.assertIsNone(tiny_run.trouble_of(checkpoint))


class Folders(Case):
    def setUp(self):
        super().setUp()
        self.assertEqual(self.train()[0], 0)
        self.before = tiny_run.snapshot(self.folder)

    def assert_untouched(self):
        self.assertEqual(tiny_run.snapshot(self.folder), self.before)

    def test_resume_of_a_finished_run_ends_well_and_changes_nothing(self):
        code, _, err = self.train("--resume", "auto")
        self.assertEqual(code, 0, err)
        self.assertIn("nothing to do", err)
        self.assert_untouched()

    def test_a_run_folder_that_exists_is_refused(self):
        for arguments in ([], ["--resume", "none"], ["--branch", str(tiny_run.published(self.folder)[0])]):
            code, _, err = self.train(*arguments)
            self.assertEqual(code, 2, arguments)
            self.assertIn(str(self.folder), last_line(err))
            self.assert_untouched()

    def test_a_folder_with_something_else_in_it_and_a_file_in_its_place_are_refused(self):
        other = self.root / "runs" / "other"
        other.mkdir()
        (other / "notes.txt").write_text("mine")
        code, _, err = self.train("run.name=other")
        self.assertEqual((code, str(other) in err), (2, True), err)
        (self.root / "runs" / "file").write_text("mine")
        code, _, err = self.train("run.name=file")
        self.assertEqual((code, str(self.root / "runs" / "file") in err), (2, True), err)
        self.assertEqual([path.name for path in other.iterdir()], ["notes.txt"])

    def test_an_exact_resume_refuses_a_changed_key_and_names_it(self):
        for key, value in (("optimizer.lr", "1e-3"), ("run.seed", "4"), ("model.width", "64"), ("schedule.steps", "80"), ("batch.tokens", "128"),
                           ("growth.operator", "midas"), ("data.sequence_length", "16"), ("data.validation.tokens", "100"), ("precision.compute", "bf16")):
            code, _, err = self.train(f"{key}={value}", "--resume", "auto")
            self.assertEqual(code, 2, key)
            self.assertIn(key, last_line(err))
            self.assertIn("--branch", last_line(err))
            self.assert_untouched()

    def test_an_exact_resume_takes_a_change_of_what_is_written(self):
        checkpoint = tiny_run.published(self.folder)[1]
        os.rename(self.folder / "checkpoints", self.root / "aside")
        (self.folder / "checkpoints").mkdir()
        os.rename(self.root / "aside" / checkpoint.name, checkpoint)
        code, _, err = self.train("logging.every=5", "checkpoint.every=30", "checkpoint.async=false", "data.validation.every=15", "--resume", "auto")
        self.assertEqual(code, 0, err)
        last = tiny_run.published(self.folder)[-1]
        self.assertEqual((last / "model.safetensors").read_bytes(), self.before[f"checkpoints/{last.name}/model.safetensors"][1])

    def test_a_branch_keeps_step_and_moments_and_may_change_everything_else(self):
        origin = next(path for path in tiny_run.published(self.folder) if path.name.endswith("40"))
        code, _, err = self.train("run.name=branch", "optimizer.lr=1e-4", "schedule.steps=70", "data.validation.every=7", "--branch", origin)
        self.assertEqual(code, 0, err)
        branch = self.root / "runs" / "branch"
        steps = [json.loads(line)["step"] for line in tiny_run.lines(branch) if line.startswith('{"step"')]
        self.assertEqual(steps, list(range(41, 71)))
        self.assertTrue(any('"resume"' in line and origin.name in line for line in tiny_run.lines(branch)))
        self.assert_untouched()
        # The same branch without a change is the old run: the loader's cursors, weights and moments were kept.
        code, _, err = self.train("run.name=same", "--branch", origin)
        self.assertEqual(code, 0, err)
        numbers = [line for line in tiny_run.numbers(self.root / "runs" / "same") if "event" not in line]
        self.assertEqual(numbers, [line for line in tiny_run.numbers(self.folder) if "event" not in line and int(line["step"]) > 40])

    def test_a_branch_takes_a_new_source_and_a_named_resume_goes_back_only_where_nothing_newer_stands(self):
        origin = next(path for path in tiny_run.published(self.folder) if path.name.endswith("40"))
        shard = self.root / "data" / "held"
        code, _, err = self.train("run.name=third", f"data.sources.three.path={shard}", "phases.1.mixture.three=0.5", "--branch", origin)
        self.assertEqual(code, 0, err)
        self.assertIn("three", (self.root / "runs" / "third" / "metrics.jsonl").read_text())
        code, _, err = self.train("--resume", origin)
        self.assertEqual(code, 2, err)
        self.assertIn("step-00000000", last_line(err))
        self.assert_untouched()

    def test_branch_and_resume_of_a_run_that_is_none_exclude_each_other(self):
        checkpoint = tiny_run.published(self.folder)[0]
        for resume, said in ((checkpoint, "--branch and --resume PATH exclude each other"), ("auto", "is no branch")):
            code, _, err = self.train("--resume", resume, "--branch", checkpoint)
            self.assertEqual(code, 2)
            self.assertIn(said, last_line(err))
        self.assert_untouched()


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[2:], verbosity=2)
