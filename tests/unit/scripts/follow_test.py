"""`meristem follow` with stand-ins for the trackers: what is sent, once each, while a run writes, resumes and ends."""

import fcntl
import json
import os
import subprocess
import sys
import threading
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "support"))

from text_commands import SCRIPTS, FolderCase, call  # noqa: E402
from reports import follow  # noqa: E402

# They write down how they were called; a file named `broken` beside makes them fail.
STAND_IN = '''
import json, os
FOLDER = os.environ["STAND_IN"]
def note(*call):
    if os.path.exists(FOLDER + "/broken"):
        raise RuntimeError("no route to the server\\nsecond line")
    with open(FOLDER + "/calls", "a") as file:
        file.write(json.dumps(call) + "\\n")
'''
INIT = STAND_IN + '''
def init(**settings): note("init", settings)
def log(metrics, step): note("log", step, metrics)
def finish(): note("finish")
'''
MLFLOW = STAND_IN + '''
import types
def set_experiment(name): note("experiment", name)
def start_run(run_id=None, run_name=None):
    note("start", run_id, run_name)
    return types.SimpleNamespace(info=types.SimpleNamespace(run_id="mlflow-7"))
def log_params(values):
    assert len(values) <= 100
    note("params", values)
def log_metrics(metrics, step): note("log", step, metrics)
def end_run(): note("finish")
'''


def step(number, **more):
    return {"step": number, "tokens": 64 * number, "loss": 5 - number / 10, "loss_by_source": {"web (en)": 4.5}, "stream_rms": [1.0, 2.0], **more}


def validation(number, source="held"):
    return {"event": "validation", "step": number, "source": source, "loss": 4.0 - number / 100, "targets": 12}


class FollowTest(FolderCase):
    def setUp(self):
        super().setUp()
        self.run_folder = self.folder / "runs" / "tiny"
        self.file("runs/tiny/config.yaml", "run: {name: tiny}\noptimizer: {lr: 0.001, betas: [0.9, 0.95]}\n")
        self.metrics = self.file("runs/tiny/metrics.jsonl", "")
        os.environ["STAND_IN"] = str(self.folder)
        for name, text in (("wandb", INIT), ("trackio", INIT), ("mlflow", MLFLOW)):
            self.file(f"modules/{name}.py", text)
        sys.path.insert(0, str(self.folder / "modules"))
        self.addCleanup(sys.path.remove, str(self.folder / "modules"))
        self.addCleanup(lambda: [sys.modules.pop(name, None) for name in follow.TRACKERS])

    def write(self, *records, tail=""):
        with self.metrics.open("a") as file:
            file.write("".join(json.dumps(record) + "\n" for record in records) + tail)

    def follow(self, tracker="wandb", *arguments, code=0):
        result = call(follow, self.run_folder, "--to", tracker, "--poll", "0.02", *arguments)
        self.assertEqual(result[0], code, result)
        return result

    def calls(self):
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def sent(self):
        return [(one[1], one[2]) for one in self.calls() if one[0] == "log"]

    def test_what_is_sent(self):
        self.write({"event": "phase", "step": 0, "name": "stable", "depth_plan": "0-3"}, step(1, grad_norm="inf"), validation(1), validation(1, "other"),
                   {"event": "checkpoint", "step": 1, "seconds": 0.1}, {"event": "growth", "step": 1, "from_blocks": 2, "to_blocks": 4, "operator": "lidas", "seconds": 0.5})
        for tracker in ("wandb", "trackio"):
            with self.subTest(tracker):
                _, out, _ = self.follow(tracker, "--project", "mine")
                self.assertIn(f"4 lines sent to {tracker}, up to step 1", out)
                begin, *_, end = self.calls()
                self.assertEqual((begin[0], end), ("init", ["finish"]))
                settings = begin[1]
                self.assertEqual((settings["project"], settings["name"], settings["resume"]), ("mine", "tiny", "allow"))
                self.assertEqual(settings["config"], {"run.name": "tiny", "optimizer.lr": 0.001, "optimizer.betas": "[0.9, 0.95]"})
                self.assertEqual("id" in settings, tracker == "wandb")
                self.assertEqual(self.sent(), [(1, {"tokens": 64, "loss": 4.9, "loss_by_source/web (en)": 4.5, "grad_norm": float("inf")}), (1, {"validation/held": 3.99}),
                                               (1, {"validation/other": 3.99}), (1, {"growth/from_blocks": 2, "growth/to_blocks": 4, "growth/seconds": 0.5})])
                (self.folder / "calls").unlink()

    def test_mlflow_knows_its_run_again_and_takes_plain_names(self):
        self.write(step(1))
        self.follow("mlflow")
        self.write(step(2))
        self.follow("mlflow", "--name", "other")
        calls = self.calls()
        self.assertEqual([one for one in calls if one[0] in ("start", "experiment")], [["experiment", "meristem"], ["start", None, "tiny"], ["experiment", "meristem"],
                                                                                       ["start", "mlflow-7", None]])
        self.assertEqual([one[1] for one in calls if one[0] == "params"], [{"run.name": "tiny", "optimizer.lr": "0.001", "optimizer.betas": "[0.9, 0.95]"}])
        self.assertEqual([number for number, _ in self.sent()], [1, 2])
        self.assertIn("loss_by_source/web _en_", self.sent()[0][1])

    def test_a_second_call_sends_what_is_new_in_the_same_run(self):
        self.write(step(1), step(2), validation(2), tail='{"step": 3, "lo')
        self.follow()
        self.write(tail='ss": 1.0}\n')
        self.write(validation(3), step(4))
        self.follow()
        _, out, _ = self.follow()
        self.assertIn("0 lines sent", out)
        self.assertEqual([number for number, _ in self.sent()], [1, 2, 2, 3, 3, 4])
        self.assertEqual(len({one[1]["id"] for one in self.calls() if one[0] == "init"}), 1)

    def test_lines_that_a_resumed_run_writes_again_are_not_sent_again(self):
        self.write(step(1), step(2), validation(2), step(3), step(4), validation(4))
        self.follow()
        self.metrics.write_text("")  # back to the checkpoint of step 2
        self.write(step(1), step(2), validation(2), {"event": "resume", "step": 2, "checkpoint": "x", "lost_lines": 3}, step(3), step(4), validation(4), step(5), validation(5))
        self.follow()
        self.assertEqual([number for number, _ in self.sent()], [1, 2, 2, 3, 4, 4, 5, 5])

    def test_it_follows_a_run_that_is_under_way_and_ends_with_it(self):
        self.write(step(1))
        lock = (self.run_folder / "lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        caller = threading.Thread(target=self.follow)
        caller.start()
        for number in (2, 3):
            self.wait_for(number - 1)
            self.write(step(number))
        self.wait_for(3)
        self.assertTrue(caller.is_alive())
        self.refused(call(follow, self.run_folder, "--to", "wandb"), 2, "another call is following this run to wandb")
        self.write(step(4), validation(4))
        lock.close()
        caller.join(20)
        self.assertFalse(caller.is_alive())
        self.assertEqual([number for number, _ in self.sent()], [1, 2, 3, 4, 4])
        self.assertEqual(self.calls()[-1], ["finish"])

    def wait_for(self, count):
        until = time.monotonic() + 20
        while len(self.sent()) < count and time.monotonic() < until:
            time.sleep(0.01)
        self.assertEqual(len(self.sent()), count)

    def test_a_kill_loses_and_doubles_nothing(self):
        self.write(*(step(number) for number in range(1, 400)))
        environment = dict(os.environ, PYTHONPATH=str(self.folder / "modules"))
        command = [sys.executable, str(SCRIPTS), "follow", str(self.run_folder), "--to", "wandb", "--poll", "0.02"]
        child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        until = time.monotonic() + 20
        while len(self.sent()) < 20 and time.monotonic() < until:
            time.sleep(0.001)
        child.kill()
        child.wait()
        self.follow()
        steps = [number for number, _ in self.sent()]
        self.assertEqual(sorted(set(steps)), list(range(1, 400)))
        self.assertLessEqual(len(steps), 400)  # the line under way at the kill may be there twice

    def test_a_tracker_that_fails_is_one_line_and_what_was_not_sent_comes_later(self):
        self.write(step(1))
        self.follow()
        self.write(step(2))
        (self.folder / "broken").touch()
        self.refused(self.follow(code=1), 1, "wandb: no route to the server")
        (self.folder / "broken").unlink()
        self.follow()
        self.assertEqual([number for number, _ in self.sent()], [1, 2])

    def test_wrong_input(self):
        self.write(step(1))
        for name in follow.TRACKERS:
            (self.folder / "modules" / f"{name}.py").unlink()
            sys.modules.pop(name, None)
            blocked = self.file(f"modules/{name}.py", f"raise ImportError('No module named {name}')")
            self.refused(call(follow, self.run_folder, "--to", name), 2, f"--to {name}: the package {name} is not here", f"pip install {name}")
            blocked.unlink()
        self.assertEqual(list(self.run_folder.glob("follow*")), [])
        for arguments, part in (([self.folder / "none", "--to", "wandb"], "none/metrics.jsonl: no such file"), ([self.run_folder, "--to", "aim"], "invalid choice: 'aim'"),
                                ([self.run_folder, "--to", "wandb", "--poll", "0"], "--poll: found 0.0; allowed"), ([self.run_folder], "--to")):
            self.refused(call(follow, *arguments), 2, part)
        self.file("modules/wandb.py", INIT)
        self.file("runs/tiny/follow-wandb.json", "{")
        self.refused(call(follow, self.run_folder, "--to", "wandb"), 2, "follow-wandb.json: found no state of an earlier call")


if __name__ == "__main__":
    unittest.main(verbosity=2)
