"""Models that have learned nothing are at chance on every reasoning primitive: what a primitive measures is not in the form of its items."""

import json
import os
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests" / "e2e" / "train")]

import generate_test  # noqa: E402
import tiny_run  # noqa: E402
from text_commands import call  # noqa: E402
from evaluation import evaluate, primitives  # noqa: E402

PROGRAM = os.environ["MERISTEM_BINARY"]
UNTRAINED = ["growth=null", "phases=[{name: only, from_step: 0, mixture: {one: 1, two: 1}}]", "model.blocks=2", "schedule={steps: 1, warmup: 0}", "optimizer.lr=1e-12",
             "model.vocab_size=280", "data.validation.every=0"]


class ChanceTest(unittest.TestCase):
    def results(self, root, name, *settings):
        code, _, err = tiny_run.run(PROGRAM, "train", tiny_run.write_config(root), f"run.name={name}", *UNTRAINED, *settings)
        self.assertEqual(code, 0, err)
        generate_test.train_tokenizer(root / "runs" / name / "tokenizer.json")
        out = root / f"{name}.json"
        code, _, err = call(evaluate, root / "runs" / name, "--tasks", "primitives", "--items", 100, "--shots", 0, "--json", out)
        self.assertEqual(code, 0, err)
        return json.loads(out.read_text())["results"]

    def test_untrained_models_guess(self):
        with tempfile.TemporaryDirectory() as scratch:
            for name, settings in (("tied", ["run.seed=1"]), ("free", ["run.seed=2", "model.tie_embeddings=false"])):
                results = self.results(Path(scratch), name, *settings)
                self.assertEqual([result["task"] for result in results], primitives.task_names())
                # 95 % intervals of 20 tasks: one of them lies beside chance by chance, more than three in one of sixty models.
                outside = [result["task"] for result in results if not result["interval"][0] <= result["chance"] <= result["interval"][1]]
                self.assertLessEqual(len(outside), 3, (name, outside))
                excess = np.array([result["accuracy"] - result["chance"] for result in results])
                spread = np.sqrt(sum(result["chance"] * (1 - result["chance"]) / result["items"] for result in results)) / len(results)
                self.assertLess(abs(excess.mean()), 3 * spread, name)


if __name__ == "__main__":
    unittest.main()
