"""Reasoning primitives: each item can be solved from its own text, and is what the method says."""

import collections
import re
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "scripts" / "python"))

from command import UserError  # noqa: E402
from evaluation import evaluate, primitives  # noqa: E402


def solved_copy(context):
    """The next word, found by reading the blank's line alone."""
    words = re.search(r"\n\n([^\n]*) ___\. ->$", context).group(1).split()
    whole, shown = words[:10], words[10:]
    at = next(i for i in range(6) if whole[i:i + 5] == shown)
    return whole[at + 5]


def solved_assignment(context):
    """Follows the names from the question to the number; every name must be defined before it is used."""
    question = re.search(r"(\w)=___\. ->$|value of (\w)\?\nAnswer:$", context)
    value_of = {}
    for name, value in re.findall(r"^(\w) ?= ?(\w+)$", context, re.M):
        assert name not in value_of, "a name twice"
        value_of[name] = value if value.isdigit() else value_of[value]
    return value_of[question.group(1) or question.group(2)]


class Primitives(unittest.TestCase):
    def test_an_oracle_is_right_on_every_item(self):
        """It reads the context alone, names a choice, and is scored as a model is."""
        for task in primitives.task_names():
            solve = solved_copy if task.startswith("copy") else solved_assignment
            items = [primitives.make_item(task, "eval/42", index) for index in range(1000)]
            scores = [[0.0 if choice == " " + solve(item.context) else -1.0 for choice in item.choices] for item in items]
            result = evaluate.result_of(evaluate.Task(task, items, primitives.chance(task), 0), scores, seed=1)
            self.assertEqual((result["accuracy"], result["interval"], result["ties"]), (1.0, [1.0, 1.0], 0), task)

    def test_who_knows_a_place_or_a_length_alone_is_at_chance(self):
        """Right answers stand equally often at each place; and they are no longer and no shorter than the others, but for chance: 4 standard errors of 1,000 items."""
        for task in primitives.task_names():
            items, chance = [primitives.make_item(task, "eval/42", index) for index in range(1000)], primitives.chance(task)
            self.assertEqual(set(collections.Counter(item.gold for item in items).values()), {round(1000 * chance)}, task)
            for sign in (1, -1):
                scores = [[float(sign * len(choice)) for choice in item.choices] for item in items]
                found = evaluate.result_of(evaluate.Task(task, items, chance, 0), scores, seed=1)["accuracy"]
                self.assertLess(abs(found - chance), 4 * (chance * (1 - chance) / 1000) ** 0.5, (task, sign))

    def test_training_text_holds_no_item_of_an_evaluation(self):
        for task in primitives.task_names():
            tested = {primitives.make_item(task, f"eval/{seed}", index).context for seed in (1, 2, 42) for index in range(200)}
            for seed in (1, 2, 42):
                for text in primitives.documents([task], 40, 2, seed):
                    self.assertFalse([context for context in tested if context in text], task)

    def test_choices_differ_and_right_answers_take_turns(self):
        for task in primitives.task_names():
            items = [primitives.make_item(task, "eval/1", index) for index in range(50)]
            count = round(1 / primitives.chance(task))
            for item in items:
                self.assertEqual(len(set(item.choices)), count)
            places = collections.Counter(item.gold for item in items)
            self.assertEqual(set(places.values()), {50 // count}, task)

    def test_depth_is_the_number_of_names_on_the_way(self):
        for depth in primitives.DEPTHS:
            context = primitives.make_item(f"variable-assignment-basic-{depth}", 1, 0).context
            source_of = dict(re.findall(r"^(\w)=(\w+)$", context, re.M))
            self.assertEqual(len(source_of), 5 * (depth + 1))
            name, steps = re.search(r"(\w)=___", context).group(1), 0
            while not source_of[name].isdigit():
                name, steps = source_of[name], steps + 1
            self.assertEqual(steps, depth)

    def test_an_item_is_a_function_of_task_seed_and_index(self):
        first = primitives.with_shots("copy-random", "eval/1", 3, 5, 100)
        self.assertEqual(primitives.with_shots("copy-random", "eval/1", 3, 5, 100), first)
        for other in (("copy-random", "train/1", 3, 5, 100), ("copy-random", "eval/2", 3, 5, 100), ("copy-random", "eval/1", 4, 5, 100)):
            self.assertNotEqual(primitives.with_shots(*other), first)
        self.assertEqual(first.context.count("\n\nFill in the blank:"), 5)

    def test_several_questions_about_one_list_are_different_and_answered_right(self):
        for task in primitives.task_names():
            for index in range(10):
                item = primitives.make_item(task, "train/1", index, questions=5)
                ends = [found.end() for found in re.finditer(r"___\. ->|Answer:", item.solved)]
                self.assertEqual(len(ends), 5)
                answers = [item.solved[end:].split("\n")[0] for end in ends]
                self.assertEqual(answers[-1], item.choices[item.gold])
                self.assertEqual(len(set(answers)), 5, task)
                if task.startswith("copy"):
                    words = item.solved.split("\n\n")[1].split()[:10]
                    lines = [line.split(" ___. ->") for line in item.solved.split("\n\n")[1].split("\n")]
                    for shown, answer in lines:
                        shown = shown.split()[-5:]
                        self.assertEqual(answer.strip(), words[words.index(shown[-1]) + 1])
                else:
                    self.assertEqual(answers[-1], " " + solved_assignment(item.context))
                    self.assertEqual(len({question for question in re.findall(r"(\w)=___|value of (\w)\?", item.solved)}), 5)

    def test_more_questions_than_names_go_round(self):
        asked = re.findall(r"(\w)=___", primitives.make_item("variable-assignment-basic-1", "train/1", 3, questions=12).solved)
        self.assertEqual((len(asked), sorted(asked[-10:-5]), sorted(asked[-5:])), (12, sorted(set(asked)), sorted(set(asked))))

    def test_no_example_is_an_item_of_the_test(self):
        items = {primitives.make_item("copy-real-words", 1, index).context for index in range(40)}
        for index in range(40):
            shown = primitives.with_shots("copy-real-words", 1, index, 5, 40).context
            self.assertEqual(sum(context in shown for context in items), 1)  # its own


class Scoring(unittest.TestCase):
    def test_accuracy_and_interval(self):
        items = [primitives.Item("c", (" a", " bb"), index % 2) for index in range(100)]
        scores = []
        for index, item in enumerate(items):
            right = index < 75
            scores.append([0.0 if (choice == item.gold) == right else -1.0 for choice in range(2)])
        result = evaluate.result_of(evaluate.Task("t", items, 0.5, 0), scores, seed=1)
        self.assertEqual(result["accuracy"], 0.75)
        self.assertLess(result["interval"][0], 0.70)
        self.assertGreater(result["interval"][1], 0.80)
        self.assertEqual(result["chance"], 0.5)

    def test_lines_that_are_no_items_are_refused_with_their_place(self):
        for value, part in (({"context": "x"}, "allowed: context, choices, gold"), ({"context": 1, "choices": ["a", "b"], "gold": 0}, "context"),
                            ({"context": "x", "choices": ["a"], "gold": 0}, "at least two"), ({"context": "x", "choices": ["a", "b"], "gold": 2}, "0 to 1"),
                            ({"context": "x", "choices": ["a", "b"], "gold": True}, "gold"), ([], "list")):
            with self.assertRaises(UserError) as caught:
                evaluate.checked_item(value, "f.jsonl:7")
            self.assertIn("f.jsonl:7: ", str(caught.exception))
            self.assertIn(part, str(caught.exception))


if __name__ == "__main__":
    unittest.main(verbosity=2)
