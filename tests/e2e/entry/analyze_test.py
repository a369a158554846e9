"""`meristem analyze`: models of several kinds in one analysis.json; looped at inference; imported; what is refused before any work."""

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
from analysis import analyze, signatures  # noqa: E402

PROGRAM = os.environ["MERISTEM_BINARY"]
DREAMER = ["run.name=dreamer", "growth=null", "model.architecture=dreamer", "model.blocks=1", "model.depth_plan=(0)x6", "model.depth_attention={kind: separate}",
           "model.feed_forward={kind: experts, count: 8, active: 2, inner: 16, router_dim: 8}"]
QUICK = ["--texts", 3, "--effect-texts", 2, "--tokens", 32]


class AnalyzeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temporary.cleanup)
        cls.root = Path(temporary.name)
        config = tiny_run.write_config(cls.root)
        for overrides in ([], DREAMER):
            code, _, err = tiny_run.run(PROGRAM, "train", config, "model.vocab_size=280", *overrides)
            assert code == 0, err
        cls.grown, cls.dreamer = cls.root / "runs" / "tiny", cls.root / "runs" / "dreamer"
        for folder in (cls.grown, cls.dreamer):
            generate_test.train_tokenizer(folder / "tokenizer.json")
        cls.prompts = cls.root / "prompts.jsonl"
        cls.prompts.write_text("".join(json.dumps({"text": f"{number} times to be, or not to be, that is the question: whether 'tis nobler in the mind to suffer"}) + "\n"
                                       for number in range(12)))
        cls.count = 0

    def analyzed(self, *arguments):
        type(self).count += 1
        out = self.root / f"out{self.count}"
        code, shown, err = call(analyze, *arguments, *QUICK, "--out", out)
        self.assertEqual(code, 0, err)
        self.assertIn(str(out / "analysis.json"), shown)
        document = json.loads((out / "analysis.json").read_text())
        self.assertEqual(document["format"], 1)
        return document["models"]

    def test_two_models_in_one_file_with_all_signatures(self):
        grown, dreamer = self.analyzed(self.grown, self.dreamer, "--prompts", self.prompts, "--tasks", "copy-random", "--items", 4, "--shots", 1)
        self.assertEqual((grown["name"], dreamer["name"]), ("tiny", "dreamer"))
        self.assertEqual((grown["plan"], grown["blocks"], grown["calls"], grown["period"]), ("0-5", 6, list(range(6)), 2))
        self.assertEqual((dreamer["plan"], dreamer["blocks"], dreamer["calls"], dreamer["period"]), ("(0)x6", 1, [0] * 6, 1))
        self.assertEqual(grown["prompts"], dreamer["prompts"])
        self.assertEqual(grown["tasks"], [{"task": "copy-random", "items": 4, "shots": 1}])
        for model in (grown, dreamer):
            self.assertEqual(set(model["signatures"]) | set(model["left_out"]), set(signatures.SIGNATURES))
            for name, signature in model["signatures"].items():
                with self.subTest(model["name"] + " " + name):
                    shape = [len(axis["labels"]) for axis in signature["axes"]]
                    for each in [signature, *signature.get("variants", {}).values()]:
                        values = np.array(each["values"], float)
                        self.assertEqual(list(values.shape), shape)
                        self.assertTrue(np.isfinite(values).any())
        self.assertEqual(set(grown["left_out"]), {name for name in signatures.SIGNATURES if name.startswith("expert")} | {"depth_attention_weights"})
        self.assertEqual(set(dreamer["left_out"]), {"weight_similarity", "weight_similarity_groups"})
        own = dreamer["signatures"]
        self.assertEqual(own["lens_overlap"]["values"][-1], 1)
        self.assertEqual(own["lens_kl"]["values"][-1], 0)
        self.assertIn("depth_attention", own["future_effect"]["variants"])
        self.assertTrue(0 < own["expert_diversity"]["values"] <= 1)
        for row in own["depth_attention_weights"]["values"]:
            self.assertAlmostEqual(sum(weight for weight in row if weight is not None), 1, places=5)
        self.assertIn("copy-random", own["swap"]["variants"])
        self.assertEqual(own["early_exit_accuracy"]["variants"]["copy-random"]["chance"], 0.1)

    def test_a_plan_at_inference_one_for_all_or_one_for_each(self):
        names = ["--signatures", "norms,weight_similarity"]
        plain, looped = self.analyzed(self.grown, self.grown, "--plan", "0-5", "--plan", "0-1, (2-3)x3, 4-5", *names)
        self.assertEqual((plain["name"], looped["name"]), ("tiny (0-5)", "tiny (0-1, (2-3)x3, 4-5)"))
        self.assertEqual(looped["calls"], [0, 1, 2, 3, 2, 3, 2, 3, 4, 5])
        self.assertEqual(looped["trained_plan"], "0-5")
        self.assertEqual(len(looped["signatures"]["norms"]["values"]), 10)
        self.assertEqual(looped["signatures"]["norms"]["values"][0], plain["signatures"]["norms"]["values"][0])
        repeats, = self.analyzed(self.dreamer, "--repeats", 2, "--signatures", "norms")
        self.assertEqual(repeats["calls"], [0, 0])

    def test_the_runs_own_held_out_text_and_word_problems(self):
        model, = self.analyzed(self.grown, "--signatures", "residual_norm")
        self.assertEqual(model["prompts"]["file"], str(self.root / "data" / "held"))
        self.assertEqual(len(model["signatures"]["residual_norm"]["values"]), 7)
        (self.root / "data").rename(self.root / "moved")
        self.addCleanup((self.root / "moved").rename, self.root / "data")
        model, = self.analyzed(self.grown, "--signatures", "residual_norm")
        self.assertEqual(model["prompts"]["file"], "word problems")

    def test_a_model_that_came_in_from_a_hugging_face_folder(self):
        for words in (["export", self.grown, "--out", self.root / "hf"], ["import", self.root / "hf", "--out", self.root / "imported"]):
            code, _, err = tiny_run.run(PROGRAM, *words)
            self.assertEqual(code, 0, err)
        names = ["--signatures", "norms,lens_kl,future_effect", "--prompts", self.prompts, "--tokenizer", self.grown / "tokenizer.json"]
        imported, = self.analyzed(self.root / "imported", *names)
        grown, = self.analyzed(self.grown, *names)
        self.assertEqual(imported["name"], "imported")
        for name in ("norms", "lens_kl"):
            np.testing.assert_allclose(imported["signatures"][name]["values"], grown["signatures"][name]["values"], rtol=1e-5, atol=1e-7)

    def test_what_is_wrong_is_refused_before_any_work(self):
        def refused(code, *parts, arguments=(), checkpoints=(self.grown,)):
            out = self.root / "refused"
            found = call(analyze, *checkpoints, *QUICK, "--prompts", self.prompts, "--out", out, *arguments)
            with self.subTest(parts):
                self.assertEqual((found[0], found[1], out.exists()), (code, "", False), found)
                for part in parts:
                    self.assertIn(part, found[2])

        # The program writes to the real stderr; what it says is checked below.
        refused(2, arguments=("--plan", "0-6"))
        refused(2, arguments=("--plan", "0-5", "--plan", "0-6"), checkpoints=(self.grown, self.grown))
        refused(2, arguments=("--repeats", "3"))
        refused(2, "no such file", arguments=("--prompts", self.root / "none.jsonl"))
        short = self.root / "short.jsonl"
        short.write_text('{"text": "a"}\n')
        refused(2, f"{short}:1: found", "allowed: at least 13", arguments=("--prompts", short))
        short.write_text("")
        refused(2, f"{short}: found no text", arguments=("--prompts", short))
        refused(2, "--tasks: found 'none'", arguments=("--tasks", "none"))

    def test_the_program_refuses_in_one_line(self):
        texts = self.root / "texts.jsonl"
        texts.write_text(json.dumps({"ids": list(range(20))}) + "\n")
        cases = ((["--plan", "0-6"], texts, "block 6"), (["--measure", "norms,nroms"], texts, "found 'nroms'; allowed: future, local"), ([], self.root / "none", "none"))
        for options, file, part in cases:
            code, out, err = tiny_run.run(PROGRAM, "analyze", self.grown, "--text-ids", file, *options)
            self.assertEqual((code, out, len(err.strip().splitlines())), (2, "", 1), err)
            self.assertIn(part, err)
        for content, said in (("", "has no text"), ('{"ids": [1, 2]}\n', "found 2 tokens; allowed: at least 13"), (json.dumps({"ids": [300] * 20}) + "\n", "300 is outside the vocabulary")):
            texts.write_text(content)
            code, out, err = tiny_run.run(PROGRAM, "analyze", self.grown, "--text-ids", texts)
            self.assertEqual((code, out, len(err.strip().splitlines())), (2, "", 1), err)
            self.assertIn(said, err)


if __name__ == "__main__":
    unittest.main()
