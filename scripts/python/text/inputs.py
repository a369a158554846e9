"""The files that a text command reads: which ones an input names, in order and of what kind (files, folders of them, folders saved by Hugging Face
`datasets`), and their bytes, .gz and .zst decompressed on the way. What is damaged or cut off is a DamagedError, never a quiet end."""

import gzip
import io
import json
import os
import re
import sys
import zlib

from command import DamagedError, UserError

FORMATS = {".txt": "txt", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".arrow": "arrow"}
KINDS = ("txt", "jsonl", "parquet", "arrow")
TABLES = ("parquet", "arrow")
COMPRESSED = (".gz", ".zst")
_SPLIT_FILE = re.compile(r"(train|validation|valid|test|dev)-\d+-of-\d+")


def names_of(kinds):
    packed = " and ".join(f".{kind}" for kind in kinds if kind not in TABLES)
    return ", ".join(suffix for suffix, kind in FORMATS.items() if kind in kinds) + f"; {packed} also with .gz or .zst"


def input_files(inputs, given_format, split, kinds=KINDS):
    """(path, format) of the inputs in order, folders unfolded in sorted order; of a folder the files of the given kinds."""
    files = []
    for path in inputs:
        if path.is_dir():
            files += _folder(path, given_format, split, kinds)
        elif not path.exists():
            raise UserError(f"{path}: no such file or folder")
        else:
            kind = given_format or format_of(path)
            if kind not in kinds:
                raise UserError(f"{path}: unknown kind of file; allowed: {names_of(kinds)}; or say --format {'|'.join(kinds)}")
            files.append((path, kind))
    return files


def format_of(path):
    """By name; None where it tells nothing."""
    if path.suffix not in COMPRESSED:
        return FORMATS.get(path.suffix)
    kind = FORMATS.get(path.with_suffix("").suffix)
    return None if kind in TABLES else kind


def _folder(path, given_format, split, kinds):
    if (path / "dataset_dict.json").is_file():
        path = _split_of(path, split)
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        return [(path / name, "arrow") for name in _saved_names(path / "state.json")]
    found = sorted(_files_under(path, kinds))
    found = _files_of_split(path, found, split)
    if not found:
        raise UserError(f"{path}: a folder without a file that ends in {names_of(kinds)}")
    return [(file, given_format or format_of(file)) for file in found]


_said = set()  # folders whose left-out files were named: a command may look into one several times


def _files_under(folder, kinds):
    """Files of these kinds, links followed, each once. What is hidden (".ipynb_checkpoints", "._a.jsonl" of other systems) and links that lead nowhere or to
    what is read already are left out, and named once. cache-….arrow are results of `map` that `datasets` keeps beside the data."""
    files, left_out, seen = [], [], {os.path.realpath(folder)}

    def visit(path):
        for entry in sorted(path.iterdir()):
            real, known = os.path.realpath(entry), format_of(entry) in kinds and not entry.name.startswith("cache-")
            if entry.is_dir():
                if entry.name.startswith("."):
                    left_out.extend(file for file in sorted(entry.rglob("*")) if format_of(file) in kinds)
                elif real in seen:
                    left_out.append(entry)
                else:
                    seen.add(real)
                    visit(entry)
            elif known and (entry.name.startswith(".") or not entry.is_file() or real in seen):
                left_out.append(entry)
            elif known:
                seen.add(real)
                files.append(entry)

    visit(folder)
    if left_out and folder not in _said:
        _said.add(folder)
        count = f"{len(left_out)} hidden or repeated files or links" if len(left_out) > 1 else "a hidden or repeated file or link"
        print(f"meristem: note: {folder}: {count} left out: {left_out[0]}{' and others' if len(left_out) > 1 else ''}", file=sys.stderr)
    return files


def _split_of(path, split):
    try:
        splits = json.loads((path / "dataset_dict.json").read_text())["splits"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path / 'dataset_dict.json'}: lists no splits: {error!r}") from None
    return path / _chosen(path, split, splits)


def _chosen(path, split, splits):
    """Never several at once: a held-out split that is trained on unawares cannot be told from the loss."""
    if split is None and len(splits) == 1:
        return splits[0]
    if split not in splits:
        raise UserError(f"{path}: --split: found {split or 'none'}, allowed: {', '.join(splits)}")
    return split


def _files_of_split(path, files, split):
    names = {file: match[1] for file in files if (match := _SPLIT_FILE.match(file.name))}
    if not names:
        return files
    chosen = _chosen(path, split, sorted(set(names.values())))
    return [file for file in files if names.get(file, chosen) == chosen]


def _saved_names(state):
    try:
        return [entry["filename"] for entry in json.loads(state.read_text())["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{state}: lists no data files: {error!r}") from None


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
