"""Shards that are damaged, and token ids that no vocabulary has: exit code 4, with the file and the byte."""

import json
import struct

import numpy as np
import refusal
import tiny_run

VERSION, TYPE, SEQUENCES, DOCUMENTS, LENGTHS = 9, 17, 18, 26, 34  # byte offsets of PREFIX.idx


class Shards(refusal.Case):
    turn = 0

    def setUp(self):
        super().setUp()
        self.data = self.root / "data"
        self.count = struct.unpack_from("<Q", (self.data / "one.idx").read_bytes(), SEQUENCES)[0]
        self.pointers = LENGTHS + 4 * self.count
        self.entries = self.pointers + 8 * self.count

    def case(self, what, path, damage, *named, code=4):
        """`damage` takes the file's bytes and returns others, None for no file. The trainer and `inspect` take turns to refuse it, before any work."""
        with self.subTest(what):
            good = path.read_bytes()
            bad = damage(bytearray(good))
            path.unlink() if bad is None else path.write_bytes(bad)
            self.refused(code, named, *(["train", self.config], ["inspect", path.with_suffix("")])[self.turn % 2])
            self.turn += 1
            path.write_bytes(good)

    def patched(self, what, at, kind, value, *named, offset=None):
        def damage(raw):
            struct.pack_into("<" + kind, raw, at, value)
            return raw

        path = self.data / "one.idx"
        self.case(what, path, damage, f"{path}: byte {at if offset is None else offset}:", *named)

    def test_header_of_the_index(self):
        self.patched("magic", 0, "8s", b"MMIDIDY\0", "MMIDIDX")
        self.patched("version", VERSION, "Q", 2, "version 2")
        self.patched("a version of 64 bits", VERSION, "Q", 1 << 63, "version")
        self.patched("floats", TYPE, "B", 6, "type code 6")
        self.patched("no type", TYPE, "B", 0, "type code 0")
        self.patched("tokens of 8 bytes", TYPE, "B", 5, "sequence 1 begins", offset=self.pointers + 8)
        self.patched("one sequence more", SEQUENCES, "Q", self.count + 1, offset=DOCUMENTS)
        self.patched("a bomb of sequences", SEQUENCES, "Q", 1 << 62, "sequences")
        self.patched("sequences that wrap", SEQUENCES, "Q", (1 << 64) - 1, "sequences")
        self.patched("a bomb of documents", DOCUMENTS, "Q", 1 << 61, "document entries")
        self.patched("no document entry", DOCUMENTS, "Q", 0, "0 document entries")

    def test_tables_of_the_index(self):
        raw = (self.data / "one.idx").read_bytes()
        first = struct.unpack_from("<i", raw, LENGTHS)[0]
        self.patched("a negative length", LENGTHS, "i", -1, "length -1")
        self.patched("the largest length", LENGTHS + 4, "i", (1 << 31) - 1, "beyond the .bin")
        self.patched("a length too long by one", LENGTHS, "i", first + 1, "sequence 1", offset=self.pointers + 8)
        self.patched("a hole", self.pointers + 8, "q", 2 * first + 2, "sequence 1 begins")
        self.patched("an overlap", self.pointers + 8, "q", 2 * first - 2, "sequence 1 begins")
        self.patched("a pointer before the file", self.pointers, "q", -2, "sequence 0 begins")
        self.patched("the first document begins late", self.entries, "q", 1, "the first document")
        self.patched("documents that go back", self.entries + 16, "q", 0, "document entry 2")
        self.patched("a document beyond the end", self.entries + 8, "q", self.count + 1, "document entry 1")
        self.patched("a last document that ends early", self.entries + 8 * self.count, "q", self.count - 1, "the last document")

    def test_sizes(self):
        idx, text = self.data / "one.idx", self.data / "one.bin"
        end = idx.stat().st_size
        for kept in (0, 8, 33):
            self.case(f"an index of {kept} bytes", idx, lambda raw, kept=kept: raw[:kept], f"{idx}: byte {kept}: truncated")
        self.case("an index cut in its last entry", idx, lambda raw: raw[:-1], f"{idx}: byte {DOCUMENTS}:")
        self.case("an index with a tail", idx, lambda raw: raw + b"\0", f"{idx}: byte {end}: 1 bytes after")
        self.case("tokens cut short", text, lambda raw: raw[:-2], f"{idx}: byte ", "beyond the .bin")
        self.case("half a token", text, lambda raw: raw[:-1], f"{idx}: byte ", "beyond the .bin")
        self.case("tokens with a tail", text, lambda raw: raw + b"\1\0", f"{idx}: byte {SEQUENCES}:")
        self.case("no tokens", text, lambda raw: b"", f"{idx}: byte ", "beyond the .bin")
        self.case("no .bin", text, lambda raw: None, str(text), "only the .idx", code=2)
        self.case("no index, though the manifest describes one", idx, lambda raw: None, str(idx), "one.json", code=2)

    def test_manifest(self):
        path = self.data / "one.json"

        def said(*keys, value):
            def damage(raw):
                manifest = json.loads(raw)
                at = manifest
                for key in keys[:-1]:
                    at = at[key]
                at[keys[-1]] = value
                return json.dumps(manifest).encode()

            return damage

        self.case("no JSON", path, lambda raw: b"{", str(path))
        self.case("a list", path, lambda raw: b"[]", str(path))
        self.case("a key twice", path, lambda raw: raw.replace(b'{', b'{"tokens": 1, ', 1), str(path), "tokens")
        self.case("an unknown key", path, said("shuffled", value=True), str(path), "shuffled")
        self.case("another number of tokens", path, said("tokens", value=7), f"{path}: tokens: says 7")
        self.case("another number of documents", path, said("documents", value=1), f"{path}: documents: says 1")
        self.case("another type", path, said("dtype", value="int32"), f"{path}: dtype: says int32")
        self.case("another size", path, said("files", "bin", "bytes", value=1), f"{path}: files.bin.bytes: says 1")
        self.case("a negative number", path, said("tokens", value=-1), f"{path}: tokens")
        self.case("a fraction", path, said("vocab_size", value=6.5), f"{path}: vocab_size")
        self.case("text for a number", path, said("documents", value="60"), f"{path}: documents")
        self.case("a hash of the wrong length", path, said("files", "idx", "xxh3", value="12"), f"{path}: files.idx.xxh3")
        self.case("a later format", path, said("format_version", value=9), f"{path}: format_version: found 9", code=2)

    def test_bare_files(self):
        """llm.c's and nanoGPT's files: a .bin alone."""
        for suffix in (".idx", ".json"):
            (self.data / f"one{suffix}").unlink()
        path = self.data / "one.bin"

        def header(magic, version, tokens, size):
            return lambda raw: struct.pack("<3i", magic, version, tokens) + bytes(1012 + size)

        self.case("an odd number of bytes", path, lambda raw: raw[:-1], f"{path}: byte {path.stat().st_size - 1}:", "not a whole number of tokens")
        for _ in range(2):  # the trainer, and `inspect`
            self.case("wider ids than bare files have", path, lambda raw: np.frombuffer(raw, "<u2").astype("<u4").tobytes(), f"{path}: no header", "uint32", code=2)
        self.case("an unknown version", path, header(20240520, 2, 10, 20), f"{path}: byte 4:", "version 2")
        self.case("the other file's version", path, header(20240801, 1, 10, 40), f"{path}: byte 4:", "version 1")
        self.case("fewer tokens than it says", path, header(20240520, 1, 10, 18), f"{path}: byte 8:")
        self.case("more tokens than it says", path, header(20240520, 1, 10, 22), f"{path}: byte 8:")
        self.case("a negative count", path, header(20240520, 1, -1, 20), f"{path}: byte 8:")
        self.case("a bomb of tokens", path, header(20240801, 7, (1 << 31) - 1, 40), f"{path}: byte 8:")
        self.case("nothing at all", path, lambda raw: b"", str(path), code=2)


class TokenIds(refusal.Case):
    """An id is looked at when it is read, so a run may have begun: what it had written by then stays whole, and the data is as it was."""

    def case(self, name, at, value, *overrides, code=4, stored="H"):
        path = self.root / "data" / f"{name}.bin"
        with self.subTest(f"{value} at {at} of {name}"):
            raw = bytearray(path.read_bytes())
            offset = at % len(raw)
            struct.pack_into("<" + stored, raw, offset, value)
            path.write_bytes(raw)
            before = tiny_run.snapshot(self.root / "data")
            said = self.refused(code, f"{path}: byte {offset}:", "train", self.config, *overrides, untouched=False)
            self.assertIn(f"token id {value if 0 <= value < 1 << 31 else 'that is negative'}", said)
            self.assertIn("61", said)
            self.assertEqual(tiny_run.snapshot(self.root / "data"), before)
            self.assertEqual([tiny_run.trouble_of(one) for one in tiny_run.published(self.folder)], [None] * len(tiny_run.published(self.folder)))
            self.assertEqual(tiny_run.pending(self.folder), [])
            self.restore()

    def test_in_the_mixture(self):
        only = ["phases=[{name: one, from_step: 0, mixture: {one: 1, two: 0}}]", "schedule.steps=100"]
        self.case("one", 0, 61, *only)
        self.case("one", 0, 65535, *only)
        self.case("one", 2000, 61, *only)
        self.case("one", -2, 62, *only)
        self.case("two", 0, 61, "phases=[{name: two, from_step: 0, mixture: {one: 0, two: 1}}]")

    def test_in_validation(self):
        self.case("held", 0, 61)
        self.case("held", -2, 61)
        self.case("held", 100, 4660)

    def test_of_wider_types(self):
        """Ids that only 4 or 8 bytes hold, negative ones among them."""
        for code, kind, value in ((4, "i", 61), (4, "i", -1), (4, "i", 1 << 30), (5, "q", 1 << 40), (5, "q", -(1 << 63))):
            self.widen(code, np.dtype("<i4" if kind == "i" else "<i8"))
            self.case("held", 8 * 50, value, stored=kind)

    def widen(self, code, dtype):
        held = self.root / "data" / "held"
        ids = np.fromfile(f"{held}.bin", "<u2").astype(dtype)
        ids.tofile(f"{held}.bin")
        raw = bytearray((self.root / "data" / "held.idx").read_bytes())
        raw[TYPE] = code
        count = struct.unpack_from("<Q", raw, SEQUENCES)[0]
        at = LENGTHS + 4 * count
        pointers = np.frombuffer(raw, "<i8", count, at) // 2 * dtype.itemsize
        raw[at : at + 8 * count] = pointers.tobytes()
        (self.root / "data" / "held.idx").write_bytes(raw)
        (self.root / "data" / "held.json").unlink()

    def test_of_a_prompt(self):
        run = refusal.finished_run() / "runs" / "tiny"
        for ids in ("61", "1,61", "-1", "2147483647", "2147483648", "1.5", "x", "1,,2", "1,2,", ""):
            with self.subTest(ids):
                self.refused(2, "prompt", "generate", run, f"--prompt-ids={ids}", "--max-tokens=1")
