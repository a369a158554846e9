"""`meristem report`: what it reads, what it computes, what it refuses; what its charts show."""

import html
import importlib.util
import json
import re
import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
import text_commands  # noqa: E402
from pages import Elements, assert_fetches_nothing, data_of, validated  # noqa: E402

MISSING = [name for name in ("matplotlib", "plotly", "yaml") if importlib.util.find_spec(name) is None]


def write_run(folder, begin=0, end=60, origin=None, slope=0.02, config=None, torn=False):
    """A run whose training loss is 5 - slope * step and whose source b is 0.5 above source a."""
    lines = [{"event": "resume", "step": begin, "checkpoint": str(origin)}] if origin else [{"event": "phase", "step": 0, "name": "stable"}]
    for step in range(begin + 1, end + 1):
        loss = 5 - slope * step
        line = {"step": step, "tokens": 64 * step, "loss": "nan" if step == 7 else loss, "lr": 1e-3, "grad_norm": 1.0, "blocks": 4 if step <= 20 else 8,
                "calls": 8, "tokens_per_second": 1000.0, "loader_wait": 0.001, "loss_by_source": {"a": loss, "b": loss + 0.5},
                "tokens_by_source": {"a": 48 * step, "b": 16 * step}, "epochs_by_source": {"a": step / 10, "b": step / 100}}
        lines.append(line)
        if step == 20:
            lines.append({"event": "growth", "step": 20, "from_blocks": 4, "to_blocks": 8})
        if step % 20 == 0:
            lines.append({"event": "validation", "step": step, "source": "held <b>", "loss": loss})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + ('{"step": 61, "lo' if torn else ""))
    (folder / "config.yaml").write_text(json.dumps(config or {"run": {"name": folder.name}, "data": {"sources": {"a": {}, "b": {}}}, "schedule": {"steps": 60}}))


def call(*arguments):
    """(exit code, stdout, stderr)"""
    from reports import report

    return text_commands.call(report, *arguments)


@unittest.skipIf(MISSING, f"not here: {MISSING}")
class Report(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.runs = Path(scratch.name)

    def page(self, *folders, **options):
        from reports import report, runs as report_runs

        return report.page_of([report_runs.read_run(folder) for folder in folders], options.get("title", "runs")).html()

    def figures(self, *folders):
        """{title: figure} of a report"""
        text = self.page(*folders)
        titles = re.findall(r'<div class="plot"[^>]* aria-label="([^"]*)"', text)
        return dict(zip(map(html.unescape, titles), data_of(text)["figures"], strict=True))

    def test_a_branch_knows_its_trunk_and_what_it_read_since(self):
        from reports import runs as report_runs

        write_run(self.runs / "trunk")
        write_run(self.runs / "branch", 40, 50, self.runs / "trunk/checkpoints/step-0000000040")
        run = report_runs.read_run(self.runs / "branch")
        self.assertEqual((run.trunk.name, run.branch_step, run.branch_of), ("trunk", 40, "trunk, step 40"))
        self.assertEqual(run.use_before(), {"a": 48 * 40, "b": 16 * 40})
        self.assertEqual(run.growths, [])  # those of the trunk are before it
        text = self.page(self.runs / "branch")
        self.assertIn("<td>2,400</td><td>480</td>", text)  # a: 48 a step, 50 steps, 10 of them since
        self.assertIn("trunk, before the branch", text)

    def test_its_own_resumes_make_no_branch(self):
        from reports import runs as report_runs

        write_run(self.runs / "one")
        with open(self.runs / "one" / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"event": "resume", "step": 60, "checkpoint": str(self.runs / "one/checkpoints/step-60")}) + "\n")
        run = report_runs.read_run(self.runs / "one")
        self.assertEqual((run.trunk, run.branch_step, run.branch_of), (None, 0, ""))

    def test_figures(self):
        from reports import report, runs as report_runs

        write_run(self.runs / "one")
        write_run(self.runs / "two", slope=0.03)
        runs = [report_runs.read_run(self.runs / name) for name in ("one", "two")]
        rows = {label: values for label, values, _ in report.final_rows(runs)}
        self.assertEqual(rows["validation loss: held <b>"], [5 - 0.02 * 60, 5 - 0.03 * 60])
        self.assertAlmostEqual(rows["training loss"][0], 5 - 0.02 * 57)  # the last 7 of 60 steps
        self.assertAlmostEqual(rows["training loss: b"][1], 5.5 - 0.03 * 57)
        text = self.page(self.runs / "one", self.runs / "two")
        self.assertIn('<td>3.8000</td><td class="strong">3.2000<span class="small">-0.6000</span></td>', text)
        self.assertIn("grew 4 → 8 blocks", text)

    def test_amounts_and_spikes(self):
        """Padding is told from tokens where the run did; a spike says the loss and the gradient norm."""
        write_run(self.runs / "old")
        write_run(self.runs / "new")
        with open(self.runs / "new" / "metrics.jsonl", "a") as file:
            for line in ({"event": "spike", "step": 60, "loss": 4.5, "grad_norm": 17.25}, {"event": "skip", "step": 61, "loss": "inf", "grad_norm": "nan"},
                         {"step": 61, "tokens": 3904, "real_tokens": 3000, "trained_tokens": 1200, "flops": 1.5e12, "loss": 3.7}):
                file.write(json.dumps(line) + "\n")
        text = self.page(self.runs / "new", self.runs / "old")
        for part in ("spike: loss 4.5000, gradient norm 17.2<", "skip: loss inf, gradient norm nan<", "<td>3,000</td><td>–", "<td>1,200</td><td>–", "<td>1.5e+12</td>"):
            self.assertIn(part, text)
        self.assertNotIn("trained tokens", self.page(self.runs / "old"))

    def test_the_page_fetches_nothing_runs_nothing_and_escapes_what_runs_say(self):
        write_run(self.runs / "one", torn=True)
        text = self.page(self.runs / "one", title="<script>alert(1)</script>")
        assert_fetches_nothing(self, text)
        self.assertEqual(len(Elements(text).scripts), 3)
        self.assertIn("held <b>", Elements(text).text)
        for figure in data_of(text)["figures"]:
            validated(figure)
            self.assertNotIn("<b>", str([trace.get("name") for trace in figure["data"]]))

    def test_events_stand_on_the_line_of_their_run_and_only_there(self):
        write_run(self.runs / "one")
        write_run(self.runs / "later", 30, 60)
        charts = self.figures(self.runs / "one", self.runs / "later")
        for title in ("Training loss", "Training loss: a", "Learning rate", "Gradient norm"):
            marks = [trace for trace in charts[title]["data"] if trace["mode"] == "markers+text"]
            self.assertEqual([(trace["x"], trace["text"], trace["meta"]["model"]) for trace in marks], [([20], ["8 blocks"], 0)], title)
        self.assertAlmostEqual(next(trace["y"][0] for trace in charts["Training loss: b"]["data"] if trace["mode"] == "markers+text"), 5.5 - 0.02 * 20, delta=0.1)
        self.assertEqual([trace["x"] for trace in charts["Validation: held <b>"]["data"] if trace["mode"] == "markers+text"], [[20]])
        text = (self.runs / "one" / "metrics.jsonl").read_text().replace('"step": 20, "source"', '"step": 21, "source"')
        (self.runs / "one" / "metrics.jsonl").write_text(text)
        charts = self.figures(self.runs / "one")
        self.assertEqual([trace["x"] for trace in charts["Validation: held <b>"]["data"] if trace["mode"] == "markers+text"], [])  # its line begins behind the growth

    def test_loops_and_phases_are_told(self):
        write_run(self.runs / "one", end=40)
        with open(self.runs / "one" / "metrics.jsonl", "a") as file:
            file.write(json.dumps({"event": "phase", "step": 40, "name": "cooldown", "depth_plan": "0-7, (4-7)x2"}) + "\n")
            for step in range(41, 61):
                file.write(json.dumps({"step": step, "tokens": 64 * step, "loss": 3.0, "blocks": 8, "calls": 12 if step < 55 else 16}) + "\n")
        from reports import runs as report_runs

        found = [(event.step, event.kind, event.text) for event in report_runs.read_run(self.runs / "one").events]
        self.assertEqual(found, [(0, "phase", "phase stable"), (20, "growth", "grew 4 → 8 blocks"), (40, "phase", "phase cooldown, plan 0-7, (4-7)x2"),
                                 (40, "loop", "8 → 12 block calls a token"), (54, "loop", "12 → 16 block calls a token")])

    def test_a_short_run_beside_a_long_one_has_its_own_length(self):
        write_run(self.runs / "long", end=400, slope=0.002)
        write_run(self.runs / "short", end=40)
        axis = data_of(self.page(self.runs / "long", self.runs / "short"))["axis"]
        self.assertEqual((axis["start"], list(axis["layout"])), ("share", ["step", "tokens", "share"]))
        self.assertEqual([(table["step"][-1], table["tokens"][-1], table["share"][-1]) for table in axis["tables"]], [(400, 25600, 100), (40, 2560, 100)])
        self.assertTrue(axis["range"]["share"][1] < 102 and axis["range"]["step"][1] > 400)
        self.assertIn("each run over its own length", self.page(self.runs / "long", self.runs / "short"))
        axis = data_of(self.page(self.runs / "long"))["axis"]
        self.assertEqual(axis["start"], "step")

    def test_a_branch_begins_at_nought_of_its_own_length(self):
        write_run(self.runs / "trunk")
        write_run(self.runs / "branch", 40, 50, self.runs / "trunk/checkpoints/step-0000000040")
        axis = data_of(self.page(self.runs / "branch"))["axis"]
        self.assertEqual([round(low_high) for low_high in axis["range"]["step"]], [30, 50])
        self.assertEqual([round(low_high) for low_high in axis["range"]["share"]], [-102, 102])
        self.assertEqual([table["share"][-1] for table in axis["tables"]], [100, 200])  # the trunk went on

    def test_runs_of_one_name_are_told_apart(self):
        for folder in ("a/run", "b/run", "other"):
            write_run(self.runs / folder)
        from reports import report, runs as report_runs

        page = report.page_of([report_runs.read_run(self.runs / folder) for folder in ("a/run", "b/run", "other")], "x")
        self.assertEqual(page.models, ["a/run", "b/run", "other"])
        page = report.page_of([report_runs.read_run(self.runs / "other") for _ in range(2)], "x")
        self.assertEqual(page.models, ["other", "other (2)"])

    def test_long_metrics_take_seconds_and_the_page_stays_small(self):
        from reports.page import plotly_script

        write_run(self.runs / "long", end=20_000, slope=0.0001)
        begin = time.process_time()
        text = self.page(self.runs / "long")
        self.assertLess(time.process_time() - begin, 20)
        self.assertLess(len(text) - len(plotly_script()), 2e6)
        self.assertIn("Lines of more than 2,000 values", text)
        for figure in data_of(text)["figures"]:
            self.assertTrue(all(len(trace["x"]) <= 2000 for trace in figure["data"]))

    def test_config_differences_are_by_key_path(self):
        from reports import runs as report_runs

        base = {"run": {"name": "x"}, "optimizer": {"lr": 1, "betas": [0.9, 0.95]}, "phases": [{"mixture": {"a": 1}}], "schedule": {"steps": 60}}
        other = json.loads(json.dumps(base))
        other["optimizer"]["betas"][1] = 0.99
        other["phases"][0]["mixture"] = {"a": 0.5, "b": 0.5}
        other["run"]["name"] = "y"
        write_run(self.runs / "x", config=base)
        write_run(self.runs / "y", config=other)
        found = report_runs.config_differences([report_runs.read_run(self.runs / name) for name in "xy"])
        self.assertEqual(found, [("optimizer.betas", [[0.9, 0.95], [0.9, 0.99]]), ("phases[0].mixture.a", [1, 0.5]), ("phases[0].mixture.b", [None, 0.5])])

    def test_the_command(self):
        write_run(self.runs / "one")
        write_run(self.runs / "two")
        code, out, err = call(self.runs / "one", self.runs / "two")
        self.assertEqual((code, out.strip()), (0, str(self.runs / "report.html")), err)
        self.assertTrue((self.runs / "one" / "plots" / "loss.png").exists())
        for folder, named in ((self.runs / "none", "metrics.jsonl"), (self.runs, "metrics.jsonl")):
            code, _, err = call(folder)
            self.assertEqual(code, 2)
            self.assertTrue(err.startswith("meristem: error: ") and err.count("\n") == 1 and named in err, err)
        (self.runs / "two" / "config.yaml").write_text("a: [")
        code, _, err = call(self.runs / "two")
        self.assertEqual(code, 2)
        self.assertIn("config.yaml: is not the YAML of a run", err)

    def test_a_picture_that_cannot_be_drawn_is_said_and_the_page_stays(self):
        write_run(self.runs / "one")
        (self.runs / "one" / "plots").write_text("in the way")
        code, _, err = call(self.runs / "one")
        self.assertEqual(code, 0)
        self.assertIn("plots/loss.png was not drawn: ", err)
        self.assertTrue((self.runs / "one" / "report.html").exists())


if __name__ == "__main__":
    unittest.main()
