"""The page of an analysis.json: every signature of every model is on it, whatever is missing; matrices that are compared have one scale."""

import copy
import importlib.util
import json
import math
import random
import re
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
from pages import Elements, assert_fetches_nothing, data_of, validated  # noqa: E402

MISSING = [name for name in ("plotly",) if importlib.util.find_spec(name) is None]


def with_interval(values, width):
    """{values, low, high}"""
    shift = lambda value, by: [shift(item, by) for item in value] if isinstance(value, list) else None if value is None else value + by  # noqa: E731
    return {"values": values, "low": shift(values, -width), "high": shift(values, width)}


def made_up(name, calls, period=4, seed=1, experts=False, prompts=10):
    """A model of an analysis.json with numbers that look like a trained model's, of `calls` calls."""
    chance = random.Random(seed)
    labels = [str(i) for i in range(calls)]
    over = lambda height: [height(i) * (1 + 0.1 * chance.random()) for i in range(calls)]  # noqa: E731
    upper = lambda first: [[first / (1 + j - i) * (1 + 0.3 * chance.random()) if j > i else None for j in range(calls)] for i in range(calls)]  # noqa: E731
    call = {"name": "call", "labels": labels}

    def signature(title, unit, axes, content, **more):
        return {"title": title, "what": f"What {title} is, in one sentence; higher means more of it.", "unit": unit, "axes": axes, "n": prompts, **content, **more}

    apart = lambda content: {"attention": {**content(), "n": prompts}, "feed_forward": {**content(), "n": prompts}}  # noqa: E731
    pairs = [{"name": "skipped call", "labels": labels}, {"name": "changed call", "labels": labels}]
    spans = [{"name": "size", "labels": ["1", "2", "4", "8"]}, {"name": "start", "labels": labels}]
    loss = lambda: [[0.01 * size * (calls - start) / calls + 0.02 * chance.random() - 0.01 if start + size <= calls else None for start in range(calls)] for size in (1, 2, 4, 8)]  # noqa: E731
    periods = [str(i) for i in range(2, max(3, calls // 2 + 1))]
    signatures = {
        "depth_score": signature("Depth score", "call", [], {"values": 0.4 + 0.2 * chance.random(), "low": 0.38, "high": 0.62},
                                 variants={"depth_attention": {"values": 0.5}} if experts else {"attention": {"values": 0.45, "low": 0.4, "high": 0.5}, "feed_forward": {"values": None}}),
        "future_effect": signature("Effect on later calls", "relative change", pairs, with_interval(upper(0.5), 0.01), variants=apart(lambda: with_interval(upper(0.3), 0.01))),
        "local_effect": signature("Effect on the same token", "relative change", pairs, with_interval(upper(0.4), 0.01)),
        "output_effect": signature("Effect on the output", "relative change", [call], with_interval(over(lambda i: 0.3 + 0.1 * math.sin(i)), 0.02)),
        "lens_overlap": signature("Logit lens: top-5 overlap", "share", [call], with_interval(over(lambda i: i / calls), 0.03)),
        "early_exit_accuracy": signature("Early exit", "accuracy", [call], with_interval(over(lambda i: i / calls / 2), 0.05), chance=0.25),
        "norms": signature("Norms of contributions", "norm", [call], {"values": over(lambda i: 1 + i / 4)}, variants=apart(lambda: {"values": over(lambda i: 1 + i / 8)})),
        "cosines": signature("Cosine with the stream", "cosine", [call], {"values": None}, variants=apart(lambda: with_interval(over(lambda i: math.cos(i) / 2), 0.05))),
        "period_power": signature("Power by period", "share of the power", [{"name": "period", "labels": periods}], {"values": [0.1 + 0.3 * (int(p) == period) for p in periods]},
                                  null={"values": [0.12] * len(periods), "high": [0.15] * len(periods), "p": [0.01] * len(periods)}),
        "swap": signature("Calls swapped", "change of the loss", spans, with_interval(loss(), 0.005),
                          variants={"copying": {"what": "items of the task answered right", "unit": "change of accuracy", "n": 100, **with_interval(loss(), 0.01)}}),
        "weight_similarity": signature("Likeness of blocks' weights", "cosine", [{"name": "block", "labels": labels}] * 2, {"values": None},
                                       variants=apart(lambda: {"values": [[1.0 if i == j else 0.6 * ((i - j) % 4 == 0) for j in range(calls)] for i in range(calls)]})),
    }
    left_out = {"expert_diversity": "the model has no experts", "tuned_lens_kl": "no tuned lens was trained: --lens was not given"}
    if experts:
        left_out.pop("expert_diversity")
        signatures["expert_diversity"] = signature("Distinct experts", "share", [], {"values": 0.71, "low": 0.69, "high": 0.73}, null=0.93)
        signatures["depth_attention_weights"] = signature("Depth attention", "weight", [call, {"name": "source", "labels": ["embedding", *labels]}],
                                                          {"values": [[1 / (i + 1) if j <= i else None for j in range(calls + 1)] for i in range(calls)]},
                                                          null={"values": [[0.1] * (calls + 1)] * calls})
    return {"name": name, "checkpoint": f"runs/{name}/checkpoints/step-0000000100", "plan": f"0-{calls - 1}", "trained_plan": f"0-{calls - 1}", "blocks": calls, "calls": list(range(calls)),
            "parameters": 1_400_000, "period": period, "prompts": {"file": "prompts.txt", "texts": prompts, "tokens": 1200, "hash": "0123abcd"}, "signatures": signatures, "left_out": left_out}


def document(*models):
    return json.loads(json.dumps({"format": 1, "models": list(models)}))


@unittest.skipIf(MISSING, f"not here: {MISSING}")
class AnalysisPage(unittest.TestCase):
    def shown(self, *models):
        """(page text as a browser sees it, figures that plotly takes)"""
        from analysis import page

        with tempfile.TemporaryDirectory() as folder:
            page.write(document(*models), Path(folder) / "index.html")
            text = (Path(folder) / "index.html").read_text(encoding="utf-8")
        assert_fetches_nothing(self, text)
        figures = data_of(text)["figures"] if 'id="page-data"' in text else []
        for figure in figures:
            validated(figure)
        return Elements(text), figures

    def test_everything_of_every_model_is_on_it(self):
        models = [made_up("plain", 12), made_up("grown", 12, seed=2), made_up("dreamer <b>", 8, experts=True, seed=3)]
        seen, figures = self.shown(*models)
        for model in models:
            for signature in model["signatures"].values():
                self.assertIn(signature["title"], seen.text)
                self.assertIn(signature["what"], seen.text)
        for part in ("n = 10.", "the model has no experts", "plain, grown", "prompts.txt", "0123abcd", "step-0000000100", "1,400,000", "Where it comes from"):
            self.assertIn(part, seen.text)
        matrices = [trace for figure in figures for trace in figure["data"] if trace["type"] == "heatmap"]
        self.assertEqual(len(matrices), 3 * (1 + 2 + 1 + 2 + 2) + 2)  # future effect with parts, local effect, swap with a task, weights' parts; depth attention of one model and its null
        self.assertIn("Items of the task answered right.", seen.text)
        self.assertIn("the null", seen.text)
        scores = next(figure for figure in figures if figure["layout"]["yaxis"].get("ticktext") == ["whole block", "attention", "depth attention"])
        self.assertEqual([[value is not None for value in trace["x"]] for trace in scores["data"]], [[True, True, False], [True, True, False], [True, False, True]])
        self.assertEqual(scores["data"][2]["error_x"]["array"][2], 0)  # the interval of the whole is not that of a part
        lines = [trace for figure in figures for trace in figure["data"] if trace["type"] == "scatter" and trace.get("name") == "grown"]
        self.assertEqual(len(lines), 1 + 1 + 1 + 3 + 2 + 1)  # output effect, lens, exit, norms with parts, cosines of parts, power

    def test_one_scale_for_what_is_compared_and_zero_in_its_middle(self):
        a, b = made_up("a", 6), made_up("b", 6)
        b["signatures"]["future_effect"]["values"][0][1] = 0.55
        _, figures = self.shown(a, b)
        matrices = [trace for figure in figures for trace in figure["data"] if trace["type"] == "heatmap"]
        first = [trace for trace in matrices if trace["meta"]["cells"]["x"] == list("012345")][:2]
        self.assertEqual({(trace["zmin"], trace["zmax"]) for trace in first}, {(0, 0.55)})
        self.assertEqual([trace["meta"]["model"] for trace in first], [0, 1])
        swapped = [trace for trace in matrices if trace["colorscale"] == "diverging"]
        self.assertEqual(len(swapped), 4)
        self.assertTrue(all(trace["zmin"] == -trace["zmax"] for trace in swapped))

    def test_one_value_far_above_the_others_does_not_take_the_colours(self):
        from analysis import page

        one = {"values": [[1.0] * 10 for _ in range(10)], "axes": []}
        self.assertEqual(page.scale_of([({}, one)]), ((0, 1.0), False, ""))
        one["values"][3][4] = 100.0
        self.assertEqual(page.scale_of([({}, one)]), ((0, 1.0), False, "Colours end at 1; 1 of 100 values are beyond."))

    def test_the_parts_of_one_model_stand_beside_each_other(self):
        from analysis import page

        for models, titles in (([made_up("a", 6)], ["whole block", "attention", "feed-forward"]), ([made_up("a", 6), made_up("b", 6)], ["a", "b"] * 3)):
            html = page.page_of(document(*models)).html()
            section = html[html.index("<h2>Effect on later calls</h2>"):]
            self.assertEqual(re.findall(r"<h3><span[^>]*></span>([^<]*)</h3>", section[:section.index("</section>")]), titles)

    def test_headline_numbers(self):
        from analysis import page

        models = document(made_up("plain", 12, period=None), made_up("grown", 12), made_up("dreamer", 8, experts=True))["models"]
        models[0]["trained_plan"] = "0-3"
        rows = {row[0]: row[1:] for row in page.headline(models)}
        self.assertEqual([cell.value for cell in rows["plan in training"]], ["0-3", "0-11", "0-7"])
        self.assertEqual(rows["Depth score"][0].small, "[0.38, 0.62]")
        self.assertEqual([(cell.value, cell.small) for cell in rows["Distinct experts"]], [(None, ""), (None, ""), (0.71, "[0.69, 0.73] null 0.93")])
        power = rows["Power by period at the period of growth or loop"]
        self.assertEqual([(cell.value, cell.small) for cell in power[:2]], [(None, ""), (0.4, "period 4, null 0.12 up to 0.15 (p = 0.01)")])

    def test_any_number_of_calls(self):
        for calls in (4, 5, 24, 64):
            seen, figures = self.shown(made_up("a", calls), made_up("b", max(4, calls // 2)))
            ticks = [figure["layout"]["xaxis"]["ticktext"] for figure in figures if figure["data"][0]["type"] == "heatmap"]
            self.assertTrue(all(len(names) <= 10 for names in ticks))
        size = sum(len(json.dumps(figure)) for figure in figures)
        self.assertLess(size, 4e6)

    def test_what_is_missing_leaves_the_rest(self):
        whole = made_up("whole", 6)
        for name in whole["signatures"]:
            broken = copy.deepcopy(whole)
            broken["name"] = "broken"
            for other in set(broken["signatures"]) - {name}:
                del broken["signatures"][other]
            one = broken["signatures"][name]
            for key in ("low", "high", "n", "variants", "null", "chance", "unit", "what"):
                one.pop(key, None)
            self.shown(broken)
            self.shown(whole, broken)
            nothing = lambda values: [nothing(value) for value in values] if isinstance(values, list) else None  # noqa: E731
            one["values"] = nothing(one["values"])
            seen, figures = self.shown(broken)
            self.assertIn("No model has a finite value of it.", seen.text)
            self.assertEqual(figures, [])
        bare = {"name": "bare", "signatures": {}, "left_out": {"norms": "not asked for"}}
        seen, figures = self.shown(bare)
        self.assertIn("not asked for", seen.text)

    def test_labels_that_are_no_numbers_are_names(self):
        from analysis import page

        vector = lambda labels: {"values": [1.0] * len(labels), "axes": [{"name": "x", "labels": labels}]}  # noqa: E731
        self.assertEqual(page.places([({}, vector(["1", "2.5"]))]), ({"1": 1, "2.5": 2.5}, None))
        self.assertEqual(page.places([({}, vector(["a", "b"])), ({}, vector(["b", "c"]))]), ({"a": 0, "b": 1, "c": 2}, ["a", "b", "c"]))
        self.assertEqual(page.places([({}, vector(["1", "nan"]))]), ({"1": 0, "nan": 1}, ["1", "nan"]))

    def test_a_call_of_a_loop_is_told_with_its_block(self):
        from analysis import page

        looped = made_up("looped", 6)
        looped["calls"] = [0, 1, 2, 1, 2, 3]
        calls, others = {"name": "changed call", "labels": list("012345")}, {"name": "source", "labels": ["embedding", *"012345"]}
        self.assertEqual(page.call_names(looped, calls)[2:4], ["2 (block 2)", "3 (block 1)"])
        self.assertEqual(page.call_names(looped, others), others["labels"])
        self.assertEqual(page.call_names(made_up("plain", 6), calls), calls["labels"])
        _, figures = self.shown(looped)
        cells = next(trace["meta"]["cells"] for figure in figures for trace in figure["data"] if trace["type"] == "heatmap")
        self.assertEqual((cells["x"][4], cells["y"][3]), ("4 (block 2)", "3 (block 1)"))
        line = next(trace for figure in figures for trace in figure["data"] if trace["type"] == "scatter" and "hovertext" in trace)
        self.assertTrue(line["hovertext"][3].endswith("<br>call 3 (block 1)"))

    def test_one_value_far_above_the_others_makes_a_logarithmic_axis(self):
        model = made_up("a", 8)
        for values, kind in (([90.0] + [0.1] * 7, "log"), ([90.0, 0.0] + [0.1] * 6, None), ([2.0] + [0.1] * 7, None)):
            model["signatures"]["norms"] = {"title": "Norms", "axes": [{"name": "call", "labels": list("01234567")}], "values": values}
            _, figures = self.shown(model)
            self.assertIn(kind, [figure["layout"]["yaxis"].get("type") for figure in figures if figure["data"][-1].get("y") == values], (values, kind))

    def test_the_whole_is_named_after_what_its_parts_are(self):
        from analysis import page

        names = lambda *parts: page.part_name("", [(part, [({}, {"unit": "nats"})]) for part in ("", *parts)])  # noqa: E731
        self.assertEqual([names(), names("attention", "feed_forward"), names("feed_forward"), names("copying")], ["", "whole block", "attention", "nats"])

    def test_reasons_are_told_once(self):
        from analysis import page

        rows = page.left_out_rows(document(made_up("a", 4), made_up("b", 4), made_up("c", 4, experts=True))["models"])
        self.assertEqual(rows, [["Distinct experts", "a, b", "the model has no experts"], ["tuned lens kl", "a, b, c", "no tuned lens was trained: --lens was not given"]])


if __name__ == "__main__":
    if MISSING:
        print(f"skipped: no {', '.join(MISSING)} in {sys.executable}")
        sys.exit(4)
    unittest.main()
