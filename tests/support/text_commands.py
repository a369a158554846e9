"""What tests of the text commands share: their packages on the path, calls of their main, shards of given ids, a folder for each test."""

import contextlib
import io
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts" / "python"
sys.path.insert(0, str(SCRIPTS))

import numpy as np  # noqa: E402
from text.encoding import Encoded  # noqa: E402
from text.shard_writing import ResumableShard  # noqa: E402


def call(tool, *arguments):
    """(exit code, stdout, stderr) of a tool's main."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = tool.main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            code = leaving.code
    return code, out.getvalue(), err.getvalue()


def write_shard(prefix, vocab_size, documents, masks=None):
    """A shard of documents that are lists of ids, as `data tokenize` writes it; `masks`: which of a document's tokens are trained on."""
    dtype = np.dtype(np.uint16 if vocab_size < 65536 else np.int32)
    documents = [np.asarray(document, np.int64) for document in documents]
    assert all(0 <= document.min() and document.max() < vocab_size for document in documents if document.size)
    ids = b"".join(document.astype(dtype).tobytes() for document in documents)
    encoded = Encoded(ids, np.array([document.size for document in documents], np.int32).tobytes())
    if masks is not None:
        mask = np.concatenate(masks).astype(np.uint8)
        encoded.mask, encoded.counts = mask.tobytes(), {"trained": int(mask.sum())}
    with ResumableShard(prefix, dtype, {}, force=False, commit_seconds=60, masked=masks is not None) as shard:
        shard.add(encoded)
        shard.publish(vocab_size, {})


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
