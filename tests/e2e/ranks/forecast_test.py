"""What `plan --gpus` says of ranks on this machine behind limited links, against what they then do: seconds of an update within 15 %. The rate of one rank is
measured with as many processes side by side as there will be ranks, each alone: they share caches and memory, and here even cores."""

import json
import statistics
import sys
import tempfile
import unittest
from pathlib import Path

import links
import ranks
import tiny_run

PROGRAM = sys.argv[1]
UPDATES = 7        # the first is not counted
ROUNDS = 3         # of a measured rate and a run, whose middle result counts
WITHIN = 0.15
CONFIG = """\
run: {{name: big, seed: 3, out: {out}}}
model: {{vocab_size: 61, width: 256, blocks: 6, attention: {{heads: 4, kv_heads: 4}}, feed_forward: {{inner: 768}}}}
data: {{sequence_length: 64, sources: {{one: {{path: {data}/one}}}}}}
schedule: {{steps: {updates}, warmup: 1}}
batch: {{tokens: {tokens}, micro_sequences: 4}}
parallel: {{bucket_mb: 4}}
checkpoint: {{every: 0}}
logging: {{every: 1, tensorboard: false, sample_tokens: 0}}
"""


class Forecast(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.root = Path(temporary.name)
        ranks.write_data(self.root / "data")
        self.runs = 0

    def config(self, name, world):
        path = self.root / f"{name}.yaml"
        path.write_text(CONFIG.format(out=self.root / name, data=self.root / "data", updates=UPDATES, tokens=world * 512))
        return path

    def seconds(self, name):
        """Of an update. metrics.jsonl has the mean rate over the updates so far."""
        lines = [json.loads(line) for line in tiny_run.lines(self.root / name / "big") if '"event"' not in line]
        until = [line["tokens"] / line["tokens_per_second"] for line in lines]
        return statistics.median(b - a for a, b in zip(until, until[1:])), lines[-1]

    def rate(self, world, name, *settings):
        """FLOPs a second of one rank: `world` runs of one rank side by side, each with all of the batch."""
        names = [f"{name}-alone{i}" for i in range(world)]
        started = [tiny_run.start(PROGRAM, "train", self.config(alone, world), *settings) for alone in names]
        rates = []
        for process, alone in zip(started, names):
            _, err = process.communicate(timeout=ranks.DEADLINE)
            self.assertEqual(process.returncode, 0, err)
            seconds, line = self.seconds(alone)
            rates.append(line["flops_per_second"] / line["tokens_per_second"] * world * 512 / seconds)
        return statistics.mean(rates)

    def forecast(self, world, mbits, rate, *settings):
        code, out, err = tiny_run.run(PROGRAM, "plan", self.config("planned", world), "--json", "--gpus", world, "--gbps", mbits / 1000, "--gpu", "cpu",
                                      "--flops-per-second", rate, *settings)
        self.assertEqual(code, 0, err)
        return json.loads(out)["forecast"]["update"]

    def compare(self, world, *settings):
        with links.Links(world) as hosts:
            for mbits in (1000, 400, 150):
                rounds = []
                for _ in range(ROUNDS):
                    self.runs += 1
                    name = f"run{self.runs}"
                    said = self.forecast(world, mbits, self.rate(world, name, *settings), *settings)
                    hosts.limit(mbits * 1e6)
                    ranks.train(PROGRAM, self.config(name, world), *settings, world=world, links=hosts)
                    rounds.append((said["seconds"] / self.seconds(name)[0] - 1, said, self.seconds(name)))
                off, said, (seconds, line) = sorted(rounds, key=lambda found: found[0])[ROUNDS // 2]
                exposed = said["exposed_seconds"] / said["seconds"]
                print(f"\n{world} ranks, {mbits} Mbit/s {' '.join(settings)}: {said['seconds']:.3f} s said, {seconds:.3f} s measured ({off:+.1%}; all rounds "
                      f"{[f'{found[0]:+.1%}' for found in rounds]}), exposed {exposed:.2f} said, {line['communication_exposed']:.2f} measured", flush=True)
                with self.subTest(mbits):
                    self.assertLess(abs(off), WITHIN)

    def test_two_ranks(self):
        self.compare(2, "parallel.shard_optimizer=false")

    def test_two_ranks_with_a_sharded_optimizer(self):
        self.compare(2)

    def test_four_ranks(self):
        self.compare(4)


if __name__ == "__main__":
    if reason := links.reason_against():
        print(f"skipped: {reason}")
        sys.exit(4)
    unittest.main(argv=sys.argv[:1] + sys.argv[2:], verbosity=2)
