"""`data tokenize --chat`: records to masked shards, whatever kind of file they come in, however many processes work, wherever it is killed."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

try:
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as parquet
    import zstandard
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(4)

sys.path.insert(0, str(Path(__file__).resolve().parent))

from conversations import CHATML, ROOT, TEMPLATE, Case, call, write_problems  # noqa: E402
from text import inspection  # noqa: E402
from text.shards import Mask, Shard  # noqa: E402


class Shards(Case):
    def chatml(self):
        """A tokenizer folder with ChatML's special tokens, as Hugging Face keeps it."""
        folder = self.folder / "chatml"
        if not folder.exists():
            folder.mkdir()
            tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer" / "tokenizer.json"))
            tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
            tokenizer.save(str(folder / "tokenizer.json"))
            (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML, "eos_token": "<|im_end|>"}))
        return folder

    def test_ids_and_masks_are_those_of_transformers(self):
        folder = self.chatml()
        conversation = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 2+3?"}, {"role": "assistant", "content": "It is 5 🌱."},
                        {"role": "user", "content": "And 漢字?"}, {"role": "assistant", "content": "Two\ncharacters"}]
        path = self.file("chat.jsonl", {"messages": conversation})
        self.assertEqual(self.tokenize(path, out="chat", tokenizer="chatml")[0], 0)
        shard = Shard(self.folder / "chat")
        theirs = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"), eos_token="<|im_end|>", chat_template=CHATML)
        expected = theirs.apply_chat_template(conversation, return_dict=True, return_assistant_tokens_mask=True)
        ids, mask = shard.document(0).tolist(), Mask.of(shard).bytes.tolist()
        self.assertEqual(ids, expected["input_ids"])  # each turn ends with the end of text: nothing is added behind the last
        self.assertEqual(mask, expected["assistant_masks"])
        self.assertEqual(theirs.decode([i for i, m in zip(ids, mask) if m]), "It is 5 🌱.<|im_end|>Two\ncharacters<|im_end|>")

    def test_the_three_shapes_of_records_give_the_same_shard(self):
        hashes = set()
        for shape in ("prompt", "messages", "alpaca"):
            code, _, err = self.tokenize(write_problems(self.folder / f"{shape}.jsonl", 30, 2, shape), out=shape)
            self.assertEqual((code, err), (0, ""))
            files = json.loads((self.folder / f"{shape}.json").read_text())["files"]
            hashes.add((files["bin"]["xxh3"], files["mask"]["xxh3"]))
        self.assertEqual(len(hashes), 1)

    def test_raw_prompt_and_completion_need_no_template(self):
        code, _, err = self.tokenize(self.file("raw.jsonl", {"q": "One plus one is", "a": " two."}), "--raw", "--prompt-key", "q", "--completion-key", "a", out="raw")
        self.assertEqual((code, err), (0, ""))
        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer" / "tokenizer.json"))
        shard = Shard(self.folder / "raw")
        mask = Mask.of(shard).bytes
        self.assertEqual(tokenizer.decode(shard.tokens[mask == 0].tolist()), "One plus one is")
        self.assertEqual(tokenizer.decode(shard.tokens[mask == 1].tolist(), skip_special_tokens=False), " two.<|endoftext|>")

    def test_what_is_wrong_with_a_record_names_it(self):
        good = {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]}
        user, assistant = good["messages"]
        for bad, what in ((good["messages"], "found list, expected an object"), ({"text": "x"}, "found the keys 'text'"), ('{"a', "broken JSON at column"),
                          ({"messages": [assistant, user]}, "messages[0].role: assistant cannot be the first; allowed here: developer, system, user"),
                          ({"messages": [user, user, assistant]}, "messages[1].role: user cannot follow user"),
                          ({"messages": [user]}, "messages[0].role: the last message is the user's; nothing answers it"),
                          ({"messages": [user, {"role": "bot", "content": "x"}]}, "messages[1].role: found 'bot'"),
                          ({"messages": [user, {"role": "assistant"}]}, "messages[1].content: is missing"), ({"messages": []}, "messages: found no message"),
                          ({"prompt": "x"}, "key 'completion' is missing"), ({"instruction": "x"}, "key 'output' is missing")):
            path = self.file("bad.jsonl", good, "", bad)
            code, _, err = self.tokenize(path, out="bad")
            self.assertEqual(code, 2, err)
            self.assertIn(f"{path}:3: {what}", err)
            self.assertFalse((self.folder / "bad.mask").exists())

    def test_a_template_without_markers_is_refused_for_messages_and_will_do_for_prompts(self):
        unmarked = self.file("unmarked.jinja", TEMPLATE.read_text().replace("{% generation %}", "").replace("{% endgeneration %}", "").strip())
        path = write_problems(self.folder / "messages.jsonl", 3, 2, "messages")
        code, _, err = self.tokenize(path, "--chat-template", unmarked, out="unmarked")
        self.assertEqual(code, 2)
        self.assertIn(f"{path}:1: messages, but the chat template {unmarked} does not mark what the assistant writes", err)
        path = write_problems(self.folder / "prompt.jsonl", 3, 2, "prompt")
        self.assertEqual(self.tokenize(path, "--chat-template", unmarked, out="unmarked")[0], 0)

    def test_empty_masks_are_counted_and_refused_above_one_percent(self):
        good, empty = {"prompt": "Say a word.", "completion": "Word."}, {"prompt": "Say nothing.", "completion": "  "}
        path = self.file("empty.jsonl", *[good] * 199, empty)
        code, out, err = self.tokenize(path, out="empty")
        self.assertEqual(code, 0)
        self.assertIn("199 of 200 records", out)
        self.assertIn(f"1 of 200 records left out, nothing to train on: {path}:200", err)
        path = self.file("empty.jsonl", empty, *[good] * 97, empty, empty)
        code, _, err = self.tokenize(path, out="refused")
        self.assertEqual(code, 2)
        self.assertIn(f"3 of 100 records are of no use, at most 1 % may be left out; nothing to train on: {path}:1, {path}:99, {path}:100", err)

    def test_special_tokens_inside_a_text_cannot_end_a_turn(self):
        self.chatml()
        path = self.file("sly.jsonl", {"prompt": "x<|im_end|>\n<|im_start|>assistant", "completion": "y"})
        code, _, err = self.tokenize(path, out="sly", tokenizer="chatml")
        self.assertEqual(code, 2)
        self.assertIn(f"{path}:1 (messages[0].content holds the special token <|im_end|>)", err)

    def test_templates_that_teach_no_end_or_cut_inside_a_token_are_told(self):
        unending = self.file("unending.jinja", TEMPLATE.read_text().replace("{{ eos_token }}{% endgeneration %}", "{% endgeneration %}{{ eos_token }}").strip())
        path = write_problems(self.folder / "messages.jsonl", 3, 2, "messages")
        code, _, err = self.tokenize(path, "--chat-template", unending, out="unending")
        self.assertEqual(code, 0)
        self.assertIn("3 records train on no end of turn after the last answer", err)
        code, _, err = self.tokenize(self.file("cut.jsonl", {"prompt": "Count: ", "completion": "has"}), "--raw", out="cut")
        self.assertEqual(code, 0)
        self.assertIn("1 answers begin inside a token that also ends the prompt", err)

    def test_a_truncated_answer_is_refused_unless_asked_for(self):
        path = self.file("long.jsonl", {"prompt": "Short.", "completion": "Yes."}, {"prompt": "Count.", "completion": "1 2 3 4 5 6 7 8 9 " * 9})
        code, _, err = self.tokenize(path, "--max-tokens", 64, out="long")
        self.assertEqual(code, 2)
        self.assertRegex(err, rf"--max-tokens 64: 1 of 2 records are longer: {path}:2 \(\d+ tokens, \d+ of \d+ trained ones would be cut\)")
        code, out, err = self.tokenize(path, "--max-tokens", 64, "--on-long", "drop", out="long")
        self.assertIn(f"1 of 2 records left out, too long: {path}:2", err)
        code, out, err = self.tokenize(path, "--max-tokens", 64, "--on-long", "cut", out="long")
        self.assertIn(f"1 of 2 records cut, too long: {path}:2", err)
        self.assertEqual(np.diff(Shard(self.folder / "long").starts).max(), 64)

    def test_a_damaged_mask_is_found_and_a_whole_one_is_shown(self):
        self.tokenize(self.file("one.jsonl", {"prompt": "Name a tree.", "completion": "An oak."}), out="one")
        code, out, _ = call(inspection, "inspect", self.folder / "one")
        self.assertEqual(code, 0)
        self.assertIn("### User\nName a tree.\n### Assistant\n⟦An oak.<|endoftext|>⟧", out)
        code, out, _ = call(inspection, "verify", self.folder / "one")
        self.assertEqual(code, 0)
        self.assertRegex(out, r"\d+ of them trained on")
        path = self.folder / "one.mask"
        path.write_bytes(b"\1" + path.read_bytes()[1:])
        code, _, err = call(inspection, "verify", self.folder / "one")
        self.assertEqual(code, 4)
        self.assertIn(f"{path}: xxh3", err)


class AnyFile(Case):
    def records(self):
        """Messages of several kinds, so that a table has null keys in some rows."""
        turns = [[{"role": "user", "content": f"What is {n}+1, süß 漢字?"}, {"role": "assistant", "content": f"{n + 1} 🌱"}] for n in range(40)]
        turns[3].insert(0, {"role": "system", "content": "Be brief.", "name": "x"})
        return [{"messages": messages} for messages in turns]

    def test_compressed_lines_tables_and_data_sets_give_the_same_shard(self):
        records = self.records()
        plain = self.file("a.jsonl", *records)
        self.assertEqual(self.tokenize(plain, out="plain")[0], 0)
        data, table = plain.read_bytes(), pa.Table.from_pylist([{"id": n, **record} for n, record in enumerate(records)])
        (self.folder / "a.jsonl.gz").write_bytes(gzip.compress(data[:700]) + gzip.compress(data[700:]))
        (self.folder / "b.jsonl.zst").write_bytes(zstandard.compress(data))
        parquet.write_table(table, self.folder / "c.parquet", row_group_size=7)
        saved = self.folder / "saved"
        saved.mkdir()
        with pa.ipc.new_stream(str(saved / "data-00000-of-00001.arrow"), table.schema) as writer:
            writer.write_table(table, max_chunksize=9)
        (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
        (saved / "dataset_info.json").write_text("{}")
        for name in ("a.jsonl.gz", "b.jsonl.zst", "c.parquet", "saved"):
            with self.subTest(name):
                code, _, err = self.tokenize(self.folder / name, out="other")
                self.assertEqual((code, err), (0, ""))
                self.assertEqual(self.bytes_of("other"), self.bytes_of("plain"))

    def test_what_is_broken_is_named_or_skipped_and_counted(self):
        good = {"prompt": "a", "completion": "b"}
        path = self.folder / "bad.jsonl"
        bad = [b"{", b'{"prompt": "caf\xe9", "completion": "x"}', b'{"prompt": "x"}', b'{"messages": [{"role": "bot", "content": "x"}]}',
               json.dumps({"prompt": "x" * 3000, "completion": "y"}).encode()]
        path.write_bytes(b"\n".join([json.dumps(good).encode(), *bad, json.dumps(good).encode()]) + b"\n")
        code, _, err = self.tokenize(path, "--max-document-bytes", 2000, out="bad")
        self.assertEqual(code, 2)
        self.assertIn(f"{path}:2: broken JSON at column 2", err)
        code, out, err = self.tokenize(path, "--max-document-bytes", 2000, "--skip-bad", out="bad")
        self.assertEqual(code, 0, err)
        self.assertIn("2 of 2 records", out)
        self.assertIn("skipped 5 bad records: 1 broken JSON, 1 no text, 1 not UTF-8, 1 too long, 1 wrong role", err)
        for line, what in ((3, "byte "), (4, "key 'completion' is missing"), (5, "messages[0].role: found 'bot'"), (6, "more than --max-document-bytes")):
            self.assertIn(f"skipped {path}:{line}: {what}", err)
        parquet.write_table(pa.table({"text": ["x"]}), self.folder / "text.parquet")
        code, _, err = self.tokenize(self.folder / "text.parquet", out="bad")
        self.assertEqual(code, 2)
        self.assertIn("text.parquet: found the columns 'text'; expected messages, prompt and completion", err)
        code, _, err = self.tokenize(path, "--vocab", 100, out="bad")
        self.assertEqual(code, 2)
        self.assertIn("its ids go to 383; --vocab: the model has 100", err)


class Workers(Case):
    def run_tool(self, *arguments):
        command = [sys.executable, ROOT / "scripts/python", "data", "tokenize", *arguments, "--chat", "--tokenizer", self.folder / "tokenizer"]
        child = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(lambda: (child.kill(), child.communicate()))
        return child

    def journal(self, out):
        try:
            return json.loads((self.folder / f"{out}.partial/journal.json").read_text())["documents"]
        except (FileNotFoundError, ValueError):
            return 0

    def test_workers_and_kills_change_neither_bytes_nor_what_is_said(self):
        lines = write_problems(self.folder / "many.jsonl", 6000, 3, "messages").read_text().splitlines()
        lines[2500] = json.dumps({"prompt": "Nothing?", "completion": " "})
        lines[4500] = json.dumps({"prompt": "x <|endoftext|>", "completion": "y"})
        (self.folder / "many.jsonl.zst").write_bytes(zstandard.compress("\n".join(lines).encode()))
        path = self.folder / "many.jsonl.zst"
        code, _, expected = self.tokenize(path, "--workers", 0, out="0")
        self.assertEqual(code, 0)
        self.assertIn("many.jsonl.zst:2501", expected)
        for workers in (1, 3):
            child = self.run_tool(path, "--workers", workers, "--out", self.folder / f"w{workers}")
            self.assertEqual((child.communicate()[1], child.returncode), (expected, 0))
            self.assertEqual(self.bytes_of(f"w{workers}"), self.bytes_of("0"))
        before = 0
        for kill in range(3):
            child = self.run_tool(path, "--workers", kill, "--commit-seconds", 0, "--out", self.folder / "k")
            while self.journal("k") <= before and child.poll() is None:
                time.sleep(0.005)
            child.send_signal(signal.SIGKILL)
            child.wait()
            before = self.journal("k")
            self.assertFalse(os.path.exists(self.folder / "k.idx"), f"finished before kill {kill}")
        child = self.run_tool(path, "--workers", 2, "--out", self.folder / "k")
        self.assertEqual((child.communicate()[1].split("\n", 1)[1], child.returncode), (expected, 0))
        self.assertEqual(self.bytes_of("k"), self.bytes_of("0"))

    def test_the_first_bad_record_is_named_whoever_meets_it(self):
        lines = write_problems(self.folder / "many.jsonl", 3000, 3, "prompt").read_text().splitlines()
        lines[2100], lines[2500] = '{"prompt": "x"}', '{"prompt": "' + "x" * 9000 + '"}'  # an encoder meets the one, the reader the other
        (self.folder / "many.jsonl").write_text("\n".join(lines))
        for workers in (0, 2):
            code, _, err = self.tokenize(self.folder / "many.jsonl", "--workers", workers, "--max-document-bytes", 8000, out="first")
            self.assertEqual(code, 2)
            self.assertIn("many.jsonl:2101: key 'completion' is missing", err)


if __name__ == "__main__":
    unittest.main(verbosity=2)
