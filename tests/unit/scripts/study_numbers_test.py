"""What a study computes: intervals, pairs, agreement; and the script with which a job of it runs under Slurm."""

import importlib.util
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
import text_commands  # noqa: E402

MISSING = [name for name in ("numpy", "yaml") if importlib.util.find_spec(name) is None]


@unittest.skipIf(MISSING, f"not here: {MISSING}")
class Numbers(unittest.TestCase):
    def test_intervals_hold_the_mean_and_shrink_with_items(self):
        import numpy as np
        from bootstrap import bootstrap

        draw = np.random.default_rng(3)
        few, many = draw.random((3, 20)) < 0.4, draw.random((3, 2000)) < 0.4
        widths = []
        for matrix in (few, many):
            mean, low, high = bootstrap(matrix)
            self.assertTrue(low < mean < high)
            widths.append(high - low)
        self.assertLess(3 * widths[1], widths[0])
        self.assertEqual(bootstrap(few), bootstrap(few))
        self.assertEqual(bootstrap([[2.5]]), (2.5, None, None))

    def test_an_interval_covers_as_often_as_it_says(self):
        import numpy as np
        from bootstrap import bootstrap

        draw = np.random.default_rng(4)
        covered = [low <= 0 <= high for _ in range(200) for _, low, high in [bootstrap(draw.normal(size=(8, 1)) + draw.normal(size=(1, 40)), resamples=400)]]
        self.assertTrue(0.86 < np.mean(covered) <= 1, np.mean(covered))

    def test_pairs_take_what_both_have(self):
        from study.statistics import difference

        mean, low, high, seeds = difference({1: [1, 1, 0], 2: [1, 0, 1], 3: [0, 0, 0]}, {2: [0, 0, 1], 1: [0, 1, 0], 4: [1, 1, 1]})
        self.assertEqual((mean, seeds), (1 / 3, [1, 2]))
        self.assertTrue(low <= mean <= high)
        self.assertIsNone(difference({1: [1]}, {2: [1]}))

    def test_tasks_of_different_length_weigh_the_same(self):
        from study.statistics import joined

        self.assertAlmostEqual(joined([[1, 1, 1, 1], [0, 0]]).mean(), 0.5)

    def test_tokens_to_reach_a_loss(self):
        from study.statistics import tokens_to_reach

        curve = [(100, 4.0), (200, 3.0), (300, 3.5)]
        self.assertEqual([tokens_to_reach(curve, loss) for loss in (5.0, 4.0, 3.25, 2.0)], [100, 100, 175, None])

    def test_correlation(self):
        from study.statistics import correlation

        self.assertAlmostEqual(correlation([[1, 2], [3, None]], [[2, 4], [6, 9]]), 1)
        self.assertIsNone(correlation([1, 1, 1], [1, 2, 3]))
        self.assertIsNone(correlation([1, 2, 3], [1, 2]))

    def test_agreement_finds_the_nearer_model(self):
        from study.tables import Data, agreement_rows

        def result(values):
            return {"training": {"validation": {}}, "scores": {}, "signatures": {"norms": {"values": values}, "skip": {"values": values}}}

        shapes = {"grown": [1, 2, 3, 4], "looped": [2, 3, 4, 5.5], "baseline": [4, 3, 2, 1]}
        data = Data({(name, seed, "pretrain"): result([value + 0.1 * seed for value in values]) for name, values in shapes.items() for seed in (1, 2)})
        rows = list(agreement_rows(data, [["grown", "looped", "baseline"]]))
        self.assertEqual([row["signature"] for row in rows], ["norms", "skip", "all signatures"])
        self.assertTrue(all(row["difference"] > 1.9 and row["far_correlation"] < -0.99 for row in rows))


class Slurm(text_commands.FolderCase):
    """launch/study.sbatch: a job whose time is nearly over saves and is queued again."""

    def submit(self, program):
        self.file("scripts/meristem", f"#!/bin/bash\necho \"$*\" >{self.folder}/words\n{program}\n").chmod(0o755)
        self.file("bin/scontrol", f"#!/bin/sh\necho \"$*\" >{self.folder}/queued\n").chmod(0o755)
        environment = {"PATH": f"{self.folder}/bin:/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(self.folder), "SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "2"}
        return subprocess.Popen(["bash", str(text_commands.ROOT / "scripts/launch/study.sbatch"), "s.yaml", "--job", "a/1/pretrain"], env=environment, stderr=subprocess.DEVNULL)

    def test_codes(self):
        for program, code in (("exit 0", 0), ("exit 3", 3)):
            job = self.submit(program)
            job.wait()
            self.assertEqual((job.returncode, (self.folder / "queued").exists()), (code, False))
        self.assertEqual((self.folder / "words").read_text(), "study s.yaml --job a/1/pretrain\n")

    def test_the_signal_goes_on_to_the_run_and_the_job_back_into_the_queue(self):
        job = self.submit(f"trap 'sleep 0.2; exit 75' USR1; touch {self.folder}/ready; for i in $(seq 400); do sleep 0.05; done")
        while not (self.folder / "ready").exists():
            time.sleep(0.02)
        job.send_signal(signal.SIGUSR1)
        job.wait(timeout=60)
        self.assertEqual((job.returncode, (self.folder / "queued").read_text()), (75, "requeue 7\n"))

    def test_called_from_elsewhere(self):
        job = self.submit("exit 0")
        job.wait()
        (self.folder / "scripts/meristem").unlink()
        code = subprocess.run(["bash", str(text_commands.ROOT / "scripts/launch/study.sbatch")], env={"PATH": "/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(self.folder)}, stderr=subprocess.PIPE, text=True)
        self.assertEqual(code.returncode, 2)
        self.assertIn("not the root of a clone", code.stderr)


if __name__ == "__main__":
    unittest.main()
