"""Fine-tuning of a folder that transformers itself wrote: import, `data tokenize --chat`, train, `generate --chat`, export, and transformers
loads what came out, chat template included, and says what our chat says. The config has no model section: the checkpoint knows its model."""

import json
import os
import subprocess
import sys
import unittest
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TQDM_DISABLE="1", TRANSFORMERS_VERBOSITY="error", USE_TF="0")
try:
    import torch
    import yaml
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(4)

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from conversations import CHATML, ROOT, VOCAB, Case, write_problems  # noqa: E402
import program  # noqa: E402

PROGRAM = sys.argv.pop(1)
SFT = """\
run: {name: tuned, out: runs}
initial: {checkpoint: imported}
data:
  tokenizer: imported/tokenizer.json
  sequence_length: 192
  packing: best_fit
  sources: {problems: {path: problems}}
  validation: {held_out: {path: held_out}}
optimizer: {lr: 3e-3}
schedule: {steps: 30, warmup: 3}
batch: {tokens: 1536}
logging: {sample_tokens: 0}
"""


class Imported(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        case = cls()
        cls.hub_folder()
        cls.imported = case.program("import", "hub", "--out", "imported")
        for name, seed in (("problems", 7), ("held_out", 8)):
            code, _, err = case.tokenize(write_problems(cls.folder / f"{name}.jsonl", 60, seed, "messages"), out=name, tokenizer="imported")
            assert (code, err) == (0, ""), err
        (cls.folder / "sft.yaml").write_text(SFT)
        case.program("train", "sft.yaml")

    @classmethod
    def hub_folder(cls):
        """A tiny Llama with unusual numbers, so that a default in their place would show, and a tokenizer with turns."""
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(cls.folder / "tokenizer/tokenizer.json"), eos_token="<|im_end|>", chat_template=CHATML)
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
        torch.manual_seed(1)
        rope = {"rope_type": "default", "rope_theta": 30000.0}
        shape = LlamaConfig(vocab_size=VOCAB + 2, hidden_size=48, intermediate_size=80, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
                            rms_norm_eps=3e-5, rope_parameters=rope, eos_token_id=tokenizer.eos_token_id, bos_token_id=None)
        LlamaForCausalLM(shape).save_pretrained(cls.folder / "hub")
        tokenizer.save_pretrained(cls.folder / "hub")

    def program(self, *arguments, code=0):
        found, out, err = program.run(PROGRAM, *arguments, cwd=self.folder)
        self.assertEqual(found, code, err[-2000:])
        return out + err

    def config_of(self, run):
        return yaml.safe_load((self.folder / "runs" / run / "config.yaml").read_text())

    def losses(self, run):
        lines = (self.folder / "runs" / run / "metrics.jsonl").read_text().splitlines()
        return [line["loss"] for line in map(json.loads, lines) if "event" not in line]

    def short(self, name, *overrides, code=0):
        return self.program("train", "sft.yaml", f"run.name={name}", "schedule.steps=2", "schedule.warmup=0", "logging.every=1", *overrides, code=code)

    def test_the_model_is_the_checkpoint_s_where_the_config_is_silent(self):
        model = self.config_of("tuned")["model"]
        self.assertEqual((model["vocab_size"], model["width"], model["blocks"], float(model["norm_eps"])), (VOCAB + 2, 48, 4, 3e-5))
        self.assertEqual((model["attention"]["rope_theta"], model["attention"]["kv_heads"], model["tie_embeddings"]), (30000, 2, False))
        # As if all had been written down; plan and inspection know it too.
        model["norm_eps"] = float(model["norm_eps"])  # PyYAML takes 3e-05 for a text
        self.short("silent")
        (self.folder / "said.yaml").write_text(SFT + "model: " + json.dumps(model) + "\n")
        self.program("train", "said.yaml", "run.name=said", "schedule.steps=2", "schedule.warmup=0", "logging.every=1")
        self.assertEqual(self.losses("silent"), self.losses("said"))
        self.assertIn("4 blocks", self.program("plan", "sft.yaml"))

    def test_what_contradicts_the_checkpoint_is_refused(self):
        for override, what in (("model.norm_eps=1e-5", "model.norm_eps: found 1e-05; initial.checkpoint imported has 3e-05"),
                               ("model.blocks=5", "initial.checkpoint: imported: holds 4 blocks; this config begins with 5"),
                               ("model.attention.rope_theta=10000", "model.attention.rope_theta: found 10000"),
                               ("model.loop={injection: concat, repeats: 2}", "needs exactly one loop group"),
                               ("model={depth_plan: '0, (1-2)x2, 3', loop: {injection: concat}}", "model.loop.injection: found concat; initial.checkpoint imported has none"),
                               ("initial.checkpoint=none", "initial.checkpoint: 'none' is not there, and without it nothing says what the model is"),
                               ("growth={from_blocks: 4, add_blocks: 2}", "model.blocks: is missing; a run that grows says its full depth")):
            said = self.short("refused", override, code=2)
            self.assertIn(what, said)
            self.assertEqual(len(said.strip().splitlines()), 1, said)
            self.assertFalse((self.folder / "runs" / "refused").exists())

    def test_loops_copies_and_growth_need_no_other_key(self):
        self.short("looped", "model.depth_plan=0, (1-2)x2, 3")
        self.short("untied", "initial.source_of=[0, 1, 2, 1, 2, 3]")
        self.assertEqual(self.losses("looped")[0], self.losses("untied")[0])
        self.assertEqual(self.config_of("untied")["model"]["blocks"], 6)
        # A run that begins with the looped one has its loop; what is injected into it has to be said where.
        self.short("again", "initial.checkpoint=runs/looped")
        self.assertEqual([self.config_of(run)["model"]["depth_plan"] for run in ("looped", "again")], 2 * ["0, (1-2)x2, 3"])
        self.short("injected", "initial.checkpoint=runs/looped", "model={depth_plan: '0, (1-2)x2, 3', loop: {injection: add}}")
        self.assertNotEqual(self.losses("injected")[0], self.losses("again")[0])
        self.short("grown", "model.blocks=6", "growth={from_blocks: 4, add_blocks: 2, schedule: {kind: at_steps, at_steps: [1]}}")
        self.assertEqual(self.config_of("grown")["model"]["depth_plan"], "0-5")

    def test_a_tokenizer_with_ids_beyond_the_model_is_refused_on_the_way_in_and_out(self):
        big = self.folder / "big"
        big.mkdir()
        for path in (self.folder / "hub").iterdir():
            (big / path.name).symlink_to(path)
        tokenizer = json.loads((self.folder / "hub/tokenizer.json").read_text())
        tokenizer["added_tokens"].append({**tokenizer["added_tokens"][-1], "id": VOCAB + 2, "content": "<more>"})
        (big / "tokenizer.json").unlink()
        (big / "tokenizer.json").write_text(json.dumps(tokenizer))
        what = f"big/tokenizer.json: has {VOCAB + 3} ids, model.vocab_size is {VOCAB + 2}"
        self.assertIn(what, self.program("import", "big", "--out", "big_in", code=2))
        self.assertIn(what, self.program("export", "runs/tuned", "--tokenizer", "big", "--out", "big_out", code=2))
        self.assertFalse((self.folder / "big_in").exists() or (self.folder / "big_out").exists())

    def test_it_ends_in_transformers(self):
        said = self.program("export", "runs/tuned", "--out", "out")
        self.assertIn("LlamaForCausalLM of 4 layers", said)
        tokenizer, model = AutoTokenizer.from_pretrained(self.folder / "out"), AutoModelForCausalLM.from_pretrained(self.folder / "out")
        question = json.loads((self.folder / "problems.jsonl").read_text().splitlines()[0])["messages"][:1]
        prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        theirs = model.generate(**prompt, max_new_tokens=40, do_sample=False, pad_token_id=0)[0, prompt["input_ids"].shape[1] :]
        environment = os.environ | {"MERISTEM_BINARY": PROGRAM}
        ours = subprocess.run([sys.executable, ROOT / "scripts/python", "generate", self.folder / "runs/tuned", "--chat", "--temperature", "0",
                               "--max-tokens", "40"], input=question[0]["content"] + "\n", capture_output=True, text=True, env=environment)
        self.assertEqual(ours.returncode, 0, ours.stderr)
        self.assertTrue(ours.stdout.strip())
        self.assertEqual(ours.stdout.removesuffix("\n"), tokenizer.decode(theirs, skip_special_tokens=True))


if __name__ == "__main__":
    unittest.main(verbosity=2)
