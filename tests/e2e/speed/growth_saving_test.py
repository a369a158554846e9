"""Growing saves the seconds that `plan` promises in FLOPs, and a growth costs less than two steps. One process, all depths, alternating."""

import json
import os
import subprocess
import tempfile
import unittest
from pathlib import Path

CONFIG = """
model: {vocab_size: 1024, width: 128, blocks: 12, attention: {heads: 4, kv_heads: 2}, feed_forward: {inner: 352}}
growth: {operator: lidas, from_blocks: 4, add_blocks: 4}
data: {sequence_length: 128, sources: {none: {path: none}}}
batch: {tokens: 2048, micro_sequences: 16}
schedule: {steps: 300}
"""


class GrowthSaving(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "grow.yaml"
            config.write_text(CONFIG)
            output = subprocess.run([os.environ["MERISTEM_BENCH"], "growth", str(config), "--rounds", "21"], check=True, stdout=subprocess.PIPE)
        cls.report = json.loads(output.stdout)
        print(json.dumps(cls.report))

    def test_at_least_95_percent_of_the_predicted_saving_is_realised(self):
        self.assertGreater(self.report["predicted_saving"], 0.15)
        self.assertGreaterEqual(self.report["realised_saving"], 0.95 * self.report["predicted_saving"])

    def test_a_growth_costs_less_than_two_steps(self):
        self.assertEqual([stage["blocks"] for stage in self.report["stages"]], [4, 8, 12])
        for stage in self.report["stages"][1:]:
            self.assertGreater(stage["growth_seconds"], 0)
            self.assertLess(stage["growth_seconds"], 2 * stage["step_seconds"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
