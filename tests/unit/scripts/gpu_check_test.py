"""scripts/gpu_check where there is no GPU: what it needs, its parts, and how it runs them. What its results become: gpu_results_test.py."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import unittest
import unittest.mock
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "scripts" / "bench"))
import gpu_check  # noqa: E402
import gpu_parts  # noqa: E402
import gpu_publish  # noqa: E402
import gpu_report  # noqa: E402


class Scratch(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)


def run_check(*arguments, **environment):
    return subprocess.run([ROOT / "scripts" / "gpu_check", *arguments], env={**os.environ, "MERISTEM_PYTHON": sys.executable, **environment},
                          capture_output=True, text=True, timeout=120)


class WhatIsMissing(Scratch):
    def test_each_missing_thing_is_a_line_before_anything_else(self):
        tools = self.folder / "bin"
        tools.mkdir()
        for tool in ("bash", "dirname", "readlink", "cat", "sha256sum"):
            (tools / tool).symlink_to(shutil.which(tool))
        # A Python without LibTorch: the test's own, alone.
        bare = self.folder / "python"
        bare.write_text(f"#!/bin/sh\nexec {sys.executable} -S -E \"$@\"\n")
        bare.chmod(0o755)
        result = run_check("--out", self.folder / "out", PATH=str(tools), MERISTEM_HOME=str(self.folder), MERISTEM_PYTHON=str(bare))
        self.assertEqual(result.returncode, 2, result.stderr)
        lines = result.stderr.splitlines()
        for thing in ("a GPU: nvidia-smi names none", "torch 2.11:", "nvcc: not on the PATH", "cmake: not on the PATH", "ninja: not on the PATH"):
            self.assertEqual(len([line for line in lines if line.startswith(f"gpu_check: error: {thing}")]), 1, result.stderr)
        self.assertEqual(len(lines), 5)
        self.assertFalse((self.folder / "out" / "gpu_check.json").exists())

    def test_a_program_that_is_not_there_or_does_not_start(self):
        broken = self.folder / "programs" / "meristem-bench"
        broken.parent.mkdir()
        machine = gpu_check.Machine(gpu_check.Programs(broken.parent, packed=True), rehearse=True, building=False)
        machine.look_at_programs()
        self.assertTrue(any(line.startswith("meristem-bench: no program") for line in machine.missing))
        broken.write_text("#!/bin/sh\necho 'error while loading shared libraries: libx.so' >&2\nexit 127\n")
        broken.chmod(0o755)
        machine.missing = []
        machine.look_at_programs()
        self.assertIn("meristem-bench: does not start: error while loading shared libraries: libx.so", machine.missing)

    def test_wrong_arguments(self):
        (self.folder / "mine").write_text("")
        for arguments, said in ((("--fast",), "unrecognized arguments: --fast"), (("--only", "tests x"), "--only: found 'x'; allowed: build conformance tests operators"),
                                (("--rehearse", "--plant", "conformance=burn"), "--plant: found 'conformance=burn'; allowed: out=full"),
                                (("--rehearse", "--plant", "nobody=hang"), "found 'nobody=hang'"), (("--out", str(self.folder)), "found mine")):
            result = run_check(*arguments, *(() if "--out" in arguments else ("--out", str(self.folder / "out"))))
            self.assertEqual(result.returncode, 2, result.stdout)
            self.assertIn(said, result.stderr)
            self.assertEqual(len(result.stderr.splitlines()), 1)


class Parts(unittest.TestCase):
    def test_their_order_is_that_of_their_worth(self):
        on = gpu_parts.OnGpu(lambda name: Path("/programs") / name, Path("/work"), "compute-sanitizer")
        names = [part.name for part in gpu_parts.parts(on, True, {})]
        self.assertEqual(len(names), len(set(names)))
        firsts = [next(i for i, name in enumerate(names) if name.startswith(group))
                  for group in ("conformance", "tests/", "operators/", "step_124M", "sanitizer/", "depth_steps", "step_360M", "step_1.7B")]
        self.assertEqual(firsts, sorted(firsts))

    def test_each_is_named_by_a_test_that_exists_and_no_test_is_left_out(self):
        """What the programs hold, by their sources: a tag that nothing has would run nothing and pass."""
        sources = "".join((ROOT / "tests/kernels" / name).read_text() for name in ("dense/on_gpu_test.cpp", "on_gpu_test.cpp"))
        cases, run = set(re.findall(r'TEST_CASE\("[^"]*",\s*"([^"]*)"', sources)), set()
        for program, tags, _ in [*gpu_parts.TESTS.values(), gpu_parts.BANDWIDTHS, ("test_kernels_on_gpu", "[small]", 0)]:
            if program != "test_kernels_on_gpu":
                continue
            wanted = tags.partition("~")[0].strip("[]").split("][")
            found = {case for case in cases if all(f"[{tag}]" in case or f"[.{tag}]" in case for tag in wanted)}
            self.assertTrue(found, tags)
            run |= found
        self.assertEqual(run, cases)

    def test_proofs_ask_for_parts_that_are_run(self):
        on = gpu_parts.OnGpu(lambda name: Path("/programs") / name, Path("/work"), "compute-sanitizer")
        names = {part.name for part in gpu_parts.parts(on, True, {})}
        for claim in gpu_publish.CLAIMS:
            self.assertLessEqual({f"tests/{test}" for test in claim.tests} | set(claim.sanitizer), names, claim)

    def test_the_allocator_keeps_nothing_under_the_sanitizer(self):
        on = gpu_parts.OnGpu(lambda name: Path("/programs") / name, Path("/work"), "compute-sanitizer")
        for part in gpu_parts.parts(on, True, {"LD_LIBRARY_PATH": "/libraries"}):
            self.assertEqual(part.environment.get("PYTORCH_NO_CUDA_MEMORY_CACHING"), "1" if part.name.startswith("sanitizer/") else None)
            self.assertEqual(part.environment["LD_LIBRARY_PATH"], "/libraries")


class Running(Scratch):
    """A process a part; what it does to itself is its own affair."""

    def fates(self, commands, minutes=1):
        results = gpu_report.Results(self.folder / "out", self.folder, "NVIDIA X", "c0ffee")
        (self.folder / "out").mkdir(exist_ok=True)
        runner = gpu_check.Runner(self.folder, time.monotonic() + 60 * minutes, results.keep)
        for name, (seconds, command) in commands.items():
            part = gpu_parts.Part(name, seconds, command)
            if command in gpu_check.FAULTS:
                part.command = ["sh", "-c", "echo first; sleep 100"]
                gpu_check.planted(part, command)
            results.note(part, *runner.run(part))
            results.keep()
        return results

    def test_each_part_has_its_fate_and_loses_no_other(self):
        shell = lambda text: (20, ["sh", "-c", text])  # noqa: E731
        results = self.fates({"conformance": shell("true"), "tests/bad": shell("echo because; exit 3"), "tests/slow": (2, "hang"), "tests/killed": (20, "kill"),
                              "tests/absent": shell("echo 'skipped: no tool'; exit 4"), "tests/none": (20, ["/no/such/program"]), "tests/empty": shell("echo 'No tests ran'"), "tests/last": shell("true")})
        states = {part["name"]: (part["state"], part["note"]) for part in results.sections}
        self.assertEqual(states["conformance"], ("passed", ""))
        self.assertEqual(states["tests/bad"], ("failed", "exit code 3: because"))
        self.assertEqual(states["tests/slow"][0], "out of time")
        self.assertEqual(states["tests/killed"], ("failed", "signal 9: first"))
        self.assertEqual(states["tests/absent"], ("skipped", "skipped: no tool"))
        self.assertEqual(states["tests/none"][0], "failed")
        self.assertEqual(states["tests/empty"], ("failed", "no test has this tag"))
        self.assertEqual(states["tests/last"], ("passed", ""))
        self.assertLess(sum(part["seconds"] for part in results.sections), 20)
        written = json.loads((self.folder / "out" / "gpu_check.json").read_text())
        self.assertEqual(written["tests"], {"passed": ["conformance", "last"], "failed": ["bad", "slow", "killed", "none", "empty"], "skipped": ["absent"]})
        self.assertEqual(sorted(path.name for path in (self.folder / "out").iterdir()), sorted(gpu_report.Results.FILES))
        with tarfile.open(self.folder / "out" / "gpu_check.tar.gz") as tar:
            self.assertIn(b"because", tar.extractfile("tests.bad.log").read())
            suite = ElementTree.fromstring(tar.extractfile("tests.xml").read())
        self.assertEqual(len(suite.findall("testcase/failure")), 5)

    def test_nobody_survives_its_part(self):
        before = time.monotonic()
        self.fates({"leaves a child": (20, ["sh", "-c", f"sleep 1000 {self.folder} & echo $! >{self.folder}/pid"])})
        self.assertLess(time.monotonic() - before, 10)
        with self.assertRaises(ProcessLookupError):
            for _ in range(50):
                os.kill(int((self.folder / "pid").read_text()), 0)
                time.sleep(0.1)

    def test_what_has_no_time_left_is_skipped(self):
        results = self.fates({"late": (20, ["true"])}, minutes=0.05)
        self.assertEqual([(part["state"], part["note"]) for part in results.sections], [("skipped", "no time left; --minutes gives more")])

    def test_a_group_takes_no_more_than_its_share(self):
        with unittest.mock.patch.dict(gpu_parts.GROUPS, {"sanitizer": 6}):
            results = self.fates({"sanitizer/a": (3, "hang"), "sanitizer/b": (20, ["sleep", "100"]), "sanitizer/c": (20, ["true"]), "probes/d": (20, ["true"])})
        self.assertEqual([part["state"] for part in results.sections], ["out of time", "skipped", "skipped", "passed"])
        self.assertEqual(results.sections[1]["note"], "the 6 s of sanitizer are spent")

    def test_a_long_part_leaves_what_it_has(self):
        results = gpu_report.Results(self.folder, self.folder, "NVIDIA X", "c0ffee")
        kept = []
        runner = gpu_check.Runner(self.folder, time.monotonic() + 60, lambda: kept.append(len(results.gather()["operators"])))
        runner.run(gpu_parts.Part("operators/x", 7, ["sh", "-c", "echo '{\"subject\": \"x\", \"case\": \"1\"}'; sleep 100"]))
        self.assertEqual(kept, [1])

    def test_a_full_folder_keeps_the_last_whole_results(self):
        results = gpu_report.Results(self.folder, self.folder, "NVIDIA X", "c0ffee", full=True)
        results.keep()
        results.note(gpu_parts.Part("conformance", 1, []), "passed", 1, "")
        results.keep()
        self.assertIn("No space left on device", results.unwritten)
        self.assertEqual(json.loads((self.folder / "gpu_check.json").read_text())["sections"], [])


if __name__ == "__main__":
    os.chdir(ROOT)
    unittest.main()
