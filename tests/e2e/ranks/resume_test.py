"""A run goes on with another number of ranks: 2, 1, 4, 2 across both growths see the token stream of one undisturbed rank, and the same losses but for rounding.
With the same number of ranks a stopped run ends bit-equal to one that nobody stopped. Stops are SIGTERM to one rank, obeyed by all."""

import signal
import sys
import tempfile
import unittest
from pathlib import Path

import ranks
import storm
import tiny_run

PROGRAM = sys.argv[1]
# Updates long enough that a stop comes where it should.
SLOW = ("batch.tokens=512", "logging.tensorboard=false", "checkpoint.every=10")
MICRO = "batch.micro_sequences=2"


class Resume(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.root = Path(temporary.name)
        ranks.write_data(self.root / "data")

    def config(self, name):
        return tiny_run.write_config(self.root, out=name, name=f"{name}.yaml"), self.root / name / "tiny"

    def whole(self, name, world, *overrides):
        config, folder = self.config(name)
        ranks.train(PROGRAM, config, *SLOW, *overrides, world=world)
        return folder

    def stop_at(self, config, folder, world, step, stopped, *overrides):
        """Goes on with so many ranks until a step is in the log, and sends SIGTERM to rank `stopped`. Returns the step that was saved."""
        job = ranks.Job(PROGRAM, "train", config, *SLOW, *overrides, "--resume", "auto", world=world)
        self.addCleanup(job.stop)
        job.until(lambda: tiny_run.last_step(folder) >= step)
        job.signal(stopped, signal.SIGTERM)
        ends = job.wait(60)
        self.assertEqual({end.code for end in ends.values()}, {75}, ends)
        for rank, end in ends.items():
            self.assertEqual(end.errors(), [], f"rank {rank}")
        self.assertIn("--resume auto", ends[0].err.strip().splitlines()[-1])
        saved = tiny_run.published(folder)[-1]
        self.assertIsNone(tiny_run.trouble_of(saved))
        self.assertEqual(len(list(saved.glob("optimizer-*.safetensors"))), world)
        self.assertEqual(int(saved.name[5:]), tiny_run.last_step(folder), "the last step is the saved one")
        return int(saved.name[5:])

    def test_other_numbers_of_ranks_go_on(self):
        for kind in ("adamw", "muon"):
            with self.subTest(kind):
                optimizer = f"optimizer.kind={kind}"
                reference = self.whole(f"one-{kind}", 1, MICRO, optimizer)
                split = self.whole(f"split-{kind}", 1, "batch.micro_sequences=4", optimizer)
                config, folder = self.config(f"changing-{kind}")
                stops = [self.stop_at(config, folder, world, step, stopped, MICRO, optimizer) for world, step, stopped in ((2, 8, 1), (1, 24, 0), (4, 42, 2))]
                self.assertTrue(stops[0] < tiny_run.GROWTHS[0] < stops[1] < tiny_run.GROWTHS[1] < stops[2] < tiny_run.STEPS, stops)
                ranks.train(PROGRAM, config, *SLOW, MICRO, optimizer, "--resume", "auto", world=2)
                lines, expected = ranks.steps(folder), ranks.steps(reference)
                worlds = [line.get("world_size", 1) for line in lines]
                self.assertEqual(worlds, [2] * stops[0] + [1] * (stops[1] - stops[0]) + [4] * (stops[2] - stops[1]) + [2] * (tiny_run.STEPS - stops[2]))
                for key in ("step", "tokens", "tokens_by_source", "blocks", "lr"):
                    self.assertEqual([line[key] for line in lines], [line[key] for line in expected], key)
                self.assertEqual([line["step"] for line in lines], list(range(1, tiny_run.STEPS + 1)))
                found, own = ranks.apart(reference, folder), ranks.apart(reference, split)
                print(f"\n  {kind}: {stops}, {found:.1e} apart, another split {own:.1e}", end=" ")
                self.assertLessEqual(found, 2 * own)
                self.assertEqual(list(folder.glob("metrics.lost-*")), [], "a stop that saves loses no line")

    def test_the_same_number_of_ranks_goes_on_to_the_bit(self):
        for sharded in ("true", "false"):
            with self.subTest(sharded=sharded):
                overrides = (MICRO, f"parallel.shard_optimizer={sharded}")
                reference = self.whole(f"undisturbed-{sharded}", 2, *overrides)
                config, folder = self.config(f"stopped-{sharded}")
                for step, stopped in ((6, 0), (20, 1), (41, 0)):
                    job = ranks.Job(PROGRAM, "train", config, *SLOW, *overrides, "--resume", "auto", world=2)
                    self.addCleanup(job.stop)
                    job.until(lambda step=step: tiny_run.last_step(folder) >= step)
                    job.signal(stopped, signal.SIGUSR1)
                    self.assertEqual([end.code for end in job.wait(60).values()], [75, 75])
                ranks.train(PROGRAM, config, *SLOW, *overrides, "--resume", "auto", world=2)
                self.assertIsNone(storm.difference(folder, reference))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[2:], verbosity=2)
