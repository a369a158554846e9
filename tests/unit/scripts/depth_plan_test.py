"""Depth plans in Python: what the program writes is read, repeats make the calls that they say, text and calls agree."""

import random
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts" / "python"))

from depth_plan import plan_of, text_of  # noqa: E402


class DepthPlanTest(unittest.TestCase):
    def test_texts(self):
        for text, calls, loop in (("0-3", [0, 1, 2, 3], None), ("0, (1-2)x2, 3", [0, 1, 2, 1, 2, 3], (1, 2, 2)), ("3-1", [3, 2, 1], None), ("0;(1)x1", [0, 1], (1, 1, 1)),
                                  ("((0-1)x2, 2)x2", [0, 1, 0, 1, 2] * 2, None), ("(0)x2, (1)x2", [0, 0, 1, 1], None)):
            plan = plan_of(text)
            self.assertEqual((list(plan.calls), plan.loop), (calls, loop), text)
        for text in ("", "0-", "(0-1)", "(0-1)x", "0,,1", "a", "0 1", "(0)x99999999"):
            with self.assertRaises(ValueError, msg=text):
                plan_of(text)

    def test_text_and_calls_agree(self):
        draw = random.Random(1)
        for _ in range(500):
            calls = tuple(draw.randrange(4) for _ in range(draw.randrange(1, 12)))
            self.assertEqual(plan_of(text_of(calls)).calls, calls, text_of(calls))

    def test_repeats(self):
        plan = plan_of("0, (1-2)x2, 3")
        self.assertEqual(plan.repeated(1, 2, 3).text, "0, (1-2)x4, 3")
        self.assertEqual(plan.repeated(3, 2, 3).loop_text(), "0, (1-2)x4, 3")
        self.assertEqual((plan.repeated(2, 2, 2).calls, plan.repeated(2, 2, 2).loop), ((0, 1, 2, 1, 2, 1, 2, 3), None))
        self.assertEqual(plan_of("0-11").repeated(4, 4, 2).text, "0-3, (4-7)x2, 8-11")
        self.assertEqual(plan.repeated(0, 6, 1), plan)


if __name__ == "__main__":
    unittest.main()
