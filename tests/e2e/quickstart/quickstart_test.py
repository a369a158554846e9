"""`meristem quickstart` itself. Short: twenty steps, which must run the whole path and say that the model is not good enough yet.
Long: the run that users get, with everything it promises."""

import json
import os
import re
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "scripts" / "python"))

from quickstart import corpus  # noqa: E402


class Quickstart(unittest.TestCase):
    def setUp(self):
        try:
            corpus.fetch()
        except corpus.CorpusError as error:
            self.skipTest(f"the quickstart's archive is not here: {error}")
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)

    def quickstart(self, *arguments):
        environment = dict(os.environ, MERISTEM_ROOT=str(ROOT))
        result = subprocess.run([sys.executable, str(ROOT / "scripts/python"), "quickstart", *arguments], env=environment, cwd=self.folder,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.output = result.stdout
        return result.returncode

    def check_run(self, folder, steps):
        metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        self.assertEqual([line["step"] for line in metrics if "event" not in line][-1], steps)
        self.assertEqual(len([line for line in metrics if line.get("event") == "growth"]), 2)
        self.assertEqual(metrics_blocks(metrics), [4, 8, 12])
        for part in ("plots/loss.png", "samples/quickstart.txt", "tokenizer.json", "config.yaml"):
            self.assertGreater((folder / part).stat().st_size, 0, part)
        self.assertTrue(list((folder / "checkpoints").glob("step-*")))


def metrics_blocks(metrics):
    return sorted({line["blocks"] for line in metrics if "event" not in line})


class ShortRun(Quickstart):
    def test_twenty_steps_run_the_whole_path_and_are_not_called_good(self):
        earlier = self.folder / "runs/quickstart/notes.txt"  # a run of before is left alone
        earlier.parent.mkdir(parents=True)
        earlier.write_text("mine")
        self.assertEqual(self.quickstart("schedule.steps=20", "schedule.warmup=2", "schedule.decay.from_step=12", "logging.every=1"), 1, self.output)
        self.check_run(self.folder / "runs/quickstart-2", 20)
        self.assertIn("NO   the model needs fewer bits than xz", self.output)
        self.assertIn("yes  it grew to 12 blocks", self.output)
        self.assertEqual([path.name for path in earlier.parent.iterdir()], ["notes.txt"])

    def test_wrong_arguments_are_refused_before_any_work(self):
        self.assertEqual(self.quickstart("fast"), 2, self.output)
        self.assertEqual(list(self.folder.iterdir()), [])


class LongRun(Quickstart):
    def test_the_run_that_users_get(self):
        self.assertEqual(self.quickstart(), 0, self.output)
        ours, xz = map(float, re.search(r"held-out bits per byte: ([0-9.]+);  xz -9 given the training text first: ([0-9.]+)", self.output).groups())
        self.assertLess(ours, xz)
        self.assertNotIn("  NO ", self.output)


if __name__ == "__main__":
    result = unittest.main(verbosity=2, exit=False).result
    sys.exit(1 if not result.wasSuccessful() else 4 if result.skipped else 0)
