"""What of people's own files reaches a shard, and what is said where it does not: line ends, characters without a token, the token before a text, tools
and their calls, answers that a template writes otherwise, dates. Every command that reads text, in one process."""

import json
import sys
import unittest
from datetime import datetime
from pathlib import Path
from unittest import mock

try:
    import pyarrow as pa
    import pyarrow.parquet as parquet
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    import transformers  # noqa: F401
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(4)

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
from text_commands import ROOT, FolderCase, call  # noqa: E402
from chat import session, template as chat_template, tokenizing as chat_tokenizing  # noqa: E402
from evaluation import generate, items, primitives  # noqa: E402
from text import inspection, shard_writing, tokenizer as text_tokenizer, tokenizing  # noqa: E402
from text.shards import Mask, Shard, xxh3_bytes  # noqa: E402

PLAIN = ROOT / "configs" / "sft" / "plain.jinja"
# Of the kind of Qwen3: thinking goes where another question follows, and a last answer has it even if it is empty.
THINKING = """{% set ns = namespace(last=-1) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{% for m in messages %}
{{ '<|' + m.role + '|>' }}{% if m.role == 'assistant' %}{% generation %}{% if loop.index0 > ns.last %}{{ '<think>' + (m.reasoning_content or '') + '</think>' }}{% endif %}
{{ m.content or '' }}{{ eos_token }}{% endgeneration %}
{% else %}{{ m.content }}{% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"""
ASK, SAY = {"role": "user", "content": "Ask"}, {"role": "assistant", "content": "Say"}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}]}
TOOL = {"type": "function", "function": {"name": "add", "description": "Adds", "parameters": {"type": "object"}}}


def characters(text, unknown=None, special=(), vocabulary=None):
    """A BPE of single characters, without one for others."""
    pieces = [*([unknown] if unknown else []), *special, *(vocabulary or sorted(set(text)))]
    tokenizer = Tokenizer(models.BPE({piece: number for number, piece in enumerate(pieces)}, [], unk_token=unknown))
    tokenizer.add_special_tokens([piece for piece in special if piece])
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


class Case(FolderCase):
    def tokenizer(self, name="t", begins=False, **settings):
        """A folder with a tokenizer of letters whose post-processor may put <s> before a text, and a chat template."""
        made = characters("".join(map(chr, range(32, 127))) + "\n\ré", special=("</s>", "<s>"), **settings)
        if begins:
            made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
        self.file(f"{name}/tokenizer_config.json", json.dumps({"eos_token": "</s>", "bos_token": "<s>"}))
        self.file(f"{name}/chat_template.jinja", PLAIN.read_text().strip())
        made.save(str(self.folder / name / "tokenizer.json"))
        return made

    def records(self, *records, name="r.jsonl"):
        return self.file(name, "".join(json.dumps(record) + "\n" for record in records))

    def shard(self, *arguments, tokenizer="t", out="x", tool=None):
        """(what was said, texts of the documents); of a masked shard with what is trained on in brackets."""
        tool = tool or (chat_tokenizing if "--chat" in arguments else tokenizing)
        code, printed, err = call(tool, *arguments, "--tokenizer", self.folder / tokenizer, "--out", self.folder / out, "--force")
        self.assertEqual(code, 0, err)
        self.assertEqual(call(inspection, "verify", self.folder / out)[0], 0)
        shard, made = Shard(self.folder / out), Tokenizer.from_file(str(self.folder / tokenizer / "tokenizer.json"))
        mask = Mask.of(shard)
        if mask is None:
            return err, [made.decode(shard.document(number).tolist(), skip_special_tokens=False) for number in range(shard.documents)]
        spans = [(shard.document(number).tolist(), mask.bytes[shard.starts[number] : shard.starts[number + 1]]) for number in range(shard.documents)]
        return err, [inspection.marked_text(made, ids, trained, colour=False) for ids, trained in spans]

    def manifest(self, out="x"):
        return json.loads((self.folder / f"{out}.json").read_text())


class LineEnds(Case):
    def test_of_every_kind_of_file(self):
        self.tokenizer()
        table = pa.table({"text": ["a\r\nb"]})
        parquet.write_table(table, self.folder / "p.parquet")
        made, kept = "made \\n; --line-ends keep leaves them as they are", "left as they are; --line-ends lf makes them \\n"
        cases = [("crlf.txt", b"a\r\nb\r\n", (), ["a\nb\n"], made), ("cr.txt", b"a\rb\r", (), ["a\nb\n"], made), ("lf.txt", b"a\nb\n", (), ["a\nb\n"], None),
                 ("crlf.txt", b"a\r\nb", ("--line-ends", "keep"), ["a\r\nb"], None), ("blank.txt", b"a\r\n\r\n\r\nb\r\nc\r\n", ("--split-on", "blank"), ["a", "b\nc\n"], made),
                 ("mac.txt", b"a\r\rb\rc\r", ("--split-on", "blank"), ["a", "b\nc\n"], made),
                 ("sep.txt", b"a\r\n--\r\nb\r\nc", ("--document-separator", "\n--\n"), ["a", "b\nc"], made),
                 ("sep2.txt", b"a\r--\rb", ("--document-separator", "\n--\n"), ["a", "b"], None),
                 ("sep3.txt", b"a\r\n==\r\n", ("--document-separator", "==\n"), ["a\n"], made),
                 ("a.jsonl", b'{"text": "a\\r\\nb"}\r\n', (), ["a\r\nb"], kept), ("a.jsonl", b'{"text": "a\\r\\nb"}\r\n', ("--line-ends", "lf"), ["a\nb"], made),
                 ("a.jsonl", b'{"text": "a\\rb"}\n', ("--line-ends", "keep"), ["a\rb"], None), ("p.parquet", None, (), ["a\r\nb"], kept),
                 ("p.parquet", None, ("--line-ends", "lf"), ["a\nb"], made)]
        for name, content, options, expected, what in cases:
            with self.subTest(name, options=options):
                path = self.file(name, content) if content is not None else self.folder / name
                err, texts = self.shard(path, *options)
                self.assertEqual(texts, [text + "</s>" for text in expected])
                self.assertEqual(err.count("meristem: note:"), int(what is not None), err)
                self.assertIn(f"line ends \\r\\n or \\r in 1 documents {what}; the first: {path}" if what else "", err)

    def test_pieces_of_any_size_give_the_same_documents(self):
        self.tokenizer()
        path = self.file("a.txt", b"one\r\n\r\ntwo\r\n more\r\n\r\n\r\nthree")
        with mock.patch.object(tokenizing.documents, "text_lines", lambda stream, _=tokenizing.documents.text_lines: _(stream, 1)):
            self.assertEqual(self.shard(path, "--split-on", "blank")[1], ["one</s>", "two\n more</s>", "three</s>"])

    def test_of_conversations_and_of_a_tokenizer_s_text(self):
        self.tokenizer()
        path = self.records({"prompt": "a\r\nb", "completion": "c\r\nd"})
        err, texts = self.shard(path, "--chat")
        self.assertIn("in 1 records left as they are", err)
        self.assertIn("⟦c\r\nd</s>⟧", texts[0])
        err, texts = self.shard(path, "--chat", "--line-ends", "lf")
        self.assertIn(f"in 1 records made \\n; --line-ends keep leaves them as they are; the first: {path}:1\n", err)
        self.assertEqual(texts, ["### User\na\nb\n### Assistant\n⟦c\nd</s>⟧"])
        self.assertEqual(self.shard(path, "--chat", "--line-ends", "keep")[0], "")
        code, _, err = call(text_tokenizer, self.file("a.txt", b"ab\r\nab\r\n"), "--vocab", 300, "--out", self.folder / "new")
        self.assertEqual((code, err.count("made \\n")), (0, 1), err)


class Characters(Case):
    def lossy(self):
        """name: tokenizer, whether it fails where others lose a character."""
        level = Tokenizer(models.BPE({piece: number for number, piece in enumerate(["</s>", "<s>", *sorted(set(pre_tokenizers.ByteLevel.alphabet()) - {"Ä"})])}, []))
        level.pre_tokenizer, level.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        words = Tokenizer(models.WordLevel({"</s>": 0, "<s>": 1, "<unk>": 2, "good": 3}, unk_token="<unk>"))
        words.pre_tokenizer = pre_tokenizers.Whitespace()
        return {"drops": characters("gold ", special=("</s>", "<s>")), "bytes": level, "unknown": characters("gold ", unknown="<unk>", special=("</s>", "<s>")), "words": words}

    def test_every_command_says_once_what_has_no_token(self):
        text, record = self.file("a.txt", "good"), {"prompt": "good ", "completion": "good"}
        bad = self.file("b.txt", "good ģģ good ģ")
        for name, made in self.lossy().items():
            with self.subTest(name):
                self.file(f"{name}/tokenizer_config.json", json.dumps({"eos_token": "</s>"}))
                made.save(str(self.folder / name / "tokenizer.json"))
                count, example = (2, "'ģģ'") if name == "words" else (3, "'ģ'")
                said = f"{count} characters in 1 documents have no token in the tokenizer and are lost; the first: {bad} ({example})"
                self.assertEqual(self.shard(text, tokenizer=name)[0], "")
                self.assertIn(said, self.shard(text, bad, tokenizer=name)[0])
                path = self.records(record, {**record, "prompt": "good ģ "})
                if name in ("drops", "bytes"):  # the library then gives wrong places for all tokens behind it
                    self.refused(call(chat_tokenizing, path, "--chat", "--raw", "--tokenizer", self.folder / name, "--out", self.folder / "y"), 2,
                                 f"{path}:2: the tokenizer has no token for 'ģ' and leaves it out")
                    self.assertIn("skipped 1 bad records: 1 no token", self.shard(path, "--chat", "--raw", "--skip-bad", tokenizer=name)[0])
                else:
                    err, _ = self.shard(path, "--chat", "--raw", tokenizer=name)
                    self.assertIn(f"1 characters in 1 records have no token in the tokenizer and are lost; the first: {path}:2 ('ģ')", err)
                loaded, _ = text_tokenizer.load_tokenizer(self.folder / name, read_special=True)
                code, _, err = call(mock.Mock(main=lambda _, loaded=loaded: generate.prompt_ids(loaded, "good ģ", []) and 0))
                self.assertEqual((code, err), (0, "meristem: note: 1 characters have no token in the tokenizer and are lost; the first: --prompt ('ģ')\n"))

    def test_a_tokenizer_that_fails_is_named_with_the_text(self):
        made = Tokenizer(models.Unigram([("</s>", -1.0), ("g", -1.0), ("o", -1.0), ("d", -1.0), ("<s>", -1.0)]))
        self.file("t/tokenizer_config.json", json.dumps({"eos_token": "</s>"}))
        made.save(str(self.folder / "t" / "tokenizer.json"))
        path = self.file("a.jsonl", '{"text": "good"}\n{"text": "bad"}\n')
        self.refused(call(tokenizing, path, "--tokenizer", self.folder / "t", "--out", self.folder / "x"), 2, f"{path}:2: the tokenizer fails: ")
        self.assertIn("skipped 1 bad documents: 1 no token", self.shard(path, "--skip-bad")[0])
        path = self.records({"prompt": "good", "completion": "bad"})
        self.refused(call(chat_tokenizing, path, "--chat", "--raw", "--tokenizer", self.folder / "t", "--out", self.folder / "y"), 2, f"{path}:1: the tokenizer fails")

    def test_blanks_that_a_tokenizer_leaves_out_on_purpose_are_no_loss(self):
        made = characters("god", special=("</s>", "<s>"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        (self.folder / "t").mkdir()
        made.save(str(self.folder / "t" / "tokenizer.json"))
        self.assertEqual(self.shard(self.file("a.txt", "good god")), ("", ["goodgod</s>"]))


class BeginningOfText(Case):
    def test_the_same_rule_in_every_command(self):
        path, records = self.file("a.txt", "go"), self.records({"prompt": "go", "completion": "on"})
        for begins, bos, expected in ((True, "auto", [1]), (True, "no", []), (True, "yes", [1]), (False, "auto", []), (False, "no", []), (False, "yes", [1])):
            with self.subTest(begins=begins, bos=bos):
                made = self.tokenizer(begins=begins)
                begin = "<s>" if expected else ""
                self.assertEqual(self.shard(path, "--bos", bos)[1], [begin + "go</s>"])
                self.assertEqual((self.manifest().get("begin_of_text", []), self.manifest()["format_version"]), (expected, 3 if expected else 1))
                self.assertEqual(self.shard(records, "--chat", "--raw", "--bos", bos)[1], [begin + "go⟦on</s>⟧"])
                err, texts = self.shard(records, "--chat", "--bos", bos)
                self.assertEqual((texts, err.count("does not begin with <s>")), ([begin + "### User\ngo\n### Assistant\n⟦on</s>⟧"], len(expected)))
                self.assertEqual(self.manifest().get("begin_of_text", []), expected)
                ids = text_tokenizer.begin_ids(made, self.folder / "t" / "tokenizer.json", bos)
                self.assertEqual(ids, expected)
                go = made.encode("go", add_special_tokens=False).ids
                self.assertEqual(generate.prompt_ids(made, "go", ids), expected + go)
                self.assertEqual(generate.prompt_ids(made, "<s>go" if expected else "go", ids), expected + go)  # once
                self.assertEqual(next(items.encoded_items(made, [primitives.Item("go", ("on", "or"), 0)], str, ids))[0][: 1 + len(expected)], [*expected, go[0]])
                if expected:
                    self.assertEqual(generate.prompt_ids(made, "", ids), expected)
                    self.assertEqual(next(items.encoded_items(made, [primitives.Item("", ("on", "or"), 0)], str, ids))[0], expected)

    def test_a_template_that_writes_it_does_not_write_it_twice(self):
        made = self.tokenizer(begins=True)
        writing = self.file("w.jinja", "{{ bos_token }}" + PLAIN.read_text().strip())
        path = self.records({"messages": [ASK, SAY]})
        for bos in ("auto", "yes", "no"):  # what a template says, stays
            self.assertEqual(self.shard(path, "--chat", "--chat-template", writing, "--bos", bos)[1], ["<s>### User\nAsk\n### Assistant\n⟦Say</s>⟧"])
        # The template that goes along is the one that was used: transformers makes the same ids of it.
        self.shard(path, "--chat")
        theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token="</s>", bos_token="<s>", chat_template=self.manifest()["chat_template"])
        self.assertEqual(theirs.apply_chat_template([ASK, SAY], return_dict=True)["input_ids"], Shard(self.folder / "x").document(0).tolist())

    def test_what_the_run_was_trained_with_goes_before_the_tokenizer_s_own(self):
        made = self.tokenizer(begins=True)
        (self.folder / "run/checkpoints/step-1").mkdir(parents=True)
        for content, expected in ((None, [1]), ({"begin_of_text": []}, []), ({"begin_of_text": [1], "end_of_text": 0}, [1])):
            if content is not None:
                self.file("run/text.json", json.dumps(content))
            found = text_tokenizer.texts_of_run(self.folder / "run/checkpoints/step-1")
            self.assertEqual(text_tokenizer.begin_ids(made, self.folder / "t/tokenizer.json", "auto", found[0]), expected)
        self.assertEqual(found, ([1], 0))

    def test_without_a_name_for_it_yes_is_refused(self):
        self.tokenizer()
        (self.folder / "t/tokenizer_config.json").unlink()
        self.refused(call(tokenizing, self.file("a.txt", "go"), "--bos", "yes", "--tokenizer", self.folder / "t", "--out", self.folder / "x"), 2,
                     "--bos yes: ", "names a bos_token")


class Tools(Case):
    def test_calls_without_content_and_tools_reach_the_template(self):
        self.tokenizer()
        answer, result = "⟦### Call\n{\"name\": \"add\", \"arguments\": {\"a\": 1, \"b\": 2}}</s>⟧", {"role": "tool", "content": "3"}
        tools = "### Tools\n" + json.dumps(TOOL) + "\n"
        silent = {key: value for key, value in CALL.items() if key != "content"}
        old = {"role": "assistant", "content": None, "function_call": CALL["tool_calls"][0]["function"]}
        asked = "### User\nAsk\n### Assistant\n" + answer
        cases = [({"messages": [ASK, CALL]}, asked), ({"messages": [ASK, silent]}, asked), ({"messages": [ASK, old]}, asked),
                 ({"messages": [ASK, CALL], "tools": [TOOL]}, tools + asked), ({"messages": [ASK, CALL], "tools": json.dumps([TOOL])}, tools + asked),
                 ({"messages": [ASK, CALL], "functions": [TOOL["function"]]}, tools + asked), ({"messages": [ASK, CALL], "tools": []}, asked),
                 ({"messages": [ASK, CALL], "tools": None}, asked), ({"prompt": [ASK], "completion": [CALL], "tools": [TOOL]}, tools + asked),
                 ({"prompt": "Ask", "completion": "Say", "tools": [TOOL]}, tools + "### User\nAsk\n### Assistant\n⟦Say</s>⟧"),
                 ({"messages": [ASK, CALL, result, SAY]}, asked + "\n### Tool\n3\n### Assistant\n⟦Say</s>⟧"),
                 ({"messages": [{"role": "user", "content": [{"type": "text", "text": "As"}, {"type": "text", "text": "k"}]}, CALL]}, asked),
                 ({"messages": [ASK, {**CALL, "content": "So:"}]}, asked.replace("⟦", "⟦So:\n"))]
        for record, expected in cases:
            with self.subTest(json.dumps(record)):
                self.assertEqual(self.shard(self.records(record), "--chat"), ("", [expected]))
        # A table gives every message all keys that any has.
        rows = [{"messages": [ASK, {**CALL, "tool_calls": [{"function": {"name": "add", "arguments": "{\"a\": 1, \"b\": 2}"}}]}]}, {"messages": [ASK, SAY]}]
        parquet.write_table(pa.Table.from_pylist(rows), self.folder / "t.parquet")
        self.assertEqual(self.shard(self.folder / "t.parquet", "--chat"), ("", [asked, "### User\nAsk\n### Assistant\n⟦Say</s>⟧"]))

    def test_what_is_wrong_with_them_or_lost_is_named(self):
        self.tokenizer()
        deaf = self.file("deaf.jinja", "{% for m in messages %}{{ m.role + ':' }}{% generation %}{{ m.content or '' }}{{ eos_token }}{% endgeneration %}{% endfor %}")
        bad = [({"messages": [ASK, {"role": "assistant", "content": None}]}, "messages[1].content: found null, expected a string"),
               ({"messages": [{"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {}}]}, SAY]},
                "messages[0].content[1]: found a part of type 'image_url'; allowed: parts of type text"),
               ({"messages": [{"role": "user", "content": ["see"]}, SAY]}, "messages[0].content[0]: found a part of type 'str'"),
               ({"messages": [ASK, {"role": "assistant"}]}, "messages[1].content: is missing"), ({"messages": [{"role": "user", "content": None}, SAY]}, "messages[0].content: found null"),
               ({"messages": [ASK, {**CALL, "tool_calls": "x"}]}, "messages[1].tool_calls: expected a list of objects"),
               ({"messages": [ASK, SAY], "tools": "{"}, "tools: a text that is not JSON"), ({"messages": [ASK, SAY], "tools": {"a": 1}}, "tools: found dict, expected a list"),
               ({"messages": [ASK, {**CALL, "tool_calls": [{"function": {"name": "\ud83c"}}]}]}, "messages[1].tool_calls[0].function.name: holds half a character"),
               ({"messages": [ASK, SAY], "tools": [{"name": "<s>"}]}, "tools[0].name holds the special token <s>")]
        for record, what in bad:
            with self.subTest(what):
                path = self.records({"messages": [ASK, SAY]}, record)
                self.refused(call(chat_tokenizing, path, "--chat", "--tokenizer", self.folder / "t", "--out", self.folder / "x"), 2, f"{path}:2", what)
        path = self.records({"messages": [ASK, CALL]})
        self.refused(call(chat_tokenizing, path, "--chat", "--chat-template", deaf, "--tokenizer", self.folder / "t", "--out", self.folder / "x"), 2,
                     f"{path}:1: messages[1].tool_calls: the chat template {deaf} does not write them")
        path = self.records({"prompt": "Ask", "completion": "Say", "tools": [TOOL]})
        for options, what in ((("--chat-template", deaf), "which the chat template does not write"), (("--raw",), "which no template writes")):
            self.assertIn(f"1 of 1 records have tools, {what}: {path}:1\n", self.shard(path, "--chat", *options)[0])


class Answers(Case):
    def test_earlier_answers_that_generation_would_not_show_are_not_trained_on(self):
        self.tokenizer()
        thinking = self.file("thinking.jinja", THINKING)
        thought = {**SAY, "reasoning_content": "Hm"}
        cases = [([ASK, thought, ASK, thought], "<|user|>Ask<|assistant|>Say</s><|user|>Ask<|assistant|>⟦<think>Hm</think>Say</s>⟧", 1),
                 ([ASK, SAY, ASK, SAY, ASK, SAY], "<|user|>Ask<|assistant|>Say</s>" * 2 + "<|user|>Ask<|assistant|>⟦<think></think>Say</s>⟧", 2),
                 ([ASK, thought], "<|user|>Ask<|assistant|>⟦<think>Hm</think>Say</s>⟧", 0),
                 ([ASK, {**thought, "content": "1"}, {"role": "tool", "content": "2"}, thought],
                  "<|user|>Ask<|assistant|>⟦<think>Hm</think>1</s>⟧<|tool|>2<|assistant|>⟦<think>Hm</think>Say</s>⟧", 0)]
        for messages, expected, others in cases:
            with self.subTest(expected):
                path = self.records({"messages": messages})
                err, texts = self.shard(path, "--chat", "--chat-template", thinking)
                self.assertEqual(texts, [expected])
                self.assertEqual(err.count("\n"), int(others > 0), err)
                self.assertIn(f"{others} answers in 1 of 1 records are not trained on: the chat template does not mark them, or writes them otherwise" if others else "", err)
        # One that writes all alike trains on all.
        self.assertEqual(self.shard(self.records({"messages": [ASK, SAY, ASK, SAY]}), "--chat")[1], ["\n".join(["### User\nAsk\n### Assistant\n⟦Say</s>⟧"] * 2)])

    def test_an_answer_behind_another_prompt_than_generation_gives_is_refused(self):
        self.tokenizer()
        plain = PLAIN.read_text().strip()
        other = self.file("other.jinja", plain.replace("'\\n### Assistant\\n' }}{% endif", "'\\n### Assistant\\n<think>' }}{% endif"))
        for record in ({"messages": [ASK, SAY]}, {"prompt": "Ask", "completion": "Say"}):
            path = self.records(record)
            self.refused(call(chat_tokenizing, path, "--chat", "--chat-template", other, "--tokenizer", self.folder / "t", "--out", self.folder / "x"), 2,
                         f"{path}:1: the chat template {other} writes the prompt otherwise where an answer follows")
        thinking = self.file("thinking.jinja", THINKING)
        path = self.records({"prompt": [ASK], "completion": [SAY, ASK, SAY]})
        self.refused(call(chat_tokenizing, path, "--chat", "--chat-template", thinking, "--tokenizer", self.folder / "t", "--out", self.folder / "x"), 2,
                     f"{path}:1: messages[1]: the chat template {thinking} writes this answer otherwise once another message follows")


class Templates(Case):
    def test_a_job_has_one_date_whenever_it_goes_on(self):
        self.tokenizer()
        dated = self.file("dated.jinja", "{{ strftime_now('%d.%m.') }}" + PLAIN.read_text().strip())
        path = self.records({"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}, {"prompt": "é" * 9, "completion": "f"})
        arguments = [path, "--chat", "--chat-template", dated, "--tokenizer", self.folder / "t", "--out", self.folder / "x", "--commit-seconds", 0]

        def on(day, *more):
            later = mock.Mock(wraps=datetime)
            later.now.return_value = datetime(2026, 12, day, 23, 59)
            with mock.patch.object(shard_writing, "datetime", later), mock.patch.object(chat_template, "datetime", later), \
                    mock.patch.object(tokenizing, "BATCH_DOCUMENTS", 1):
                return call(chat_tokenizing, *arguments, *more)

        self.refused(on(3, "--max-document-bytes", 50), 2, ":3")  # stopped at the third, midnight passes
        self.refused(on(4), 2, "a stopped job with other")  # the same options go on
        code, out, err = on(4, "--max-document-bytes", 50, "--skip-bad")
        self.assertEqual(code, 0, err)
        self.assertIn("going on after 2 documents", err)
        self.assertIn("(of 2026-12-03, which it writes)", out)
        shard, made = Shard(self.folder / "x"), Tokenizer.from_file(str(self.folder / "t/tokenizer.json"))
        self.assertEqual([made.decode(shard.document(number).tolist())[:6] for number in range(2)], ["03.12."] * 2)

    def test_it_goes_with_the_shard_and_a_chat_takes_that_of_the_run(self):
        self.tokenizer()
        mine = self.file("mine.jinja", PLAIN.read_text().strip().replace("###", "##"))
        self.shard(self.records({"prompt": "a", "completion": "b"}), "--chat", "--chat-template", mine)
        manifest = self.manifest()
        self.assertEqual((manifest["chat_template"], manifest["chat_template_hash"], manifest["format_version"]), (mine.read_text(), xxh3_bytes(mine.read_bytes()), 3))
        self.assertNotIn(str(mine), json.dumps(manifest))
        path = self.file("x.json", json.dumps({**manifest, "chat_template": "other"}))
        self.refused(call(inspection, "verify", self.folder / "x"), 4, f"{path}: chat_template: xxh3")
        self.file("run/chat_template.jinja", "of the run")
        for given, expected in ((None, "of the run"), (mine, mine.read_text())):
            found = session.template_of(mock.Mock(checkpoint=self.folder / "run", chat_template=given), self.folder / "t/tokenizer.json", {})
            self.assertEqual(found.text, expected)


class Vocabulary(Case):
    def test_ids_beyond_the_model_in_the_tokenizer_s_folder_are_refused(self):
        size = self.tokenizer().get_vocab_size()
        text, record = self.file("a.txt", "go"), self.records({"prompt": "a", "completion": "b"})
        for name, content in (("config.json", {"vocab_size": size - 1}), ("state.json", {"config_yaml": f"model: {{vocab_size: {size - 1}}}"})):
            path = self.file(f"t/{name}", json.dumps(content))
            for tool, arguments in ((tokenizing, [text]), (chat_tokenizing, [record, "--chat"])):
                arguments += ["--tokenizer", self.folder / "t", "--out", self.folder / "x"]
                self.refused(call(tool, *arguments), 2, f"its ids go to {size - 1}; {path}: the model has {size - 1}; for a model that has more, say --vocab {size}")
                self.assertEqual(call(tool, *arguments, "--vocab", size, "--force")[0], 0)
                self.refused(call(tool, *arguments, "--vocab", size - 1, "--force"), 2, f"--vocab: the model has {size - 1}")
            path.unlink()


if __name__ == "__main__":
    unittest.main(verbosity=2)
