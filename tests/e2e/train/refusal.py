"""What every test of bad input needs: a folder with a finished run, and the check of a refusal."""

import atexit
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

import tiny_run

PROGRAM = sys.argv[1]

_finished = None


def finished_run():
    """A folder with data/, run.yaml and runs/tiny, trained once for all tests; to be copied, not changed."""
    global _finished
    if _finished is None:
        _finished = Path(tempfile.mkdtemp())
        atexit.register(shutil.rmtree, _finished, True)
        code, _, err = tiny_run.run(PROGRAM, "train", tiny_run.write_config(_finished))
        assert code == 0, err
    return _finished


class Case(unittest.TestCase):
    with_run = False

    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.root = Path(temporary.name)
        self.restore()

    def restore(self):
        """The folder as the first case found it."""
        for path in self.root.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(finished_run() / "data", self.root / "data")
        if self.with_run:
            shutil.copytree(finished_run() / "runs", self.root / "runs")
        self.config = tiny_run.write_config(self.root)
        if self.with_run:  # an exact resume wants the run's own data
            self.config.write_text(tiny_run.CONFIG.format(out=self.root / "runs", data=finished_run() / "data"))
        self.folder = self.root / "runs" / "tiny"

    def refused(self, code, named, *arguments, untouched=True, **options):
        """Runs; the exit code is `code`, the last line is the one error line and has all of `named`. Returns that line."""
        before = tiny_run.snapshot(self.root)
        found, out, err = tiny_run.run(PROGRAM, *arguments, **options)
        lines = err.strip().splitlines()
        said = [line for line in lines if line.startswith("meristem: error: ")]
        if found != code or len(said) != 1 or lines[-1:] != said:
            self.fail(f"exit code {found}, expected {code}; stderr: {err}")
        for part in map(str, [named] if isinstance(named, (str, Path)) else named):
            self.assertIn(part, said[0])
        if untouched:
            self.assertEqual(len(lines), 1, err)
            self.assertEqual(tiny_run.snapshot(self.root).keys(), before.keys(), "files came or went")
            self.assertEqual(tiny_run.snapshot(self.root), before, "a file was changed")
        return said[0]
