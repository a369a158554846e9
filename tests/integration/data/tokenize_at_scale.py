"""`data tokenize`: every kind of input, any number of workers, kills at any place, bad input; the bytes are always the same."""

import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

try:
    import pyarrow as pa
    import pyarrow.parquet as parquet
    import zstandard
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(4)

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
from text_commands import SCRIPTS, FolderCase, call  # noqa: E402
from text import documents as text_documents, encoding, inspection, shard_writing, shards, tokenizing  # noqa: E402

WORDS = "leaf root stem bud süß 漢字 🌱 grows loops and\n".split(" ")


def texts_of(seed, count):
    dice = random.Random(seed)
    return [" ".join(dice.choices(WORDS, k=dice.randrange(1, 30))) for _ in range(count)]


def jsonl(texts):
    return "".join(json.dumps({"text": text}, ensure_ascii=number % 2 == 0) + "\n" for number, text in enumerate(texts)).encode()


class Case(FolderCase):
    @classmethod
    def setUpClass(cls):
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        cls.tokenizer = Path(scratch.name) / "tokenizer.json"
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        bpe.train_from_iterator(texts_of(0, 50), trainers.BpeTrainer(vocab_size=320, special_tokens=["<|endoftext|>"], show_progress=False,
                                                                     initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
        bpe.save(str(cls.tokenizer))

    def arguments(self, *inputs, out="x"):
        return [*map(str, inputs), "--tokenizer", str(self.tokenizer), "--out", str(self.folder / str(out))]

    def tokenize(self, *inputs, out="x"):
        return call(tokenizing, *self.arguments(*inputs, out=out))

    def shard(self, out="x"):
        """Hashes of the three files: where bytes differ, a list of the differences would take minutes."""
        return [hashlib.sha256(Path(f"{self.folder / str(out)}{extension}").read_bytes()).hexdigest() for extension in shards.EXTENSIONS]

    def decoded(self, out="x"):
        tokenizer, shard = Tokenizer.from_file(str(self.tokenizer)), shards.Shard(self.folder / out)
        return [tokenizer.decode(shard.document(number)[:-1].tolist()) for number in range(shard.documents)]


class Inputs(Case):
    def table(self, texts, kind=pa.string()):
        return pa.table({"id": list(range(len(texts))), "text": pa.array(texts, kind)})

    def saved_dataset(self, name, texts):
        """As datasets.save_to_disk lays it out: arrow streams, named in state.json."""
        half = len(texts) // 2
        for number, part in enumerate((texts[:half], texts[half:])):
            path = self.file(f"{name}/data-{number:05}-of-00002.arrow", b"")
            table = self.table(part)
            with pa.ipc.new_stream(str(path), table.schema) as writer:
                writer.write_table(table, max_chunksize=7)
        names = [{"filename": f"data-{number:05}-of-00002.arrow"} for number in (0, 1)]
        self.file(f"{name}/state.json", json.dumps({"_data_files": names, "_split": None}).encode())
        self.file(f"{name}/dataset_info.json", b"{}")
        return self.folder / name

    def test_every_kind_of_file_gives_the_same_shard(self):
        texts = texts_of(1, 100)
        plain = self.file("a.jsonl", jsonl(texts))
        self.assertEqual(self.tokenize(plain, out="plain")[0], 0)
        self.assertEqual(self.decoded("plain"), texts)
        data = plain.read_bytes()
        frames = zstandard.compress(data[:1000]) + zstandard.compress(data[1000:])
        parquet.write_table(self.table(texts), self.folder / "a.parquet", row_group_size=13)
        parquet.write_table(self.table(texts, pa.large_string()), self.folder / "b.parquet", compression="zstd")
        inputs = [self.file("a.jsonl.gz", gzip.compress(data[:500]) + gzip.compress(data[500:])), self.file("a.jsonl.zst", frames),
                  self.folder / "a.parquet", self.folder / "b.parquet", self.saved_dataset("saved", texts)]
        for number, path in enumerate(inputs):
            with self.subTest(path.name):
                self.assertEqual(self.tokenize(path, out=f"y{number}")[0], 0)
                self.assertEqual(self.shard(f"y{number}"), self.shard("plain"))

    def test_a_held_out_split_is_never_mixed_in(self):
        self.saved_dataset("both/train", texts_of(2, 20))
        self.saved_dataset("both/test", texts_of(3, 4))
        self.file("both/dataset_dict.json", b'{"splits": ["train", "test"]}')
        self.refused(self.tokenize(self.folder / "both"), 2, "--split: found none, allowed: train, test")
        self.assertEqual(self.tokenize(self.folder / "both", "--split", "test")[0], 0)
        self.assertEqual(self.decoded(), texts_of(3, 4))
        for split, seed in (("train", 2), ("test", 3)):
            (self.folder / "hub").mkdir(exist_ok=True)
            parquet.write_table(self.table(texts_of(seed, 5)), self.folder / f"hub/{split}-00000-of-00001.parquet")
        self.refused(self.tokenize(self.folder / "hub", out="y"), 2, "--split: found none, allowed: test, train")
        self.assertEqual(self.tokenize(self.folder / "hub", "--split", "train", out="y")[0], 0)
        self.assertEqual(self.decoded("y"), texts_of(2, 5))

    def test_splitting_in_pieces_is_splitting_at_once(self):
        import re


        dice = random.Random(5)
        for round_ in range(60):
            text = "".join(dice.choice(["a", "b", "\n", "\n\n", " ", "\r\n", "\r", "<s>", "<", "s>", "é"]) for _ in range(dice.randrange(60)))
            path = self.file("a.txt", text.encode())
            plain = text.replace("\r\n", "\n").replace("\r", "\n")
            for options, expected in ((["--split-on=blank"], re.split(r"\n(?:[ \t]*\n)+", plain)), (["--document-separator=<s>"], plain.split("<s>")),
                                      (["--document-separator=<s>", "--line-ends=keep"], text.split("<s>")), (["--document-separator=<\n"], plain.split("<\n"))):
                option = options[0]
                parser = __import__("argparse").ArgumentParser()
                text_documents.add_arguments(parser)
                arguments = parser.parse_args([str(path), *options])
                documents = list(text_documents.Reader(arguments))
                self.assertEqual([document.text for document in documents], [part for part in expected if part.strip()], (round_, option, text))
                if documents:  # reading goes on from anywhere
                    at = dice.randrange(len(documents))
                    rest = list(text_documents.Reader(arguments, json.loads(json.dumps(documents[at].after))))
                    self.assertEqual(rest, documents[at + 1 :], (option, text))

    def test_a_tokenizer_that_is_larger_than_the_model(self):
        size = Tokenizer.from_file(str(self.tokenizer)).get_vocab_size()
        path = self.file("a.jsonl", jsonl(["x"]))
        self.refused(self.tokenize(path, "--vocab", size - 1), 2, f"its ids go to {size - 1}; --vocab: the model has {size - 1}")
        self.assertEqual(self.tokenize(path, "--vocab", size)[0], 0)


class Workers(Case):
    def run_tool(self, *arguments, wait=True):
        child = subprocess.Popen([sys.executable, SCRIPTS, "data", "tokenize", *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                 text=True)
        self.addCleanup(lambda: (child.kill(), child.communicate()))
        if wait:
            out, err = child.communicate()
            self.assertEqual(child.returncode, 0, err)
        return child

    def documents_written(self, out):
        try:
            return json.loads((self.folder / f"{out}.partial/journal.json").read_text())["documents"]
        except (FileNotFoundError, ValueError):
            return 0

    def test_workers_and_kills_change_nothing(self):
        path = self.file("a.jsonl.zst", zstandard.compress(jsonl(texts_of(4, 24_000))))
        self.assertEqual(self.tokenize(path, "--workers", 0, out="0")[0], 0)
        for workers in (1, 2, 4):
            self.run_tool(*self.arguments(path, out=workers), "--workers", workers)
            self.assertEqual(self.shard(workers), self.shard("0"))
        kills, before = 0, 0
        while kills < 10:
            child = self.run_tool(*self.arguments(path, out="k"), "--workers", kills % 3, "--commit-seconds", 0, wait=False)
            while self.documents_written("k") <= before and child.poll() is None:
                time.sleep(0.005)
            child.send_signal(signal.SIGKILL)
            child.wait()
            before = self.documents_written("k")
            self.assertFalse((self.folder / "k.bin").exists(), f"finished before kill {kills}")
            # What stands behind the journal's counts, a write cut off, is worth nothing.
            with open(self.folder / "k.partial/tokens", "ab") as tokens:
                tokens.write(b"\xff" * 77)
            kills += 1
        self.run_tool(*self.arguments(path, out="k"), "--workers", 2)
        self.assertEqual(self.shard("k"), self.shard("0"))
        self.assertFalse((self.folder / "k.partial").exists())

    def test_a_worker_that_dies_is_said(self):
        path = self.file("a.jsonl", jsonl(texts_of(6, 4000)))
        original = encoding.Pool._child

        def dying(pool):
            child = original(pool)
            child.kill()
            return child

        encoding.Pool._child = dying
        self.addCleanup(setattr, encoding.Pool, "_child", original)
        self.refused(self.tokenize(path, "--workers", 1), 1, "a tokenizing worker ended with signal 9")


class Stops(Case):
    def test_a_kill_while_the_files_get_their_names(self):
        path = self.file("a.jsonl", jsonl(texts_of(7, 50)))
        self.assertEqual(self.tokenize(path, out="whole")[0], 0)
        real = os.replace
        for survived in range(4):  # the journal's own rename, then the three files
            calls = []

            def replace(*arguments):
                calls.append(arguments)
                if len(calls) > survived:
                    raise InterruptedError(4, "stopped")
                real(*arguments)

            shard_writing.os.replace = replace
            try:
                self.assertEqual(self.tokenize(path, out=f"s{survived}")[0], 1)
            finally:
                shard_writing.os.replace = real
            self.assertEqual(self.tokenize(path, out=f"s{survived}")[0], 0)
            self.assertEqual(self.shard(f"s{survived}"), self.shard("whole"))
            self.assertFalse((self.folder / f"s{survived}.partial").exists())

    def stopped_job(self):
        """A bad last line stops it; --skip-bad goes on."""
        path = self.file("a.jsonl", jsonl(texts_of(8, 3000)) + b'{"text": 7}\n' + jsonl(["last"]))
        self.refused(self.tokenize(path, "--commit-seconds", 0), 2, "a.jsonl:3001: text: found int, expected a string")
        return path

    def test_another_job_does_not_go_on_with_it(self):
        path = self.stopped_job()
        self.refused(self.tokenize(path, "--key", "body"), 2, "a stopped job with other --key;", "--force")
        journal = self.folder / "x.partial/journal.json"
        journal.write_text("{")
        self.refused(self.tokenize(path), 4, "not a journal")
        journal.unlink()
        self.refused(self.tokenize(path, "--commit-seconds", 0), 2, "a.jsonl:3001")
        os.truncate(self.folder / "x.partial/lengths", 100)
        self.refused(self.tokenize(path), 4, "x.partial/lengths: 100 bytes, the journal counts 8192")
        journal.unlink()
        self.assertEqual(self.tokenize(path, "--skip-bad")[0], 0)

    def test_the_same_job_goes_on(self):
        path = self.stopped_job()
        code, _, err = self.tokenize(path, "--skip-bad")
        self.assertEqual(code, 0)
        self.assertIn("going on after 2,048 documents", err)
        self.assertIn("skipped 1 bad documents: 1 no text", err)
        self.assertEqual(self.decoded(), texts_of(8, 3000) + ["last"])

    def test_two_at_once(self):
        path = self.stopped_job()
        import fcntl

        with open(self.folder / "x.partial/lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.refused(self.tokenize(path), 2, "another process is writing this shard")


class BadInput(Case):
    def test_lines_and_rows_that_are_too_long(self):
        long = jsonl(["a", "b" * 3_000_000, "c"])
        for name, data in (("a.jsonl", long), ("a.jsonl.gz", gzip.compress(long))):
            path = self.file(name, data)
            self.refused(self.tokenize(path, "--max-document-bytes", 1000, out=f"y/{name}"), 2, f"{name}:2: more than --max-document-bytes", "allowed 1000")
            self.assertEqual(self.tokenize(path, "--max-document-bytes", 1000, "--skip-bad", "--force")[0], 0)
            self.assertEqual(self.decoded(), ["a", "c"])
        text = self.file("a.txt", b"x" * 999 + b"\n\n" + b"y" * 1001 + b"\n\nz")
        self.refused(self.tokenize(text, "--max-document-bytes", 1000, out="y"), 2, "a.txt: more than", "--split-on blank")
        self.refused(self.tokenize(text, "--max-document-bytes", 1000, "--split-on", "blank", out="y"), 2, "a.txt: document 2: more than")
        self.assertEqual(self.tokenize(text, "--max-document-bytes", 1000, "--split-on", "blank", "--skip-bad", "--force")[0], 0)
        self.assertEqual(self.decoded(), ["x" * 999, "z"])
        parquet.write_table(pa.table({"text": ["a", "b" * 1001, None]}), self.folder / "a.parquet")
        self.refused(self.tokenize(self.folder / "a.parquet", "--max-document-bytes", 1000, out="z"), 2, "a.parquet: row 1: more than")

    def test_every_bad_document_is_counted_once(self):
        lines = jsonl(["good"]) + b'{"text": "x\n{"text": "caf\xe9"}\n{"body": "x"}\n{"text": null}\n[]\n{"text": "\\ud83c"}\n' + jsonl(["end"])
        code, _, err = self.tokenize(self.file("a.jsonl", lines), "--skip-bad")
        self.assertEqual((code, self.decoded()), (0, ["good", "end"]))
        self.assertIn("skipped 6 bad documents: 1 broken JSON, 1 half a character, 1 no object, 2 no text, 1 not UTF-8", err)
        self.assertIn("a.jsonl:3: byte ", err)
        self.refused(self.tokenize(self.file("u.txt", "text".encode("utf-16")), out="y"), 2, "u.txt: byte 0: not UTF-8", "UTF-16")
        code, _, err = self.tokenize(self.file("b.jsonl", b"{\n"), "--skip-bad", out="y")
        self.assertEqual(code, 2)
        self.assertIn("every document is empty or was skipped", err)

    def test_damaged_files(self):
        data = jsonl(texts_of(9, 300))
        packed = {".gz": gzip.compress(data), ".zst": zstandard.ZstdCompressor(write_checksum=True).compress(data)}
        for suffix, content in packed.items():
            flipped = bytearray(content)
            flipped[len(content) // 2] ^= 0xFF
            for wrong in (content[:-10], bytes(flipped), b"no archive"):
                with self.subTest(suffix, size=len(wrong)):
                    self.refused(self.tokenize(self.file(f"a.jsonl{suffix}", wrong)), 4, f"a.jsonl{suffix}: damaged or cut off near byte")
        parquet.write_table(pa.table({"text": texts_of(9, 300), "n": list(range(300))}), self.folder / "a.parquet")
        self.refused(self.tokenize(self.folder / "a.parquet", "--key", "body"), 2, "column 'body' is missing; found: 'text', 'n'")
        self.refused(self.tokenize(self.folder / "a.parquet", "--key", "n"), 2, "column 'n': found int64, expected string")
        whole = (self.folder / "a.parquet").read_bytes()
        self.refused(self.tokenize(self.file("b.parquet", whole[:-9])), 4, "b.parquet: not a whole parquet file")
        self.refused(self.tokenize(self.file("c.arrow", b"nothing")), 4, "c.arrow: not a whole arrow file")
        for name in ("e.jsonl", "e.txt", "e.jsonl.gz"):
            self.refused(self.tokenize(self.file(name, gzip.compress(b"") if name.endswith("gz") else b"")), 2, f"{name}: no text found")
        self.assertEqual(list(self.folder.glob("x.*")), [])


class Inspect(Case):
    def test_duplicates_are_counted(self):
        path = self.file("a.jsonl", jsonl(["one", "two", "one", "three", "one"]))
        self.assertEqual(self.tokenize(path)[0], 0)
        code, out, _ = call(inspection, "inspect", self.folder / "x")
        self.assertEqual(code, 0)
        self.assertIn("duplicates: 2 of 5 documents (40.0 %)", out)

    def test_shards_of_llm_c_and_nanogpt(self):
        import numpy as np

        ids = np.arange(100, dtype="<u2")
        header = np.zeros(256, "<i4")
        header[:3] = 20240520, 1, 100
        self.file("llmc.bin", header.tobytes() + ids.tobytes())
        self.file("nano.bin", ids.tobytes())
        for name in ("llmc.bin", "nano.bin"):
            code, out, err = call(inspection, "inspect", self.folder / name)
            self.assertEqual(code, 0, err)
            self.assertIn("1 documents, 100 tokens, uint16", out)
            self.assertEqual(call(inspection, "verify", self.folder / name, "--vocab", 100)[0], 0)
            self.assertEqual(call(inspection, "verify", self.folder / name, "--vocab", 99)[0], 4)
        self.file("llmc.bin", header.tobytes() + ids.tobytes()[:-2])
        self.refused(call(inspection, "verify", self.folder / "llmc.bin"), 4, "llmc.bin: byte 8: 100 tokens")


if __name__ == "__main__":
    unittest.main(verbosity=2)
