"""From what the program measures to analysis.json: means, intervals, entropies and periods with known answers; the prompts; what is refused before any work."""

import json
import math
import os
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))

import numpy as np  # noqa: E402
from text_commands import FolderCase, call  # noqa: E402

from analysis import analyze, prompts, signatures  # noqa: E402
from analysis import statistics as stats  # noqa: E402


class Statistics(unittest.TestCase):
    def test_means_are_weighted_and_lie_in_their_interval(self):
        values = np.array([[1.0, np.nan], [3.0, np.nan], [8.0, np.nan]])
        found = stats.summary(values, seed=1, weights=[1, 1, 2])
        self.assertEqual(found["values"], [(1 + 3 + 16) / 4, None])
        self.assertLess(found["low"][0], found["values"][0])
        self.assertGreater(found["high"][0], found["values"][0])
        self.assertEqual((found["n"], found["low"][1]), (3, None))
        self.assertEqual(found, stats.summary(values, seed=1, weights=[1, 1, 2]))
        self.assertNotIn("low", stats.summary(values[:1], seed=1))

    def test_an_interval_covers_the_mean_about_as_often_as_it_says(self):
        covered, generator = 0, np.random.default_rng(2)
        for repeat in range(100):
            found = stats.summary(generator.normal(size=(40, 1)), seed=repeat)
            covered += found["low"][0] <= 0 <= found["high"][0]
        self.assertTrue(85 <= covered <= 100, covered)

    def test_the_effective_number_of_experts(self):
        self.assertAlmostEqual(float(stats.effective_number(np.array([5.0, 5, 5, 5]))), 4)
        self.assertAlmostEqual(float(stats.effective_number(np.array([7.0, 0, 0]))), 1)
        self.assertAlmostEqual(float(stats.effective_number(np.array([3.0, 1]))), math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25))))
        self.assertTrue(np.isnan(stats.effective_number(np.array([np.nan, np.nan]))))
        counts = np.array([[[1.0, 0], [0, 1], [2, 2]]])  # one text, three calls, two experts
        self.assertEqual(stats.pooled_counts(counts, [0, 0, 0]).tolist(), [[3, 3]])
        self.assertEqual(stats.pooled_counts(counts, [0, 0, 4]).tolist(), [[1, 1, 2, 2]])

    def test_a_period_is_found_and_stands_above_the_null(self):
        calls = np.arange(24)
        contributions = np.exp(-0.1 * calls + np.where(calls % 4 == 3, 1.0, 0.0))
        powers = dict(zip(stats.periods(24), stats.period_power(stats.wave(contributions))))
        self.assertEqual(max(powers, key=powers.get), 4)
        average, high, reached = stats.permuted_power(contributions, seed=1)
        at = stats.periods(24).index(4)
        self.assertGreater(powers[4], high[at])
        self.assertLess(reached[at], 0.01)
        self.assertGreater(reached[stats.periods(24).index(5)], 0.05)
        self.assertLess(average.max(), 0.2)

    def test_a_cosine_has_all_the_power_at_its_period_and_a_trend_has_none(self):
        calls = np.arange(24)
        power = stats.period_power(np.cos(2 * np.pi * calls / 6))
        self.assertAlmostEqual(power[stats.periods(24).index(6)], 0.5)
        self.assertAlmostEqual(power[stats.periods(24).index(4)], 0)
        self.assertLess(np.abs(stats.wave(np.exp(0.3 * calls))).max(), 1e-9)
        self.assertEqual(stats.period_power(np.zeros(12)).max(), 0)

    def test_random_contributions_reach_their_own_null(self):
        generator, rare = np.random.default_rng(3), 0
        for repeat in range(40):
            _, high, _ = stats.permuted_power(np.exp(generator.normal(size=16)), seed=repeat)
            rare += int(high[2] < 0.05)
        self.assertEqual(rare, 0)

    def test_cosines_of_blocks_and_of_groups(self):
        weights = np.array([[1.0, 0], [0, 2], [2, 0], [0, 4]])  # blocks 2 and 3 are blocks 0 and 1 twice as long
        products = weights @ weights.T
        self.assertAlmostEqual(stats.cosines(products)[0, 2], 1)
        self.assertAlmostEqual(stats.cosines(products)[0, 1], 0)
        self.assertAlmostEqual(stats.cosines(stats.group_products(products, 2))[0, 1], 1)


def answer_of(calls=8, texts=3, **measured):
    generator = np.random.default_rng(1)
    table = lambda *shape: {"values": generator.uniform(0.1, 1, shape).tolist()}  # noqa: E731
    of = {"norms": table(texts, calls) | {"variants": {"attention": table(texts, calls)["values"]}}, "output_effect": table(texts, calls),
          "future_effect": table(texts, calls, calls), "weight_products": {"values": np.eye(calls).tolist(), "variants": {"attention": np.eye(calls).tolist()}}} | measured
    return {"calls": list(range(calls)), "blocks": calls, "tokens": [10] * texts, "period": 4, "measured": of, "left_out": {"experts": "the model has no experts"},
            "sizes": {"skip": [1, 2, 4]}}


class Signatures(unittest.TestCase):
    def made(self, names, answer, **chances):
        return signatures.made(signatures.Raw(answer, 1, chances), names)

    def test_each_has_the_form_that_the_page_reads(self):
        found, left_out = self.made(["future_effect", "output_effect", "depth_score", "norms", "period_power", "weight_similarity", "weight_similarity_groups"], answer_of())
        self.assertEqual(left_out, {})
        for name, signature in found.items():
            with self.subTest(name):
                self.assertLessEqual({"title", "what", "unit", "axes", "values", "n"}, set(signature))
                for each in [signature, *signature.get("variants", {}).values()]:
                    values = np.array(each["values"], float)
                    self.assertEqual(list(values.shape), [len(axis["labels"]) for axis in signature["axes"]])
                    for bound in ("low", "high"):
                        if bound in each:
                            self.assertEqual(np.array(each[bound], float).shape, values.shape)
                json.dumps(signature, allow_nan=False)

    def test_effects_are_the_largest_over_texts_and_beside_it_the_mean(self):
        values = [[[None, 1.0], [None, None]], [[None, 3.0], [None, None]]]
        found, _ = self.made(["future_effect"], answer_of(2, 2, future_effect={"values": values, "variants": {"attention": values}}))
        self.assertEqual(found["future_effect"]["values"], [[None, 3.0], [None, None]])
        self.assertEqual(found["future_effect"]["variants"]["mean over texts"]["values"], [[None, 2.0], [None, None]])

    def test_the_depth_score_weighs_calls_by_their_effect(self):
        found, _ = self.made(["depth_score"], answer_of(3, 2, output_effect={"values": [[1.0, 0, 1], [0.0, 0, 2]]}))
        self.assertAlmostEqual(found["depth_score"]["values"], (0 * 0.5 + 2 * 1.5) / 2)

    def test_what_does_not_apply_is_left_out_with_the_reason(self):
        answer = answer_of(4)
        answer["period"] = None
        found, left_out = self.made(["expert_diversity", "period_power", "weight_similarity_groups"], answer)
        self.assertEqual(found, {})
        self.assertEqual(left_out["expert_diversity"], "the model has no experts")
        self.assertIn("at least 6", left_out["period_power"])
        self.assertIn("neither grew", left_out["weight_similarity_groups"])

    def test_tasks_are_variants_with_their_chance(self):
        early = {"values": [[0.0, 0.5]], "variants": {"copy": [[0.0, 1.0], [1.0, 1.0]]}}
        found, _ = self.made(["early_exit_accuracy"], answer_of(2, 1, early_exit_accuracy=early), copy=0.1)
        self.assertEqual(found["early_exit_accuracy"]["variants"]["copy"]["values"], [0.5, 1.0])
        self.assertEqual((found["early_exit_accuracy"]["variants"]["copy"]["chance"], found["early_exit_accuracy"]["variants"]["copy"]["n"]), (0.1, 2))

    def test_diversity_stands_beside_what_chance_gives(self):
        chance = [0.7, 0.7]
        found, _ = self.made(["expert_diversity"], answer_of(2, 2, expert_diversity={"values": [0.2, 0.4], "variants": {"by chance": chance}}))
        self.assertAlmostEqual(found["expert_diversity"]["values"], 0.3)
        self.assertAlmostEqual(found["expert_diversity"]["null"]["values"], 0.7)


class Texts(FolderCase):
    def test_word_problems_have_their_solution_and_differ(self):
        found = prompts.word_problems(20, 12)
        self.assertEqual((len(set(found.texts)), len(found.others)), (20, 12))
        for text in found.texts:
            self.assertRegex(text, r"(?s)^Given the following problem.*The final answer is -?\d+\.$")
        self.assertEqual(found.hash, prompts.word_problems(20, 12).hash)
        self.assertNotEqual(found.hash, prompts.word_problems(19, 12).hash)

    def test_lines_of_text_or_of_questions_with_answers(self):
        path = self.file("p.jsonl", '{"text": "one"}\n\n{"question": "How many?", "answer": "Two and two.\\n#### 4"}\n{"text": "three"}\n')
        found = prompts.of_file(path, 2, 16, None)
        self.assertEqual((found.texts[0], found.others, found.places[1]), ("one", ["three"], f"{path}:3"))
        self.assertTrue(found.texts[1].endswith("Two and two.\nThe final answer is 4"))

    def test_files_without_texts_are_refused(self):
        for content, said in (("", "found no text"), ("\n\n", "found no text"), ('{"texts": "a"}\n', ":1: found 'texts'; allowed: text"), ('{"text": 4}\n', ":1: text: found int"),
                              ("{", ":1: broken JSON"), ('{"text": "a"}\n{"text": " "}\n', ":2: found an empty text")):
            with self.subTest(content):
                path = self.file("p.jsonl", content)
                with self.assertRaises(analyze.UserError) as refused:
                    prompts.of_file(path, 2, 16, None)
                self.assertIn(said, str(refused.exception))
                self.assertIn(str(path), str(refused.exception))


class Refusals(FolderCase):
    def analyze(self, *words):
        (self.folder / "run").mkdir(exist_ok=True)
        return call(analyze, self.folder / "run", *words)

    def test_wrong_words_are_refused_before_any_work(self):
        out = self.folder / "out"
        self.refused(self.analyze("--out", out, "--signatures", "norms,nroms"), 2, "--signatures: found 'nroms'; allowed: future_effect", "depth_attention_weights")
        self.refused(self.analyze("--out", out, "--texts", "0"), 2, "--texts: found 0; allowed: at least 1")
        self.refused(self.analyze("--out", out, "--tokens", "12"), 2, "--tokens: found 12; allowed: at least 13")
        self.refused(self.analyze("--out", out, "--prompts", self.folder / "none"), 2, "none: no such file")
        self.refused(call(analyze, self.folder / "none", "--out", out), 2, "none: no such checkpoint or run folder")
        self.refused(self.analyze("--out", out, "--plan", "0", "--plan", "1", "--plan", "2"), 2, "--plan: found 3")
        self.assertFalse(out.exists())

    def test_folders_that_cannot_be_written_are_refused(self):
        self.refused(self.analyze("--out", self.file("file", "x")), 2, "--out:", "is a file")
        self.refused(self.analyze("--out", self.file("file", "x") / "below"), 2, "--out:", "is a file")
        self.file("done/analysis.json", "{}")
        self.refused(self.analyze("--out", self.folder / "done"), 2, "analysis.json: exists already; --force replaces it")
        self.assertEqual((self.folder / "done/analysis.json").read_text(), "{}")
        if os.getuid() != 0:
            (self.folder / "shut").mkdir(mode=0o500)
            self.refused(self.analyze("--out", self.folder / "shut" / "out"), 2, "cannot be written")

    def test_models_have_names_of_their_own(self):
        runs = [self.folder / "a" / "run", self.folder / "b" / "run", self.folder / "a" / "run" / "checkpoints" / "step-5"]
        self.assertEqual(analyze.named(runs, [None] * 3), ["run", "run #2", "run step-5"])
        self.assertEqual(analyze.named([runs[0]] * 3, [None, "0-3", "0-3"]), ["run", "run (0-3)", "run (0-3) #2"])


if __name__ == "__main__":
    unittest.main()
