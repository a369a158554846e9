"""scripts/gpu_check where there is no GPU, its time budgets, and what its report and pages make of a result that was made up here."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BENCH = ROOT / "scripts" / "bench"
sys.path.insert(0, str(BENCH))
import gpu_goals  # noqa: E402
import gpu_publish  # noqa: E402
import gpu_report  # noqa: E402

PARTS = "build tests ranks sanitizer operators step_30M step_124M step_360M step_1.7B depth_steps other_tests".split()
JUNIT = """<testsuite>
 <testcase name="test_attention_on_gpu" status="run"/> <testcase name="test_kernels_on_gpu" status="run"/>
 <testcase name="test_graph_on_gpu" status="run"/> <testcase name="test_experts_on_gpu" status="fail"><failure/></testcase>
</testsuite>"""


class Scratch(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)


class WithoutGpu(Scratch):
    def run_check(self, *arguments):
        tools = self.folder / "bin"
        tools.mkdir(exist_ok=True)
        for tool in ("bash", "dirname", "readlink", "sed", "head", "mkdir", "cat", "sha256sum"):
            if not (tools / tool).exists():
                (tools / tool).symlink_to(shutil.which(tool))
        environment = {"PATH": str(tools), "HOME": str(self.folder), "CUDA_HOME": str(self.folder / "none")}
        return subprocess.run([ROOT / "scripts" / "gpu_check", "--out", self.folder / "out", *arguments], env=environment, capture_output=True,
                              text=True, timeout=60)

    def test_it_says_what_it_skips_and_succeeds(self):
        result = self.run_check()
        self.assertEqual(result.returncode, 0, result.stderr)
        for part in PARTS:
            self.assertIn(f"{part}: skipped: no GPU on this machine", result.stdout)
        self.assertIn("nothing to check here", result.stdout)
        parts = gpu_report.sections_of(self.folder / "out" / "sections.tsv")
        self.assertEqual([(part["name"], part["state"]) for part in parts], [(part, "skipped") for part in PARTS])

    def test_only_some_parts(self):
        self.assertNotIn("sanitizer", self.run_check("--only", "tests operators").stdout)

    def test_wrong_arguments(self):
        for arguments, said in ((("--fast",), "unknown argument '--fast'"), (("--only", "tests x"), "unknown part 'x'; allowed: build tests")):
            result = self.run_check(*arguments)
            self.assertEqual(result.returncode, 2)
            self.assertIn(said, result.stderr)


class Budgets(Scratch):
    def sections(self, script, seconds=60):
        script = f'out="{self.folder}"; seconds_in_all={seconds}; source "{ROOT}/scripts/lib/sections.sh"; begin_sections\n{script}\necho "failed=$failed"'
        result = subprocess.run(["bash", "-euo", "pipefail", "-c", script], capture_output=True, text=True, timeout=60)
        self.assertEqual(result.returncode, 0, result.stderr)
        states = {part["name"]: part["state"] for part in gpu_report.sections_of(self.folder / "sections.tsv")}
        return states, result.stdout

    def test_each_part_has_its_fate(self):
        states, said = self.sections("""section good 5 true
section bad 5 bash -c 'echo because; exit 3'
section slow 1 sleep 20
section absent 5 bash -c 'echo "skipped: no tool"; exit 4'
section after 5 true""")
        self.assertEqual(states, {"good": "passed", "bad": "failed", "slow": "out of time", "absent": "skipped", "after": "passed"})
        self.assertIn("because", said)
        self.assertIn("failed=1", said)

    def test_what_has_no_time_left_is_skipped_and_no_failure(self):
        states, said = self.sections("section late 5 true", seconds=5)
        self.assertEqual(states, {"late": "skipped"})
        self.assertIn("failed=0", said)


def made_up(folder):
    """What the parts of a run would leave."""
    (folder / "sections.tsv").write_text("build\tpassed\t90\t\ntests\tpassed\t30\t\nsanitizer\tskipped\t0\tcompute-sanitizer is not on this machine\n")
    (folder / "tests.xml").write_text(JUNIT.replace(' <testcase name="test_experts_on_gpu" status="fail"><failure/></testcase>', ""))
    operators = [
        {"subject": "attention_forward", "case": "D64", "ours": "meristem fused", "seconds": {"meristem fused": 1.0, "flash": 1.25, "default": 1.1}},
        {"subject": "attention_backward", "case": "D64", "ours": "meristem fused", "seconds": {"meristem fused": 2.0, "flash": 1.0, "default": 3.0}},
        {"subject": "adamw", "case": "1", "ours": "meristem fused", "bytes": 30, "copy_share": 0.9, "seconds": {"meristem fused": 1.0}},
        {"subject": "adamw_step", "case": "1", "ours": "meristem fused", "seconds": {"meristem fused": 1.0, "_fused_adamw_ and a copy": 1.2}},
        {"subject": "cross_entropy", "case": "big", "ours": "meristem fused", "seconds": {"meristem fused": 1.0, "eager": 1.5},
         "peak_bytes": {"meristem fused": 30, "eager": 100}},
        {"subject": "depth_attention_forward", "case": "4 entries", "failed": "no memory"},
    ]
    (folder / "operators.jsonl").write_text("\n".join(json.dumps(line) for line in operators) + '\n{"subject": "cut')
    depth = {"model": "joint", "calls": 16, "step_seconds": 0.2, "promised": 0.185, "ratio": 1.081, "bound": 1.05}
    (folder / "depth_steps.jsonl").write_text(json.dumps(depth) + "\n" + json.dumps({**depth, "model": "values", "ratio": 1.04}) + "\n")
    program = {"tokens_per_second": 1000.0, "median_seconds": 0.5, "peak_bytes": 1 << 30, "parameters": 5, "last_loss": 2.0}
    ratio = {"median": 1.3, "quartiles": [1.2, 1.4]}
    shape = {"layers": 6, "width": 384, "inner": 1024, "heads": 6, "kv-heads": 6, "vocab": 32000, "sequence": 1024, "batch": 8}
    (folder / "step_30M.json").write_text(json.dumps({"shape": shape, "rounds": 3, "comparisons": [{"precision": "bf16", "programs": [
        {"program": "meristem graph", **program, "peak_flops": 1e12, "gpu_idle": 0.041}, {"program": "meristem eager", **program, "ours_over_this": ratio}]}]}))


class Report(Scratch):
    def result(self):
        made_up(self.folder)
        return gpu_report.gather(self.folder, "NVIDIA X", 300, "c0ffee")

    def test_rows_have_values_goals_and_verdicts(self):
        rows = gpu_goals.rows_of(self.result())
        found = {(row["what"], row["found"]): (row["goal"], row["met"]) for row in rows}
        self.assertEqual(found["attention_forward", "1.25 x flash"], (">= 0.9", True))
        self.assertEqual(found["attention_forward", "1.10 x default"], ("", None))
        self.assertEqual(found["attention_backward", "0.50 x flash"], (">= 0.9", False))
        self.assertEqual(found["adamw", "90 % of a copy's bandwidth"], (">= 0.85", True))
        self.assertEqual(found["cross_entropy", "1.50 x eager"], (">= 1.4", True))
        self.assertEqual(found["cross_entropy", "30 % of the memory of eager"], ("<= 20 %", False))
        self.assertEqual(found["depth_attention_forward", "failed"], ("", None))
        self.assertEqual(found["step_30M", "1.30 x meristem eager"], (">= 1.2", True))
        self.assertEqual(found["step_30M", "GPU idle 4.1 %"], ("<= 3 %", False))
        self.assertEqual(found["depth_attention_step", "1.081 x the FLOPs' ratio"], ("<= 1.05", False))
        self.assertEqual(found["depth_attention_step", "1.040 x the FLOPs' ratio"], ("<= 1.05", True))

    def test_the_command_prints_and_writes(self):
        made_up(self.folder)
        done = subprocess.run([sys.executable, BENCH / "gpu_report.py", "--folder", self.folder, "--gpu", "NVIDIA X", "--seconds", "300",
                               "--commit", "c0ffee"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        for text in ("NVIDIA X, 300 s in all", "0.50 x flash", "NOT MET", "3 passed, 0 failed", "skipped"):
            self.assertIn(text, done.stdout)
        self.assertEqual(json.loads((self.folder / "gpu_check.json").read_text())["gpu"], "NVIDIA X")
        (self.folder / "tests.xml").write_text(JUNIT)
        again = subprocess.run([sys.executable, BENCH / "gpu_report.py", "--folder", self.folder, "--gpu", "X", "--seconds", "1"], capture_output=True)
        self.assertEqual(again.returncode, 1)

    def test_a_kernel_is_proven_by_tests_sanitizer_and_speed(self):
        result = self.result()
        self.assertEqual(gpu_publish.verdict("adamw", result), (True, ""))
        self.assertEqual(gpu_publish.verdict("graph", result), (True, ""))
        self.assertEqual(gpu_publish.verdict("attention", result)[0], False)  # slower than flash over forward and backward
        self.assertIn("has not passed", gpu_publish.verdict("depth_attention", result)[1])
        result["operators"][1]["seconds"]["meristem fused"] = 0.5
        self.assertEqual(gpu_publish.verdict("attention", result), (True, ""))
        result["operators"] = []
        self.assertIn("not measured", gpu_publish.verdict("attention", result)[1])
        result["sections"][2]["state"] = "failed"
        self.assertIn("compute-sanitizer", gpu_publish.verdict("adamw", result)[1])

    def test_pages_are_made_from_the_result(self):
        repository = self.folder / "repository"
        (repository / "docs" / "results").mkdir(parents=True)
        (repository / "kernels").mkdir()
        page, proven = repository / "docs/results/gpu.md", repository / "kernels/proven.json"
        page.write_text(f"# Title\n{gpu_publish.BEGIN}\nold\n{gpu_publish.END}\nlast\n")
        other = {"kernel": "adamw", "device": "another", "date": "2026-01-01", "commit": "1"}
        stale = {"kernel": "attention", "device": "NVIDIA X", "date": "2026-01-01", "commit": "1"}
        proven.write_text(json.dumps({"about": "text", "proofs": [other, stale]}))
        (self.folder / "gpu_check.json").write_text(json.dumps(self.result()))
        command = [sys.executable, BENCH / "gpu_publish.py", self.folder / "gpu_check.json", "--root", repository]
        done = subprocess.run(command, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        text = page.read_text()
        self.assertTrue(text.startswith("# Title\n") and text.endswith("last\n") and "old" not in text)
        self.assertIn("| attention_backward | D64 | meristem fused | 0.50 x flash | >= 0.9 | **not met** |", text)
        written = json.loads(proven.read_text())
        self.assertEqual(written["about"], "text")
        self.assertEqual([(proof["kernel"], proof["device"]) for proof in written["proofs"]],
                         [("adamw", "another")] + [(kernel, "NVIDIA X") for kernel in ("adamw", "cross_entropy", "graph")])
        self.assertEqual(written["proofs"][1]["commit"], "c0ffee")
        self.assertEqual(subprocess.run(command, capture_output=True).returncode, 0)  # again: the same
        self.assertEqual(page.read_text(), text)

    def test_what_is_no_result_is_refused(self):
        (self.folder / "x.json").write_text('{"gpu": null}')
        done = subprocess.run([sys.executable, BENCH / "gpu_publish.py", self.folder / "x.json"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 1)
        self.assertIn("not a result of scripts/gpu_check on a GPU", done.stderr)

    def test_the_page_of_this_repository_can_be_written(self):
        page = (ROOT / "docs" / "results" / "gpu.md").read_text()
        self.assertIn("NVIDIA X", gpu_publish.new_page(page, self.result()))


if __name__ == "__main__":
    os.chdir(ROOT)
    unittest.main()
