"""Looped runs from the command line: plans that change with the step, growth of a loop, resume, checkpointing, the ready configs, and what is refused."""

import json
import shutil
import signal
import sys
import tempfile
import time
import unittest
from pathlib import Path

import yaml

import tiny_run

PROGRAM = sys.argv[1]

CONFIG = """\
run: {{name: tiny, seed: 3, out: {out}}}
model:
  vocab_size: 61
  width: 32
  blocks: 4
  depth_plan: "0, (1-2)x3, 3"
  attention: {{heads: 2, kv_heads: 1}}
  feed_forward: {{inner: 48}}
data: {{sequence_length: 32, sources: {{one: {{path: {data}/pattern}}}}, validation: {{held: {{path: {data}/pattern}}, every: 20}}}}
optimizer: {{lr: 3e-3}}
schedule: {{steps: 60, warmup: 5}}
batch: {{tokens: 64, micro_sequences: 1}}
checkpoint: {{every: 10}}
logging: {{every: 1, sample_tokens: 4}}
"""
SAMPLED = "model.loop.repeats={kind: poisson_lognormal, mean: 3, sigma: 0.5, max: 6}"


def write_pattern(folder):
    """Documents that count upwards in steps of 7: a model can learn them."""
    folder.mkdir(parents=True)
    tiny_run.write_shard(folder / "pattern", tiny_run.VOCAB, [[(document + 7 * i) % tiny_run.VOCAB for i in range(100)] for document in range(80)])


class Case(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.root = Path(temporary.name)
        write_pattern(self.root / "data")
        self.config = self.root / "run.yaml"
        self.config.write_text(CONFIG.format(out=self.root / "runs", data=self.root / "data"))

    def train(self, name, *overrides):
        code, _, err = tiny_run.run(PROGRAM, "train", self.config, f"run.name={name}", *overrides)
        self.assertEqual(code, 0, err)
        return self.root / "runs" / name

    def steps(self, folder):
        return [line for line in tiny_run.numbers(folder) if "event" not in line]

    def losses(self, folder):
        return [float(line["loss"]) for line in self.steps(folder)]

    def refused(self, named, *overrides):
        with self.subTest(overrides):
            code, out, err = tiny_run.run(PROGRAM, "plan", self.config, *overrides)
            self.assertEqual(code, 2, out + err)
            self.assertEqual(len(err.strip().splitlines()), 1, err)
            for part in [named] if isinstance(named, str) else named:
                self.assertIn(part, err)


class Runs(Case):
    def test_a_schedule_of_repeats_is_followed_and_stored(self):
        folder = self.train("scheduled", "model.loop.repeats={0: 1, 40: 2}", "schedule.decay.from_step=40")
        lines = self.steps(folder)
        self.assertEqual([int(line["calls"]) for line in lines], [4] * 40 + [6] * 20)
        for line in lines:
            self.assertEqual(len(line["stream_rms"]), int(line["calls"]) + 1)
            self.assertEqual(len(line["flops_per_token_by_call"]), int(line["calls"]))
            self.assertEqual(line["parameters"], lines[0]["parameters"])
        # The last update under the old plan is a checkpoint that stays, with the plan it was made by.
        plans = {path.name: json.loads((path / "state.json").read_text())["depth_plan"] for path in tiny_run.published(folder)}
        self.assertEqual(plans["step-0000000040"], "0, (1-2)x1, 3")
        self.assertEqual(plans["step-0000000060"], "0, (1-2)x2, 3")
        # Until the schedule says otherwise the run is the plain decoder's.
        plain = self.train("plain", 'model.depth_plan="0-3"', "schedule.decay.from_step=40")
        self.assertEqual(self.losses(plain)[:40], self.losses(folder)[:40])
        self.assertNotEqual(self.losses(plain)[40:], self.losses(folder)[40:])
        self.assertLess(self.losses(folder)[-1], self.losses(folder)[0] - 1)

    def test_a_retrofitted_cooldown_is_a_phase_with_its_plan_after_growth(self):
        folder = self.train("retrofit", 'model.depth_plan="0-3"',
                            "growth={operator: lidas, from_blocks: 2, add_blocks: 2, schedule: {kind: at_steps, at_steps: [20]}}",
                            'phases=[{name: stable, from_step: 0, mixture: {one: 1}}, '
                            '{name: cooldown, from_step: 45, mixture: {one: 1}, depth_plan: "0, (1-2)x2, 3"}]')
        self.assertEqual([int(line["calls"]) for line in self.steps(folder)], [2] * 20 + [4] * 25 + [6] * 15)
        self.assertLess(self.losses(folder)[-1], self.losses(folder)[0] - 1)

    def test_a_loop_grows(self):
        folder = self.train("grown", "model.loop.repeats={0: 2, 50: 3}",
                            'growth={operator: lidas, from_blocks: 2, add_blocks: 2, schedule: {kind: at_steps, at_steps: [20]}, '
                            'plans: ["(0-1)x2", "0, (1-2)x3, 3"]}')
        lines = self.steps(folder)
        self.assertEqual([int(line["calls"]) for line in lines], [4] * 20 + [6] * 30 + [8] * 10)
        self.assertEqual([int(line["blocks"]) for line in lines], [2] * 20 + [4] * 40)
        self.assertLess(self.losses(folder)[-1], self.losses(folder)[0] - 1)

    def test_drawn_repeats_and_either_optimizer_are_the_same_after_a_stop_and_a_resume(self):
        overrides = (SAMPLED, "model.loop.injection=concat", "model.loop.backprop_last=2", "memory.activation_checkpointing={every: 2}")
        for optimizer in ("adamw", "muon"):
            with self.subTest(optimizer):
                self.stopped_and_resumed(optimizer, *overrides, f"optimizer.kind={optimizer}")

    def stopped_and_resumed(self, name, *overrides):
        whole = self.train(f"whole-{name}", *overrides)
        calls = [int(line["calls"]) for line in self.steps(whole)]
        self.assertGreater(len(set(calls)), 3)
        self.assertLessEqual(max(calls), 2 + 2 * 6)
        arguments = ("train", self.config, f"run.name=stopped-{name}", *overrides)
        process = tiny_run.start(PROGRAM, *arguments)
        folder = self.root / "runs" / f"stopped-{name}"
        while tiny_run.last_step(folder) < 13:
            self.assertIsNone(process.poll(), "ended before its step")
            time.sleep(0.001)
        process.send_signal(signal.SIGTERM)
        err = process.communicate(timeout=60)[1]
        self.assertEqual(process.returncode, 75, err)
        code, _, err = tiny_run.run(PROGRAM, *arguments, "--resume", "auto")
        self.assertEqual(code, 0, err)
        self.assertEqual(tiny_run.numbers(folder), tiny_run.numbers(whole))
        for file in ("model.safetensors", "optimizer-0.safetensors"):
            self.assertEqual((folder / "checkpoints" / "step-0000000060" / file).read_bytes(),
                             (whole / "checkpoints" / "step-0000000060" / file).read_bytes())
        # A different seed draws differently.
        other = self.train(f"other-{name}", *overrides, "run.seed=4", "schedule.steps=20")
        self.assertNotEqual(calls[:20], [int(line["calls"]) for line in self.steps(other)])

    def test_checkpointing_changes_no_bit_of_a_run(self):
        plain = self.train("plain", "batch.micro_sequences=1")
        for kind in ("block", "{every: 3}"):
            same = self.train("same", f"memory.activation_checkpointing={kind}")
            self.assertEqual(tiny_run.numbers(same), tiny_run.numbers(plain))
            shutil.rmtree(same)

    def test_generation_takes_a_plan(self):
        folder = self.train("generate", "model.loop.injection=add")
        answers = {}
        for plan in ("", "0, (1-2)x1, 3", "0, (1-2)x3, 3", "0, (1-2)x7, 3"):
            code, out, err = tiny_run.run(PROGRAM, "generate", folder, "--prompt-ids", "1,8,15", "--max-tokens", "8", "--temperature", "1",
                                          *(["--plan", plan] if plan else []))
            self.assertEqual(code, 0, err)
            answers[plan] = out
        self.assertEqual(answers[""], answers["0, (1-2)x3, 3"])
        self.assertNotEqual(answers[""], answers["0, (1-2)x1, 3"])
        for plan, named in (("0-3", "model.loop.injection"), ("0, (1-4)x2", "block 4"), ("(0", "position")):
            code, _, err = tiny_run.run(PROGRAM, "generate", folder, "--prompt-ids", "1", "--plan", plan)
            self.assertEqual(code, 2, err)
            self.assertIn(named, err)


class Refusals(Case):
    def test_a_loop_that_is_not_there(self):  # the rules themselves: tests/unit/config
        self.refused(["model.depth_plan", "model.loop.repeats", "exactly one loop group"], "model.loop.repeats=2", 'model.depth_plan="0-3"')
        self.refused(["model.loop.backprop_last", "at most 6 times"], SAMPLED, "model.loop.backprop_last=6")


class ReadyConfigs(unittest.TestCase):
    # Parameters where the papers give them, calls at full depth, growth stages.
    KNOWN = {"smollm-360m-baseline": (361_821_120, 32, 1), "smollm-360m-lidas": (361_821_120, 32, 8), "smollm-360m-midas": (361_821_120, 32, 8),
             "smollm-360m-loop-4x8": (None, 32, 1), "smollm-360m-loop-8x4": (None, 32, 1), "smollm-360m-loop-4-4x4-4": (None, 24, 1),
             "smollm-1.7b-baseline": (1_711_376_384, 24, 1), "smollm-1.7b-lidas": (1_711_376_384, 24, 6), "smollm-1.7b-midas": (1_711_376_384, 24, 6),
             "smollm-1.7b-loop-4-4x4-4": (None, 24, 1), "smollm-1.7b-loop-4x6": (None, 24, 1), "smollm-1.7b-loop-12x2": (None, 24, 1)}

    def test_every_config_is_a_config_and_the_papers_shapes_are_the_papers(self):
        found = {}  # a file of variants stands for each of them
        for path in (tiny_run.ROOT / "configs").rglob("*.yaml"):
            # Studies, and what the harness reads, are no runs; sweeps give their config a model and data. Their own tests read them.
            if path.parent.name in ("base", "studies", "lm_eval") or path.name == "sweep.yaml":
                continue
            config = yaml.safe_load(path.read_text())
            # What takes its model from a checkpoint that is not there is counted as some model.
            silent = ["model.vocab_size=384"] if "initial" in config and not {"model", "include"} & config.keys() else []
            for variant in config.get("variants") or [None]:
                found[path.stem + (f"-{variant}" if variant else "")] = (path, *([f"variant={variant}"] if variant else []), *silent)
        self.assertLessEqual(self.KNOWN.keys(), found.keys())
        for name, words in sorted(found.items()):
            with self.subTest(name):
                code, out, err = tiny_run.run(PROGRAM, "plan", *words, "--json")
                self.assertEqual(code, 0, err)
                counted = json.loads(out)
                parameters, calls, stages = self.KNOWN.get(name, (None, None, None))
                self.assertIn(parameters, (None, counted["parameters"]["total"]))
                self.assertIn(calls, (None, len(counted["flops_per_token"]["by_call"])))
                self.assertIn(stages, (None, len(counted["stages"])))
                if name.endswith("retrofit"):
                    before, cooldown = counted["segments"][-2:]
                    self.assertEqual(cooldown["phase"], "cooldown")
                    self.assertGreater(cooldown["flops_per_token_train"], before["flops_per_token_train"])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[2:], verbosity=2)
