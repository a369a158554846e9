"""Text to shards and back: the Python tools, and the C++ library that reads what they write and writes what they read."""

import json
import random
import subprocess
import sys
import unittest
from pathlib import Path

try:
    import numpy as np
    from tokenizers import Tokenizer
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(4)

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
from text_commands import FolderCase, call, write_shard  # noqa: E402
from text import inspection, shards, tokenizer as train_tokenizer, tokenizing  # noqa: E402

DRIVER = sys.argv.pop(1)
TEXTS = ["The first document.\n\nIt has two paragraphs, with ünïcödé: 漢字 🌱.\n",
         "A second one\r\nwith other line ends\tand tabs.", "This text speaks of <|endoftext|> without ending there."]


def driver(*arguments, text=None):
    return subprocess.run([DRIVER, *map(str, arguments)], input=text, capture_output=True, text=True)


def read_with_cpp(prefix, vocab):
    result = driver("read", prefix, vocab)
    assert result.returncode == 0, result.stderr
    return [[int(word) for word in line.split()] for line in result.stdout.splitlines()]


class Case(FolderCase):
    def tokenizer(self, vocab=300):
        """Trained once on TEXTS."""
        text = self.folder / "tokenizer" / "text"
        if not text.exists():
            for number, content in enumerate(TEXTS):
                self.file(f"tokenizer/text/{number}.txt", content)
            self.assertEqual(call(train_tokenizer, text, "--vocab", vocab, "--out", text.parent)[0], 0)
        return text.parent / "tokenizer.json"

    def tokenize(self, *arguments, out="out/x"):
        return call(tokenizing, *arguments, "--tokenizer", self.tokenizer(), "--out", self.folder / out)

    def texts_of(self, prefix):
        """What stands in a shard, decoded, its end-of-text tokens checked and taken off."""
        tokenizer = Tokenizer.from_file(str(self.tokenizer()))
        end = tokenizer.token_to_id("<|endoftext|>")
        documents = read_with_cpp(prefix, tokenizer.get_vocab_size())
        for ids in documents:
            self.assertEqual((ids[-1], ids.count(end)), (end, 1))
        return [tokenizer.decode(ids[:-1], skip_special_tokens=False) for ids in documents]


class RoundTrips(Case):
    def test_text_files(self):
        code, out, _ = self.tokenize(self.folder / self.tokenizer().parent / "text")
        self.assertEqual(code, 0)
        self.assertIn("3 documents", out)
        self.assertEqual(self.texts_of(self.folder / "out/x"), [text.replace("\r\n", "\n") for text in TEXTS])
        self.assertEqual(sorted(path.name for path in (self.folder / "out").iterdir()), ["x.bin", "x.idx", "x.json"])
        self.assertEqual(call(inspection, "verify", self.folder / "out/x")[0], 0)

    def test_json_lines(self):
        lines = "".join(json.dumps({"id": number, "body": text}) + "\n\n" for number, text in enumerate(TEXTS)) + '{"body": ""}\n'
        self.assertEqual(self.tokenize(self.file("a.jsonl", lines), "--key", "body")[0], 0)
        self.assertEqual(self.texts_of(self.folder / "out/x"), TEXTS)

    def test_several_inputs_keep_their_order(self):
        inputs = [self.file("z.txt", "last name"), self.file("b/2.txt", "two"), self.file("b/1.jsonl", '{"text": "one"}'),
                  self.file("c.md", "markdown")]
        self.assertEqual(self.tokenize(inputs[0], self.folder / "b", inputs[3], "--format", "txt")[0], 0)
        self.assertEqual(self.texts_of(self.folder / "out/x"), ["last name", '{"text": "one"}', "two", "markdown"])

    def test_splitting(self):
        path = self.file("a.txt", "one\nstill one\n\n \t\n\ntwo\r\n\r\nthree\n")
        self.assertEqual(self.tokenize(path, "--split-on", "blank")[0], 0)
        self.assertEqual(self.texts_of(self.folder / "out/x"), ["one\nstill one", "two", "three\n"])
        path = self.file("b.txt", "one<|endoftext|>two\n<|endoftext|>\n")
        self.assertEqual(self.tokenize(path, "--document-separator", "<|endoftext|>", out="y")[0], 0)
        self.assertEqual(self.texts_of(self.folder / "y"), ["one", "two\n"])

    def test_links_are_followed_and_what_is_left_out_is_named_once(self):
        for path in ("in/a.txt", "in/sub/b.txt", "in/.ipynb_checkpoints/a.txt", "in/._a.txt", "other/c.txt", "other/d.txt"):
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_text(Path(path).stem)
        inside = self.folder / "in"
        for link, target in (("linked", "../other"), ("e.txt", "../other/d.txt"), ("sub/loop", ".."), ("f.txt", "nowhere")):
            (inside / link).symlink_to(target)
        code, _, err = self.tokenize(inside)
        self.assertEqual((code, err.count("\n")), (0, 1), err)
        self.assertIn("5 hidden or repeated files or links left out", err)
        self.assertEqual(self.texts_of(self.folder / "out/x"), ["a", "d", "c", "b"])

    def test_a_separator_that_does_not_occur_is_said(self):
        for name, text in (("a.txt", "one|two"), ("b.txt", "three")):
            (self.folder / name).write_text(text)
        code, _, err = self.tokenize(self.folder / "a.txt", self.folder / "b.txt", "--document-separator", "|")
        self.assertEqual(code, 0, err)
        self.assertEqual(err, f"meristem: note: the separator '|' does not occur in 1 of 2 files: {self.folder / 'b.txt'}\n")
        self.assertEqual(self.texts_of(self.folder / "out/x"), ["one", "two", "three"])

    def test_both_writers_write_the_same_bytes(self):
        dice = random.Random(1)
        for vocab in (65535, 65536):
            documents = [[dice.randrange(vocab) for _ in range(dice.randrange(50))] for _ in range(20)] + [[0, vocab - 1]]
            ours, theirs = self.folder / f"python{vocab}", self.folder / f"cpp{vocab}"
            write_shard(ours, vocab, documents)
            result = driver("write", theirs, vocab, text="".join(" ".join(map(str, document)) + "\n" for document in documents))
            self.assertEqual(result.returncode, 0, result.stderr)
            for end in (".bin", ".idx"):
                self.assertEqual(Path(f"{ours}{end}").read_bytes(), Path(f"{theirs}{end}").read_bytes())
            self.assertEqual(json.loads(Path(f"{ours}.json").read_text()), json.loads(Path(f"{theirs}.json").read_text()))
            self.assertEqual(read_with_cpp(ours, vocab), documents)
            shard = shards.Shard(theirs)
            self.assertEqual([shard.document(i).tolist() for i in range(shard.documents)], documents)
            self.assertEqual(call(inspection, "verify", theirs)[0], 0)

    def test_the_end_of_text_token_is_learned_and_the_next_document_s_start_is_not(self):
        self.tokenize(self.folder / self.tokenizer().parent / "text")
        documents = read_with_cpp(self.folder / "out/x", 300)
        total = sum(map(len, documents))
        result = driver("targets", self.folder / "out/x", 300, total, 1)
        targets = [int(word) for word in result.stdout.split()]
        self.assertEqual(targets.count(-1), len(documents))  # the two later documents' first tokens, and the next epoch's
        self.assertEqual(targets.count(0), len(documents))

    def test_the_manifest_names_the_tokenizer(self):
        self.tokenize(self.folder / self.tokenizer().parent / "text")
        manifest = json.loads((self.folder / "out/x.json").read_text())
        self.assertEqual(manifest["tokenizer_hash"], shards.xxh3_file(self.tokenizer()))
        self.assertEqual((manifest["vocab_size"], manifest["dtype"], manifest["end_of_text"], manifest["documents"]), (300, "uint16", 0, 3))

    def test_inspect_shows_a_document(self):
        self.tokenize(self.folder / self.tokenizer().parent / "text")
        code, out, _ = call(inspection, "inspect", self.folder / "out/x.bin", "--document", 2)
        self.assertEqual(code, 0)
        self.assertIn(TEXTS[2] + "<|endoftext|>", out)
        self.assertIn("tokens a document: shortest", out)
        self.refused(call(inspection, "inspect", self.folder / "out/x", "--document", 3), 2, "--document: found 3, allowed: 0 to 2")


class TrainTokenizer(Case):
    def test_it_is_deterministic_and_covers_every_byte(self):
        first = self.tokenizer().read_bytes()
        self.assertEqual(call(train_tokenizer, self.tokenizer().parent / "text", "--vocab", 300, "--out", self.folder / "again")[0], 0)
        self.assertEqual((self.folder / "again/tokenizer.json").read_bytes(), first)
        tokenizer = Tokenizer.from_str(first.decode())
        self.assertEqual(tokenizer.get_vocab_size(), 300)
        self.assertEqual(tokenizer.token_to_id("<|endoftext|>"), 0)
        anything = "never seen: Ω≈ç√ \x01 🦜"
        self.assertEqual(tokenizer.decode(tokenizer.encode(anything).ids), anything)

    def test_refusals(self):
        text = self.tokenizer().parent / "text"
        self.refused(call(train_tokenizer, text, "--vocab", 256, "--out", self.folder / "t"), 2, "--vocab: found 256, allowed: 257")
        self.refused(call(train_tokenizer, text, "--vocab", 300, "--out", self.tokenizer().parent), 2, self.tokenizer(), "exists already")
        self.assertEqual(call(train_tokenizer, text, "--vocab", 300, "--out", self.tokenizer().parent, "--force")[0], 0)
        for name, content, expected in (("e.txt", " \n", "e.txt: no text found"), ("b.jsonl", "{", "b.jsonl:1: broken JSON")):
            self.refused(call(train_tokenizer, self.file(name, content), "--vocab", 300, "--out", self.folder / "t"), 2, expected)
        self.assertFalse((self.folder / "t").exists())
        code, out, _ = call(train_tokenizer, self.file("s.txt", "ab"), "--vocab", 300, "--out", self.folder / "t")
        self.assertEqual(code, 0)
        self.assertIn("asked for 300", out)


class WrongInput(Case):
    def nothing_written(self):
        self.assertEqual([path.name for path in (self.folder / "out").glob("*")], [])

    def test_text_that_is_wrong_names_file_and_place(self):
        cases = [("a.jsonl", '{"text": "good"}\n{"text": "bad\n', "a.jsonl:2: broken JSON at column 10"),
                 ("b.jsonl", '{"txt": "x"}\n', "b.jsonl:1: key 'text' is missing; found: 'txt'"),
                 ("c.jsonl", '{"text": 5}\n', "c.jsonl:1: text: found int, expected a string"),
                 ("d.jsonl", '["text"]\n', "d.jsonl:1: found list, expected an object"),
                 ("e.jsonl", '{"text": "\\ud83c"}\n', "e.jsonl:1: text: holds half a character"),
                 ("f.jsonl", b'{"text": "good"}\n{"text": "caf\xe9"}\n', "f.jsonl:2: byte 30: not UTF-8 (found 0xe9)"),
                 ("g.jsonl", "[" * 100_000, "g.jsonl:1: broken JSON"),
                 ("h.txt", b"good \xff\xfe", "h.txt: byte 5: not UTF-8 (found 0xff)"),
                 ("i.txt", " \n", "i.txt: no text found"),
                 ("j.jsonl", "\n\n", "j.jsonl: no text found"),
                 ("k.csv", "x", "k.csv: unknown kind of file; allowed: .txt, .jsonl")]
        for name, content, expected in cases:
            with self.subTest(name):
                self.refused(self.tokenize(self.file(name, content)), 2, expected)
                self.nothing_written()

    def test_files_that_are_not_there(self):
        self.refused(self.tokenize(self.folder / "none.txt"), 2, "none.txt: no such file")
        (self.folder / "empty").mkdir()
        self.refused(self.tokenize(self.folder / "empty"), 2, "empty: a folder without a file that ends in .txt")
        text = self.file("a.txt", "text")
        none = self.folder / "t.json"
        self.refused(call(tokenizing, text, "--tokenizer", none, "--out", self.folder / "out/x"), 2, f"{none}: no such tokenizer")
        broken = self.file("t.json", "{}")
        self.refused(call(tokenizing, text, "--tokenizer", broken, "--out", self.folder / "out/x"), 2, "t.json: not a tokenizer")
        self.refused(self.tokenize(text, "--end-of-text", "<end>"), 2, "has no token <end>")

    def test_a_shard_is_not_overwritten_unawares(self):
        one, two = self.file("a.txt", "one"), self.file("b.txt", "two")
        self.assertEqual(self.tokenize(one)[0], 0)
        self.refused(self.tokenize(two), 2, self.folder / "out/x.bin", "exists already")
        self.refused(self.tokenize(self.file("c.txt", b"\xff"), "--force"), 2, "c.txt")
        self.assertEqual(self.texts_of(self.folder / "out/x"), ["one"])
        self.assertEqual(self.tokenize(two, "--force")[0], 0)
        self.assertEqual(self.texts_of(self.folder / "out/x"), ["two"])
        self.assertEqual(call(inspection, "verify", self.folder / "out/x")[0], 0)


class Damage(Case):
    """What `verify` finds; the C++ reader must refuse the same files (but a hash, which it does not compute)."""

    def shard(self):
        prefix = self.folder / "x"
        for end in shards.EXTENSIONS:
            Path(f"{prefix}{end}").unlink(missing_ok=True)
        write_shard(prefix, 100, ([1, 2, 3], [4], [5, 6]))
        return prefix

    def put(self, prefix, end, offset, data):
        path = Path(f"{prefix}{end}")
        content = bytearray(path.read_bytes())
        content[offset : offset + len(data)] = data
        path.write_bytes(content)
        return path

    def test_a_changed_byte_is_found_by_its_hash(self):
        for end, offset in ((".bin", 0), (".idx", 34)):
            prefix = self.shard()
            if end == ".idx":  # two lengths that still sum up, so that only the hash can tell; pointers follow
                self.put(prefix, ".idx", 34, np.array([2, 2], "<i4").tobytes())
                path = self.put(prefix, ".idx", 54, np.array([4], "<i8").tobytes())
            else:
                path = self.put(prefix, end, offset, b"\x09")
            self.refused(call(inspection, "verify", prefix), 4, f"{path}: xxh3 ", "x.json says")
            self.assertEqual(driver("read", prefix, 100).returncode, 0)

    def test_a_token_outside_the_vocabulary(self):
        prefix = self.shard()
        path = self.put(prefix, ".bin", 8, (200).to_bytes(2, "little"))
        Path(f"{prefix}.json").unlink()
        self.refused(call(inspection, "verify", prefix, "--vocab", 100), 4, f"{path}: byte 8: token id 200, the vocabulary has 100")
        code, out, _ = call(inspection, "verify", prefix)
        self.assertEqual(code, 0)
        self.assertIn("token ids not checked", out)
        result = driver("read", prefix, 100)
        self.assertEqual(result.returncode, 4)
        self.assertIn(f"{path}: byte 8: token id 200", result.stderr)

    def test_structure(self):
        damages = [(0, b"X", "byte 0"), (9, b"\2", "byte 9"), (17, b"\7", "byte 17"), (18, b"\xff" * 8, "byte 18"),
                   (34, b"\xff" * 4, "byte 34"),
                   (46, b"\2", "byte 46"), (54, b"\0", "byte 54"), (70, b"\1", "byte 70"), (78, b"\x09", "byte 78"), (94, b"\2", "byte 94")]
        for offset, data, expected in damages:
            with self.subTest(offset):
                prefix = self.shard()
                path = self.put(prefix, ".idx", offset, data)
                self.refused(call(inspection, "verify", prefix), 4, f"{path}: {expected}:")
                result = driver("read", prefix, 100)
                self.assertEqual(result.returncode, 4)
                self.assertIn(f"{path}: {expected}:", result.stderr)

    def test_sizes_and_manifest(self):
        prefix = self.shard()
        for end in (".bin", ".idx"):
            path = Path(f"{prefix}{end}")
            content = path.read_bytes()
            for wrong in (content[:-1], content + b"\0", b""):
                path.write_bytes(wrong)
                self.refused(call(inspection, "verify", prefix), 4, prefix)
                self.assertEqual(driver("read", prefix, 100).returncode, 4)
            path.write_bytes(content)
        manifest = Path(f"{prefix}.json")
        content = manifest.read_text()
        for wrong, expected in ((content.replace('"tokens": 6', '"tokens": 7'), "tokens: says 7"), ("{}", "x.json"), ("", "x.json")):
            manifest.write_text(wrong)
            self.refused(call(inspection, "verify", prefix), 4, manifest, expected)
            self.assertEqual(driver("read", prefix, 100).returncode, 4)

    def test_bare_ids_say_their_type_or_are_uint16(self):
        ids, few = np.arange(300, 340), np.array([5, 0, 7, 0] * 3)
        wide = np.where(ids % 2, ids, ids + 70000)
        cases = [("x", ids, "uint16", None), ("x", ids, "uint32", "looks like uint32 ids"), ("x", ids, "int32", "looks like uint32 ids"), ("x", ids, "int64", "looks like int64 ids"),
                 ("x", wide, "uint32", "looks like uint32 ids"), ("x", few, "uint16", None), ("x", ids[:2], "uint16", None), ("x", np.arange(1, 15), "uint16", None),
                 ("x.uint32", wide, "uint32", None), ("x.int64", wide, "int64", None), ("x.uint16", np.tile(few, 9), "uint16", None), ("x", np.tile(few, 9), "uint16", "looks like"),
                 ("x.int32", ids, "int32", None), ("x.uint8", few, "uint8", None), ("x.v2", ids, "uint16", None)]
        for name, tokens, kind, refused in cases:
            with self.subTest(name, kind=kind, refused=refused):
                path = self.file(f"{name}.bin", tokens.astype(kind).tobytes())
                for prefix in (path, self.folder / name):
                    theirs, ours = driver("read", prefix, 100000), call(inspection, "verify", prefix, "--vocab", 100000)
                    if refused is None:
                        self.assertEqual((theirs.stdout, theirs.returncode), (" ".join(map(str, tokens)) + "\n", 0), theirs.stderr)
                        self.assertEqual(ours[0], 0, ours[2])
                        self.assertIn(f"{tokens.size} tokens ({kind})", ours[1])
                    else:
                        self.refused(ours, 2, f"{path}: no header, and it {refused}", f"name it {self.folder / name}.", f"or {self.folder / name}.uint16.bin")
                        self.assertEqual((theirs.stderr.split("error: ")[-1], theirs.returncode), (ours[2].split("error: ")[-1], 2))
                path.unlink()
        path = self.file("y.uint32.bin", b"123456")
        self.refused(call(inspection, "verify", path), 4, f"{path}: byte 6: not a whole number of tokens, where bare files hold uint32")
        self.assertEqual(driver("read", path, 100).returncode, 4)

    def test_missing_files(self):
        self.refused(call(inspection, "verify", self.folder / "none"), 2, "none.bin: no such file")
        prefix = self.shard()
        Path(f"{prefix}.idx").unlink()
        self.refused(call(inspection, "inspect", prefix), 2, "x.idx: no such file")
        self.assertEqual(driver("read", prefix, 100).returncode, 2)


if __name__ == "__main__":
    unittest.main(verbosity=2)
