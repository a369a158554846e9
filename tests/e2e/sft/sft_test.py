"""Supervised fine-tuning from JSONL to an answer: masked shards, a run from a checkpoint, its loss curve beside transformers', a chat."""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

try:
    import numpy as np
    import torch
    import yaml
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(4)

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(ROOT / "scripts" / "python"), str(HERE)]

import chat_tokenize  # noqa: E402
import shards  # noqa: E402
import tokenize_text  # noqa: E402
import train_tokenizer  # noqa: E402
import transformers_peer as peer  # noqa: E402
from chat_shards import Mask  # noqa: E402
from grade_school import write_problems  # noqa: E402
from token_shards import Shard  # noqa: E402

PROGRAM, DRIVER = (sys.argv.pop(1) for _ in range(2))
VOCAB = 384
TEMPLATE = ROOT / "configs" / "sft" / "plain.jinja"
# Turns that end in a special token, as in ChatML; a line break behind it that nobody trains on.
CHATML = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}{% generation %}"
          "{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
          "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")

MODEL = "model: {vocab_size: 384, width: 48, blocks: 2, attention: {heads: 4, kv_heads: 2}, feed_forward: {inner: 96}}\n"
BASE = MODEL + """\
run: {name: base, out: runs}
data: {tokenizer: tokenizer/tokenizer.json, sequence_length: 128, sources: {text: {path: text}}}
optimizer: {lr: 3e-3}
schedule: {steps: 20, warmup: 2}
batch: {tokens: 1024}
logging: {every: 10, sample_tokens: 0}
"""
SFT = MODEL + """\
run: {name: sft, out: runs, seed: 4}
initial: {checkpoint: runs/base}
data:
  tokenizer: tokenizer/tokenizer.json
  sequence_length: 192
  packing: best_fit
  sources: {problems: {path: problems}}
  validation: {held_out: {path: held_out}, every: 10}
optimizer: {lr: 4e-3, clip_norm: 1.0, weight_decay: 0.1}
schedule: {steps: 50, warmup: 5, decay: {kind: cosine, from_step: 5}}
batch: {tokens: 1536}
checkpoint: {every: 7, keep_last: 3}
logging: {every: 1, sample_tokens: 4}
"""


def call(tool, *arguments):
    """(exit code, stdout, stderr) of a tool's main."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = tool.main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            code = leaving.code
    return code, out.getvalue(), err.getvalue()


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temporary.cleanup)
        cls.folder = Path(temporary.name)
        write_problems(cls.folder / "text.jsonl", 200, 1, "text")
        code, _, err = call(train_tokenizer, cls.folder / "text.jsonl", "--vocab", VOCAB, "--out", cls.folder / "tokenizer")
        assert code == 0, err
        shutil.copy(TEMPLATE, cls.folder / "tokenizer" / "chat_template.jinja")

    def file(self, name, *records):
        path = self.folder / name
        path.write_text("".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records))
        return path

    def tokenize(self, *arguments, out, tokenizer="tokenizer"):
        return call(chat_tokenize, *arguments, "--chat", "--tokenizer", self.folder / tokenizer, "--out", self.folder / out, "--force")

    def program(self, *arguments, code=0):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MERISTEM_PYTHON": ""}
        done = subprocess.run([PROGRAM, *map(str, arguments)], cwd=self.folder, capture_output=True, text=True, env=environment)
        self.assertEqual(done.returncode, code, done.stderr[-2000:])
        return done.stdout + done.stderr


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
        unending = self.file("unending.jinja", TEMPLATE.read_text().replace(" + eos_token }}{% endgeneration %}", " }}{% endgeneration %}{{ eos_token }}").strip())
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
        code, out, _ = call(shards, "inspect", self.folder / "one")
        self.assertEqual(code, 0)
        self.assertIn("### User\nName a tree.\n### Assistant\n⟦An oak.<|endoftext|>⟧", out)
        code, out, _ = call(shards, "verify", self.folder / "one")
        self.assertEqual(code, 0)
        self.assertRegex(out, r"\d+ of them trained on")
        path = self.folder / "one.mask"
        path.write_bytes(b"\1" + path.read_bytes()[1:])
        code, _, err = call(shards, "verify", self.folder / "one")
        self.assertEqual(code, 4)
        self.assertIn(f"{path}: xxh3", err)


class Training(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        case = cls()
        call(tokenize_text, case.folder / "text.jsonl", "--tokenizer", case.folder / "tokenizer", "--out", case.folder / "text")
        case.tokenize(write_problems(case.folder / "problems.jsonl", 60, 7), out="problems")
        case.tokenize(write_problems(case.folder / "held_out.jsonl", 12, 8), out="held_out")
        (case.folder / "base.yaml").write_text(BASE)
        (case.folder / "sft.yaml").write_text(SFT)
        case.program("train", "base.yaml")
        cls.said = case.program("train", "sft.yaml")

    def metrics(self, run):
        return [json.loads(line) for line in (self.folder / "runs" / run / "metrics.jsonl").read_text().splitlines()]

    def losses(self, run):
        return [line["loss"] for line in self.metrics(run) if "event" not in line]

    def validations(self, run):
        return [line["loss"] for line in self.metrics(run) if line.get("event") == "validation"]

    def records(self, name):
        """What a shard holds as (ids, labels), straight from its files."""
        shard = Shard(self.folder / name)
        mask, found = Mask.of(shard).bytes, set()
        for begin, end in zip(shard.starts, shard.starts[1:]):
            ids = shard.tokens[begin:end].tolist()
            found.add((tuple(ids), tuple(token if trained else -100 for token, trained in zip(ids, mask[begin:end]))))
        return found

    def test_the_loss_curve_is_that_of_a_plain_transformers_loop(self):
        run = self.folder / "runs" / "sft"
        config = yaml.safe_load((run / "config.yaml").read_text())
        torch.set_num_threads(1)
        (checkpoint,) = (self.folder / "runs" / "base" / "checkpoints").glob("step-*20")
        llama = peer.llama_of(checkpoint, config["model"])
        batches = list(peer.batches_of(DRIVER, self.folder / "problems", config, 50))
        self.assertEqual({(tuple(ids), tuple(labels)) for documents in batches for ids, labels in documents}, self.records("problems"))
        theirs = peer.train(llama, batches, peer.learning_rates(run / "metrics.jsonl"), config["optimizer"])
        ours = self.losses("sft")
        self.assertEqual(len(ours), 50)
        self.assertLess(ours[-1], 0.8 * ours[0])
        difference = peer.largest_difference(ours, theirs)
        print(f"\n50 steps: largest relative difference of the loss {difference:.2g}", end=" ")
        self.assertLess(difference, 1e-4)

    def test_the_run_begins_anew_with_the_weights_alone_and_says_what_packing_did(self):
        first = self.metrics("sft")[0]
        self.assertEqual((first["event"], first["step"]), ("initial", 0))
        self.assertEqual([line["step"] for line in self.metrics("sft") if "event" not in line], list(range(1, 51)))
        packing = next(line for line in self.metrics("sft") if line.get("event") == "packing")
        self.assertEqual((packing["documents"], packing["cut_documents"]), (60, 0))
        self.assertIn("60 documents in", self.said)

    def test_a_resumed_run_ends_in_the_same_numbers(self):
        copy = self.folder / "runs" / "again"
        shutil.copytree(self.folder / "runs" / "sft", copy)
        for checkpoint in sorted((copy / "checkpoints").glob("step-*"))[1:]:
            shutil.rmtree(checkpoint)
        (kept,) = (copy / "checkpoints").glob("step-*")
        self.assertLess(int(kept.name[5:]), 40)
        (self.folder / "again").mkdir()
        copy.rename(self.folder / "again" / "sft")
        self.program("train", "sft.yaml", "--resume", "auto", "run.out=again")
        again = [json.loads(line) for line in (self.folder / "again" / "sft" / "metrics.jsonl").read_text().splitlines()]
        self.assertEqual([line["loss"] for line in again if "event" not in line], self.losses("sft"))
        self.assertEqual([line["loss"] for line in again if line.get("event") == "validation"], self.validations("sft"))

    def test_another_model_than_the_checkpoint_holds_is_refused_by_key(self):
        for override, what in (("model.attention.kv_heads=4", "model.attention.kv_heads: found 4; initial.checkpoint runs/base/checkpoints/step-0000000020 has 2"),
                               ("model.attention.rope_theta=500", "model.attention.rope_theta: found 500"),
                               ("model.blocks=3", "holds 2 blocks; this config begins with 3"),
                               ("initial.checkpoint=runs/none", "initial.checkpoint: runs/none: is not a checkpoint or run folder"),
                               ("initial.source_of=[0, 5]", "initial.source_of: growth map: entry 1 is 5; allowed: blocks 0 to 1"),
                               ("initial.chekpoint=x", "did you mean checkpoint?"), ("early_stop.patience=0", "early_stop.patience: found 0"),
                               ("data.document_mask=false", "data.packing: best_fit contradicts data.document_mask: false")):
            self.assertIn(what, self.program("train", "sft.yaml", "run.name=refused", override, code=2))
            self.assertFalse((self.folder / "runs" / "refused").exists())

    def test_a_loop_in_the_plan_and_a_loop_untied(self):
        self.program("train", "sft.yaml", "run.name=looped", "model.depth_plan=(0-1)x2", "schedule.steps=2", "schedule.warmup=0", "schedule.decay.from_step=0")
        self.program("train", "sft.yaml", "run.name=untied", "model.blocks=4", "initial.source_of=[0, 1, 0, 1]", "schedule.steps=2", "schedule.warmup=0",
                     "schedule.decay.from_step=0")
        # Before the first update they are the same function: two blocks called twice, and their copies called once.
        self.assertEqual(self.losses("looped")[0], self.losses("untied")[0])
        self.assertNotEqual(self.losses("looped")[0], self.losses("sft")[0])
        self.assertNotEqual(self.losses("looped")[1], self.losses("untied")[1])

    def test_validation_that_does_not_improve_ends_the_run(self):
        arguments = ("train", "sft.yaml", "run.name=early", "early_stop.patience=2", "early_stop.min_delta=0.5", "optimizer.lr=1e-9", "data.validation.every=3")
        said = self.program(*arguments)
        self.assertIn("step 9: no better validation for 2 in a row", said)
        self.assertIn("after step 3: runs/early/checkpoints/step-0000000003", said)
        checkpoints = sorted(path.name for path in (self.folder / "runs" / "early" / "checkpoints").glob("step-*"))
        self.assertIn("step-0000000003", checkpoints)
        self.assertEqual(checkpoints[-1], "step-0000000009")
        self.assertIn("has stopped early at step 9; nothing to do", self.program(*arguments, "--resume", "auto"))

    def chat(self, *lines, options=()):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MERISTEM_BINARY": PROGRAM}
        return subprocess.run([sys.executable, ROOT / "scripts" / "python" / "chat_session.py", self.folder / "runs" / "sft", "--chat", "--temperature", "0",
                               "--max-tokens", "60", *options], input="".join(line + "\n" for line in lines), capture_output=True, text=True, env=environment)

    def test_the_ready_configs_are_valid(self):
        configs = sorted((ROOT / "configs" / "sft").glob("*.yaml"))
        self.assertGreater(len(configs), 1)
        for config in configs:
            self.assertIn("parameters", self.program("plan", config))

    def test_a_chat_in_a_pipe(self):
        question = json.loads((self.folder / "problems.jsonl").read_text().splitlines()[0])["prompt"]
        both = self.chat(question, "/reset", question, "/quit", "unheard")
        self.assertEqual((both.returncode, both.stderr), (0, ""))
        half = both.stdout[: len(both.stdout) // 2]
        self.assertTrue(half.strip())
        self.assertEqual(both.stdout, half * 2)
        # Without /reset the first answer stands before the second question.
        self.assertNotEqual(self.chat(question, question).stdout, both.stdout)
        self.assertEqual(self.chat("say <|endoftext|>").returncode, 2)


if __name__ == "__main__":
    unittest.main(verbosity=2)
