"""Token shards, for reading: PREFIX.bin, PREFIX.idx (Megatron MMIDIDX version 1), the manifest PREFIX.json, and PREFIX.mask, which has one byte a token,
1 where the token is trained on. docs/data.md has the layout; the C++ library reads and checks the same files."""

import ctypes
import ctypes.util
import json
import os
import struct
from pathlib import Path

import numpy as np

from command import DamagedError, UserError

MAGIC = b"MMIDIDX\x00\x00"
HEADER = struct.Struct("<9sQBQQ")  # magic, version, type code, sequences, document entries
DTYPES = {1: np.uint8, 2: np.int8, 3: np.int16, 4: np.int32, 5: np.int64, 8: np.uint16}
BARE = {20240520: (np.dtype("<u2"), 1), 20240801: (np.dtype("<u4"), 7)}  # llm.c: magic -> type of an id, version
BARE_HEADER = 1024
NAMED_TYPES = {name: np.dtype(name) for name in ("uint8", "int8", "int16", "uint16", "int32", "uint32", "int64")}
LOOKED, HIGH = 1 << 16, 16  # pairs of uint16 that are looked at; what upper halves of ids are below
EXTENSIONS = (".bin", ".idx", ".json")


def _xxhash():
    for name in ("libxxhash.so.0", ctypes.util.find_library("xxhash")):
        try:
            library = ctypes.CDLL(name) if name else None
        except OSError:
            continue
        if library is not None:
            library.XXH3_createState.restype = ctypes.c_void_p
            library.XXH3_freeState.argtypes = library.XXH3_64bits_reset.argtypes = library.XXH3_64bits_digest.argtypes = (ctypes.c_void_p,)
            library.XXH3_64bits_update.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)
            library.XXH3_64bits_digest.restype = ctypes.c_uint64
            return library
    raise UserError("libxxhash.so.0 is missing; install it with: sudo apt-get install -y libxxhash-dev")


def xxh3_file(path):
    """xxh3 (64 bit) of a file as 16 hex digits. Read in pieces: the pages of a map would count as the process's memory."""
    with open(path, "rb") as file:
        return _xxh3(iter(lambda: file.read(1 << 22), b""))


def xxh3_bytes(data):
    return _xxh3([data])


def _xxh3(pieces):
    library = _xxhash()
    state = library.XXH3_createState()
    try:
        library.XXH3_64bits_reset(state)
        for piece in pieces:
            library.XXH3_64bits_update(state, piece, len(piece))
        return f"{library.XXH3_64bits_digest(state):016x}"
    finally:
        library.XXH3_freeState(state)


def prefix_of(path):
    """PREFIX of PREFIX, PREFIX.bin, PREFIX.idx."""
    text = str(path)
    return text[:-4] if text.endswith((".bin", ".idx")) else text


class Shard:
    """A shard for reading, its index and manifest checked; DamagedError names the file and the byte or key that is wrong."""

    def __init__(self, path):
        self.prefix, self.manifest = prefix_of(path), None
        if os.path.exists(self.prefix + ".bin") and not os.path.exists(self.prefix + ".idx") and not os.path.exists(self.prefix + ".json"):
            self._read_bare(self.prefix + ".bin")
            return
        for extension in (".bin", ".idx"):
            if not os.path.exists(self.prefix + extension):
                raise UserError(f"{self.prefix}{extension}: no such file; a shard is the prefix of PREFIX.bin and PREFIX.idx")
        self.bin_path, self.idx_path, self.json_path = (self.prefix + extension for extension in EXTENSIONS)
        self._read_index()
        self.manifest = self._read_manifest() if os.path.exists(self.json_path) else None

    @property
    def documents(self):
        return self.starts.size - 1

    def document(self, number):
        return self.tokens[self.starts[number] : self.starts[number + 1]]

    def damaged(self, offset, what, path=None):
        raise DamagedError(f"{path or self.idx_path}: byte {offset}: {what}")

    def _read_bare(self, path):
        """A .bin of llm.c (a header of 256 int32), or ids and nothing else, of the type that the name ends in (PREFIX.uint32.bin) or uint16, as nanoGPT
        writes them: one document."""
        self.bin_path, size = path, os.path.getsize(path)
        head = np.fromfile(path, "<i4", 3)
        magic, version, count = head.tolist() if head.size == 3 else (0, 0, 0)
        if magic in BARE:
            dtype, known = BARE[magic]
            if version != known:
                self.damaged(4, f"version {version}, magic {magic} goes with {known}", path)
            if count < 0 or BARE_HEADER + count * dtype.itemsize != size:
                self.damaged(8, f"{count} tokens of {dtype.name}, but the file has {size} bytes", path)
            self.tokens = self._array(path, dtype, BARE_HEADER, count)
        else:
            said = NAMED_TYPES.get(self.prefix.rpartition(".")[2])
            dtype = said or np.dtype("<u2")
            if size % dtype.itemsize:
                self.damaged(size, f"not a whole number of tokens, where bare files hold {dtype.name}", path)
            if said is None:
                self._refuse_wider_ids(path, size)
            self.tokens = self._array(path, dtype, 0, size // dtype.itemsize)
        self.starts = np.array([0, self.tokens.size])

    def _refuse_wider_ids(self, path, size):
        """As the C++ library does (src/data/shard.cpp has the reasons)."""
        count = min(size // 4, LOOKED) if size % 4 == 0 else 0
        pairs = np.fromfile(path, "<u2", 2 * count).reshape(-1, 2)
        low, high = pairs.max(axis=0, initial=0).tolist()
        if (count >= 4 and high < HIGH <= low) or (count >= 16 and high == 0 and low > 0):
            likely = "uint32" if pairs[1::2].any() else "int64"
            raise UserError(f"{path}: no header, and it looks like {likely} ids, not uint16: every second uint16 is at most {high}; name it "
                            f"{self.prefix}.{likely}.bin, or {self.prefix}.uint16.bin if it does hold uint16")

    def _read_index(self):
        size = os.path.getsize(self.idx_path)
        if size < HEADER.size:
            self.damaged(size, f"truncated: the header takes {HEADER.size} bytes")
        with open(self.idx_path, "rb") as file:
            magic, version, code, sequences, entries = HEADER.unpack(file.read(HEADER.size))
        if magic != MAGIC:
            self.damaged(0, "does not begin with MMIDIDX: not a Megatron index")
        if version != 1:
            self.damaged(9, f"version {version}, this program reads 1")
        if code not in DTYPES:
            self.damaged(17, f"type code {code}, allowed: 1 to 5 and 8 (integers)")
        if entries == 0 or HEADER.size + 12 * sequences + 8 * entries != size:
            self.damaged(18, f"{sequences} sequences and {entries} document entries, but the file has {size} bytes")
        dtype = np.dtype(DTYPES[code]).newbyteorder("<")
        lengths = self._array(self.idx_path, "<i4", HEADER.size, sequences)
        pointers = self._array(self.idx_path, "<i8", HEADER.size + 4 * sequences, sequences)
        first_of = self._array(self.idx_path, "<i8", HEADER.size + 12 * sequences, entries)
        ends = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
        self._refuse(lengths < 0, HEADER.size, 4, "a negative length")
        self._refuse(pointers != ends[:-1] * dtype.itemsize, HEADER.size + 4 * sequences, 8,
                     "a sequence does not begin where the one before it ends")
        steps = np.diff(first_of, prepend=0)
        steps[0] = first_of[0] and -1
        self._refuse((steps < 0) | (first_of > sequences), HEADER.size + 12 * sequences, 8, "documents do not ascend from sequence 0")
        if first_of[-1] != sequences:
            self.damaged(size - 8, f"the last document ends at sequence {first_of[-1]}, there are {sequences}")
        found = os.path.getsize(self.bin_path)
        if ends[-1] * dtype.itemsize != found:
            self.damaged(18, f"the {sequences} sequences take {ends[-1] * dtype.itemsize} bytes, the .bin has {found}")
        self.starts = ends[first_of]
        self.tokens = self._array(self.bin_path, dtype, 0, int(ends[-1]))

    @staticmethod
    def _array(path, dtype, offset, count):
        return np.memmap(path, dtype, "r", offset, (count,)) if count else np.zeros(0, dtype)

    def _refuse(self, wrong, begin, width, what):
        if wrong.any():
            at = int(np.argmax(wrong))
            self.damaged(begin + width * at, f"entry {at}: {what}")

    def _read_manifest(self):
        try:
            manifest = json.loads(Path(self.json_path).read_text(encoding="utf-8"))
            said = {"tokens": manifest["tokens"], "documents": manifest["documents"], "dtype": manifest["dtype"],
                    "files.bin.bytes": manifest["files"]["bin"]["bytes"], "files.idx.bytes": manifest["files"]["idx"]["bytes"]}
            _ = manifest["vocab_size"] + 0, manifest["files"]["bin"]["xxh3"], manifest["files"]["idx"]["xxh3"]
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"{self.json_path}: not a manifest: {error!r}") from None
        found = {"tokens": self.tokens.size, "documents": self.documents, "dtype": self.tokens.dtype.name,
                 "files.bin.bytes": os.path.getsize(self.bin_path), "files.idx.bytes": os.path.getsize(self.idx_path)}
        for key, value in found.items():
            if said[key] != value:
                raise DamagedError(f"{self.json_path}: {key}: says {said[key]}, the shard has {value}")
        return manifest


class Mask:
    """What of a Shard is trained on."""

    @staticmethod
    def of(shard):
        """The shard's mask, checked as far as its size; None for a shard without one."""
        path = shard.prefix + ".mask"
        said = ((shard.manifest or {}).get("files") or {}).get("mask")
        if not os.path.exists(path):
            if said is not None:
                raise UserError(f"{path}: no such file, but {shard.json_path} describes it")
            return None
        if shard.manifest is not None and said is None:
            raise DamagedError(f"{path}: {shard.json_path} knows nothing of a mask")
        size = os.path.getsize(path)
        if size != shard.tokens.size:
            raise DamagedError(f"{path}: byte {size}: a mask of {size} bytes for {shard.tokens.size} tokens, one byte each")
        return Mask(path, size, said)

    def __init__(self, path, size, said):
        self.path, self.said = path, said
        self.bytes = np.memmap(path, np.uint8, "r", 0, (size,)) if size else np.zeros(0, np.uint8)

    def verify(self, trained_tokens=None):
        """Its hash, its values, and how many of them are 1."""
        if self.said is not None and xxh3_file(self.path) != self.said.get("xxh3"):
            raise DamagedError(f"{self.path}: xxh3 {xxh3_file(self.path)}, the manifest says {self.said.get('xxh3')}")
        wrong = self.bytes > 1
        if wrong.any():
            at = int(np.argmax(wrong))
            raise DamagedError(f"{self.path}: byte {at}: found {self.bytes[at]}, a mask holds 0 and 1")
        trained = int(np.count_nonzero(self.bytes))
        if trained_tokens is not None and trained != trained_tokens:
            raise DamagedError(f"{self.path}: trains on {trained} tokens, the manifest says {trained_tokens}")
        return trained
