"""What ranks print. Rank 0's stderr goes through to ours as it comes, but for its error lines, which are kept: whose line is shown is decided when
all have ended. The other ranks write into files."""

import fcntl
import os
import pty
import sys
import termios
import threading
import tty
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import LogsDest, LogsSpecs

MARK = b"meristem: error: "


class Through:
    """Rank 0's stderr on its way to ours. Where ours is a terminal, so is what the rank writes to: it draws a bar there."""

    def __init__(self):
        self.terminal = os.isatty(2)
        self.read_end, self.write_end = pty.openpty() if self.terminal else os.pipe()
        if self.terminal:
            tty.setraw(self.write_end)  # ours translates line ends already
            self.resize()
        self.errors = []  # the lines that were kept
        self.line, self.shown = b"", True  # the line that comes, and whether its beginning was shown
        self.thread = threading.Thread(target=self._copy, daemon=True)
        self.thread.start()

    def resize(self):
        if self.terminal:
            size = fcntl.ioctl(2, termios.TIOCGWINSZ, bytes(8))
            fcntl.ioctl(self.read_end, termios.TIOCSWINSZ, size)

    def _copy(self):
        while True:
            try:
                data = os.read(self.read_end, 65536)
            except OSError:  # a terminal whose other side is closed
                data = b""
            if not data:
                break
            for piece in data.splitlines(keepends=True):
                self._take(piece)
        os.close(self.read_end)

    def _take(self, piece):
        if not self.line:
            self.shown = False
        self.line += piece
        if self.shown:
            _write(piece)
        elif not self.line.startswith(MARK) and not MARK.startswith(self.line):
            _write(self.line)
            self.shown = True
        if self.line.endswith((b"\n", b"\r")):
            if not self.shown:
                self.errors.append(self.line)
            self.line = b""

    def finish(self):
        """After the rank has ended: waits for its last words. A process that it left behind may hold the other end."""
        self.thread.join(timeout=5)
        if self.line and self.shown:
            _write(b"\n")  # ours begins a line of its own
        elif self.line:
            self.errors.append(self.line)
        self.line = b""


def _write(data):
    while data:
        try:
            data = data[os.write(2, data) :]
        except OSError:  # nobody reads any more: no reason to end a run
            return


def say(text):
    sys.stderr.flush()
    _write(f"meristem: {text}\n".encode())


class Output(LogsSpecs):
    """Where the agent lets each rank of an attempt write."""

    def __init__(self, folder):
        super().__init__(str(folder))
        self.through, self.files = None, {}

    @property
    def root_log_dir(self):
        return self._root_log_dir

    def reify(self, envs):
        folder = Path(self._root_log_dir) / f"attempt-{envs[0]['TORCHELASTIC_RESTART_COUNT']}"
        folder.mkdir(parents=True, exist_ok=True)
        self.through = Through()
        self.files = {rank: folder / f"rank-{rank}.err" for rank in envs if rank != 0}
        others = {rank: str(folder / f"rank-{rank}.out") for rank in self.files}
        # An empty name: as it is here. The agent opens what it is given, and a descriptor is as good as a path.
        return LogsDest(stdouts={0: ""} | others, stderrs={0: self.through.write_end} | {rank: str(path) for rank, path in self.files.items()},
                        error_files=dict.fromkeys(envs, os.devnull))

    def error_of(self, rank):
        """The error line of a rank that has ended, without its mark. Else, of a rank whose stderr nobody saw, its last line; "" where there is none."""
        if rank == 0:
            return _text(self.through.errors[-1]) if self.through.errors else ""
        lines = [line for line in self.files[rank].read_bytes()[-65536:].splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(MARK)]
        return _text(errors[-1]) if errors else f"rank {rank}: {_text(lines[-1])}" if lines else ""


def _text(line):
    return line.decode(errors="replace").strip().removeprefix(MARK.decode())
