"""`meristem study`: what a file means and what is refused, which jobs there are, matching, going on after a kill, table and page.
Nothing is trained here: `run` writes what a run and an evaluation would leave."""

import csv
import importlib.util
import io
import json
import re
import sys
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
import text_commands  # noqa: E402

MISSING = [name for name in ("numpy", "yaml", "plotly") if importlib.util.find_spec(name) is None]

STUDY = """
name: small
seeds: [1, 2]
set: {schedule.steps: 40}
members:
  baseline: {base: run.yaml, phases: [pretrain, cooldown]}
  grown:
    base: run.yaml
    set: {growth: {operator: lidas, from_blocks: 4}}
    phases: [pretrain, {cooldown: {optimizer.lr: 2e-3}}]
  equal: {base: run.yaml, same: flops of grown, by: schedule.steps}
phases:
  cooldown: {after: pretrain, from_step: 30, set: {optimizer.lr: 1e-3}}
evaluate:
  - {tasks: [copy-random, variable-assignment-basic-0], items: 10, shots: [0, 2]}
  - {tasks: [copy-random], items: 10, steps: [30], members: [grown], phases: [pretrain]}
analyze: {signatures: [norms, period_power, depth_score], options: --texts 2, members: [grown, equal], phases: [pretrain]}
agreement: [[grown, grown, equal]]
sweeps: {loops: {sweep: loops, members: [grown, equal], options: --tasks copy-random --sizes 2}}
compare: [[grown, baseline], [grown/cooldown, grown/pretrain]]
parts: {cool: {phases: [cooldown]}, first: {members: [equal]}, loops: {sweeps: [loops]}}
scale: {smoke: {seeds: [1], members: {equal: {by: schedule.steps, same: flops of baseline}}}}
"""


class StudyCase(text_commands.FolderCase):
    def setUp(self):
        super().setUp()
        self.file("run.yaml", "model: {vocab_size: 64}\n")
        self.calls = []
        self.broken_at = None
        for target, new in (("study.running.run", self.fake_run), ("study.matching.plan", self.fake_plan)):
            patched = mock.patch(target, new)
            patched.start()
            self.addCleanup(patched.stop)

    def study(self, text=STUDY):
        return self.file("study.yaml", text)

    @staticmethod
    def fake_plan(config, settings, *options):
        """FLOPs: 100 an update, 75 where the model grows."""
        steps = settings.get("schedule.steps", 40)
        return {"flops_total": steps * (75 if "growth.operator" in settings else 100), "parameters": {"total": 1000}, "kv_bytes_per_token": 64.0}, ""

    def fake_run(self, words, log):
        """What `train` or `eval` would leave; from call `broken_at` on it is killed."""
        from study.running import Failed

        words = list(map(str, words))
        if self.broken_at is not None and len(self.calls) >= self.broken_at:
            raise Failed(137)
        self.calls.append(words)
        if words[0] == "train":
            self.leave_run(dict(word.split("=", 1) for word in words if "=" in word))
        elif words[0] == "analyze":
            out = Path(dict(zip(words, words[1:]))["--out"])
            out.mkdir(parents=True)
            norms = [1.0, 2.0, 4.0] if "grown" in words[1] else [4.0, 2.0, 1.0]
            (out / "analysis.json").write_text(json.dumps({"format": 1, "models": [{"signatures": {"norms": {"values": norms}, "depth_score": {"values": norms[0]}}, "left_out": {"period_power": "too few calls"}}]}))
        elif words[0] == "sweep":
            out = Path(dict(zip(words, words[1:]))["--out"])
            out.mkdir(parents=True, exist_ok=True)
            row = {"model": "grown", "task": "copy-random", "plan": "0-3", "baseline": False, "accuracy": 0.5, "low": 0.25, "high": 0.75, "difference": 0.125, "difference_low": -0.5,
                   "difference_high": 0.5}
            (out / "table.json").write_text(json.dumps({"format": 1, "rows": [row]}))
        else:
            self.leave_scores(words)

    def leave_run(self, settings):
        folder = Path(json.loads(settings["run.out"])) / settings["run.name"]
        (folder / "checkpoints" / "step-0000000030").mkdir(parents=True, exist_ok=True)
        seed, grown = int(settings["run.seed"]), "growth.operator" in settings
        lines = [{"step": step, "tokens": 64 * step, "loss": 3.0, "parameters": 1000, "blocks": 12, "calls": 12} for step in (10, 20, 30, 40)]
        lines += [{"event": "validation", "step": step, "source": "plays", "loss": 5 - 0.05 * step - 0.1 * grown - 0.01 * seed} for step in (20, 40)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def leave_scores(self, words):
        option = dict(zip(words, words[1:]))
        good = 8 if "grown" in words[1] else 5
        results = [{"chance": 0.1, "item_results": [{"log_likelihoods": [0.0, -1.0] if item < good else [-1.0, 0.0], "gold": 0} for item in range(int(option["--items"]))]}
                   for _ in option["--tasks"].split(",")]
        Path(option["--json"]).write_text(json.dumps({"results": results}))

    def call(self, *arguments):
        from study import study

        return text_commands.call(study, *arguments)

    def run_study(self, *arguments):
        return self.call(self.study(), "--out", self.folder / "out", *arguments)


@unittest.skipIf(MISSING, f"not here: {MISSING}")
class Jobs(StudyCase):
    def jobs(self, text=STUDY, scale=None, overrides=()):
        from study.jobs import all_jobs
        from study.matching import matched_settings
        from study.study_file import read_study

        study = read_study(self.study(text), scale, overrides)
        return study, all_jobs(study, matched_settings(study))

    def test_a_job_for_each_member_seed_and_phase_in_an_order_that_works(self):
        _, jobs = self.jobs()
        names = [job.name for job in jobs]
        self.assertEqual(names[:5], ["baseline/1/pretrain", "baseline/1/cooldown", "grown/1/pretrain", "grown/1/cooldown", "equal/1/pretrain"])
        self.assertEqual(len(names), 10)
        for job in jobs:
            for before in job.before:
                self.assertLess(names.index(before.name), names.index(job.name))

    def test_settings_lie_over_one_another(self):
        _, jobs = self.jobs(overrides=["schedule.steps=60", "optimizer.eps=1e-7"])
        by_name = {job.name: job for job in jobs}
        self.assertEqual(by_name["grown/1/cooldown"].settings, {"schedule.steps": 60, "optimizer.eps": 1e-7, "growth.operator": "lidas", "growth.from_blocks": 4, "optimizer.lr": 2e-3})
        self.assertEqual(by_name["baseline/2/cooldown"].settings["optimizer.lr"], 1e-3)

    def test_what_is_scored_of_a_job(self):
        _, jobs = self.jobs()
        by_name = {job.name: [task.key for task in job.tasks] for job in jobs}
        self.assertEqual(len(by_name["baseline/1/pretrain"]), 4)
        self.assertIn("copy-random, 0 shots, 10 items, step 30", by_name["grown/1/pretrain"])
        self.assertEqual(by_name["grown/1/cooldown"], by_name["baseline/1/pretrain"])

    def test_a_part_brings_what_it_needs(self):
        from study.jobs import selected

        study, jobs = self.jobs()
        self.assertEqual({job.name for job in selected(study, jobs, ["cool"])}, {job.name for job in jobs if job.member != "equal"})
        self.assertEqual({job.name for job in selected(study, jobs, ["loops"])}, {f"{member}/{seed}/pretrain" for member in ("grown", "equal") for seed in (1, 2)})
        self.assertEqual({job.name for job in selected(study, jobs, ["first"])}, {"equal/1/pretrain", "equal/2/pretrain"})

    def test_a_scale_lies_over_the_file_and_a_study_key_over_both(self):
        study, _ = self.jobs(scale="smoke")
        self.assertEqual((study.seeds, study.members["equal"].same.member), ([1], "baseline"))
        self.assertEqual(self.jobs(scale="smoke", overrides=["study.seeds=[4, 5]"])[0].seeds, [4, 5])

    def test_an_equal_member_is_as_long_as_its_cost_asks(self):
        _, jobs = self.jobs()
        steps = {job.settings["schedule.steps"] for job in jobs if job.member == "equal"}
        self.assertEqual(steps, {30})  # 40 updates of 75 are 30 of 100

    def test_a_baseline_of_plan_match_is_taken_over(self):
        from study import matching
        from study.study_file import read_study

        def say(config, settings, *options):
            counts = {"flops_total": 1000, "parameters": {"total": 50 if "model.blocks" in settings else 49.9}, "kv_bytes_per_token": 8}
            return counts | ({"match": [{"name": "layered_moe", "config": ["model.blocks=8", "model.depth_attention=null", 'model.depth_plan="0-7"', "model.feed_forward={kind: swiglu, inner: 8}"]}]} if options else {}), ""

        text = ("members: {dreamer: {base: run.yaml}, layered: {base: run.yaml, same: 'flops, parameters and kv of dreamer', by: layered_moe}}\n")
        found = matching.matched_settings(read_study(self.study(text)), matching.Counts(None, say))
        self.assertEqual(found, {"layered": {"model.blocks": 8, "model.depth_attention": None, "model.depth_plan": "0-7", "model.feed_forward": {"kind": "swiglu", "inner": 8}}})


@unittest.skipIf(MISSING, f"not here: {MISSING}")
class Running(StudyCase):
    def test_from_start_to_end(self):
        code, out, err = self.run_study()
        self.assertEqual((code, err), (0, ""))
        self.assertIn("10 of 10 jobs", out)
        rows = list(csv.DictReader(io.StringIO((self.folder / "out/table.csv").read_text())))
        by_place = {(row["table"], row["member"], row["other"], row["phase"], row["kind"], row["task"], row["shots"], row["step"]): row for row in rows}
        self.assertEqual(float(by_place["values", "grown", "", "pretrain", "accuracy", "copy-random", "0", ""]["value"]), 0.8)
        gain = by_place["differences", "grown/pretrain", "baseline/pretrain", "", "accuracy", "mean of tasks", "2", ""]
        self.assertAlmostEqual(float(gain["value"]), 0.3)
        loss = by_place["differences", "grown/pretrain", "baseline/pretrain", "", "loss", "plays", "", ""]
        self.assertAlmostEqual(float(loss["value"]), -0.1)
        sooner = by_place["tokens to equal loss", "grown/pretrain", "baseline/pretrain", "", "", "plays", "", ""]
        self.assertAlmostEqual(float(sooner["value"]), 0.95)  # of 40 updates 38: the curve falls 0.05 in each
        self.assertIn(("values", "grown", "", "pretrain", "accuracy", "copy-random", "0", "30"), by_place)
        text = (self.folder / "out/table.md").read_text()
        self.assertIn("| pretrain | mean of tasks, 2 shots | 0.10 | 0.500", text)
        self.assertIn("| grown | copy-random | 0-3 | 0.500 (0.250 to 0.750) | 0.125 (-0.500 to 0.500) |", text)
        self.assertNotIn("Not run yet", text)
        agrees = by_place["agreement", "grown", "grown", "", "", "norms", "", ""]
        self.assertAlmostEqual(float(agrees["value"]), 1 + 13 / 14)  # of 1 and -13/14
        self.assertEqual(float(by_place["values", "equal", "", "pretrain", "signature", "depth_score", "", ""]["value"]), 4)
        analyze = next(words for words in self.calls if words[0] == "analyze")
        self.assertEqual(analyze[4:], ["--signatures", "norms,period_power,depth_score", "--texts", "2"])
        sweep = next(words for words in self.calls if words[0] == "sweep")
        self.assertEqual(sweep[2:4], [f"grown={self.folder}/out/grown/seed-{seed}/pretrain" for seed in (1, 2)])
        page = (self.folder / "out/index.html").read_text()
        self.assertIn("Study: small", page)
        self.assertEqual(re.findall(r'(?:src|href)="(?!data:|#)[^"]+"', re.sub(r"<script.*?</script>", "", page, flags=re.S)), [])

    def test_killed_at_any_call_it_ends_with_the_same_files(self):
        self.run_study()
        whole = {name: (self.folder / "out" / name).read_bytes() for name in ("table.md", "table.csv", "index.html")}
        count = len(self.calls)
        for at in range(0, count, 3):
            self.calls = []
            self.broken_at = at
            other = self.folder / f"out-{at}"
            self.assertEqual(self.call(self.study(), "--out", other)[0], 137)
            self.broken_at, done = None, len(self.calls)
            self.assertEqual(self.call(self.study(), "--out", other)[0], 0)
            self.assertLessEqual(len(self.calls) - done, count - at + 4, "work was done again")  # the run, and the trunk, of the job that was cut
            for name, content in whole.items():
                self.assertEqual((other / name).read_bytes(), content, f"{name} after a kill at {at}")

    def test_done_is_done_and_a_new_task_is_scored_alone(self):
        self.run_study()
        self.calls = []
        self.run_study()
        self.assertEqual(self.calls, [])
        self.call(self.study(STUDY.replace("items: 10, shots: [0, 2]", "items: 10, shots: [0, 2, 3]")), "--out", self.folder / "out")
        self.assertIn("mean of tasks, 3 shots", (self.folder / "out/table.md").read_text())
        self.call(self.study(STUDY.replace("items: 10, shots: [0, 2]", "items: 10, shots: 3")), "--out", self.folder / "out")
        self.assertNotIn("mean of tasks, 2 shots", (self.folder / "out/table.md").read_text())
        scored = [words for words in self.calls if words[0] == "eval"]
        self.assertNotIn("analyze", [words[0] for words in self.calls])
        self.assertEqual((len(scored), {words[words.index("--shots") + 1] for words in scored}), (10, {"3"}))

    def test_table_from_results_alone(self):
        self.run_study("--results", self.folder / "kept")
        self.calls = []
        (self.folder / "kept/grown.seed-2.cooldown.json").unlink()
        code, out, _ = self.call(self.study(), "--out", self.folder / "fresh", "--results", self.folder / "kept", "--tables")
        self.assertEqual((code, self.calls), (0, []))
        self.assertIn("9 of 10 jobs", out)
        self.assertIn("Not run yet: 1 jobs (grown/2/cooldown)", (self.folder / "fresh/table.md").read_text())

    def test_a_branch_trains_its_trunk_again_where_its_folder_is_gone(self):
        self.run_study("--results", self.folder / "kept")
        (self.folder / "kept/grown.seed-2.cooldown.json").unlink()
        self.calls = []
        self.assertEqual(self.call(self.study(), "--out", self.folder / "fresh", "--results", self.folder / "kept")[0], 0)
        self.assertEqual([words[0] for words in self.calls], ["train", "train", "eval", "eval"])
        self.assertIn("--branch", self.calls[1])

    def test_a_trunk_that_comes_out_otherwise_is_not_mixed_with_its_old_results(self):
        self.run_study("--results", self.folder / "kept")
        (self.folder / "kept/grown.seed-2.cooldown.json").unlink()
        leave = self.leave_run

        def otherwise(settings):
            leave({**settings, "run.seed": "7"})

        self.leave_run = otherwise
        found = self.call(self.study(), "--out", self.folder / "fresh", "--results", self.folder / "kept")
        self.refused(found, 2, "kept/grown.seed-2.pretrain.json", "another run")
        (self.folder / "kept/grown.seed-2.pretrain.json").unlink()
        self.assertEqual(self.call(self.study(), "--out", self.folder / "fresh", "--results", self.folder / "kept")[0], 0)
        self.assertIn('"grown"', (self.folder / "kept/grown.seed-2.pretrain.json").read_text())

    def test_results_of_other_settings_are_refused(self):
        self.run_study()
        found = self.call(self.study(), "--out", self.folder / "out", "optimizer.lr=3e-3")
        self.refused(found, 2, "baseline.seed-1", "set optimizer.lr", "0.003")
        self.file("run.yaml", "model: {vocab_size: 65}\n")
        self.refused(self.run_study(), 2, "config")
        self.file("run.yaml", "model: {vocab_size: 64}  # a comment is no setting\n")
        self.assertEqual(self.run_study()[0], 0)

    def test_a_config_that_changes_meanwhile_ends_the_study(self):
        leave = self.leave_run

        def edit(settings):
            leave(settings)
            self.file("run.yaml", "model: {vocab_size: 66}\n")

        with mock.patch.object(self, "leave_run", edit):
            self.refused(self.run_study(), 2, "run.yaml", "was changed while the study ran")
        self.assertEqual(len([words for words in self.calls if words[0] == "train"]), 1)

    def test_a_damaged_result_is_named(self):
        self.run_study()
        self.file("out/results/grown.seed-1.pretrain.json", '{"format": 1')
        self.refused(self.run_study(), 4, "grown.seed-1.pretrain.json")

    def test_list_and_commands_run_nothing(self):
        code, out, _ = self.run_study("--list")
        self.assertEqual((code, self.calls, out.splitlines()[-1]), (0, [], "0 of 10 jobs are done"))
        commands = self.run_study("--jobs", "list", "--parts", "first")[1].splitlines()
        self.assertEqual(len(commands), 2)
        self.assertTrue(commands[0].endswith("--job equal/1/pretrain"), commands)
        code, out, _ = self.run_study("--job", "equal/1/pretrain")
        self.assertEqual((code, len([words for words in self.calls if words[0] == "train"])), (0, 1))
        self.assertEqual(len(self.run_study("--jobs", "list", "--parts", "first")[1].splitlines()), 1)

    def test_slurm_gets_a_job_each_in_their_order(self):
        self.file("bin/sbatch", f"#!/bin/sh\necho \"$*\" >>{self.folder}/sent\nwc -l <{self.folder}/sent\n").chmod(0o755)
        with mock.patch.dict("os.environ", {"PATH": f"{self.folder}/bin:/usr/bin:/bin"}):
            self.assertEqual(self.run_study("--slurm", "--gpus 1 --time 1:00:00")[0], 0)
        sent = (self.folder / "sent").read_text().splitlines()
        self.assertEqual(len(sent), 10)
        self.assertIn("--gpus 1 --time 1:00:00", sent[0])
        self.assertNotIn("--dependency", sent[0])
        self.assertIn("--dependency=afterok:1 ", sent[1])  # the cooldown of the same member and seed
        self.assertTrue(sent[1].endswith("--job baseline/1/cooldown"), sent[1])


@unittest.skipIf(MISSING, f"not here: {MISSING}")
class Refused(StudyCase):
    def refuse(self, text, *parts, code=2):
        self.refused(self.call(self.study(text), "--out", self.folder / "out"), code, *parts)
        self.assertEqual(self.calls, [], "before any work")
        self.assertFalse((self.folder / "out").exists())

    def test_files(self):
        one = "members: {a: {base: run.yaml}}\n"
        for text, parts in ((one + "seed: [1]\n", ["study.yaml:2", "seed", "seeds"]),
                            (one + "seeds: [1, 1]\n", ["study.yaml:2", "none twice"]),
                            (one + "seeds: []\n", ["study.yaml:2", "at least one"]),
                            (one + one, ["study.yaml:2", "members", "twice"]),
                            ("members: {a: {base: none.yaml}}\n", ["members.a.base", "none.yaml"]),
                            ("members: {a: {set: {}}}\n", ["members.a", "no `base`"]),
                            ("members: {a: {base: run.yaml, phases: [late]}}\n", ["late", "pretrain"]),
                            (one + "compare: [[a, b]]\n", ["study.yaml:2", "'b'", "a/pretrain"]),
                            (one + "compare: [[a]]\n", ["2 names"]),
                            (one + "evaluate: [{tasks: [copy]}]\n", ["study.yaml:2", "'copy'", "copy-random"]),
                            (one + "evaluate: [{tasks: [copy-random], shots: -1}]\n", ["shots", "-1"]),
                            (one + "phases: {cool: {after: nothing}}\n", ["phases.cool.after", "nothing"]),
                            ("members: [a\n", ["study.yaml", "not YAML"]),
                            ("[1]\n", ["study.yaml:1", "a map"]), ("", ["is empty"]), ("seeds: [1]\n", ["members", "none"])):
            with self.subTest(text=text):
                self.refuse(text, *parts)

    def test_members_that_cannot_match(self):
        both = "members: {a: {base: run.yaml, set: {schedule.steps: 40}}, b: {base: run.yaml, set: {schedule.steps: 50}, same: %s}}\n"
        self.refuse(both % "flops of a", "members.b.same", "+25.00%", "within 1%")
        self.refuse(both % "flops of c", "'c'", "allowed: a")
        self.refuse(both % "speed of a", "speed", "flops | parameters | kv of MEMBER")
        self.refuse(both % "flops of a, by: model.width", "model.width=1", "within 1%")
        self.refuse((both % "flops of a, by: model.width").replace("50", "30"), "model.width", "no value reaches")
        self.refuse(both % "flops of b", "'b'")
        self.refuse("members: {a: {base: run.yaml, same: flops of b}, b: {base: run.yaml, same: flops of a}}\n", "a circle")

    def test_words(self):
        self.refused(self.run_study("--scale", "huge"), 2, "--scale", "smoke")
        self.refused(self.run_study("--parts", "x"), 2, "--parts", "cool, first")
        self.refused(self.run_study("--job", "baseline/7/pretrain"), 2, "--job", "baseline/1/pretrain")
        self.refused(self.run_study("nonsense"), 2, "nonsense", "key=value")
        self.refused(self.run_study("study.sees=[1]"), 2, "study.sees", "seeds")
        self.refused(self.call(self.folder / "no.yaml"), 2, "no such file")
        self.refused(self.run_study("--tables"), 2, "found no result")


if __name__ == "__main__":
    unittest.main()
