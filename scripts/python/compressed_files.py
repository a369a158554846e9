"""Files read as a stream of bytes, .gz and .zst decompressed on the way. What is damaged or cut off is a DamagedError, never a quiet end."""

import gzip
import io
import os
import zlib

from command_errors import DamagedError

SUFFIXES = (".gz", ".zst")
PIECE = 1 << 13  # compressed bytes a step: bounds what one step can unfold to


class _Zstandard(io.RawIOBase):
    """All frames of a .zst file. (zstandard's own stream reader takes a file that was cut off for one that ended.)"""

    def __init__(self, file):
        import zstandard

        self.file, self.error = file, zstandard.ZstdError
        # Files of `zstd --long` need a larger window than the library allows of itself; 2 GiB is the format's usual bound.
        self.new_frame = lambda: zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
        self.frame, self.compressed, self.ready = None, b"", memoryview(b"")

    def readable(self):
        return True

    def readinto(self, target):
        while not self.ready:
            if not self.compressed:
                self.compressed = self.file.read(PIECE)
            if not self.compressed:
                if self.frame is not None:
                    raise EOFError("the file ends inside a frame")
                return 0
            if self.frame is None:
                self.frame = self.new_frame()
            self.ready = memoryview(self.frame.decompress(self.compressed))
            self.compressed = b""
            if self.frame.eof:
                self.compressed, self.frame = self.frame.unused_data, None
        count = min(len(target), len(self.ready))
        target[:count] = self.ready[:count]
        self.ready = self.ready[count:]
        return count


class ByteStream:
    """`readline`, `read` and `skip` over a file. `raw_position` is where its compressed form has been read to, for progress."""

    def __init__(self, path):
        self.path = path
        self.raw = open(path, "rb")
        self.errors = (EOFError, zlib.error, gzip.BadGzipFile)
        if path.suffix == ".gz":
            self.stream = io.BufferedReader(gzip.GzipFile(fileobj=self.raw), 1 << 18)
        elif path.suffix == ".zst":
            unfolded = _Zstandard(self.raw)
            self.errors += (unfolded.error,)
            self.stream = io.BufferedReader(unfolded, 1 << 18)
        else:
            self.stream = self.raw

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.raw.close()

    @property
    def raw_position(self):
        return self.raw.tell()

    def read(self, count):
        return self._guarded(self.stream.read, count)

    def readline(self, limit):
        """A line with its end, or its first `limit` bytes; empty at the end of the file."""
        return self._guarded(self.stream.readline, limit)

    def skip(self, count):
        if self.stream is self.raw:
            self.raw.seek(count, os.SEEK_CUR)
            return
        while count > 0:
            piece = self.read(min(count, 1 << 20))
            if not piece:
                raise DamagedError(f"{self.path}: ends {count} bytes before the place where reading should go on")
            count -= len(piece)

    def _guarded(self, read, count):
        try:
            return read(count)
        except self.errors as error:
            raise DamagedError(f"{self.path}: damaged or cut off near byte {self.raw.tell()} of the compressed file: {error}") from None
