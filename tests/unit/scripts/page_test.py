"""Pages and their figures: nothing from outside, texts stay texts, colours that can be told apart, lines that lose no peak; the page in a browser, where one is here."""

import html
import importlib.util
import itertools
import json
import math
import random
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
import text_commands  # noqa: E402, F401
from pages import Elements, assert_fetches_nothing, data_of, validated  # noqa: E402

MISSING = [name for name in ("plotly", "numpy") if importlib.util.find_spec(name) is None]
NASTY = """</script><script>alert(1)</script>"'&amp;<b>%{y}$x$"""
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


# Colours as readers with a missing kind of cone see them (Machado and others 2009), in linear light.
SIGHT = {"all cones": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
         "no long": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
         "no middle": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
         "no short": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]}


def linear(colour):
    parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def contrast(one, other):
    """As WCAG defines it."""
    bright, dark = sorted((sum(w * part for w, part in zip((0.2126, 0.7152, 0.0722), linear(colour))) + 0.05 for colour in (one, other)), reverse=True)
    return bright / dark


def oklab(light):
    import numpy as np

    cones = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566], [0.0883024619, 0.2817188376, 0.6299787005]])
    opponents = np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099], [0.0259040371, 0.7827717662, -0.8086757660]])
    return opponents @ np.cbrt(np.clip(cones @ light, 0, None))


def seen_apart(one, other):
    """The least distance in Oklab that any of these readers sees."""
    import numpy as np

    pairs = ([np.clip(np.array(matrix) @ np.array(linear(colour)), 0, 1) for colour in (one, other)] for matrix in SIGHT.values())
    return min(float(np.linalg.norm(oklab(a) - oklab(b))) for a, b in pairs)


@unittest.skipIf(MISSING, f"not here: {MISSING}")
class Colours(unittest.TestCase):
    def test_text_and_lines_stand_out(self):
        from reports import page

        for colours in (page.LIGHT, page.DARK):
            for ground in (colours["ground"], colours["panel"]):
                for text in (colours["ink"], colours["soft"]):
                    self.assertGreaterEqual(contrast(text, ground), 4.5, (text, ground))
                for model in colours["models"]:
                    self.assertGreaterEqual(contrast(model, ground), 3, (model, ground))
            for part in colours["parts"]:
                self.assertGreaterEqual(contrast(colours["ink"], part), 4.5, part)

    def test_models_differ_for_readers_with_any_colour_vision(self):
        from reports import page

        for colours in (page.LIGHT, page.DARK):
            self.assertEqual(len(colours["models"]), 8)
            for one, other in itertools.combinations(colours["models"], 2):
                self.assertGreater(seen_apart(one, other), 0.08, (one, other))
        self.assertLess(seen_apart("#009E73", "#7F7F7F"), 0.04)  # a pair that they confuse

    def test_scales_go_one_way(self):
        """So that a matrix can be read without colours."""
        from reports import page

        for colours in (page.LIGHT, page.DARK):
            for scale in (colours["sequential"], colours["diverging"][:4], colours["diverging"][3:]):
                steps = [oklab(linear(b))[0] - oklab(linear(a))[0] for a, b in zip(scale, scale[1:])]
                self.assertTrue(all(step > 0.02 for step in steps) or all(step < -0.02 for step in steps), (scale, steps))


@unittest.skipIf(MISSING, f"not here: {MISSING}")
class Pages(unittest.TestCase):
    def page(self, **options):
        from reports.page import Page

        return Page("a page", **options)

    def test_texts_stay_texts(self):
        from reports import charts
        from reports.page import Cell

        page = self.page(models=[NASTY])
        page.title = NASTY
        page.section(NASTY, NASTY)
        page.text(NASTY)
        page.table([NASTY, Cell(NASTY, model=NASTY)], [[NASTY, Cell(NASTY, NASTY, code=True)]], NASTY)
        page.figure(charts.lines([charts.Line(NASTY, [1, 2], [3, 4], low=[2, 3], high=[4, 5])], NASTY, NASTY), NASTY, NASTY)
        page.figure(charts.bars([NASTY], [charts.Bars(NASTY, [1.0])], NASTY), NASTY)
        page.figure(charts.heatmap([[1.0]], [NASTY], [NASTY], NASTY, NASTY), NASTY)
        page.figure(charts.forest([(NASTY, 1, 0, 2)], NASTY), NASTY)
        page.figure(charts.shares([(NASTY, {NASTY: 1})], [NASTY]), NASTY)
        page.fold(NASTY, NASTY)
        text = page.html()
        assert_fetches_nothing(self, text)
        seen = Elements(text)
        self.assertEqual(len(seen.scripts), 3)  # plotly's, the figures, ours: no text made one
        self.assertNotIn("b", [tag for tag, _ in seen.tags])
        self.assertGreaterEqual(seen.text.count(NASTY), 12)
        for figure in data_of(text)["figures"]:  # plotly reads tags: in what it shows, there is none of ours but <br> and the bold name
            self.assertNotRegex(json.dumps(figure).replace("<br>", "").replace("<b>%{fullData.name}</b>", "").replace("<extra></extra>", "")
                                .replace("<b>%{x:.7~g}</b>", "").replace("<b>%{z:.7~g}</b>", ""), r"<[a-z/]")

    def test_a_model_keeps_its_colour_on_the_whole_page(self):
        from reports import charts

        page = self.page(models=["a", "b"])
        page.figure(charts.bars(["x", "y"], [charts.Bars("b", [1, 2])]))
        page.figure(charts.lines([charts.Line("new", [1], [1]), charts.Line("b", [1], [1]), charts.Line("a", [1], [1])], "x"))
        page.table(["", "x"], [["r", 1]])
        figures = data_of(page.html())["figures"]
        colours = {(trace["name"], trace["marker"]["color"], trace["meta"]["model"]) for figure in figures for trace in figure["data"]}
        self.assertEqual(colours, {("a", "model0", 0), ("b", "model1", 1), ("new", "model2", 2)})

    def test_more_models_than_colours_get_dashes_and_hatching(self):
        from reports import charts

        page = self.page()
        names = [f"m{i}" for i in range(32)]
        page.figure(charts.lines([charts.Line(name, [1, 2], [1, 2]) for name in names], "x"))
        page.figure(charts.bars(["x"], [charts.Bars(name, [1]) for name in names]))
        lines, bars = (figure["data"] for figure in data_of(page.html())["figures"])
        self.assertEqual(len({(trace["line"]["color"], trace["line"]["dash"]) for trace in lines}), 32)
        self.assertEqual(len({(trace["marker"]["color"], trace["marker"]["pattern"]["shape"]) for trace in bars}), 32)

    def test_a_figure_may_come_from_a_function_and_empty_sections_go(self):
        from reports import charts

        page = self.page()
        page.section("empty", "nothing follows")
        page.section("full")
        page.figure(lambda page: charts.lines([charts.Line(page.title, [1], [1])], "x"))
        text = page.html()
        self.assertNotIn("empty", Elements(text).text)
        self.assertEqual(page.models, ["a page"])

    def test_many_sections_have_a_table_of_contents(self):
        page = self.page()
        for i in range(8):
            self.assertNotIn("nav", [tag for tag, _ in Elements(page.html()).tags])
            page.section(f"number {i} &")
            page.text("x")
        seen = Elements(page.html())
        links = [attributes["href"] for tag, attributes in seen.tags if tag == "a"]
        self.assertEqual(links, [f"#{attributes['id']}" for tag, attributes in seen.tags if tag == "section"])
        self.assertEqual(seen.text.count("number 3 &"), 2)

    def test_a_page_without_figures_has_no_script(self):
        page = self.page()
        page.table(["a"], [[None], [math.nan], [1234567], [0.000123456]])
        text = page.html()
        self.assertEqual(Elements(text).scripts, [])
        self.assertIn("–</th></tr><tr><th scope=\"row\">–", text)
        self.assertIn("1,234,567", text)
        self.assertIn("0.0001235", text)

    def test_a_file_appears_whole_or_not_at_all(self):
        with tempfile.TemporaryDirectory() as folder:
            page = self.page()
            page.text("x")
            page.write(Path(folder) / "new" / "page.html")
            self.assertEqual([path.name for path in (Path(folder) / "new").iterdir()], ["page.html"])
            with self.assertRaises(OSError):
                page.write(Path(folder) / "new" / "page.html" / "below.html")


@unittest.skipIf(MISSING, f"not here: {MISSING}")
class Charts(unittest.TestCase):
    def test_figures_are_what_plotly_knows(self):
        from reports import charts
        from reports.page import Page

        gap = [1.0, None, math.nan]
        for figure in (charts.lines([charts.Line("a", [1, 2, 3], gap, low=[0, None, 1], high=[2, None, 3], raw=gap, n=[1, 2, 3], points=True), charts.Line(None, [1], [1], soft=True, name="s")],
                                    "x", "y", x_log=True, y_range=[0, 1]),
                       charts.level(charts.lines([charts.Line("a", [0, 1, 2], gap, step_like=True)], "x", categories=["p", "q", "r"]), 0.5, "chance"),
                       charts.ticks_across(charts.bars(["x"], [charts.Bars("a", [1])]), [(0, 0.5, "null"), (1, None, "null")]),
                       charts.level(charts.bars(["x", "y", "z"], [charts.Bars("a", gap, [0, None, 1], [2, None, 3], n=5)], "u", [0, 1]), 0.5, "chance"),
                       charts.forest([("a - b", 1, 0.5, 2, 3), ("c", None, None, None)], "x"), charts.heatmap([gap, gap], "abc", "pq", "x", "y", diverging=True, low=[gap, gap], high=[gap, gap], n=3, told=[["", "<br>more", ""]] * 2, z_title="z", model="a", height=200),
                       charts.shares([("a", {"s": 1, "t": 3})], ["s", "t"])):
            page = Page("x")
            page.figure(figure)
            json.dumps(page.figures, allow_nan=False)
            validated(page.figures[0])
        with self.assertRaises(ValueError):
            validated({"data": [{"type": "scatter", "no_such_key": 1}], "layout": {}})

    def test_long_lines_are_thinned_without_losing_a_peak(self):
        from reports import charts

        chance = random.Random(1)
        for count in (2001, 5000, 123_457):
            xs, ys = list(range(count)), [chance.random() for _ in range(count)]
            ys[count // 3], ys[count // 2], ys[7] = 40.0, -40.0, math.nan
            x, y = charts.thinned(xs, ys)
            self.assertLessEqual(len(x), charts.MOST_POINTS)
            self.assertGreater(len(x), charts.MOST_POINTS * 0.9)
            self.assertEqual((x[0], x[-1], x), (0, count - 1, sorted(set(x))))
            self.assertEqual((x[y.index(40.0)], x[y.index(-40.0)]), (count // 3, count // 2))
            self.assertTrue(all(a == ys[b] or math.isnan(a) for a, b in zip(y, x)))
        self.assertEqual(charts.thinned([1, 2], [3, math.inf]), ([1, 2], [3, math.inf]))
        self.assertEqual(len(charts.thinned(list(range(5000)), [math.nan] * 5000)[0]), 1000)

    def test_the_range_leaves_out_the_first_fall_and_what_is_not_finite(self):
        from reports import charts

        steep = charts.Line("x", list(range(1, 101)), [100.0] * 3 + [4.0, math.nan] + [3.0] * 95)
        low, high = charts.settled_range([steep])
        self.assertTrue(2.9 < low < 3 < high < 4.2, (low, high))
        self.assertEqual(charts.settled_range([steep], from_zero=True)[0], 0)
        self.assertEqual(charts.settled_range([charts.Line("x", [1], [math.nan])]), [0, 1])

    def test_matrices_that_are_compared_have_one_scale(self):
        from reports import charts

        trace = charts.heatmap([[1, 2]], "ab", "c", "x", "y", z_range=(-5, 3), diverging=True)["data"][0]
        self.assertEqual((trace["zmin"], trace["zmax"]), (-5, 5))
        trace = charts.heatmap([[1, 1]], "ab", "c", "x", "y")["data"][0]
        self.assertLess(trace["zmin"], trace["zmax"])

    def test_an_interval_with_gaps_is_several_shapes(self):
        from reports import charts

        band = charts.band(charts.Line("a", [1, 2, 3, 4], [1, 2, 3, 4], low=[0, 1, None, 3], high=[2, 3, None, 5]))
        self.assertEqual(band["x"], [1, 2, 2, 1, None, 4, 4, None])
        self.assertEqual(band["y"], [0, 1, 3, 2, None, 3, 5, None])

    def test_steps_lead_to_tokens_by_few_places(self):
        from reports import charts

        steps = list(range(1, 1001))
        tokens, flops = [64 * step for step in steps], [step if step <= 400 else 400 + 3 * (step - 400) for step in steps]
        places = charts.steps_of_slope(steps, tokens, flops)
        self.assertEqual(places, [[1, 400, 1000], [64, 25600, 64000], [1, 400, 2200]])
        self.assertAlmostEqual(charts.between(places[0], places[2], 700), 1300)
        self.assertEqual(charts.between([1, 5], [2, 7], 4.9, step_like=True), 2)
        self.assertEqual(charts.steps_of_slope([3], [9]), [[3], [9]])

    def test_ticks_of_a_logarithmic_axis(self):
        from reports import charts

        self.assertEqual(charts.log_axis([1, 2, 4, 64, 4, None, 0])["ticktext"], ["1", "2", "4", "64"])
        self.assertEqual(charts.log_axis(range(1, 101))["tickvals"], [1, 2, 5, 10, 20, 50, 100])
        for low, high in ((1e-9, 3e12), (3, 9), (0.5, 5e5)):
            ticks = charts.log_axis([low * (high / low) ** (i / 50) for i in range(51)])["tickvals"]
            self.assertTrue(2 <= len(ticks) <= 8 and low <= ticks[0] and ticks[-1] <= high * 1.0001, ticks)

    def test_differences_of_long_names_do_not_meet(self):
        from reports import charts

        figure = charts.forest([("short", 0.1, 0.0, 0.2), ("a long name " * 12, -0.1, -0.2, 0.0, 5), ("none", None, None, None)], "x")
        places, texts = figure["layout"]["yaxis"]["tickvals"], figure["layout"]["yaxis"]["ticktext"]
        for (a, one), (b, other) in zip(zip(places, texts), list(zip(places, texts))[1:]):
            self.assertGreaterEqual(b - a, 17 * (one.count("<br>") + other.count("<br>") + 2) / 2)
        self.assertEqual([note["text"] for note in figure["layout"]["annotations"]], ["+0.1 [+0, +0.2]", "-0.1 [-0.2, +0]", "–"])

    def test_labels_fold(self):
        from reports import charts

        self.assertEqual(charts.wrapped("one two three", 8), "one two<br>three")
        self.assertEqual(charts.wrapped("a<b" * 5, 9), "a&lt;ba&lt;ba&lt;b<br>a&lt;ba&lt;b")
        self.assertEqual(charts.named_ticks([str(i) for i in range(64)])["ticktext"][:3], ["0", "5", "10"])


@unittest.skipIf(MISSING or not BROWSER, "not here: chromium" if not MISSING else f"not here: {MISSING}")
class Browser(unittest.TestCase):
    def seen(self, page, check, *options):
        """What `check`, the body of an async function, returns in a browser that has the page open."""
        script = f"""<script>addEventListener("load", () => setTimeout(async () => {{
          const plots = [...document.querySelectorAll(".plot")], pause = (ms) => new Promise((done) => setTimeout(done, ms));
          const result = await (async () => {{ {check} }})().catch(String);
          document.body.innerHTML = "<pre></pre>";
          document.querySelector("pre").textContent = JSON.stringify(result); }}, 1500));</script>"""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "page.html"
            path.write_text(page.html().replace("</body>", script + "</body>"), encoding="utf-8")
            done = subprocess.run([BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile", "--window-size=390,4000", "--virtual-time-budget=20000",
                                   *options, "--dump-dom", f"file://{path}"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=120)
        return json.loads(html.unescape(re.search(r"<pre>(.*)</pre>", done.stdout.decode())[1]))

    def test_it_draws_in_both_schemes_and_fits_a_phone(self):
        from reports import charts
        from reports.page import DARK, LIGHT, Page

        page = Page("a page", models=["a", NASTY])
        page.table(["x"] * 12, [["wide" * 5] * 12])
        page.figure(charts.lines([charts.Line("a", [1, 2], [3, 4]), charts.Line(NASTY, [1, 2], [4, 5])], "x"), "caption " + "long" * 200)
        page.figure(charts.bars(["x" * 90], [charts.Bars("a", [1, 2]), charts.Bars(NASTY, [2, 1])]))
        for scheme, colours in (("1", LIGHT), ("0", DARK)):
            found = self.seen(page, """return [document.scrollingElement.scrollWidth <= innerWidth, plots.every((plot) => plot.dataset.drawn), plots[0]._fullLayout.paper_bgcolor,
                plots[0]._fullData.map((trace) => trace.line.color), plots[0].querySelector(".yaxislayer-above text") !== null, plots[1]._fullData[0].marker.color];""",
                              f"--blink-settings=preferredColorScheme={scheme}")
            self.assertEqual(found, [True, True, colours["panel"], list(colours["models"][:2]), True, colours["models"][0]])

    def test_the_axis_is_chosen_and_models_are_hidden(self):
        from reports import charts
        from reports.page import Page

        page = Page("a page", models=["short", "long"])
        page.axis = {"start": "share", "layout": {"step": {"title": {"text": "step"}, "ticksuffix": ""}, "share": {"title": {"text": "share"}, "ticksuffix": " %"}},
                     "range": {"step": [0, 100], "share": [-1, 101]}, "tables": [{"step": [1, 10], "share": [10, 100]}, {"step": [1, 50, 100], "share": [1, 90, 100]}]}
        page.figure(charts.lines([charts.Line("short", [1, 5, 10], [3, 4, 5], track=0), charts.Line("long", [25, 75], [4, 5], track=1)], "step"))
        page.figure(charts.heatmap([[1, 2]], ["p", "q<"], ["r"], "x", "y", low=[[0, None]], high=[[3, None]], n=1234, told=[["", " more"]], model="long"), title="long", model="long")
        found = self.seen(page, """const lines = () => plots[0].data.map((trace) => trace.x.map((x) => Math.round(10 * x) / 10)), axis = () => [plots[0]._fullLayout.xaxis.title.text, plots[0]._fullLayout.xaxis.range[1]];
            const out = [lines(), axis()];
            document.querySelector("input[value=step]").click(); await pause(500); out.push(lines(), axis(), plots[1].data[0].customdata);
            document.querySelectorAll(".legend button")[1].click(); await pause(500);
            out.push(plots[0].data.map((trace) => trace.visible !== false), document.querySelectorAll("figure[hidden]").length);
            document.querySelectorAll(".legend button")[1].click(); await pause(500);
            out.push(plots[0].data.map((trace) => trace.visible !== false), document.querySelectorAll("figure[hidden]").length); return out;""")
        self.assertEqual(found, [[[10, 50, 100], [44.6, 95]], ["share", 101], [[1, 5, 10], [25, 75]], ["step", 100],
                                 [[["p", "r", "<br>95 % interval 0 … 3<br>n = 1,234"], ["q&lt;", "r", "<br>n = 1,234 more"]]], [True, False], 1, [True, True], 0])

    def test_labels_of_events_do_not_cover_each_other(self):
        from reports import charts
        from reports.page import Page

        page = Page("a page")
        figure = charts.lines([charts.Line("a", [0, 100], [1, 1])], "x", y_range=[0, 2])
        labels = ["far", "near by", "near too", "at the end"]
        marks = {"type": "scatter", "mode": "markers+text", "x": [10, 50, 51, 99], "y": [1, 1, 1, 1], "text": labels, "textposition": "top right", "meta": {"model": "a", "labels": labels}}
        page.figure(figure | {"data": figure["data"] + [marks]})
        found = self.seen(page, "return [plots[0].data[1].text, plots[0].data[1].textposition];")
        self.assertEqual(found, [["far", "near by", "", "at the end"], ["top right", "top right", "top right", "top left"]])


if __name__ == "__main__":
    if MISSING:
        print(f"skipped: no {', '.join(MISSING)} in {sys.executable}")
        sys.exit(4)
    if not BROWSER:
        print("left out: what a page does in a browser, because no chromium is here")
    unittest.main()
