"""`meristem plot`: what it reads, draws and refuses."""

import importlib.util
import json
import math
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
import text_commands  # noqa: E402

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
    """(exit code, stdout, stderr)"""
    from reports import plot

    return text_commands.call(plot, *arguments)


class Plot(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.run_dir = Path(scratch.name) / "run"

    def test_a_picture_comes_out_of_a_file_that_is_still_written(self):
        write_run(self.run_dir, torn=True)
        code, _, err = call(self.run_dir)
        self.assertEqual(code, 0, err)
        picture = (self.run_dir / "plots" / "loss.png").read_bytes()
        self.assertTrue(picture.startswith(b"\x89PNG") and len(picture) > 10000)
        self.assertIn("1 line(s) could not be read", err)
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
        self.assertEqual(call(self.run_dir)[0], 0)
        (self.run_dir / "metrics.jsonl").write_text("")
        code, _, err = call(self.run_dir)
        self.assertEqual(code, 2)
        self.assertIn("no training step", err)

    def test_a_folder_that_is_no_run_is_named_and_the_others_are_drawn(self):
        write_run(self.run_dir)
        code, _, err = call(self.run_dir.parent / "nowhere", self.run_dir)
        self.assertEqual(code, 2)
        self.assertIn("nowhere/metrics.jsonl", err)
        self.assertEqual(err.count("\n"), 1)
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
        code, _, err = call(self.run_dir)
        self.assertEqual(code, 0)
        self.assertIn("samples stay token ids", err)
        words.save(str(self.run_dir / "tokenizer.json"))
        code, _, err = call(self.run_dir)
        self.assertEqual(code, 0, err)
        self.assertEqual((samples / "step-20.txt").read_text(), "abc\n")
        self.assertEqual((samples / "step-40.txt").read_text(), "abc\n")
        self.assertIn("torn.json: not a sample", err)

    def test_a_folder_that_cannot_be_written_is_named(self):
        write_run(self.run_dir)
        (self.run_dir / "plots").write_text("in the way")
        code, _, err = call(self.run_dir)
        self.assertEqual(code, 2)
        self.assertIn("plots", err)


if __name__ == "__main__":
    if MISSING:
        print(f"skipped: no {', '.join(MISSING)} in {sys.executable}")
        sys.exit(4)
    unittest.main()
