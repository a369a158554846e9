"""`plan --gpus` and `train --dry-run --ranks`: what a cluster that is not here would do. Needs no second machine: nothing is started."""

import json
import re
import unittest

import refusal

PROGRAM = refusal.PROGRAM
BATCH = "batch.tokens=1024"  # 32 sequences


class Forecast(refusal.Case):
    """A run that grows 2 -> 4 -> 6 blocks over 60 updates; 20 updates at each depth."""

    def plan(self, *arguments):
        code, out, err = refusal.tiny_run.run(PROGRAM, "plan", self.config, BATCH, *arguments)
        self.assertEqual((code, err), (0, ""))
        return out

    def forecast(self, *arguments):
        return json.loads(self.plan("--json", *arguments))

    def test_a_measured_rate_gives_the_time_of_one_rank(self):
        rate = 1e9
        plan = self.forecast("--gpus", 1, "--gbps", 1, "--gpu", "cpu", "--flops-per-second", rate)
        forecast = plan["forecast"]
        self.assertAlmostEqual(forecast["hours"], plan["flops_total"] / rate / 3600, delta=1e-6 * forecast["hours"])
        self.assertEqual(forecast["update"]["exposed_seconds"], 0)
        self.assertEqual(forecast["efficiency"], 1)
        self.assertEqual([(span["from_step"], span["until_step"], span["blocks"]) for span in forecast["spans"]], [(0, 20, 2), (20, 40, 4), (40, 60, 6)])
        of_spans = sum((span["until_step"] - span["from_step"]) * span["update"]["seconds"] for span in forecast["spans"])
        self.assertAlmostEqual(of_spans / 3600, forecast["hours"], delta=1e-9)

    def test_over_a_slow_link_communication_sticks_out(self):
        """The model by hand: fp32 gradients of N parameters in one bucket, a ring of two; not sharded."""
        arguments = ("--gpus", 2, "--gpu", "cpu", "--flops-per-second", 1e9, "parallel.shard_optimizer=false")
        slow, fast = (self.forecast(*arguments, "--gbps", gbps)["forecast"]["update"] for gbps in (0.001, 1000))
        parameters = self.forecast()["parameters"]["total"]
        self.assertAlmostEqual(slow["exposed_seconds"], 4 * parameters / (0.955 * 0.001e9 / 8), delta=0.02 * slow["exposed_seconds"])  # and latency, padding
        self.assertLess(fast["exposed_seconds"], 0.001)
        self.assertEqual(slow["compute_seconds"], fast["compute_seconds"])
        # Gloo has no reduce-scatter: sharded, the sums still reach every rank, and weights travel besides.
        sharded = self.forecast(*arguments[:-1], "--gbps", 0.001)["forecast"]["update"]
        self.assertAlmostEqual(sharded["communication_seconds"], 1.5 * slow["communication_seconds"], delta=0.02 * slow["communication_seconds"])
        half = self.forecast(*arguments, "--gbps", 0.001, "parallel.reduce=bf16")["forecast"]["update"]
        self.assertAlmostEqual(half["communication_seconds"], slow["communication_seconds"] / 2, delta=0.02 * slow["communication_seconds"])

    def test_the_table_has_the_sizes_that_can_share_the_batch(self):
        arguments = ("--gpus", 16, "--gbps", 400, "--flops-per-second", 1e12, "--dollars-per-hour", 2)
        forecast = self.forecast(*arguments)["forecast"]
        self.assertEqual([row["gpus"] for row in forecast["table"]], [1, 2, 4, 8, 16, 32])
        self.assertEqual([row["sequences"] for row in forecast["table"]], [32, 16, 8, 4, 2, 1])
        for row in forecast["table"]:
            self.assertAlmostEqual(row["gpu_hours"], row["gpus"] * row["hours"])
            self.assertAlmostEqual(row["dollars"], 2 * row["gpu_hours"])
            self.assertTrue(row["memory"]["fits"])
            self.assertAlmostEqual(row["efficiency"], forecast["table"][0]["gpu_hours"] / row["gpu_hours"])
        optimizer = [row["memory"]["optimizer"] for row in forecast["table"]]
        self.assertEqual(sorted(optimizer, reverse=True), optimizer)
        self.assertLess(optimizer[3], optimizer[0] / 7)
        asked = next(row for row in forecast["table"] if row["gpus"] == 16)
        self.assertEqual({key: forecast[key] for key in asked}, asked)
        # A number that is no power of two has a row of its own: 1536 tokens are 48 sequences.
        rows = self.forecast(*arguments[2:], "--gpus", 24, "batch.tokens=1536")["forecast"]["table"]
        self.assertEqual([row["gpus"] for row in rows], [1, 2, 4, 8, 16, 24])

    def test_what_is_printed(self):
        text = self.plan("--gpus", 8, "--gbps", 400, "precision.compute=bf16", "--gpu", "h200")
        for part in ("on 8 GPUs (h200)", "40 % of the peak of 989 TFLOP/s", "400 Gbit/s a rank between machines", "140.00 GiB", "GPU-hours"):
            self.assertIn(part, text)
        self.assertEqual(re.findall(r"^ +(\d+) +\d+ +\d+ ", text[text.index("sequences "):], re.M), ["1", "2", "4", "8", "16", "32"])
        self.assertNotIn("forecast", self.forecast())

    def test_refusals(self):
        plan = ["plan", self.config, BATCH]
        good = ["--gpus", 8, "--gbps", 400, "--flops-per-second", 1e12]
        self.refused(2, ["--gpus: found 0", "1 to 16384"], *plan, "--gpus", 0, *good[2:])
        self.refused(2, ["--gpus: found -8"], *plan, "--gpus=-8", *good[2:])
        self.refused(2, ["--gpus: found 100000"], *plan, "--gpus", 100000, *good[2:])
        self.refused(2, ["--gpus", "eight"], *plan, "--gpus", "eight", *good[2:])
        self.refused(2, ["batch.tokens", "32 sequences", "5 ranks", "4 or 8"], *plan, "--gpus", 5, *good[2:])
        self.refused(2, ["batch.tokens", "64 ranks", "32 can"], *plan, "--gpus", 64, *good[2:])
        for value in (0, -1, "nan", "inf"):
            self.refused(2, [f"--gbps: found {value}"], *plan, "--gpus", 8, f"--gbps={value}", *good[4:])
        self.refused(2, ["--gpus: needs --gbps"], *plan, "--gpus", 8)
        self.refused(2, ["--gbps: has no effect without --gpus"], *plan, "--gbps", 100)
        self.refused(2, ["--dollars-per-hour: has no effect"], *plan, "--dollars-per-hour", 3)
        self.refused(2, ["--gpu: found b300; allowed: h100, h200, a100, cpu"], *plan, *good, "--gpu", "b300")
        self.refused(2, ["--node-size: found 0"], *plan, *good, "--node-size", 0)
        self.refused(2, ["--node-gbps: found 0"], *plan, *good, "--node-gbps", 0)
        self.refused(2, ["--node-size", "--node-gbps"], *plan, *good, "--gpu", "cpu", "--node-size", 2)
        self.refused(2, ["--dollars-per-hour: found -3"], *plan, *good, "--dollars-per-hour=-3")
        self.refused(2, ["--flops-per-second: found 0"], *plan, *good[:4], "--flops-per-second", 0)
        self.refused(2, ["--flops-per-second: is needed with precision.compute: fp32"], *plan, *good[:4])
        self.refused(2, ["--flops-per-second: is needed with --gpu cpu"], *plan, *good[:4], "--gpu", "cpu")


class DryRun(refusal.Case):
    def test_one_of_many_ranks(self):
        before = refusal.tiny_run.snapshot(self.root)
        code, out, err = refusal.tiny_run.run(PROGRAM, "train", self.config, BATCH, "batch.micro_sequences=8", "--dry-run", "--ranks", 16)
        self.assertEqual((code, err), (0, ""))
        for part in ("one of 16 ranks: 2 sequences an update, 2 at a time", "memory: ", "a checkpoint: ", "in 16 parts of about", "a rank's share, alone",
                     "nothing was written"):
            self.assertIn(part, out)
        alone = refusal.tiny_run.run(PROGRAM, "train", self.config, BATCH, "batch.micro_sequences=8", "--dry-run")[1]
        self.assertNotIn("rank", alone)

        def loss(text):
            return float(re.search(r"loss (\d\.\d+)", text)[1])

        self.assertAlmostEqual(loss(out), loss(alone), delta=0.1)  # fresh weights, fewer sequences
        self.assertEqual(refusal.tiny_run.snapshot(self.root), before)

    def test_refusals(self):
        dry = ["train", self.config, BATCH, "--dry-run"]
        self.refused(2, ["batch.tokens", "32 sequences", "3 ranks", "2 or 4"], *dry, "--ranks", 3)
        self.refused(2, ["--ranks: found 0"], *dry, "--ranks", 0)
        self.refused(2, ["--ranks: has no effect without --dry-run"], *dry[:-1], "--ranks", 2)
        self.refused(2, ["run.out: /proc/tiny has 0 B free", "checkpoint.keep_last"], *dry, "--ranks", 2, "run.out=/proc")


if __name__ == "__main__":
    import sys

    unittest.main(argv=sys.argv[:1] + sys.argv[2:], verbosity=2)
