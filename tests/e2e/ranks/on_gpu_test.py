"""Ranks on GPUs, over NCCL. On one GPU: two processes on it are refused by name, and a job has no more ranks than GPUs. On several: two ranks train what one rank
trains, sharded or not, but for rounding, and their replicas stay the same.

    on_gpu_test.py PROGRAM      exit code 4 where there is no GPU
"""

import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import ranks
import tiny_run

PROGRAM = sys.argv[1]
LAUNCH = [sys.executable, str(tiny_run.ROOT / "scripts" / "python"), "launch"]


def count_gpus():
    if shutil.which("nvidia-smi") is None:
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


class OnGpus(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.root = Path(temporary.name)
        self.config = tiny_run.write_config(self.root)

    def test_two_processes_on_one_gpu_are_refused_by_name(self):
        ends = ranks.Job(PROGRAM, "train", self.config, world=2, local_rank=0).wait(120)
        for rank, end in ends.items():
            self.assertEqual((end.code, len(end.errors())), (2, 1), f"rank {rank}: {end}")
            self.assertIn("rank 0 and rank 1 share one GPU", end.errors()[0])
        self.assertFalse((self.root / "runs").exists())

    def test_more_ranks_than_gpus_are_refused(self):
        code, _, err = tiny_run.run([*LAUNCH, "train", self.config, "--nproc", str(GPUS + 1)], env=tiny_run.environment() | {"MERISTEM_BINARY": PROGRAM})
        self.assertEqual((code, err.count("\n")), (2, 1), err)
        self.assertIn(f"--nproc {GPUS + 1}: this machine shows {GPUS} GPU", err)

    def test_two_ranks_train_as_one_does(self):
        if GPUS < 2:
            self.skipTest("needs two GPUs")
        settings = ("batch.tokens=256", "parallel.check_replicas_every=5")
        split = self.trained("split", 1, *settings, "batch.micro_sequences=2")
        alone = self.trained("alone", 1, *settings)
        bound = max(1e-6, 2 * ranks.apart(alone, split))
        for sharded in ("false", "true"):
            both = self.trained(f"both-{sharded}", 2, *settings, f"parallel.shard_optimizer={sharded}")
            self.assertLess(ranks.apart(alone, both), bound)

    def trained(self, name, world, *settings):
        ranks.train(PROGRAM, self.config, f"run.name={name}", *settings, world=world)
        return self.root / "runs" / name


if __name__ == "__main__":
    GPUS = count_gpus()
    if GPUS == 0:
        print("skipped: no GPU on this machine")
        sys.exit(4)
    unittest.main(argv=sys.argv[:1] + sys.argv[2:], verbosity=2)
