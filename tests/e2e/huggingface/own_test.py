"""The architecture of docs/adding_an_architecture.md goes out with its own Python, and transformers computes what we do: at once, with a state
between tokens, with padding, in a beam."""

import os
import subprocess
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
    from transformers import AutoModelForCausalLM
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(4)

DRIVER = sys.argv.pop(1)
IDS = np.random.default_rng(2).integers(0, 61, 40).tolist()


class Own(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(scratch.name) / "own"
        result = subprocess.run([DRIVER, cls.folder, *map(str, IDS)], capture_output=True, timeout=120)
        assert result.returncode == 0, result.stderr
        cls.expected = np.frombuffer(result.stdout, np.float32).reshape(len(IDS), -1)
        cls.model = AutoModelForCausalLM.from_pretrained(cls.folder, trust_remote_code=True, dtype=torch.float32).eval()

    def agree(self, logits, expected):
        np.testing.assert_allclose(logits.detach().numpy(), expected, atol=2e-4)

    def test_logits(self):
        self.assertGreater(np.abs(self.expected).max(), 0.5)
        self.agree(self.model(torch.tensor([IDS])).logits[0], self.expected)

    def test_a_state_between_tokens(self):
        with torch.no_grad():
            first = self.model(torch.tensor([IDS[:20]]), use_cache=True)
            cache = first.past_key_values
            for t in range(20, len(IDS)):
                self.agree(self.model(torch.tensor([IDS[t : t + 1]]), past_key_values=cache, use_cache=True).logits[0, 0], self.expected[t])
        self.assertEqual(len(cache.states), 4)  # one for each call
        self.assertEqual({tuple(state.shape) for state in cache.states.values()}, {(1, 2, 16, 16)})
        self.assertEqual(len(cache.layers), 0)  # no keys and values

    def test_padding(self):
        mask = torch.tensor([[0] * 5 + [1] * len(IDS)])
        self.agree(self.model(torch.tensor([[7] * 5 + IDS]), attention_mask=mask).logits[0, 5:], self.expected)

    def test_generation(self):
        options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        with torch.no_grad():
            greedy = self.model.generate(torch.tensor([IDS]), **options)
            self.assertEqual(int(greedy[0, len(IDS)]), int(self.expected[-1].argmax()))
            for beams in (1, 3):
                with_state = self.model.generate(torch.tensor([IDS]), num_beams=beams, **options)
                without = self.model.generate(torch.tensor([IDS]), num_beams=beams, use_cache=False, **options)
                self.assertEqual(with_state.tolist(), without.tolist())


if __name__ == "__main__":
    unittest.main(verbosity=2)
