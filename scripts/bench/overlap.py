#!/usr/bin/env python3
"""What communication costs ranks over a limited link, and whether `meristem plan` foretells it.

The ranks live in network namespaces, joined by links of a set rate, one thread each. Their update is compared with that of one rank with the same batch of its own,
which communicates nothing: short runs that alternate, the median of the rounds. The link is first made as slow as backward: what an update sends takes as long as two
thirds of the single rank's update. There an update may take at most --most times as long as without communication. Then at --speeds times that rate the update
must be within --near of what `plan --gpus N --gbps X --flops-per-second F` says, F as the single rank reached it.

The ranks share caches, memory and, where they are more, cores. So the single rank has others like it beside it, which compute as it does; --quiet leaves it alone.
Prints a table; exit code 1 where a bound is broken, 4 where there can be no limited links here.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e" / "ranks"))

import links  # noqa: E402
import ranks  # noqa: E402
import tiny_run  # noqa: E402

CONFIG = """\
run: {{name: {name}, seed: 1, out: {out}}}
model: {{vocab_size: 256, width: {width}, blocks: {blocks}, attention: {{heads: 4}}, feed_forward: {{inner: {inner}}}}}
data: {{sequence_length: 256, document_mask: false, sources: {{one: {{path: {data}}}}}}}
optimizer: {{lr: 1e-4}}
schedule: {{steps: {updates}, warmup: 1, decay: {{kind: none}}}}
batch: {{tokens: {tokens}, micro_sequences: {sequences}}}
parallel: {{bucket_mb: {bucket_mb}, shard_optimizer: {sharded}}}
checkpoint: {{every: 0}}
logging: {{every: 1, tensorboard: false, sample_tokens: 0}}
"""


class Bench:
    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        draw = np.random.default_rng(1)
        tiny_run.write_shard(folder / "data", 256, [draw.integers(0, 256, 1000) for _ in range(200)])
        self.runs = 0

    def config(self, world, sharded=False):
        o = self.options
        self.runs += 1
        path = self.folder / f"run-{self.runs}.yaml"
        path.write_text(CONFIG.format(name=path.stem, out=self.folder / "runs", data=self.folder / "data", width=o.width, blocks=o.blocks, inner=o.inner,
                                      updates=o.warmup + o.updates, tokens=256 * o.sequences * world, sequences=o.sequences, bucket_mb=o.bucket_mb,
                                      sharded=str(sharded).lower()))
        return path, self.folder / "runs" / path.stem

    def measure(self, world, network=None, sharded=False):
        """The last line of a short run, and its seconds an update after the first ones. A line has the mean rate over at most 20 updates, here over all so far."""
        path, folder = self.config(world, sharded)
        ranks.train(self.options.binary, path, world=world, links=network if world > 1 else None, deadline=600)
        lines = [line for line in map(json.loads, tiny_run.lines(folder)) if "event" not in line]
        subprocess.run(["rm", "-r", folder], check=True)
        until = [line["step"] * 256 * self.options.sequences * world / line["tokens_per_second"] for line in lines]
        return lines[-1], (until[-1] - until[self.options.warmup - 1]) / self.options.updates

    def alone(self):
        company = [subprocess.Popen([self.options.binary, "train", self.config(1)[0], "schedule.steps=100000"], env=tiny_run.environment(),
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(0 if self.options.quiet else self.options.ranks - 1)]
        try:
            return self.measure(1)
        finally:
            for beside in company:
                beside.kill()
                beside.wait()

    def alternate(self, network, sharded):
        """Medians over the rounds: seconds of the single rank, of all ranks, the ratio, exposed share; and the single rank's FLOP/s."""
        rounds = []
        for number in range(self.options.rounds):
            arms = [self.alone, lambda: self.measure(self.options.ranks, network, sharded)]
            found = [arm() for arm in (arms if number % 2 == 0 else reversed(arms))]
            rounds.append(found if number % 2 == 0 else found[::-1])
        alone, both = ([seconds for _, seconds in arm] for arm in zip(*rounds))
        return {"alone": statistics.median(alone), "both": statistics.median(both), "ratio": statistics.median(b / a for a, b in zip(alone, both)),
                "exposed": statistics.median(round[1][0]["communication_exposed"] for round in rounds),
                "flops": statistics.median(round[0][0]["flops_per_second"] / round[0][0]["tokens_per_second"] * 256 * self.options.sequences / round[0][1]
                                           for round in rounds)}

    def sent(self, parameters, sharded):
        """Bytes that a rank sends, and receives, for an update: gradients go round twice, once to be summed and once to be known; weights come back once."""
        count = self.options.ranks
        return 4 * parameters * (count - 1) / count * (3 if sharded else 2)

    def foretold(self, gbps, flops, sharded):
        path, _ = self.config(self.options.ranks, sharded)
        words = [self.options.binary, "plan", path, "--json", "--gpus", self.options.ranks, "--gbps", f"{gbps:.6g}", "--gpu", "cpu", "--node-size", "1", "--flops-per-second", f"{flops:.6g}"]
        done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)["forecast"]["update"]["seconds"]

    def rows(self):
        last, compute = self.alone()
        for sharded in (True, False):
            rate = 8 * self.sent(last["parameters"], sharded) / (2 / 3 * compute)
            for speed in self.options.speeds:
                with links.Links(self.options.ranks, rate * speed) as network:
                    found = self.alternate(network, sharded)
                plan = self.foretold(rate * speed / 1e9, found["flops"], sharded)
                yield {"sharded": sharded, "speed": speed, "gbps": rate * speed / 1e9, **found, "plan": plan, "off": plan / found["both"] - 1}


def faults(row, options):
    if row["speed"] == 1 and row["ratio"] > options.most:
        yield f"{row['ratio']:.3f} times the update without communication, at most {options.most:g} wanted"
    if abs(row["off"]) > options.near:
        yield f"plan is off by {100 * row['off']:+.1f} %, at most {100 * options.near:g} % wanted"


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench/overlap", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=4, help="updates of each run before the timed ones")
    parser.add_argument("--updates", type=int, default=12, help="that are timed in each run")
    parser.add_argument("--speeds", type=float, nargs="+", default=[1, 0.5, 2], help="of the link, relative to backward")
    parser.add_argument("--most", type=float, default=1.25)
    parser.add_argument("--near", type=float, default=0.15)
    for name, default in (("width", 256), ("blocks", 6), ("inner", 704), ("sequences", 8)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--bucket-mb", type=float, default=2)
    parser.add_argument("--quiet", action="store_true", help="the single rank has no company")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--binary", default=os.environ.get("MERISTEM_BINARY"))
    options = parser.parse_args()
    if options.warmup < 1 or options.warmup + options.updates > 20:
        parser.error("--warmup, --updates: together at most 20, over which a line of metrics.jsonl averages")
    if not options.binary or not os.access(options.binary, os.X_OK):
        parser.error(f"no meristem program at {options.binary}; start this as scripts/bench/overlap, or name one with --binary")
    if reason := links.reason_against():
        print(f"skipped: {reason}")
        return 4
    print("optimizer  link             one rank   all ranks  ratio  exposed     plan      off")
    found, broken = [], []
    with tempfile.TemporaryDirectory() as folder:
        for row in Bench(options, Path(folder)).rows():
            found.append(row)
            name = f"{'sharded' if row['sharded'] else 'whole':9}  {row['gbps']:.3f} Gbit/s ({row['speed']:g}x)"
            print(f"{name:32}  {1000 * row['alone']:5.0f} ms  {1000 * row['both']:7.0f} ms  {row['ratio']:5.2f}  {100 * row['exposed']:5.1f} %  "
                  f"{1000 * row['plan']:5.0f} ms  {100 * row['off']:+5.1f} %", flush=True)
            broken += [f"{name}: {fault}" for fault in faults(row, options)]
    if options.json:
        Path(options.json).write_text(json.dumps(found, indent=1) + "\n")
    for line in broken:
        print(f"falls short: {line}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
