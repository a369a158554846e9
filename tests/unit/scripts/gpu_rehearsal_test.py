"""scripts/gpu_check, rehearsed: every part's control flow on the CPU, whole and with parts that hang, are killed or fail, a full output folder,
and an end from outside. What a GPU would answer is not looked at here, only that every answer comes home."""

import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FILES = ["gpu_check.json", "gpu_check.tar.gz", "gpu_check.txt"]


class Rehearsal(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.out = Path(scratch.name) / "out"
        programs = Path(os.environ["MERISTEM_BENCH"]).parents[1]
        self.command = [ROOT / "scripts" / "gpu_check", "--rehearse", "--programs", programs, "--out", self.out, "--minutes", "20"]
        self.environment = {**os.environ, "MERISTEM_PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}

    def run_check(self, *arguments):
        return subprocess.run([*self.command, *arguments], env=self.environment, capture_output=True, text=True, timeout=1500)

    def result(self):
        self.assertEqual(sorted(path.name for path in self.out.iterdir()), FILES)
        result = json.loads((self.out / "gpu_check.json").read_text())
        return result, {part["name"]: part["state"] for part in result["sections"]}

    def test_every_part_answers(self):
        done = self.run_check()
        result, states = self.result()
        self.assertEqual(done.returncode, 0, done.stdout[-5000:] + done.stderr[-2000:])
        self.assertEqual(set(states.values()), {"passed"}, states)
        self.assertTrue(result["rehearsal"])
        subjects = {line["subject"] for line in result["operators"]}
        self.assertLessEqual({"attention_forward", "attention_window_backward", "attention_packed_forward", "attention_joint_backward", "experts_forward",
                              "depth_attention_forward", "cross_entropy", "adamw_step", "rope_forward", "swiglu_backward"}, subjects)
        self.assertFalse([line for line in result["operators"] if "failed" in line])
        self.assertEqual({line["model"] for line in result["depth_steps"]}, {"separate", "joint", "values"})
        for name, step in result["steps"].items():
            programs = [program["program"] for program in step["programs"]]
            self.assertEqual(programs, ["meristem eager"] if name == "step_30M" else ["meristem eager", "transformers eager"])
            self.assertGreater(step["programs"][0]["tokens_per_second"], 0)
        with tarfile.open(self.out / "gpu_check.tar.gz") as tar:
            self.assertLessEqual({"tests.xml", "operators.attention.log", "step_124M.json", "sanitizer.memcheck_dense.log"}, set(tar.getnames()))

    def test_parts_that_go_wrong_lose_nobody_elses_results(self):
        done = self.run_check("--only", "conformance tests operators step_30M depth_steps", "--plant", "tests/attention_causal_64=hang", "--plant",
                              "operators/rope=kill", "--plant", "operators/swiglu=hang", "--plant", "conformance=fail")
        result, states = self.result()
        self.assertEqual(done.returncode, 1)
        wrong = {name: state for name, state in states.items() if state != "passed"}
        self.assertEqual(wrong, {"conformance": "failed", "tests/attention_causal_64": "out of time", "operators/rope": "failed", "operators/swiglu": "out of time"})
        subjects = {line["subject"] for line in result["operators"]}
        self.assertIn("experts_forward", subjects)  # after those
        self.assertIn("rope_forward", subjects)     # its first line, before it was killed
        self.assertNotIn("swiglu_forward", subjects)
        self.assertTrue(result["steps"]["step_30M"] and result["depth_steps"])
        self.assertIn("operators/swiglu: out of time", done.stdout)

    def test_a_full_output_folder_ends_nothing(self):
        done = self.run_check("--only", "conformance operators/swiglu", "--plant", "out=full")
        self.assertEqual(done.returncode, 1)
        self.assertIn("No space left on device", done.stderr)
        printed = json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"gpu"')))
        self.assertEqual([part["state"] for part in printed["sections"]], ["passed", "passed"])
        self.assertIn("swiglu_forward", {line["subject"] for line in printed["operators"]})

    def test_a_step_whose_peer_fails_keeps_our_numbers(self):
        """Ended from outside while the peer starts: the folder has what was measured before it."""
        child = subprocess.Popen([*self.command, "--only", "conformance step_124M"], env=self.environment, stdout=subprocess.PIPE, text=True)
        self.addCleanup(child.stdout.close)
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            time.sleep(0.5)
            try:
                step = json.loads((self.out / "gpu_check.json").read_text())["steps"]["step_124M"]
            except (OSError, ValueError):
                continue
            if step:
                break
        child.send_signal(signal.SIGTERM)
        self.assertEqual(child.wait(timeout=30), 1)
        result, states = self.result()
        self.assertEqual(states["conformance"], "passed")
        self.assertIn(states["step_124M"], ("cut", "passed"))
        self.assertEqual(result["steps"]["step_124M"]["programs"][0]["program"], "meristem eager")


if __name__ == "__main__":
    os.chdir(ROOT)
    unittest.main()
