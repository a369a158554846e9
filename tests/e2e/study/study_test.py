"""`meristem study` with real runs, from an empty folder: the miniature study at its smallest scale, and one that is killed."""

import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "scripts" / "python"))

from quickstart import corpus  # noqa: E402

MINI = ROOT / "configs" / "studies" / "mini.yaml"


class Study(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        try:
            corpus.fetch()
        except corpus.CorpusError as error:
            raise unittest.SkipTest(f"the quickstart's archive is not here: {error}") from None
        temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temporary.cleanup)
        cls.folder = Path(temporary.name)

    def start(self, *arguments):
        environment = dict(os.environ, MERISTEM_ROOT=str(ROOT), OMP_NUM_THREADS="1")
        command = [sys.executable, str(ROOT / "scripts/python"), "study", str(MINI), "--scale", "smoke", *arguments]
        return subprocess.Popen(command, env=environment, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)

    def study(self, *arguments):
        process = self.start(*arguments)
        output = process.communicate()[0]
        self.assertEqual(process.returncode, 0, output)
        return output

    def test_page_and_table_from_one_command(self):
        self.study()
        out = self.folder / "runs/studies/mini-smoke"
        rows = list(csv.DictReader((out / "table.csv").open()))
        members = {row["member"] for row in rows if row["table"] == "values"}
        self.assertTrue({"baseline", "same-flops", "midas", "lidas", "looped", "looped-middle", "dreamer", "layered-moe", "recurrent-without-da", "layered-dense"} <= members)
        self.assertEqual({row["seeds"] for row in rows if row["table"] == "values"}, {"2"})
        for row in rows:
            if row["low"]:
                self.assertTrue(float(row["low"]) <= float(row["value"]) <= float(row["high"]), row)
        self.assertIn("lidas/pretrain", {row["member"] for row in rows if row["table"] == "differences"})
        self.assertIn("## Sweep: loops", (out / "table.md").read_text())
        self.assertNotIn("Not run yet", (out / "table.md").read_text())
        self.assertNotIn("://", (out / "index.html").read_text().partition("<script>")[0])
        before = (out / "table.csv").read_bytes(), (out / "index.html").read_bytes()
        self.study("--tables", "--results", str(out / "results"), "--out", "again")  # of another folder, without its runs
        self.assertEqual(((self.folder / "again/table.csv").read_bytes(), (self.folder / "again/index.html").read_bytes()), before)

    def test_killed_it_goes_on_to_the_same_table(self):
        part = ("--parts", "a", "study.seeds=[1]")
        self.study(*part, "--out", "whole")
        for wait, how in ((7, signal.SIGKILL), (9, signal.SIGTERM), (4, signal.SIGKILL)):
            process = self.start(*part, "--out", "killed")
            time.sleep(wait)
            os.killpg(process.pid, how)
            process.communicate()
        self.study(*part, "--out", "killed")
        for name in ("table.md", "table.csv", "index.html"):
            self.assertEqual((self.folder / "killed" / name).read_bytes(), (self.folder / "whole" / name).read_bytes(), name)


if __name__ == "__main__":
    unittest.main()
