"""A token shard that is written over a long time. Until it is whole it lives in the folder PREFIX.partial:

tokens, lengths   what has been written, in order; what lies behind the journal's counts is cut off when a stopped job goes on
mask              the same, of a masked shard: a byte a token
journal.json      which job this is, and how far the files and the input are in step with each other; replaced as a whole

Killed at any moment, the same command goes on from the last journal and ends in the same bytes."""

import contextlib
import fcntl
import json
import os
import shutil
import time
from datetime import datetime
from pathlib import Path

import numpy as np

from command import DamagedError, UserError
from text.shards import EXTENSIONS, HEADER, MAGIC, xxh3_file

ENTRIES = 1 << 18  # of the index made at a time
NAMED = 10  # items left out that the journal names, of each kind
# In the order in which they get their names: whatever a kill leaves is refused, for a shard is what has an index. None is read without its mask.
NAMES = (("json", ".json"), ("mask", ".mask"), ("tokens", ".bin"), ("idx", ".idx"))


class ResumableShard:
    """`job` is a dict of what the bytes depend on: where it differs from the journal's, going on is refused."""

    def __init__(self, prefix, dtype, job, force, commit_seconds, masked=False):
        self.prefix, self.dtype, self.commit_seconds, self.masked = str(prefix), np.dtype(dtype), commit_seconds, masked
        self.folder = Path(self.prefix + ".partial")
        self.fresh = {"format": 3, "job": job, "began": datetime.now().isoformat(timespec="seconds"), "input": None, "documents": 0, "tokens": 0,
                      "text_bytes": 0, "longest": 0, "counts": {}, "skipped": {}, "left_out": {}, "noted": {}, "publishing": False}
        self.journal, self.resumed, self.last_commit = self.fresh, False, time.monotonic()
        self._refuse_existing(force)
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as opened:  # closes again what is open where one of these fails
            self._lock(opened)
            self._refuse_existing(force)  # another process may have been as quick, and be gone again
            self._load(force)
            self.files = {name: self._open(name, size, opened) for name, size in self._sizes().items()}
            self.opened = opened.pop_all()

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        with self.opened:
            if kind is None:
                self._path("journal.json").unlink(missing_ok=True)  # first, so that a kill in the midst of it leaves no job to go on with
            if not self._path("journal.json").exists():  # nothing to go on from
                shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, encoded):
        """An Encoded: one document or many, and what became of the others."""
        self.files["tokens"].write(encoded.ids)
        self.files["lengths"].write(encoded.lengths)
        if self.masked:
            self.files["mask"].write(encoded.mask)
        journal = self.journal
        journal["documents"] += len(encoded.lengths) // 4
        journal["tokens"] += len(encoded.ids) // self.dtype.itemsize
        journal["text_bytes"] += encoded.text_bytes
        journal["longest"] = max(journal["longest"], encoded.longest)
        for name, count in encoded.counts.items():
            journal["counts"][name] = journal["counts"].get(name, 0) + count
        for kind, what in encoded.left_out:
            self._enter("left_out", kind, what)
        for kind, place in encoded.noted:
            self.note(kind, place)

    def note(self, kind, place):
        """An item that was taken, but not as it stood."""
        self._enter("noted", kind, place)

    def _enter(self, where, kind, what):
        entry = self.journal[where].setdefault(kind, {"count": 0, "named": []})
        entry["count"] += 1
        if len(entry["named"]) < NAMED:
            entry["named"].append(what)

    def skip(self, kind):
        self.journal["skipped"][kind] = self.journal["skipped"].get(kind, 0) + 1

    @property
    def began(self):
        """When the job did, whatever was stopped since: what a template takes for now."""
        return datetime.fromisoformat(self.journal["began"])

    def came_to(self, place):
        """The input before `place` is dealt with; written down from time to time."""
        self.journal["input"] = place
        if time.monotonic() - self.last_commit >= self.commit_seconds:
            self._commit()

    def give_up(self):
        """There is nothing to go on with: another job will take this one's place."""
        self._path("journal.json").unlink(missing_ok=True)

    def publish(self, vocab_size, about):
        """Gives the files their names. From the journal's last entry on a kill leaves nothing to do but the renames."""
        if not self.journal["publishing"]:
            for file in self.files.values():
                sync(file)
            self._write_index()
            content = manifest(self._path("tokens"), self._path("idx"), self.journal["tokens"], self.journal["documents"],
                               vocab_size, self.dtype.name, about)
            if self.masked:
                content = with_mask(content, self._path("mask"), self.journal["counts"]["trained"])
            self._write("json", json.dumps(content, indent=1).encode() + b"\n")
            self.journal["publishing"] = True
            self._commit()
        if not self.masked:
            Path(self.prefix + ".mask").unlink(missing_ok=True)  # of an older shard of this name
        for name, extension in NAMES:
            if self._path(name).exists():
                os.replace(self._path(name), self.prefix + extension)
        sync_folder(os.path.dirname(self.prefix) or ".")

    def _path(self, name):
        return self.folder / name

    def _refuse_existing(self, force):
        """An older shard is never replaced unawares; that of this job, half published, is."""
        if force or self._stored().get("publishing"):
            return
        for extension in (*EXTENSIONS, ".mask"):
            if os.path.exists(self.prefix + extension):
                raise UserError(f"{self.prefix}{extension}: exists already; --force replaces it")

    def _lock(self, opened):
        lock = opened.enter_context(open(self._path("lock"), "w"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{self.folder}: another process is writing this shard") from None

    def _stored(self):
        path = self._path("journal.json")
        if not path.exists():
            return {}
        try:
            stored = json.loads(path.read_text())
            _ = [stored[key] for key in self.fresh]
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"{path}: not a journal: {error!r}; remove {self.folder} to begin anew") from None
        return stored

    def _load(self, force):
        stored = self._stored()
        job = json.loads(json.dumps(self.fresh["job"]))
        differing = [key for key in job if stored and stored["job"].get(key) != job[key]]
        if differing and not force:
            raise UserError(f"{self.folder}: a stopped job with other {', '.join(differing)}; repeat its command to go on, or --force to begin anew")
        if stored and not differing:
            self.journal, self.resumed = stored, True
        else:
            self._path("journal.json").unlink(missing_ok=True)

    def _sizes(self):
        sizes = {"tokens": self.journal["tokens"] * self.dtype.itemsize, "lengths": self.journal["documents"] * 4}
        return {**sizes, "mask": self.journal["tokens"]} if self.masked else sizes

    def _open(self, name, size, opened):
        """For writing on behind its first `size` bytes."""
        path = self._path(name)
        if self.journal["publishing"] and not path.exists():
            path = Path(self.prefix + dict(NAMES)[name])  # has its name already
        file = opened.enter_context(open(path, "r+b" if path.exists() else "w+b"))
        if (found := os.fstat(file.fileno()).st_size) < size:
            raise DamagedError(f"{path}: {found} bytes, the journal counts {size}; remove {self.folder} to begin anew")
        file.truncate(size)
        file.seek(size)
        return file

    def _write(self, name, data):
        with open(self._path(name), "wb") as file:
            file.write(data)
            sync(file)

    def _commit(self):
        for file in self.files.values():
            sync(file)
        self._write("journal.new", json.dumps(self.journal).encode())
        os.replace(self._path("journal.new"), self._path("journal.json"))
        sync_folder(self.folder)
        self.last_commit = time.monotonic()

    def _write_index(self):
        """In pieces: there may be more documents than memory has room for."""
        count = self.journal["documents"]
        lengths = np.memmap(self._path("lengths"), "<i4", "r", 0, (count,)) if count else np.zeros(0, "<i4")
        with open(self._path("idx"), "wb") as file:
            file.write(index_header(self.dtype, count))
            for begin in range(0, count, ENTRIES):
                file.write(lengths[begin : begin + ENTRIES].tobytes())
            position = 0
            for begin in range(0, count, ENTRIES):
                ends = position + np.cumsum(lengths[begin : begin + ENTRIES], dtype=np.int64) * self.dtype.itemsize
                file.write(np.concatenate(([position], ends[:-1])).astype("<i8").tobytes())
                position = int(ends[-1])
            for begin in range(0, count + 1, ENTRIES):
                file.write(np.arange(begin, min(begin + ENTRIES, count + 1)).astype("<i8").tobytes())
            sync(file)


def index_header(dtype, documents):
    """Of an index with one sequence a document."""
    return HEADER.pack(MAGIC, 1, 4 if dtype == np.int32 else 8, documents, documents + 1)


def manifest(bin_path, idx_path, tokens, documents, vocab_size, dtype_name, about):
    """The manifest's content; `about` holds the keys that may be missing: tokenizer, tokenizer_hash, end_of_text, begin_of_text, chat_template and its hash.
    Version 3 where a reader has to know one of the last three."""
    files = {name: {"bytes": os.path.getsize(path), "xxh3": xxh3_file(path)} for name, path in (("bin", bin_path), ("idx", idx_path))}
    version = 3 if about.get("begin_of_text") or about.get("chat_template") is not None else 1
    return {"format_version": version, "tokens": tokens, "documents": documents, "vocab_size": vocab_size, "dtype": dtype_name,
            **{key: value for key, value in about.items() if value is not None}, "files": files}


def with_mask(content, mask_path, trained_tokens):
    """The manifest of a masked shard. Version 2: a reader that knows nothing of masks must not train on prompts."""
    mask = {"bytes": os.path.getsize(mask_path), "xxh3": xxh3_file(mask_path)}
    return {**content, "format_version": max(2, content["format_version"]), "files": {**content["files"], "mask": mask}, "trained_tokens": trained_tokens}


def sync(file):
    file.flush()
    os.fsync(file.fileno())


def sync_folder(path):
    folder = os.open(path, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
