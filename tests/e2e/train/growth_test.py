"""Growth as a user sees it, in whole runs: until it grows a run is the small model trained alone, to the last bit; and a growth inside a
run is `meristem grow` by hand: every tensor once, block i a copy of block source_of[i], moments and step counts along with it.
"""

import json
import re
import sys
import tempfile
import unittest
from pathlib import Path

from safetensors.numpy import load_file

import tiny_run

PROGRAM = sys.argv.pop(1)
FIRST, SECOND = tiny_run.GROWTHS
# LIDAS, b = 2: ceil(L/2) - 1 and the block after it are copied behind themselves.
SOURCE_OF = {FIRST: [0, 1, 0, 1], SECOND: [0, 1, 2, 1, 2, 3]}


def tensors(checkpoint):
    return {file: load_file(checkpoint / f"{file}.safetensors") for file in ("model", "optimizer-0")}


def steps(folder, begin, end):
    """Step lines of updates begin + 1 to end, numbers as text."""
    return [line for line in tiny_run.numbers(folder) if "event" not in line and begin < int(line["step"]) <= end]


class Growth(unittest.TestCase):
    OPTIMIZER = "optimizer: {lr: 3e-3}"

    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = Path(cls.temporary.name)
        cls.grown = cls.train("grown")

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    @classmethod
    def train(cls, name, blocks=None, branch=None, growth=True):
        config = tiny_run.write_config(cls.folder, out=name, name=f"{name}.yaml")
        text = config.read_text()
        assert Growth.OPTIMIZER in text
        text = text.replace(Growth.OPTIMIZER, cls.OPTIMIZER)
        if blocks:
            text = text.replace("blocks: 6", f"blocks: {blocks}")
        if not growth:
            text = re.sub("growth: .*\n", "", text)
        config.write_text(text)
        arguments = ["--branch", branch] if branch else []
        code, _, error = tiny_run.run(PROGRAM, "train", config, *arguments)
        assert code == 0, error
        return cls.folder / name / "tiny"

    def test_before_the_first_growth_it_is_the_small_model(self):
        alone = self.train("alone", blocks=2, growth=False)
        before = steps(self.grown, 0, FIRST)
        self.assertEqual(len(before), FIRST)
        for a, b in zip(before, steps(alone, 0, FIRST), strict=True):
            for key in ("step", "loss", "grad_norm", "lr", "tokens"):
                self.assertEqual(a[key], b[key], (key, a["step"]))
        # Afterwards it is another model.
        self.assertNotEqual(steps(self.grown, FIRST, FIRST + 1)[0]["loss"], steps(alone, FIRST, FIRST + 1)[0]["loss"])

    def test_tensorboard_shows_the_run_as_its_metrics_do(self):
        """Tokens, FLOPs and memory as curves, growths at their steps, the config as text and as hyperparameters."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        from tensorboard.plugins.hparams import metadata

        reader = EventAccumulator(str(self.grown / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
        reader.Reload()
        lines = [json.loads(line) for line in tiny_run.lines(self.grown)]
        logged = [line for line in lines if "event" not in line]
        self.assertEqual(len(logged), tiny_run.STEPS)
        for tag, key in (("train/loss", "loss"), ("amount/tokens", "tokens"), ("amount/real_tokens", "real_tokens"), ("amount/trained_tokens", "trained_tokens"),
                         ("amount/flops", "flops"), ("speed/flops_per_second", "flops_per_second"), ("memory/peak_bytes", "memory"), ("model/blocks", "blocks")):
            curve = reader.Scalars(tag)
            self.assertEqual([point.step for point in curve], [line["step"] for line in logged], tag)
            for point, line in zip(curve, logged):
                self.assertAlmostEqual(point.value / line[key], 1, 5, (tag, line["step"]))
        text = {tag: [(event.step, event.tensor_proto.string_val[0].decode()) for event in reader.Tensors(tag)] for tag in ("config", "events/growth", "events/phase")}
        growths = [line for line in lines if line.get("event") == "growth"]
        self.assertEqual([step for step, _ in text["events/growth"]], [FIRST, SECOND])
        for (_, shown), line in zip(text["events/growth"], growths):
            self.assertIn(f"grew {line['from_blocks']} -> {line['to_blocks']} blocks", shown)
        self.assertEqual([step for step, _ in text["events/phase"]], [0, SECOND])
        self.assertEqual(text["config"], [(0, f"```yaml\n{(self.grown / 'config.yaml').read_text()}```")])
        found = reader.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
        values = metadata.parse_session_start_info_plugin_data(found).hparams
        self.assertEqual((values["model.blocks"].number_value, values["growth.operator"].string_value, values["data.document_mask"].bool_value), (6, "lidas", True))

    def test_amounts_add_up(self):
        logged = [json.loads(line) for line in tiny_run.lines(self.grown)]
        logged = [line for line in logged if "event" not in line]
        for before, line in zip([{"flops": 0, "trained_tokens": 0, "tokens": 0}, *logged], logged):
            self.assertEqual(line["real_tokens"], line["tokens"])  # a stream has no padding
            self.assertLessEqual(line["trained_tokens"] - before["trained_tokens"], 64)
            self.assertGreater(line["trained_tokens"], before["trained_tokens"])
        share = [(line["flops"] - before["flops"]) for before, line in zip([{"flops": 0}, *logged], logged)]
        for step in (0, FIRST, SECOND):
            self.assertAlmostEqual(share[step] / share[step + 1], 1)
        self.assertLess(share[FIRST - 1], share[FIRST])
        self.assertAlmostEqual(logged[-1]["flops"] / sum(share), 1)

    def test_what_is_read_knows_nothing_of_growth(self):
        alone = self.train("never", growth=False)
        ends = [json.loads((run / f"checkpoints/step-{tiny_run.STEPS:010d}/state.json").read_text())["loader"] for run in (self.grown, alone)]
        self.assertEqual(*ends)

    def test_growing_by_hand_gives_each_tensor_once_from_its_source(self):
        for step, source_of in SOURCE_OF.items():
            by_hand = self.grow(step)
            for file, new in tensors(by_hand).items():
                old = tensors(self.grown / f"checkpoints/step-{step:010d}")[file]
                expected = {}
                for name, tensor in old.items():
                    found = re.fullmatch(r"(.*)\bblocks\.(\d+)\.(.*)", name)
                    if not found:
                        expected[name] = tensor
                        continue
                    for block, source in enumerate(source_of):
                        if source == int(found[2]):
                            expected[f"{found[1]}blocks.{block}.{found[3]}"] = tensor
                self.assertEqual(new.keys(), expected.keys())
                for name, tensor in expected.items():
                    self.assertTrue(new[name].tobytes() == tensor.tobytes(), name)
                if file == "model":
                    # The old blocks differ from each other: a wrong source could not pass.
                    self.assertFalse((old["blocks.0.attention.qkv.weight"] == old["blocks.1.attention.qkv.weight"]).any())
                else:
                    self.assertEqual({int(new[name]) for name in new if name.startswith("step.")}, {step})

    def grow(self, step):
        out = self.folder / f"by-hand-{step}"
        if not out.exists():
            checkpoint = self.grown / f"checkpoints/step-{step:010d}"
            code, _, error = tiny_run.run(PROGRAM, "grow", checkpoint, "--operator", "lidas", "--add", 2, "--out", out)
            self.assertEqual(code, 0, error)
            state = json.loads((out / "state.json").read_text())
            self.assertEqual(state["growth_history"][-1]["source_of"], SOURCE_OF[step])
        return out

    def test_a_silent_growth_by_hand_has_zeros_where_its_copies_end(self):
        out, source_of = self.folder / "silent", SOURCE_OF[SECOND]
        checkpoint = self.grown / f"checkpoints/step-{SECOND:010d}"
        code, _, error = tiny_run.run(PROGRAM, "grow", checkpoint, "--operator", "lidas", "--add", 2, "--inserted", "silent", "--out", out)
        self.assertEqual(code, 0, error)
        copied, silent = tensors(self.grow(SECOND))["model"], tensors(out)["model"]
        ends = {f"blocks.{block}.{last}.weight" for block, source in enumerate(source_of) if source in source_of[:block]
                for last in ("attention.output", "feed_forward.down")}
        self.assertEqual(len(ends), 2 * 2)
        for name, tensor in copied.items():
            self.assertTrue(tensor.any(), name)
            self.assertEqual(silent[name].tobytes(), bytes(tensor.nbytes) if name in ends else tensor.tobytes(), name)
        code, _, error = tiny_run.run(PROGRAM, "grow", checkpoint, "--inserted", "loud", "--add", 2, "--out", self.folder / "loud")
        self.assertEqual((code, error.strip()), (2, "meristem: error: --inserted: found loud; allowed: copy, silent"))

    def test_a_run_that_grew_goes_on_as_one_grown_by_hand(self):
        branch = self.train("branch", branch=self.grow(SECOND), growth=False)
        after = steps(self.grown, SECOND, tiny_run.STEPS)
        self.assertEqual(len(after), tiny_run.STEPS - SECOND)
        for a, b in zip(after, steps(branch, SECOND, tiny_run.STEPS), strict=True):
            for key in ("step", "loss", "grad_norm", "lr"):
                self.assertEqual(a[key], b[key], (key, a["step"]))


class GrowthWithMuon(Growth):
    OPTIMIZER = "optimizer: {kind: muon, lr: 3e-3}"


if __name__ == "__main__":
    unittest.main()
