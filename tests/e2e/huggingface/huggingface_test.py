"""Folders that transformers wrote come in, folders that transformers loads go out, and the logits are the same on both sides. Those that go out with
code of their own are in code_test.py, which runs along: transformers takes seconds to load."""

import copy  # some classes write into what they are given
import json
import sys
import tempfile
import unittest
from pathlib import Path

from code_test import IDS, PROGRAM, Code, our_logits  # noqa: F401  (first: it sets what transformers reads)

try:
    import numpy as np
    import torch
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(4)

import program  # noqa: E402
from text_commands import write_shard  # noqa: E402

SHAPE = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
         "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 50000.0}}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 50000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 16}
WINDOWED = {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 0}
# Name of the case: model_type, what its config has beside SHAPE.
FAMILIES = {
    "llama3": ("llama", {"rope_parameters": LLAMA3}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral, window": ("mistral", {"sliding_window": 7}),
    "qwen3": ("qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "qwen3, window": ("qwen3", {"head_dim": 8, **WINDOWED}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2, window": ("qwen2", WINDOWED),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0, 1], "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}),
    "phi3": ("phi3", {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}),
    "phi3, window": ("phi3", {"sliding_window": 7, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}),
    "olmo2": ("olmo2", {"rms_norm_eps": 1e-5, "pad_token_id": 0, "eos_token_id": 2}),
    "olmo2, tied, a key head a query head, scaled RoPE": ("olmo2", {"tie_word_embeddings": True, "num_key_value_heads": 4, "rope_parameters": LLAMA3,
                                                                   "pad_token_id": 0, "eos_token_id": 2}),
    "granite": ("granite", {"embedding_multiplier": 3.0, "residual_multiplier": 0.4, "attention_multiplier": 0.2, "logits_scaling": 2.5,
                            "tie_word_embeddings": True}),
    "gemma2": ("gemma2", {"head_dim": 16, "query_pre_attn_scalar": 9, "sliding_window": 7, "attn_logit_softcapping": 0.7, "final_logit_softcapping": 3.0}),
    "gemma2, no caps, one window for all, own head": ("gemma2", {"head_dim": 8, "sliding_window": 7, "layer_types": ["sliding_attention"] * 3,
                                                                  "attn_logit_softcapping": None, "final_logit_softcapping": None,
                                                                  "tie_word_embeddings": False}),
}
RUN = """\
run: {{name: on, out: {out}}}
model: {{vocab_size: 61, width: 32, blocks: {blocks}, norm_eps: 1e-5, tie_embeddings: {tied}, attention: {{heads: 4, kv_heads: 2, rope_theta: 50000}}, feed_forward: {{inner: 48}}}}
data: {{tokenizer: {tokenizer}, sequence_length: 32, sources: {{one: {{path: {data}}}}}}}
optimizer: {{lr: 1e-3}}
schedule: {{steps: 2, warmup: 0, decay: {{kind: none}}}}
batch: {{tokens: 32}}
"""


def logits_of(folder, dtype=torch.float32, **options):
    if json.loads((folder / "config.json").read_text())["model_type"] == "gemma2":
        options["attn_implementation"] = "eager"  # sdpa leaves the cap on its scores out
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options)(torch.tensor([IDS])).logits[0].float().numpy()


def tensors_of(folder):
    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in file.keys()}
    return found


class HuggingFace(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def model(self, name="hf", dtype=torch.float32, shard="1GB", family="llama", **changes):
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **copy.deepcopy(SHAPE | changes)))
        for parameter in model.parameters():  # gains that are not one, biases that are not zero, logits that are not near zero
            parameter.data = parameter.data * 8 + torch.rand_like(parameter) * 0.1
        model.to(dtype).save_pretrained(self.folder / name, max_shard_size=shard)
        (self.folder / name / "tokenizer.json").write_text('{"version": "1.0", "model": {"vocab": {}}}')
        (self.folder / name / "chat_template.jinja").write_text("{{ messages }}")
        return self.folder / name

    def run_program(self, *arguments, code=0):
        found, out, err = program.run(PROGRAM, *arguments)
        self.assertEqual(found, code, err)
        return out + err

    def agree(self, checkpoint, folder):
        theirs = logits_of(folder)
        self.assertGreater(np.abs(theirs).max(), 0.5)
        self.assertLess(np.abs(our_logits(self, checkpoint) - theirs).max(), 1e-4)

    def test_round_trips(self):
        kinds = [("plain", {}), ("tied", {"tie_word_embeddings": True}), ("shards", {"shard": "20KB"}),
                 ("bf16", {"dtype": torch.bfloat16, "num_key_value_heads": 4}), ("wide_heads", {"head_dim": 16, "num_key_value_heads": 1})]
        for name, options in kinds:
            with self.subTest(name):
                before, ours, after = self.model(name, **options), self.folder / f"{name}.ours", self.folder / f"{name}.after"
                self.run_program("import", before, "--out", ours)
                self.agree(ours, before)
                said = self.run_program("export", ours, "--out", after)
                self.assertIn("LlamaForCausalLM of 3 layers", said)
                first, second = tensors_of(before), tensors_of(after)
                self.assertEqual(first.keys(), second.keys())
                for key in first:
                    self.assertEqual(first[key].dtype, second[key].dtype)
                    self.assertTrue(torch.equal(first[key].view(torch.uint8), second[key].view(torch.uint8)), key)
                np.testing.assert_array_equal(logits_of(before), logits_of(after))
                for file in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
                    self.assertEqual((before / file).read_bytes(), (after / file).read_bytes())
                configs = [LlamaConfig.from_pretrained(folder).to_dict() for folder in (before, after)]
                self.assertEqual(*configs)

    def test_every_family_comes_in_and_goes_out_as_its_own_class(self):
        for name, (family, changes) in FAMILIES.items():
            with self.subTest(name):
                before, ours, after = self.model(name, family=family, **changes), self.folder / f"{name}.ours", self.folder / f"{name}.after"
                self.run_program("import", before, "--out", ours)
                self.agree(ours, before)
                self.run_program("export", ours, "--out", after)
                architecture = json.loads((before / "config.json").read_text())["architectures"]
                self.assertEqual(json.loads((after / "config.json").read_text())["architectures"], architecture)
                self.agree(ours, after)
                # Grown it is still of its class; a pattern of layers grows by whole groups.
                add = 2 if family == "smollm3" or name == "gemma2" else 1
                self.run_program("grow", ours, "--operator", "append", "--add", add, "--out", self.folder / f"{name}.grown")
                self.run_program("export", self.folder / f"{name}.grown", "--out", self.folder / f"{name}.larger")
                larger = json.loads((self.folder / f"{name}.larger" / "config.json").read_text())
                self.assertEqual((larger["architectures"], larger["num_hidden_layers"]), (architecture, 3 + add))
                self.agree(self.folder / f"{name}.grown", self.folder / f"{name}.larger")
                # With a loop it brings its code.
                self.run_program("export", ours, "--with-code", "--out", self.folder / f"{name}.code")
                again = logits_of(self.folder / f"{name}.code", trust_remote_code=True)
                self.assertLess(np.abs(our_logits(self, ours) - again).max(), 1e-4)

    def test_interleaved_queries_and_keys(self):
        """A model whose rows are stored in pairs computes, once imported, what the same model stored in halves does; gains of rows move along."""
        from safetensors.torch import save_file

        for family, options in {"qwen3": {"head_dim": 8}, "olmo2": FAMILIES["olmo2"][1], "llama": {}}.items():
            halves, pairs = (self.model(f"{family}.{name}", family=family, **options) for name in ("halves", "pairs"))
            tensors = tensors_of(pairs)
            for name, tensor in tensors.items():
                if name.endswith(("q_proj.weight", "k_proj.weight", "q_norm.weight", "k_norm.weight")):
                    heads = tensor.view(-1, 2, 4, *tensor.shape[1:])  # [head, half, pair, …] of head_dim 8
                    tensors[name] = heads.transpose(1, 2).reshape(tensor.shape).contiguous()
            save_file(tensors, pairs / "model.safetensors", {"format": "pt"})
            self.run_program("import", pairs, "--out", self.folder / f"{family}.ours", "--rope", "interleaved")
            self.agree(self.folder / f"{family}.ours", halves)
        config = json.loads((pairs / "config.json").read_text()) | {"rope_interleaved": True}
        (pairs / "config.json").write_text(json.dumps(config))
        self.run_program("import", pairs, "--out", self.folder / "by_config")
        self.agree(self.folder / "by_config", halves)
        self.run_program("export", self.folder / "by_config", "--out", self.folder / "out")
        np.testing.assert_array_equal(logits_of(self.folder / "out"), logits_of(halves))

    def test_import_grow_train_export(self):
        write_shard(self.folder / "data", 61, [np.random.default_rng(length).integers(0, 61, length) for length in (100, 50, 70)])
        before = self.model(tie_word_embeddings=True)
        (before / "tokenizer.json").unlink()
        from tokenizers import Tokenizer, models

        Tokenizer(models.WordLevel({str(number): number for number in range(61)})).save(str(before / "tokenizer.json"))
        imported = self.folder / "imported"
        self.run_program("import", before, "--out", imported)
        self.run_program("grow", imported, "--operator", "lidas", "--add", 2, "--out", self.folder / "grown")
        for blocks, start in ((3, imported), (5, self.folder / "grown")):  # the second config leaves the model to the checkpoint
            with self.subTest(blocks):
                config = self.folder / f"{blocks}.yaml"
                config.write_text(RUN.format(out=self.folder / str(blocks), blocks=blocks, tied="true", tokenizer=imported / "tokenizer.json",
                                             data=self.folder / "data"))
                if blocks == 5:
                    config.write_text("".join(line for line in config.read_text().splitlines(True) if not line.startswith("model:")))
                self.run_program("train", config, "--branch", start)
                run, after = self.folder / str(blocks) / "on", self.folder / f"after{blocks}"
                said = self.run_program("export", run, "--out", after)
                self.assertIn("3 files carried along", said)
                self.agree(run, after)
                self.assertEqual(LlamaConfig.from_pretrained(after).num_hidden_layers, blocks)
                if blocks == 3:  # it has learned something
                    self.assertGreater(np.abs(logits_of(after) - logits_of(before)).max(), 1e-3)

    def imported_smollm3(self):
        family, changes = FAMILIES["smollm3"]
        self.run_program("import", self.model("smol", family=family, **changes), "--out", self.folder / "smol.ours")
        return self.folder / "smol.ours"

    def test_refusals(self):
        folder = self.model(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0})
        said = self.run_program("import", folder, "--out", self.folder / "x", code=2)
        self.assertIn("hf/config.json: rope_parameters: found", said)
        said = self.run_program("grow", self.imported_smollm3(), "--operator", "append", "--add", 1, "--out", self.folder / "x", code=2)
        self.assertIn("block 3 would be a copy of block 2", said)
        biased = self.model("biased", attention_bias=True)
        self.assertIn("biased/config.json: attention_bias: found 'true'", self.run_program("import", biased, "--out", self.folder / "x", code=2))
        plain = self.model("plain")
        with open(plain / "model.safetensors", "r+b") as file:
            file.truncate(5000)
        self.assertIn("plain/model.safetensors", self.run_program("import", plain, "--out", self.folder / "x", code=4))
        self.assertIn("is not a folder", self.run_program("import", self.folder / "none", "--out", self.folder / "x", code=2))
        self.assertFalse((self.folder / "x").exists())


if __name__ == "__main__":
    unittest.main(verbosity=2)
