"""Models that LlamaForCausalLM cannot compute go out with code of their own, and transformers computes what we do: loops, injection, depth
attention, experts; with another plan, with a cache, with padding."""

import json
import os
import sys
import tempfile
import unittest
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", TQDM_DISABLE="1", TRANSFORMERS_VERBOSITY="error", USE_TF="0")
scratch = tempfile.TemporaryDirectory()
os.environ["HF_MODULES_CACHE"] = scratch.name
try:
    import numpy as np
    import torch
    import yaml
    from transformers import AutoModelForCausalLM
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(4)

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))
import program  # noqa: E402
from text_commands import FolderCase, write_shard  # noqa: E402

PROGRAM = sys.argv.pop(1)
IDS = np.random.default_rng(1).integers(0, 61, 24).tolist()
MODEL = {"vocab_size": 61, "width": 32, "blocks": 3, "attention": {"heads": 4, "kv_heads": 2}, "feed_forward": {"inner": 48}}
EXPERTS = {"kind": "experts", "count": 6, "active": 2, "inner": 16, "shared": 1, "router_dim": 6}
MODELS = {
    "loop": {"depth_plan": "0, (1)x3, 2", "norm": "sandwich", "tie_embeddings": False},
    "add": {"depth_plan": "0, (1)x2, 2", "loop": {"injection": "add"}, "attention": {"heads": 4, "kv_heads": 2, "qk_norm": True, "rope_theta": 500}},
    "concat": {"depth_plan": "0, (1)x2, 2", "loop": {"injection": "concat"}},
    "dreamer": {"architecture": "dreamer", "blocks": 2, "depth_plan": "(0-1)x2", "depth_attention": {"kind": "separate", "heads": 2}, "feed_forward": EXPERTS},
    "updates": {"architecture": "dreamer", "blocks": 1, "depth_plan": "(0)x3", "norm": "sandwich",
                "depth_attention": {"kind": "separate", "keys": "updates", "position": "none"}},
    "post": {"architecture": "dreamer", "blocks": 2, "depth_plan": "(0-1)x2", "norm": "post", "depth_attention": {"kind": "separate", "heads": 2},
             "attention": {"heads": 4, "kv_heads": 2, "qk_norm": True, "qk_norm_over": "all"}, "feed_forward": EXPERTS},
    "updates under injection": {"architecture": "dreamer", "depth_plan": "0, (1)x2, 2", "loop": {"injection": "concat"},
                                "depth_attention": {"kind": "separate", "heads": 2, "keys": "updates"}},
    "joint": {"architecture": "dreamer", "blocks": 2, "depth_plan": "0, (1)x3", "depth_attention": {"kind": "joint"}, "feed_forward": EXPERTS},
    "values": {"architecture": "dreamer", "blocks": 1, "depth_plan": "(0)x4", "depth_attention": {"kind": "values"}},
    "families": {"attention": {"heads": 4, "kv_heads": 2, "qkv_bias": True, "window": 7, "no_rope_every": 2,
                               "rope_scaling": {"kind": "llama3", "factor": 4, "original_positions": 16}}, "depth_plan": "0, (1)x3, 2"},
    "layered experts": {"depth_plan": "0-2", "feed_forward": EXPERTS | {"shared": 0}},
}


def our_logits(case, checkpoint, *plan):
    """Of IDS, by the program's own code."""
    out = case.folder / "logits"
    code, _, err = program.run("logits", *plan, checkpoint, out, *IDS)
    case.assertEqual(code, 0, err)
    return np.fromfile(out, np.float32).reshape(len(IDS), -1)


class Code(FolderCase):
    def run_program(self, *arguments, code=0):
        found, out, err = program.run(PROGRAM, *arguments, cwd=self.folder)
        self.assertEqual(found, code, err)
        return out + err

    def trained(self, name, changes, **data):
        """A run of a few updates with a large learning rate, so that no weight is still at its start (some start at zero)."""
        if not (self.folder / "data.bin").exists():
            write_shard(self.folder / "data", 61, [np.random.default_rng(length).integers(0, 61, length) for length in (100, 50, 70)])
        config = {"run": {"name": name}, "model": {**MODEL, **changes},
                  "data": {"sequence_length": 32, "sources": {"one": {"path": "data"}}, **data},
                  "optimizer": {"lr": 0.05}, "schedule": {"steps": 6, "warmup": 0, "decay": {"kind": "none"}}, "batch": {"tokens": 64},
                  "logging": {"sample_tokens": 0}}
        self.file(f"{name}.yaml", yaml.safe_dump(config, sort_keys=False))
        self.run_program("train", f"{name}.yaml")
        return self.folder / "runs" / name

    def ours(self, checkpoint, *plan):
        return our_logits(self, checkpoint, *plan)

    def load(self, folder, **options):
        return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32, **options).eval()

    def agree(self, expected, model):
        with torch.no_grad():
            logits = model(torch.tensor([IDS])).logits[0].numpy()
        self.assertGreater(np.abs(expected).max(), 0.5)
        self.assertLess(np.abs(expected - logits).max(), 1e-4)

    def test_logits_of_every_kind_of_model(self):
        for name, changes in MODELS.items():
            with self.subTest(name):
                run, out = self.trained(name, changes), self.folder / f"{name}.hf"
                said = self.run_program("export", run, "--out", out)
                self.assertIn("MeristemForCausalLM of", said)
                expected, model = self.ours(run), self.load(out)
                self.agree(expected, model)
                self.cache_and_padding_change_nothing(expected, model)

    def cache_and_padding_change_nothing(self, expected, model):
        with torch.no_grad():
            first = model(torch.tensor([IDS[:20]]), use_cache=True)
            rest = model(torch.tensor([IDS[20:]]), past_key_values=first.past_key_values, use_cache=True)
            np.testing.assert_allclose(rest.logits[0].numpy(), expected[20:], atol=1e-4)
            padded = model(torch.tensor([[0] * 5 + IDS]), attention_mask=torch.tensor([[0] * 5 + [1] * len(IDS)]))
            np.testing.assert_allclose(padded.logits[0, 5:].numpy(), expected, atol=1e-4)
            greedy = model.generate(torch.tensor([IDS]), max_new_tokens=3, do_sample=False, pad_token_id=0)
        self.assertEqual(int(greedy[0, len(IDS)]), int(expected[-1].argmax()))

    def test_an_export_says_what_ends_a_text(self):
        """Of a run with a tokenizer of one's own, which brings nothing but tokenizer.json, and a chat template."""
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import AutoTokenizer, GenerationConfig

        words = Tokenizer(models.WordLevel({"<|endoftext|>": 3} | {f"w{number}": number for number in range(61) if number != 3}))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        words.add_special_tokens(["<|endoftext|>"])
        (self.folder / "own").mkdir()
        words.save(str(self.folder / "own/tokenizer.json"))
        self.file("own/chat_template.jinja", "{% for m in messages %}{{ m.content }} {{ eos_token }}{% endfor %}")
        self.file("own/vocab.json", "{}")  # a slow tokenizer's, which goes along too
        for name in ("plain", "loop"):
            with self.subTest(name):
                run = self.trained(f"{name}-own", MODELS.get(name, {}), tokenizer="own/tokenizer.json")
                said = self.run_program("export", run, "--out", self.folder / f"{name}.hf")
                self.assertNotIn("no tokenizer was found", said)
                self.assertTrue((self.folder / f"{name}.hf/vocab.json").exists())
                config = json.loads((self.folder / f"{name}.hf/config.json").read_text())
                self.assertEqual([config[f"{token}_token_id"] for token in ("bos", "eos", "pad")], [3, 3, 3])
                self.assertEqual(GenerationConfig.from_pretrained(self.folder / f"{name}.hf").eos_token_id, 3)
                tokenizer = AutoTokenizer.from_pretrained(self.folder / f"{name}.hf")
                self.assertEqual((tokenizer.eos_token, tokenizer.pad_token_id), ("<|endoftext|>", 3))
                self.assertEqual(tokenizer("w1 w2").input_ids, [1, 2])
                self.assertEqual(tokenizer.apply_chat_template([{"role": "user", "content": "w5"}], tokenize=False), "w5 <|endoftext|>")
                model = self.load(self.folder / f"{name}.hf")
                with torch.no_grad():  # where nothing but the end of text may be said, one token is all
                    text = model.generate(torch.tensor([IDS]), max_new_tokens=5, suppress_tokens=[id for id in range(61) if id != 3])
                self.assertEqual(text[0, len(IDS):].tolist(), [3])

    def test_the_plan_is_chosen_at_loading(self):
        run, out = self.trained("loop", MODELS["loop"]), self.folder / "hf"
        self.run_program("export", run, "--out", out)
        plans = {"0, (1)x5, 2": {"repeats": 5}, "0, (1)x4, 2, 2": {"depth_plan": "0; (1)x4; 2; 2"}}
        for plan, options in plans.items():
            self.agree(self.ours(run, "--plan", plan), self.load(out, **options))
        with self.assertRaisesRegex(ValueError, "calls block 3; there are 3"):
            self.load(out, depth_plan="0-3")
        with self.assertRaisesRegex(ValueError, "takes a plan with one loop"):
            self.load(out, depth_plan="0-2", repeats=2)
        # A plain decoder is a stock Llama, unless its plan shall be open to choice.
        plain = self.trained("plain", {})
        self.assertIn("LlamaForCausalLM of 3 layers", self.run_program("export", plain, "--out", self.folder / "stock"))
        self.run_program("export", plain, "--with-code", "--out", self.folder / "open", "--dtype", "bf16", "--shard-bytes", 20000)
        self.assertGreater(len(list((self.folder / "open").glob("*.safetensors"))), 1)
        config = json.loads((self.folder / "open/config.json").read_text())
        self.assertEqual((config["dtype"], config["depth_plan"], config["max_position_embeddings"]), ("bfloat16", "0-2", 32))
        self.assertLess(np.abs(self.ours(plain) - self.load(self.folder / "open")(torch.tensor([IDS])).logits[0].detach().numpy()).max(), 0.2)

    def test_norms_behind_the_mixers_need_no_code(self):
        attention = {"heads": 4, "kv_heads": 2, "qk_norm": True, "qk_norm_over": "all"}
        run, out = self.trained("olmo2", {"norm": "post", "attention": attention}), self.folder / "olmo2.hf"
        self.assertIn("Olmo2ForCausalLM of 3 layers", self.run_program("export", run, "--out", out))
        self.agree(self.ours(run), self.load(out))
        # Without norms of queries and keys no class has them.
        run = self.trained("bare", {"norm": "post"})
        self.assertIn("together with model.norm: post", self.run_program("export", run, "--out", self.folder / "bare.hf"))
        self.agree(self.ours(run), self.load(self.folder / "bare.hf"))

    def test_a_loop_that_is_not_written_as_a_group_can_be_repeated(self):
        sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "src" / "interop"))
        from modeling_meristem import DepthPlan

        self.assertEqual(DepthPlan("0-1, 1-2", 3).calls, [0, 1, 1, 1, 2])
        self.assertEqual(DepthPlan("0-2, 1-3", 1).calls, [0, 1, 2, 3])
        self.assertEqual(DepthPlan("3-1; (0)x2", 3).loop, (3, 1, 3))
        for text in ("((0)x2, 1)x2", "0-3"):
            with self.assertRaisesRegex(ValueError, "takes a plan with one loop"):
                DepthPlan(text, 2)
        for text in ("", "0-", "0 1", "(0-1)", "(0)x", "a"):
            with self.assertRaisesRegex(ValueError, "depth plan"):
                DepthPlan(text)

    def test_it_saves_and_loads_again_and_can_be_trained(self):
        run, out = self.trained("concat", MODELS["concat"]), self.folder / "hf"
        self.run_program("export", run, "--out", out)
        model = self.load(out)
        ids = torch.tensor([IDS])
        loss = model(ids, labels=ids).loss
        loss.backward()
        self.assertTrue(all(parameter.grad is not None for parameter in model.parameters()))
        self.checkpointing_changes_nothing(model, ids)
        model.save_pretrained(self.folder / "again")
        self.agree(self.ours(run), self.load(self.folder / "again"))


    def test_gradient_checkpointing_with_a_memory_of_the_depth(self):
        for name in ("updates", "joint", "values"):
            self.run_program("export", self.trained(name, MODELS[name]), "--out", self.folder / f"{name}.hf")
            model = self.load(self.folder / f"{name}.hf")
            ids = torch.tensor([IDS])
            model(ids, labels=ids).loss.backward()
            self.checkpointing_changes_nothing(model, ids)

    def checkpointing_changes_nothing(self, model, ids):
        plain = [None if parameter.grad is None else parameter.grad.clone() for parameter in model.parameters()]  # some experts are not used
        for reentrant in (False, True):
            model.zero_grad()
            model.train()
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
            model(ids, labels=ids).loss.backward()
            for found, expected in zip(model.parameters(), plain, strict=True):
                if expected is not None:
                    np.testing.assert_allclose(found.grad.numpy(), expected.numpy(), rtol=1e-4, atol=1e-6)
        model.gradient_checkpointing_disable()
        model.eval()


if __name__ == "__main__":
    unittest.main(verbosity=2)
