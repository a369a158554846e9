"""lm-evaluation-harness, as it is, on exports of every architecture, says what our own scorer says, item by item: the same choices, log-likelihoods to 1e-3, items longer than the
training length among them, also under another plan."""

import json
import os
import random
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(ROOT / "tests" / "e2e" / folder) for folder in ("train", "entry")]

import generate_test  # noqa: E402
import tiny_run  # noqa: E402
from text_commands import SCRIPTS, call  # noqa: E402
from evaluation import evaluate, harness  # noqa: E402

PROGRAM = os.environ["MERISTEM_BINARY"]
ITEMS, UNDER_ANOTHER_PLAN = 500, 100
EXPERTS = "{kind: experts, count: 6, active: 2, inner: 16, shared: 1, router_dim: 6}"
ARCHITECTURES = {  # settings of a run, and a plan that is not the trained one
    "decoder": (["model.blocks=4"], "0-1, (1-2)x2, 3"),
    "loop": (["model.blocks=4", 'model.depth_plan="0, (1-2)x2, 3"', "model.loop.injection=concat"], "0, (1-2)x4, 3"),
    "experts": (["model.blocks=3", f"model.feed_forward={EXPERTS}"], "0-2, 2"),
    "dreamer": (["model.blocks=2", 'model.depth_plan="(0-1)x2"', "model.architecture=dreamer", "model.depth_attention={kind: separate, heads: 2}", f"model.feed_forward={EXPERTS}"], "(0-1)x3"),
}

# Says how many tasks the group has, where the harness knows them all.
KNOWN = """
import sys, yaml
from lm_eval.tasks import TaskManager
groups = [yaml.safe_load(open(f"{sys.argv[1]}/{name}.yaml")) for name in yaml.safe_load(open(sys.argv[1] + "/papers.yaml"))["task"]]
names = [task if isinstance(task, str) else task["task"] for group in groups for task in group["task"]]
unknown = {"papers", *names, *(group["group"] for group in groups)} - set(TaskManager(include_path=sys.argv[1]).all_tasks)
print(len(names) if not unknown else unknown)
"""


def harness_python():
    """That of its environment, which is made where it is missing; None where it cannot be."""
    commands = 'source scripts/lib/paths.sh; source scripts/lib/lm_eval.sh; ready_lm_eval >&2; echo "$MERISTEM_LM_EVAL"'
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", commands], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


def items():
    """Words in any order; every second context is longer than what the models were trained with. Some choices share their beginning, some are longer than others."""
    draw, words = random.Random(7), "to be or not that is the question naïve café — 12 3.5".split()
    for number in range(ITEMS):
        context = " ".join(draw.choices(words, k=draw.randrange(3, 8) if number % 2 else draw.randrange(25, 40)))
        choices = list(dict.fromkeys(" " + " ".join(draw.choices(words, k=draw.randrange(1, 4))) for _ in range(6)))[:4]
        yield {"context": context, "choices": choices, "gold": draw.randrange(len(choices))}


class HarnessTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(temporary.cleanup)
        cls.root = Path(temporary.name)
        cls.file = cls.root / "local.jsonl"
        cls.file.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items()))

    def trained(self, name, settings):
        """Its learning rate is large, so that choices differ and no weight is at its start."""
        alone = ["growth=null", "phases=[{name: only, from_step: 0, mixture: {one: 1, two: 1}}]", "schedule.steps=20", "optimizer.lr=0.02", "data.validation.every=0"]
        code, _, err = tiny_run.run(PROGRAM, "train", tiny_run.write_config(self.root), f"run.name={name}", "model.vocab_size=280", *alone, *settings)
        self.assertEqual(code, 0, err)
        generate_test.train_tokenizer(self.root / "runs" / name / "tokenizer.json")
        return self.root / "runs" / name

    def ours(self, checkpoint, *options):
        out = self.root / "ours.json"
        code, _, err = call(evaluate, checkpoint, "--tasks", self.file, "--json", out, *options)
        self.assertEqual(code, 0, err)
        return json.loads(out.read_text())["results"][0]

    def theirs(self, checkpoint, *options):
        """({results}, [log-likelihoods of each item])"""
        with tempfile.TemporaryDirectory(dir=self.root) as out:
            words = [sys.executable, SCRIPTS, "lm-eval", checkpoint, "--tasks", self.file, "--max-length", 1000, "--batch_size", 16, "--log_samples", "--output_path", out, *options]
            environment = dict(os.environ, MERISTEM_LM_EVAL=PYTHON, OMP_NUM_THREADS="1", TQDM_DISABLE="1")
            done = subprocess.run(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
            self.assertEqual(done.returncode, 0, done.stderr[-4000:])
            [samples] = Path(out).rglob("samples_*.jsonl")
            [results] = Path(out).rglob("results_*.json")
            lines = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda line: line["doc_id"])
            scores = [[float(answer[0]) for answer, *_ in line["resps"]] if isinstance(line["resps"][0][0], list) else [float(answer[0][0]) for answer in line["resps"]] for line in lines]
            [result] = json.loads(results.read_text())["results"].values()
            return result, scores

    def compare(self, name, ours, theirs, items=ITEMS):
        result, scores = theirs
        ours = ours["item_results"][:items]
        self.assertEqual((len(scores), len(ours)), (items, items))
        for number, (own, other) in enumerate(zip(ours, scores)):
            for one, another in zip(own["log_likelihoods"], other, strict=True):
                self.assertLess(abs(one - another), 1e-3, (name, number))
            self.assertEqual(own["choice"], max(range(len(other)), key=other.__getitem__), (name, number))
        self.assertAlmostEqual(result["acc,none"], sum(own["choice"] == own["gold"] for own in ours) / items)

    def test_every_architecture_item_by_item(self):
        for name, (settings, plan) in ARCHITECTURES.items():
            with self.subTest(name):
                checkpoint = self.trained(name, settings)
                plain = self.ours(checkpoint)
                self.compare(name, plain, self.theirs(checkpoint))
                self.assertGreater(len({own["choice"] for own in plain["item_results"]}), 1)
                other = self.ours(checkpoint, "--plan", plan)
                self.assertNotEqual(other["gold_log_probability"], plain["gold_log_probability"])
                self.compare(f"{name}, {plan}", other, self.theirs(checkpoint, "--plan", plan, "--limit", UNDER_ANOTHER_PLAN), UNDER_ANOTHER_PLAN)

    def test_the_group_of_the_papers(self):
        """Its primitives need nothing from elsewhere; of the others the harness knows every name."""
        folder = self.trained("group", ["model.blocks=2"])
        command = [sys.executable, SCRIPTS, "lm-eval", folder, "--tasks", "papers_primitives", "--limit", 3, "--batch_size", 8, "--max-length", 4000]
        environment = dict(os.environ, MERISTEM_LM_EVAL=PYTHON, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
        done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        self.assertEqual(done.returncode, 0, done.stderr[-4000:])
        for primitive in ("copy_random", "copy_real_words", "variable_assignment_basic", "variable_assignment_math", "variable_assignment_code"):
            self.assertIn(f"papers_{primitive}", done.stdout)
        listed = subprocess.run([PYTHON, "-c", KNOWN, str(ROOT / "configs" / "lm_eval")], capture_output=True, text=True, env=environment)
        self.assertEqual((listed.returncode, listed.stdout.split()), (0, ["15"]), listed.stderr[-2000:])

    def test_what_is_refused(self):
        os.environ["MERISTEM_LM_EVAL"] = PYTHON
        folder = self.trained("refused", ["model.blocks=2"])
        for options, part in ((["--tasks", self.file], "--max-length"), (["--tasks", self.file, "--max-length", 0], "--max-length"), (["--tasks", "copy-random", "--plan", "0-2"], "block 2"),
                              (["--tasks", "copy-random", "--repeats", 0], "--repeats"), (["--tasks", "copy-random", "--repeats", 2], "has none"), (["--tasks", ","], "--tasks"), (["--tasks", "copy-random", "--model_args", "x=1"], "--model_args"), (["--tasks", "hellaswag,helaswag"], "found helaswag")):
            code, _, err = call(harness, folder, *options)
            self.assertEqual((code, err.count("\n")), (2, 1), err)
            self.assertIn(part, err)


if __name__ == "__main__":
    PYTHON = harness_python()
    if PYTHON is None:
        print("skipped: lm-evaluation-harness could not be installed")
        sys.exit(4)
    unittest.main(verbosity=2)
