"""scripts/gpu_pack on programs that are not those of a GPU: what the folder holds, what is refused, and that an empty root is one."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "scripts" / "bench"))
import gpu_parts  # noqa: E402


class Pack(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        self.build, self.out = self.folder / "build", self.folder / "pack"
        for i, program in enumerate(gpu_parts.PROGRAMS):  # in several folders, as a build has them
            path = self.build / ("bin" if i % 2 else "tests") / program
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy("/bin/cat", path)

    def pack(self, *arguments):
        given = arguments or ("--out", self.out, "--programs", self.build, "--no-check")
        return subprocess.run([ROOT / "scripts" / "gpu_pack", *given], capture_output=True, text=True, timeout=240)

    def test_the_folder_holds_all_that_the_check_needs(self):
        done = self.pack()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(sorted(os.listdir(self.out / "programs")), sorted(gpu_parts.PROGRAMS))
        self.assertIn("commit", json.loads((self.out / "pack.json").read_text()))
        listed = subprocess.run([self.out / "scripts" / "gpu_check", "--list"], capture_output=True, text=True, cwd="/",
                                env={**os.environ, "MERISTEM_PYTHON": sys.executable})
        self.assertEqual(listed.returncode, 0, listed.stderr)
        self.assertNotIn("build", listed.stdout.split()[0])  # nothing is built there
        self.assertTrue((self.out / gpu_parts.GOLDEN.relative_to(ROOT)).exists())
        self.assertEqual(self.pack().returncode, 0)  # over an earlier one

    def test_what_is_refused(self):
        self.out.mkdir()
        (self.out / "mine").write_text("")
        (self.build / "bin" / "meristem-bench").unlink(missing_ok=True)
        (self.build / "tests" / "meristem-bench").unlink(missing_ok=True)
        for arguments, said in ((("--fast",), "unknown argument '--fast'"), (("--no-check",), "--out: found nothing"),
                                (("--out", self.out), "found other files"), (("--out", self.folder / "p", "--programs", self.build), "has no meristem-bench")):
            done = self.pack(*arguments)
            self.assertEqual(done.returncode, 2, done.stdout)
            self.assertIn(said, done.stderr)
        self.assertTrue((self.out / "mine").exists())

    def test_a_folder_that_is_too_large(self):
        (self.folder / "data").write_bytes(os.urandom(1 << 20) * 62)
        program = next(self.build.rglob("meristem-bench"))
        subprocess.run(["objcopy", "--add-section", f".kernels={self.folder / 'data'}", "--set-section-flags", ".kernels=alloc,readonly", program],
                       check=True, capture_output=True)
        done = self.pack()
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("MB; allowed: 60", done.stderr)

    def test_a_library_that_only_this_system_has_is_packed_and_missed_without(self):
        """Linked to a library of this folder, which no other system has. The empty root has what is packed, and no more."""
        (self.folder / "mine.c").write_text("int mine(void) { return 0; }\n")
        (self.folder / "main.c").write_text("int mine(void); int main(void) { return mine(); }\n")
        compiler = os.environ.get("CC", "cc")
        program = next(self.build.rglob("meristem-bench"))
        subprocess.run([compiler, "-shared", "-fPIC", "-o", self.folder / "libmine.so", self.folder / "mine.c"], check=True)
        subprocess.run([compiler, "-o", program, self.folder / "main.c", f"-L{self.folder}", "-lmine", f"-Wl,-rpath,{self.folder}"], check=True)
        self.assertEqual(self.pack().returncode, 0)
        self.assertEqual(os.listdir(self.out / "lib"), ["libmine.so"])
        (self.out / "lib" / "libmine.so").unlink()
        done = subprocess.run(["bash", ROOT / "scripts" / "lib" / "empty_root.sh", self.out, sys.executable], capture_output=True, text=True, timeout=240)
        if "not rehearsed in an empty root" in done.stdout:
            self.assertEqual(done.returncode, 0)
            self.skipTest(done.stdout)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("meristem-bench: does not start", done.stderr)
        self.assertIn("libmine.so", done.stderr)
        self.assertIn("the rehearsal in an empty root failed", done.stderr)


if __name__ == "__main__":
    os.chdir(ROOT)
    unittest.main()
