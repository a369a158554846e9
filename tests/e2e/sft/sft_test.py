"""Supervised fine-tuning from masked shards to an answer: a run from a checkpoint, its loss curve beside transformers', refusals, a chat. Of a
folder that transformers wrote: imported_test.py, which runs along, since transformers takes seconds to load."""

import json
import os
import shutil
import subprocess
import sys
import unittest
from pathlib import Path

try:
    import torch
    import yaml
    import transformers  # noqa: F401
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(4)

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from conversations import ROOT, Case, call, write_problems  # noqa: E402
import program  # noqa: E402
import transformers_peer as peer  # noqa: E402
from imported_test import PROGRAM, Imported  # noqa: E402, F401
from text import tokenizing  # noqa: E402
from text.shards import Mask, Shard  # noqa: E402

DRIVER = sys.argv.pop(1)
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


class Training(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        case = cls()
        call(tokenizing, case.folder / "text.jsonl", "--tokenizer", case.folder / "tokenizer", "--out", case.folder / "text")
        case.tokenize(write_problems(case.folder / "problems.jsonl", 60, 7), out="problems")
        case.tokenize(write_problems(case.folder / "held_out.jsonl", 12, 8), out="held_out")
        (case.folder / "base.yaml").write_text(BASE)
        (case.folder / "sft.yaml").write_text(SFT)
        case.program("train", "base.yaml")
        cls.said = case.program("train", "sft.yaml")

    def program(self, *arguments, code=0):
        found, out, err = program.run(PROGRAM, *arguments, cwd=self.folder)
        self.assertEqual(found, code, err[-2000:])
        return out + err

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

    def test_real_and_trained_tokens_stand_beside_positions(self):
        """After an epoch each record's tokens have been inputs once, and each token of its mask a target once."""
        records = self.records("problems")
        packing = next(line for line in self.metrics("sft") if line.get("event") == "packing")
        steps = [line for line in self.metrics("sft") if "event" not in line]
        epoch = next(line for line in steps if line["tokens"] >= packing["sequences"] * 192)
        epochs = epoch["tokens"] / (packing["sequences"] * 192)
        lengths = [len(ids) for ids, _ in records]
        trained = [sum(label != -100 for label in labels) for _, labels in records]
        self.assertAlmostEqual(epoch["real_tokens"] / epochs / sum(lengths), 1, delta=0.1)
        self.assertAlmostEqual(epoch["trained_tokens"] / epochs / sum(trained), 1, delta=0.1)
        for line in steps:
            self.assertLess(line["trained_tokens"], line["real_tokens"])
            self.assertLess(line["real_tokens"], line["tokens"])
            self.assertLess(line["trained_tokens_per_second"], line["real_tokens_per_second"])
            self.assertLess(line["real_tokens_per_second"], line["tokens_per_second"])
        self.assertAlmostEqual(steps[-1]["flops"] / (50 * steps[0]["flops"]), 1)
        self.assertRegex(self.said, r"tokens/s \([0-9.k]+ real, [0-9.k]+ trained\)")
        self.assertRegex(self.said, r"kernels: .*; 1 thread\b")

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
        for key in ("real_tokens", "trained_tokens", "flops"):
            self.assertEqual([line[key] for line in again if "event" not in line], [line[key] for line in self.metrics("sft") if "event" not in line])
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

    def test_the_template_of_the_data_goes_with_the_run_and_its_export(self):
        mine = self.file("mine.jinja", (self.folder / "tokenizer/chat_template.jinja").read_text().strip().replace("###", "@"))
        problems = self.folder / "problems.jsonl"
        self.assertEqual(self.tokenize(problems, "--chat-template", mine, out="mine")[0], 0)
        both = "data.sources={problems: {path: problems}, mine: {path: mine}}"
        said = self.program("train", "sft.yaml", "run.name=both", both, code=2)
        self.assertIn("data.sources.mine: mine: was rendered by another chat template than data.sources.problems: problems", said)
        self.assertFalse((self.folder / "runs/both").exists())
        self.program("train", "sft.yaml", "run.name=mine", "data.sources={problems: {path: mine}}", "data.validation={held_out: {path: mine}}", "schedule.steps=2",
                     "schedule.warmup=0", "schedule.decay.from_step=0")
        run = self.folder / "runs/mine"
        self.assertEqual((run / "chat_template.jinja").read_text(), mine.read_text())
        self.assertEqual(json.loads((run / "text.json").read_text()), {"begin_of_text": [], "end_of_text": 0})
        mine.unlink()
        self.assertEqual(self.chat("Name a tree.", run="mine").returncode, 0)
        self.program("export", "runs/mine", "--out", "exported")
        self.assertEqual((self.folder / "exported/chat_template.jinja").read_text(), (run / "chat_template.jinja").read_text())
        self.assertNotEqual((run / "chat_template.jinja").read_text(), (self.folder / "runs/sft/chat_template.jinja").read_text())

    def chat(self, *lines, options=(), run="sft"):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MERISTEM_BINARY": PROGRAM}
        return subprocess.run([sys.executable, ROOT / "scripts" / "python", "generate", self.folder / "runs" / run, "--chat", "--temperature", "0",
                               "--max-tokens", "60", *options], input="".join(line + "\n" for line in lines), capture_output=True, text=True, env=environment)

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
