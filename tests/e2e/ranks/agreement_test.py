"""Two and four ranks train the model that one rank trains: the same batches, gradients and losses but for rounding, for every kind of model, with the optimizer's
state shared out or not, across growths, with ranks that have nothing to learn from.

The bound on rounding is measured here: one rank whose updates are split into other micro-batches adds the same numbers in another order, too. Ranks may be twice
as far from a single rank as the furthest two such splits are from each other. Where models are smooth enough both are also within the 1e-6 that is promised.

    agreement_test.py PROGRAM DATA_DRIVER [--long]      --long: every model in every way
"""

import os
import subprocess
import sys
import tempfile
import unittest
from multiprocessing.pool import ThreadPool
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import ranks
import tiny_run

PROGRAM, DRIVER = sys.argv[1:3]
LONG = "--long" in sys.argv
UPDATES, SEQUENCE, SEQUENCES = 50, ranks.SEQUENCE, 8
SPLITS = (1, 2, 8)  # sequences of a micro-batch on one rank
OF_RANKS = 2        # and on each of several
WAYS = {name: {(2, False), (2, True), (4, True)} for name in ("muon", "looped", "dreamer")} | {"decoder": {(2, False), (2, True), (4, False), (4, True)},
                                                                                              "masked": {(2, False), (4, True)}}  # ranks, sharded
PROMISED = 1e-6
QUIET = ("logging.tensorboard=false", "logging.sample_tokens=0", "data.validation.every=0", "checkpoint.every=0", f"schedule.steps={UPDATES}", "schedule.warmup=1",
         f"batch.tokens={SEQUENCES * SEQUENCE}", "parallel.bucket_mb=0.04", "parallel.check_replicas_every=10")
LOOP = ("model.blocks=6", "model.tie_embeddings=false", "parallel.bucket_mb=0.02", "model.depth_plan=0-1, (2-3)x2, 4-5", "model.loop.injection=concat", "model.loop.backprop_last=2",
        "model.loop.repeats={kind: poisson_lognormal, mean: 2, sigma: 0.5, max: 4}", "memory.activation_checkpointing={every: 2}",
        'growth.plans=["(0-1)x2", "0, (1-2)x2, 3", "0-1, (2-3)x2, 4-5"]')
DREAMER = ("model.architecture=dreamer", "model.blocks=3", "model.depth_plan=(0-2)x2", "model.depth_attention={kind: separate, heads: 2}",
           "model.feed_forward={kind: experts, count: 16, active: 2, inner: 16, router_dim: 16, balance_rate: 1e-2}",
           "growth={operator: append, from_blocks: 1, add_blocks: 1, schedule: {kind: at_steps, at_steps: [20, 40]}, "
           'plans: ["(0)x4", "(0-1)x2", "(0-2)x2"]}')
# Muon turns gradients into rotations, and rounding in their smallest directions along with the rest: it is not smooth enough.
MODELS = {"decoder": (), "muon": ("optimizer.kind=muon",), "looped": LOOP, "dreamer": DREAMER}
SMOOTH = ("decoder", "looped", "dreamer", "masked")


def optimizer_of(folder, step):
    """All that the optimizer keeps, by name, whoever wrote it."""
    tensors = {}
    for part in (folder / "checkpoints" / f"step-{step:010d}").glob("optimizer-*.safetensors"):
        tensors |= load_file(part)
    return tensors


def first_moments(folder, step):
    tensors = optimizer_of(folder, step)
    return np.concatenate([tensors[name].ravel().astype(np.float64) for name in sorted(tensors) if not name.startswith(("exp_avg_sq.", "step."))])


def gradients_apart(one, other):
    """Norm-wise, at the first update: a first moment is then the gradient, clipped, times a constant."""
    a, b = first_moments(one, 1), first_moments(other, 1)
    return np.linalg.norm(a - b) / np.linalg.norm(a)


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temporary.cleanup)
        cls.root = Path(temporary.name)
        ranks.write_data(cls.root / "data")

    def train(self, name, world, micro, *overrides):
        config = tiny_run.write_config(self.root, out=name, name=f"{name}.yaml")
        ranks.train(PROGRAM, config, *QUIET, f"batch.micro_sequences={micro}", *overrides, world=world)
        return self.root / name / "tiny"

    def of_all_kinds(self, model, *overrides):
        """{(world, sharded): folder}, and the folders of one rank's splits."""
        with ThreadPool(2) as pool:
            splits = pool.map(lambda micro: self.train(f"{model}-1-{micro}", 1, micro, *overrides), SPLITS)
        runs = {(world, sharded): self.train(f"{model}-{world}-{sharded}", world, OF_RANKS, *overrides, f"parallel.shard_optimizer={sharded}".lower())
                for world, sharded in sorted(set().union(*WAYS.values()) if LONG else WAYS[model])}
        return splits, runs

    def agree(self, model, splits, runs):
        own = max(ranks.apart(a, b) for a in splits for b in splits if a < b)
        own_gradients = max(gradients_apart(a, b) for a in splits for b in splits if a < b)
        reference = splits[1]
        first, last = ranks.losses(reference)[0], ranks.losses(reference)[-1]
        self.assertLess(last, 0.8 * first, "it learns nothing that could differ")
        self.assertGreater(own, 0)
        said = f"\n  {model}: splits of one rank {own:.1e}, gradients {own_gradients:.1e}; ranks"
        for (world, sharded), folder in runs.items():
            found = ranks.apart(reference, folder)
            said += f" {world}{' sharded' if sharded else ''} {found:.1e}"
            lines = ranks.steps(folder)
            self.assertEqual([line["world_size"] for line in lines], [world] * UPDATES)
            self.assertEqual([line["tokens_by_source"] for line in lines], [line["tokens_by_source"] for line in ranks.steps(reference)])
            self.assertEqual([line["calls"] for line in lines], [line["calls"] for line in ranks.steps(reference)])
            self.assertLessEqual(found, 2 * own, f"{model}, {world} ranks, sharded {sharded}: losses")
            if model in SMOOTH:
                self.assertLessEqual(found, PROMISED, f"{model}, {world} ranks, sharded {sharded}: losses")
            self.assertLessEqual(gradients_apart(reference, folder), PROMISED, f"{model}, {world} ranks, sharded {sharded}: gradients of the first update")
        print(said, end=" ")
        for world in {world for world, _ in runs if {(world, False), (world, True)} <= runs.keys()}:
            whole, shared = runs[world, False], runs[world, True]
            self.assertEqual(len(list((shared / "checkpoints").glob(f"*{UPDATES}/optimizer-*.safetensors"))), world)
            a, b = optimizer_of(whole, UPDATES), optimizer_of(shared, UPDATES)
            self.assertEqual(a.keys(), b.keys())
            self.assertEqual([name for name in a if a[name].tobytes() != b[name].tobytes()], [], f"{model}, {world} ranks: state of a sharded optimizer")
            self.assertEqual(ranks.losses(whole), ranks.losses(shared), f"{model}, {world} ranks: a sharded optimizer gives other losses")
            self.assertTrue(ranks.weights(whole) == ranks.weights(shared), f"{model}, {world} ranks: a sharded optimizer gives other weights")


class Agreement(Case):
    def test_models_with_either_optimizer_across_two_growths(self):
        for model, overrides in MODELS.items():
            with self.subTest(model):
                splits, runs = self.of_all_kinds(model, *overrides)
                self.assertEqual(len({line["blocks"] for line in ranks.steps(splits[0])}), 3)
                self.agree(model, splits, runs)

    def test_ranks_without_any_target(self):
        data = ("data.sources={masked: {path: %s}}" % (self.root / "data" / "masked"), "phases=[{name: only, from_step: 0, mixture: {masked: 1}}]")
        self.assertGreater(self.updates_with_an_idle_rank(), 10)
        self.agree("masked", *self.of_all_kinds("masked", *data))

    def updates_with_an_idle_rank(self):
        """Of four, however an update's sequences are dealt out: in runs or in turn."""
        words = (DRIVER, "rows", self.root / "data" / "masked", tiny_run.VOCAB, SEQUENCE, UPDATES * SEQUENCES, 3, "masked", "concat")
        out = subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True).stdout.splitlines()
        has_target = np.array([any(int(target) >= 0 for target in out[3 * row + 1].split()) for row in range(UPDATES * SEQUENCES)])
        by_update = has_target.reshape(UPDATES, SEQUENCES)
        self.assertTrue(by_update.any(axis=1).all())
        runs, turns = by_update.reshape(UPDATES, 4, 2).any(axis=2), by_update.reshape(UPDATES, 2, 4).any(axis=1)
        return int((~runs.all(axis=1) & ~turns.all(axis=1)).sum())

    def test_gradients_in_bf16_on_the_wire_stay_near(self):
        """Each of two summands and their sum is rounded to 8 bits: an element is off by at most 2^-9 of each. The summands' norms are at most
        as large together as three times the sum's, where ranks see like data."""
        exact = self.train("exact", 2, OF_RANKS, "parallel.shard_optimizer=false")
        for sharded in ("false", "true"):
            near = self.train(f"near-{sharded}", 2, OF_RANKS, "parallel.reduce=bf16", f"parallel.shard_optimizer={sharded}")
            found = gradients_apart(exact, near)
            print(f"\n  gradients {found:.1e}, losses {ranks.apart(exact, near):.1e}", end=" ")
            self.assertLess(found, 4 * 2.0**-9)
            self.assertGreater(found, 2.0**-13, "nothing was rounded")
            self.assertLess(ranks.apart(exact, near), 0.01)
            self.assertGreater(ranks.apart(exact, near), 0)


if __name__ == "__main__":
    os.environ.pop("RANK", None)
    unittest.main(argv=sys.argv[:1] + [word for word in sys.argv[3:] if word != "--long"], verbosity=2)
