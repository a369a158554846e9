"""Intervals of sweeps: as wide as items and seeds make them; tables whose numbers read back equal."""

import csv
import json
import sys
import unittest
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))

from text_commands import FolderCase  # noqa: E402
from sweeps import results  # noqa: E402


class ResultsTest(FolderCase):
    def test_an_interval_is_as_wide_as_items_make_it(self):
        for items, right in ((100, 75), (400, 100)):
            hits = np.zeros((1, items))
            hits[0, :right] = 1
            low, high = results.interval(hits, 1)
            share = right / items
            for found, sign in ((low, -1), (high, 1)):
                self.assertAlmostEqual(found, share + sign * 1.96 * (share * (1 - share) / items) ** 0.5, delta=0.01)
            self.assertEqual(results.interval(hits, 1), [low, high])
        for constant in (np.ones((3, 7)), np.ones((1, 1))):
            np.testing.assert_allclose(results.interval(constant, 5), [1, 1], rtol=1e-12)

    def test_seeds_that_differ_widen_it(self):
        """Items that all say the same leave the spread of seeds alone: of three values, means of three drawn with replacement."""
        values = np.repeat([[0.0], [0.5], [1.0]], 50, axis=1)
        low, high = results.interval(values, 1)
        self.assertEqual((low < 0.1, high > 0.9), (True, True))
        alike = results.interval(np.repeat([[0.5]] * 3, 50, axis=1), 1)
        np.testing.assert_allclose(alike, [0.5, 0.5], rtol=1e-12)

    def test_differences_are_taken_item_by_item(self):
        """A setting that is right on all that the other is right on, and five more, is better beyond doubt, though both intervals overlap."""
        before, after = np.zeros(100), np.zeros(100)
        before[:40], after[:50] = 1, 1
        scores = [{"hits": hits, "margins": -hits} for hits in (before, after)]
        row = results.accuracy([scores[1]], 1, [scores[0]])
        self.assertEqual((row["items"], row["seeds"], row["accuracy"], row["gold_log_probability"]), (100, 1, 0.5, -0.5))
        self.assertAlmostEqual(row["difference"], 0.1)
        self.assertGreater(row["difference_low"], 0)
        self.assertLess(row["low"], results.accuracy([scores[0]], 1, [scores[0]])["high"])

    def test_numbers_read_back_equal(self):
        rows = [{"model": "a, b", "start": None, "accuracy": 1 / 3, "low": 1e-17}]
        results.write_table(self.folder, {"sweep": "loops"}, rows)
        with (self.folder / "table.csv").open(newline="") as file:
            [read] = csv.DictReader(file)
        self.assertEqual((read["model"], read["start"], float(read["accuracy"]), float(read["low"])), ("a, b", "", 1 / 3, 1e-17))
        self.assertEqual(json.loads((self.folder / "table.json").read_text()), {"format": 1, "sweep": "loops", "rows": rows})


if __name__ == "__main__":
    unittest.main()
