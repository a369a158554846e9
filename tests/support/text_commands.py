"""What tests of the text commands share: their modules on the path, calls of their main, a folder for each test."""

import contextlib
import io
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts" / "python"
sys.path.insert(0, str(SCRIPTS))


def call(tool, *arguments):
    """(exit code, stdout, stderr) of a tool's main."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = tool.main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            code = leaving.code
    return code, out.getvalue(), err.getvalue()


class FolderCase(unittest.TestCase):
    """A test with a folder of its own."""

    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def file(self, name, content):
        """Text or bytes under a name in the folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def refused(self, result, code, *parts):
        """A call that ended with the code and one line that holds all parts."""
        self.assertEqual((result[0], len(result[2].strip().splitlines())), (code, 1), result)
        for part in parts:
            self.assertIn(str(part), result[2])
