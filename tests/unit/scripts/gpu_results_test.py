"""What scripts/gpu_check's results become: rows with goals and estimates, proofs, and pages, all from a result that was made up here."""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BENCH = ROOT / "scripts" / "bench"
sys.path.insert(0, str(BENCH))
import gpu_goals  # noqa: E402
import gpu_parts  # noqa: E402
import gpu_publish  # noqa: E402
import gpu_report  # noqa: E402
import gpu_roofline  # noqa: E402

H200 = "NVIDIA H200"


def attention(mask, dim, ours, peers):
    """Lines of both passes, in which ours takes `ours` seconds and each peer what `peers` says."""
    subject = "attention" if mask == "causal" else f"attention_{mask}"
    return [{"subject": f"{subject}_{which}", "case": f"D{dim}", "ours": "meristem fused", "mask": mask, "head_dim": dim, "bytes": 1e6, "flops": 1e12,
             "seconds": {"meristem fused": ours, **peers}} for which in ("forward", "backward")]


OPERATORS = [
    *attention("causal", 64, 2.0, {"flash": 1.0, "default": 0.9}), *attention("causal", 128, 1.0, {"flash": 1.25, "default": 1.1}),
    *attention("window", 64, 1.0, {"library": 1.6}), *attention("packed", 64, 1.0, {"library": 0.8, "SDPA a document": 3.0}),
    *attention("joint", 64, 1.0, {"composition": 4.0}),
    {"subject": "adamw", "case": "1", "ours": "meristem fused", "bytes": 30, "copy_share": 0.9, "seconds": {"meristem fused": 1.0}},
    {"subject": "adamw_step", "case": "1", "ours": "meristem fused", "seconds": {"meristem fused": 1.0, "_fused_adamw_ and a copy": 1.2}},
    {"subject": "cross_entropy", "case": "big", "ours": "meristem fused", "seconds": {"meristem fused": 1.0, "eager": 1.5},
     "peak_bytes": {"meristem fused": 30, "eager": 100}},
    {"subject": "depth_attention_forward", "case": "4 entries", "failed": "no memory"},
]
SHAPE = gpu_parts.STEPS["step_30M"][0]
PROGRAM = {"tokens_per_second": 1000.0, "median_seconds": 0.5, "peak_bytes": 1 << 30, "parameters": 5, "last_loss": 2.0}
DEPTH = {"model": "joint", "calls": 16, "step_seconds": 0.2, "promised": 0.185, "ratio": 1.081, "bound": 1.05}


class Made(unittest.TestCase):
    """A folder with what the parts of a run would leave, and what is gathered from it."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def result(self, **states):
        work, out = self.folder / "work", self.folder / "out"
        for folder in (work, out):
            folder.mkdir(exist_ok=True)
        lines = [f"{json.dumps(line)}\n" for line in OPERATORS]
        (work / "operators.attention.log").write_text("a warning\n" + "".join(lines[:4]) + '{"subject": "cut')
        (work / "operators.others.log").write_text("".join(lines[4:]))
        (work / "depth_steps.log").write_text(json.dumps(DEPTH) + "\n" + json.dumps({**DEPTH, "model": "values", "ratio": 1.04}) + "\n")
        (work / "step_30M.json").write_text(json.dumps({"shape": SHAPE, "rounds": 3, "comparisons": [{"precision": "bf16", "programs": [
            {"program": "meristem graph", **PROGRAM, "peak_flops": 1e12, "gpu_idle": 0.041},
            {"program": "meristem eager", **PROGRAM, "ours_over_this": {"median": 1.3, "quartiles": [1.2, 1.4]}}]}]}))
        results = gpu_report.Results(out, work, H200, "c0ffee")
        on = gpu_parts.OnGpu(lambda name: Path("/programs") / name, work, "compute-sanitizer")
        for part in gpu_parts.parts(on, True, {}):
            results.note(part, states.get(part.name, "passed"), 1, "because" if part.name in states else "")
        results.keep()
        return results.gather()


class Rows(Made):
    def test_rows_have_values_goals_and_verdicts(self):
        rows = gpu_goals.rows_of(self.result())
        found = {(row["what"], row["case"], row["found"]): (row["goal"], row["met"]) for row in rows}
        self.assertEqual(found["attention_forward", "D128", "1.25 x flash"], (">= 0.9", True))
        self.assertEqual(found["attention_forward", "D128", "1.10 x default"], ("", None))
        self.assertEqual(found["attention_backward", "D64", "0.50 x flash"], (">= 0.75", False))
        self.assertEqual(found["attention_window_forward", "D64", "1.60 x library"], (">= 1.5", True))
        self.assertEqual(found["attention_packed_forward", "D64", "0.80 x library"], (">= 1.5", False))  # the fastest has the goal
        self.assertEqual(found["attention_packed_forward", "D64", "3.00 x SDPA a document"], ("", None))
        self.assertEqual(found["adamw", "1", "90 % of a copy's bandwidth"], (">= 0.85", True))
        self.assertEqual(found["cross_entropy", "big", "1.50 x eager"], (">= 1.4", True))
        self.assertEqual(found["cross_entropy", "big", "30 % of the memory of eager"], ("<= 20 %", False))
        self.assertEqual(found["depth_attention_forward", "4 entries", "failed"], ("", None))
        self.assertEqual(found["step_30M", "meristem graph", "1.30 x meristem eager"], (">= 1.2", True))
        self.assertEqual(found["step_30M", "meristem graph", "GPU idle 4.1 %"], ("<= 3 %", False))
        self.assertEqual(found["depth_attention_step", "joint, 16 calls", "1.081 x the FLOPs' ratio"], ("<= 1.05", False))

    def test_the_estimate_stands_beside_what_was_measured(self):
        notes = {(row["what"], row["case"]): row["note"] for row in gpu_goals.rows_of(self.result())}
        # 1e12 FLOPs of attention forward, D128, on an H200.
        self.assertEqual(notes["attention_forward", "D128"], f"1000000 us, estimate {1e6 * (1e12 / 280e12) + 1.5:.0f}")
        self.assertIn("500.0 ms, estimate", [row["note"] for row in gpu_goals.rows_of(self.result()) if row["what"] == "step_30M"][0])
        elsewhere = {**self.result(), "gpu": "NVIDIA X"}
        self.assertEqual([row["note"] for row in gpu_goals.rows_of(elsewhere) if row["what"] == "attention_forward"][0], "")

    def test_ours_alone_are_a_result(self):
        self.result()
        path = self.folder / "work" / "step_1.7B.json"
        path.write_text(json.dumps({"shape": gpu_parts.STEPS["step_1.7B"][0], "rounds": 3, "comparisons": [
            {"precision": "bf16", "programs": [{"program": "meristem graph", **PROGRAM}]}]}))
        self.assertEqual(gpu_report.step_of(path)["programs"][0]["tokens_per_second"], 1000.0)

    def test_the_printed_report(self):
        text = "\n".join(gpu_report.describe(self.result(**{"tests/swiglu": "out of time"})))
        for words in (f"{H200}, ", "0.50 x flash", "NOT MET", f"{len(gpu_parts.TESTS)} passed, 1 failed", "failed: swiglu", "estimate"):
            self.assertIn(words, text)
        self.assertFalse(gpu_report.is_good(self.result(**{"tests/swiglu": "out of time"})))
        self.assertTrue(gpu_report.is_good(self.result(**{"probes/mbarrier": "out of time", "bandwidths": "failed"})))  # only recorded


class Proofs(Made):
    def claim(self, name):
        return next(claim for claim in gpu_publish.CLAIMS if claim.name() == name)

    def verdict(self, name, **states):
        return gpu_publish.verdict(self.claim(name), self.result(**states))

    def test_masks_and_head_dims_are_judged_apart(self):
        for name, proven in (("attention causal 64", False), ("attention causal 128", True), ("attention window 64", True), ("attention packed 64", False),
                             ("depth_attention joint 64", True), ("adamw", True), ("graph", True)):
            self.assertEqual(self.verdict(name)[0], proven, name)
        self.assertIn("0.45 times as fast", self.verdict("attention causal 64")[1])
        for name in ("attention window 128", "depth_attention 64", "rms_norm", "experts"):
            self.assertEqual(self.verdict(name), (False, "its speed was not measured"))

    def test_a_pass_that_was_not_measured_leaves_the_other_unproven(self):
        result = self.result()
        result["operators"] = [line for line in result["operators"] if line["subject"] != "attention_window_backward"]
        self.assertEqual(gpu_publish.verdict(self.claim("attention window 64"), result), (False, "its speed was not measured"))

    def test_what_is_wrong_with_one_is_not_the_others(self):
        states = {"tests/attention_window_64": "failed", "sanitizer/racecheck_depth_attention": "out of time"}
        self.assertEqual(self.verdict("attention window 64", **states), (False, "tests/attention_window_64: failed: because"))
        self.assertIn("racecheck_depth_attention: out of time", self.verdict("depth_attention joint 64", **states)[1])
        self.assertTrue(self.verdict("attention causal 128", **states)[0])

    def test_a_skipped_or_missing_check_proves_nothing(self):
        for part in ("sanitizer/memcheck_dense", "sanitizer/racecheck_conformance", "tests/adamw", "conformance"):
            for state in ("skipped", "cut", "failed"):
                self.assertEqual(self.verdict("adamw", **{part: state}), (False, f"{part}: {state}: because"))
        result = self.result()
        result["sections"] = [part for part in result["sections"] if part["name"] != "sanitizer/memcheck_dense"]
        self.assertEqual(gpu_publish.verdict(self.claim("adamw"), result), (False, "sanitizer/memcheck_dense: not run"))

    def test_no_speed_decides_whether_a_kernel_is_right(self):
        self.assertTrue(self.verdict("adamw", bandwidths="failed")[0])
        self.assertNotIn("bandwidths", [test for claim in gpu_publish.CLAIMS for test in claim.tests])

    def test_pages_are_made_from_the_result(self):
        repository = self.folder / "repository"
        (repository / "docs" / "results").mkdir(parents=True)
        (repository / "kernels").mkdir()
        page, proven = repository / "docs/results/gpu.md", repository / "kernels/proven.json"
        page.write_text(f"# Title\n{gpu_publish.BEGIN}\nold\n{gpu_publish.END}\nlast\n")
        other = {"kernel": "adamw", "dtype": "bf16", "device": "another", "date": "2026-01-01", "commit": "1"}
        stale = {"kernel": "attention", "mask": "causal", "head_dim": 64, "dtype": "bf16", "device": H200, "date": "2026-01-01", "commit": "1"}
        proven.write_text(json.dumps({"about": "text", "proofs": [other, stale]}))
        self.result()
        command = [sys.executable, BENCH / "gpu_publish.py", self.folder / "out" / "gpu_check.json", "--root", repository]
        done = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        text = page.read_text()
        self.assertTrue(text.startswith("# Title\n") and text.endswith("last\n") and "old" not in text)
        self.assertIn("| attention_backward | D64 | meristem fused | 0.50 x flash | >= 0.75 | **not met** |", text)
        self.assertIn("| attention causal 64 | no | 0.45 times", text)
        written = json.loads(proven.read_text())
        self.assertEqual(written["about"], "text")
        self.assertEqual([(proof["kernel"], proof.get("mask"), proof.get("head_dim"), proof["device"]) for proof in written["proofs"]], [
            ("adamw", None, None, "another"), ("attention", "causal", 128, H200), ("attention", "window", 64, H200), ("depth_attention", "joint", 64, H200),
            ("adamw", None, None, H200), ("cross_entropy", None, None, H200), ("graph", None, None, H200)])
        self.assertEqual({(proof["commit"], proof["dtype"]) for proof in written["proofs"][1:]}, {("c0ffee", "bf16")})
        self.assertEqual(subprocess.run(command, capture_output=True).returncode, 0)  # again: the same
        self.assertEqual(page.read_text(), text)

    def test_what_is_no_result_is_refused(self):
        for text in ('{"gpu": null}', json.dumps({"gpu": "a CPU", "sections": [], "rehearsal": True})):
            (self.folder / "x.json").write_text(text)
            done = subprocess.run([sys.executable, BENCH / "gpu_publish.py", self.folder / "x.json"], capture_output=True, text=True)
            self.assertEqual(done.returncode, 1)
            self.assertIn("not a result of scripts/gpu_check on a GPU", done.stderr)

    def test_the_page_of_this_repository_can_be_written(self):
        page = (ROOT / "docs" / "results" / "gpu.md").read_text()
        self.assertIn(H200, gpu_publish.new_page(page, self.result()))


class Roofline(unittest.TestCase):
    def test_the_larger_of_bytes_and_flops_and_the_launches(self):
        line = {"device": H200, "subject": "swiglu_forward", "bytes": 4.32e9}
        self.assertAlmostEqual(gpu_roofline.operator_seconds(line), 1e-3 + 1.5e-6)
        self.assertAlmostEqual(gpu_roofline.operator_seconds({**line, "device": "NVIDIA H100 80GB HBM3"}), 4.32e9 / (0.9 * 3.35e12) + 1.5e-6)
        products = {**line, "subject": "attention_backward", "head_dim": 64, "flops": 140e12}
        self.assertAlmostEqual(gpu_roofline.operator_seconds(products), 1 + 3 * 1.5e-6)
        self.assertIsNone(gpu_roofline.operator_seconds({**line, "device": "NVIDIA X"}))
        self.assertIsNone(gpu_roofline.operator_seconds({"device": H200, "subject": "x"}))

    def test_a_step_is_at_most_as_fast_as_its_products(self):
        for shape, *_ in gpu_parts.STEPS.values():
            for device in gpu_roofline.DEVICES:
                seconds = gpu_roofline.step_seconds(shape, device.name)
                flops = gpu_report.flops_per_token(shape) * shape["batch"] * shape["sequence"]
                self.assertLess(flops / seconds / device.flops, gpu_roofline.PRODUCT_SHARE)
                self.assertGreater(flops / seconds / device.flops, 0.2)

    def test_the_page_has_what_the_model_says(self):
        page = (ROOT / "docs" / "results" / "gpu.md").read_text()
        written = page[page.index(gpu_roofline.BEGIN) + len(gpu_roofline.BEGIN):page.index(gpu_roofline.END)].strip()
        self.assertEqual(written, "\n".join(gpu_roofline.tables()).strip())


if __name__ == "__main__":
    os.chdir(ROOT)
    unittest.main()
