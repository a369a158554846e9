"""`meristem plot`: what it reads, draws and refuses."""

import importlib.util
import json
import math
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts" / "python"
sys.path.insert(0, str(SCRIPTS))
MISSING = [name for name in ("matplotlib", "yaml", "tokenizers") if importlib.util.find_spec(name) is None]


def write_run(folder, steps=40, torn=False):
    lines = [{"event": "phase", "step": 0, "name": "main"}]
    for step in range(1, steps + 1):
        blocks = 4 if step <= 10 else 8
        loss = "nan" if step == 7 else 5.0 - step / 20
        lines.append({"step": step, "tokens": 64 * step, "loss": loss, "lr": 1e-3, "blocks": blocks})
        if step == 10:
            lines.append({"event": "growth", "step": 10, "from_blocks": 4, "to_blocks": 8})
            lines.append({"event": "growth", "step": 10, "from_blocks": 4, "to_blocks": 8})  # a resume at the growth step says it again
        if step % 20 == 0:
            lines.append({"event": "validation", "step": step, "source": "held", "loss": 4.0})
    lines.append({"event": "phase", "step": 30, "name": "cooldown"})
    text = "".join(json.dumps(line) + "\n" for line in lines) + ('{"step": 41, "lo' if torn else "")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text(text)


def call(*arguments):
    return subprocess.run([sys.executable, SCRIPTS, "plot", *map(str, arguments)], capture_output=True, text=True)


class Plot(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.run_dir = Path(scratch.name) / "run"

    def test_a_picture_comes_out_of_a_file_that_is_still_written(self):
        write_run(self.run_dir, torn=True)
        result = call(self.run_dir)
        self.assertEqual(result.returncode, 0, result.stderr)
        picture = (self.run_dir / "plots" / "loss.png").read_bytes()
        self.assertTrue(picture.startswith(b"\x89PNG") and len(picture) > 10000)
        self.assertIn("1 line(s) could not be read", result.stderr)
        self.assertEqual([path.name for path in (self.run_dir / "plots").iterdir()], ["loss.png"])

    def test_what_is_read(self):
        from reports import metrics as run_metrics

        write_run(self.run_dir, torn=True)
        metrics = run_metrics.read_metrics(self.run_dir)
        self.assertEqual(len(metrics.steps), 40)
        self.assertTrue(math.isnan(run_metrics.number(metrics.steps[6]["loss"])))
        self.assertEqual(run_metrics.growth_steps(metrics), [(10, 4, 8)])
        self.assertEqual(run_metrics.phase_spans(metrics, 40), [("main", 0, 30), ("cooldown", 30, 40)])
        points = {source: [list(part) for part in pair] for source, pair in run_metrics.validation_points(metrics).items()}
        self.assertEqual(points, {"held": [[20, 40], [4.0, 4.0]]})
        metrics.events = []
        self.assertEqual(run_metrics.growth_steps(metrics), [(10, 4, 8)])  # from the depth of the steps

    def test_the_mean_has_no_lag_and_skips_what_is_not_finite(self):
        from reports import metrics as run_metrics

        line = [10.0 - i for i in range(21)]
        self.assertTrue(all(abs(a - b) < 1e-9 for a, b in zip(run_metrics.smoothed(line, 5)[:19], line)))
        self.assertEqual(run_metrics.smoothed([1.0, math.nan, 3.0], 3), [1.0, 2.0, 3.0])
        self.assertEqual(run_metrics.stages_of([1, 2, 3, 4], [(2, 4, 8)]), [(0, 2), (2, 4)])

    def test_few_steps_are_enough_and_none_is_an_error(self):
        write_run(self.run_dir, steps=1)
        self.assertEqual(call(self.run_dir).returncode, 0)
        (self.run_dir / "metrics.jsonl").write_text("")
        result = call(self.run_dir)
        self.assertEqual(result.returncode, 2)
        self.assertIn("no training step", result.stderr)

    def test_a_folder_that_is_no_run_is_named_and_the_others_are_drawn(self):
        write_run(self.run_dir)
        result = call(self.run_dir.parent / "nowhere", self.run_dir)
        self.assertEqual(result.returncode, 2)
        self.assertIn("nowhere/metrics.jsonl", result.stderr)
        self.assertEqual(result.stderr.count("\n"), 1)
        self.assertTrue((self.run_dir / "plots" / "loss.png").exists())

    def test_samples_become_text(self):
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers

        write_run(self.run_dir)
        words = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "c": 2}, merges=[]))
        words.pre_tokenizer, words.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        samples = self.run_dir / "samples"
        samples.mkdir()
        (samples / "step-0000000020.json").write_text(json.dumps({"step": 20, "prompt_ids": [0], "ids": [1, 2]}))
        (samples / "step-0000000040.json").write_text(json.dumps({"step": 40, "prompt_ids": [0, 1], "ids": [0, 1, 2]}))
        (samples / "torn.json").write_text('{"step": 1')
        without = call(self.run_dir)
        self.assertEqual(without.returncode, 0)
        self.assertIn("samples stay token ids", without.stderr)
        words.save(str(self.run_dir / "tokenizer.json"))
        result = call(self.run_dir)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual((samples / "step-20.txt").read_text(), "abc\n")
        self.assertEqual((samples / "step-40.txt").read_text(), "abc\n")
        self.assertIn("torn.json: not a sample", result.stderr)

    def test_a_folder_that_cannot_be_written_is_named(self):
        write_run(self.run_dir)
        (self.run_dir / "plots").write_text("in the way")
        result = call(self.run_dir)
        self.assertEqual(result.returncode, 2)
        self.assertIn("plots", result.stderr)


if __name__ == "__main__":
    if MISSING:
        print(f"skipped: no {', '.join(MISSING)} in {sys.executable}")
        sys.exit(4)
    unittest.main()
