"""`train … --nproc N`: how the launcher starts ranks and how it ends. A stand-in takes the program's place (MERISTEM_BINARY); its words say what it does."""

import contextlib
import os
import pty
import select
import signal
import stat
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = ROOT / "scripts" / "python"
sys.path.insert(0, str(SCRIPTS))

import launch.agent  # noqa: E402
import launch.run  # noqa: E402

DEADLINE = 60

# Words RANK:ACTION:VALUE, in their order; rank * is all. `once` before the others: in the first attempt alone.
STAND_IN = r"""#!PYTHON -IS
import os, signal, sys, time
rank, folder = os.environ["RANK"], os.environ["FOLDER"]
def note(text):
    with open(f"{folder}/{rank}", "a") as file: file.write(text + "\n")
def on_signal(number, _):
    note(signal.Signals(number).name)
    time.sleep(float(os.environ.get("SAVES", "0")) * int(rank))
    note("saved")
    os._exit(75)
def on_every(number, _):
    note(signal.Signals(number).name)
    if len(open(f"{folder}/{rank}").read().split("SIGINT")) > 2: os._exit(130)
note("start " + os.environ["TORCHELASTIC_RESTART_COUNT"])
for word in sys.argv[1:]:
    who, _, action = word.partition(":")
    if who not in ("*", rank) or (action.startswith("once:") and os.environ["TORCHELASTIC_RESTART_COUNT"] != "0"): continue
    what, _, value = action.removeprefix("once:").partition(":")
    if what == "write": os.write(2, value.replace("\\n", "\n").replace("\\r", "\r").encode())
    if what == "error": os.write(2, f"meristem: error: {'' if rank == '0' else f'[rank {rank}] '}{value}\n".encode())
    if what == "print": print(value.format(**os.environ), sys.argv[1:], os.isatty(2), flush=True)
    if what == "sleep": time.sleep(float(value))
    if what == "after":
        while not os.path.exists(f"{folder}/{value}.ended"): time.sleep(0.005)
        time.sleep(0.05)
    if what == "obey":
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT): signal.signal(number, on_signal if value == "once" else on_every)
        note("ready")
    if what == "kill": os.kill(os.getpid(), getattr(signal, value))
    if what == "exit":
        open(f"{folder}/{rank}.ended", "w")
        os._exit(int(value))
"""


class Case(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        self.program = self.folder / "meristem"
        self.program.write_text(STAND_IN.replace("PYTHON", sys.executable))
        self.program.chmod(self.program.stat().st_mode | stat.S_IXUSR)
        self.environment = {"MERISTEM_BINARY": str(self.program), "FOLDER": str(self.folder)}

    def start(self, words, *options, terminal=False):
        """A fork of this process, which has PyTorch loaded already, becomes the launcher."""
        read, write = pty.openpty() if terminal else os.pipe()
        self.out = self.folder / "out"
        self.launcher = os.fork()
        if self.launcher == 0:
            code = 99
            with contextlib.suppress(BaseException):
                os.dup2(write, 2)
                os.dup2(os.open(self.out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
                os.environ.pop("OMP_NUM_THREADS", None)
                os.environ.update(self.environment)
                sys.stderr = os.fdopen(2, "w")
                code = launch.run.main([*words.split(), *options])
                sys.stderr.flush()
            os._exit(code)
        os.close(write)
        self.read = read

    def end(self):
        """(exit code, stderr)."""
        said, until = b"", time.monotonic() + DEADLINE
        while time.monotonic() < until and select.select([self.read], [], [], DEADLINE)[0]:
            try:
                data = os.read(self.read, 65536)
            except OSError:
                data = b""
            if not data:
                break
            said += data
        if time.monotonic() > until:
            os.kill(self.launcher, signal.SIGKILL)
        os.close(self.read)
        return os.waitstatus_to_exitcode(os.waitpid(self.launcher, 0)[1]), said.decode()

    def run_ranks(self, words, *options, **how):
        self.start(words, *options, **how)
        return self.end()

    def forget(self):
        for path in self.folder.glob("[0-9]*"):
            path.unlink()

    def noted(self, rank):
        path = self.folder / str(rank)
        return path.read_text().splitlines() if path.exists() else []

    def until_noted(self, what, ranks):
        until = time.monotonic() + DEADLINE
        while not all(what in self.noted(rank) for rank in range(ranks)):
            self.assertLess(time.monotonic(), until, f"{what} was never noted")
            time.sleep(0.005)


class Ends(Case):
    def test_each_code_is_the_launchers_and_one_line_is_said(self):
        for code in (0, 75, 1, 2, 3, 4):
            with self.subTest(code):
                self.forget()
                error = "" if code in (0, 75) else "0:error:late 1:error:why"
                found, err = self.run_ranks(f"{error} 1:exit:{code} *:after:1 *:exit:{code}", "--nproc", "2")
                self.assertEqual((found, err), (code, "meristem: error: [rank 1] why\n" if error else ""))

    def test_what_all_ranks_say_is_no_ranks_own(self):
        self.assertEqual(self.run_ranks("*:error:why 1:exit:2 *:after:1 *:exit:2", "--nproc", "2"), (2, "meristem: error: why\n"))

    def test_the_rank_that_failed_first_speaks_though_others_end_before_it(self):
        for blame in ("rank 2 failed: x", "rank 2 (host, process 7) is gone", "rank 2 (host, process 7) has not been heard of for 30 s"):
            with self.subTest(blame):
                self.forget()
                self.start("train", "2:error:step 3: loss nan", "2:after:0", "2:exit:3", f"*:error:{blame}", "*:exit:1", "--nproc=3")
                self.assertEqual(self.end(), (3, "meristem: error: [rank 2] step 3: loss nan\n"))

    def test_a_rank_that_a_signal_ended_is_named_and_the_others_are_not_waited_for_long(self):
        with mock.patch.object(launch.agent, "LEAVE_SECONDS", 0.3):
            begin = time.monotonic()
            for rank, name in ((1, "SIGKILL"), (0, "SIGSEGV")):
                found, err = self.run_ranks(f"{rank}:kill:{name} *:sleep:50", "--nproc", "2")
                self.assertEqual(found, 1)
                self.assertRegex(err, rf"^meristem: error: rank {rank} \(process \d+\) was ended by {name}\n$")
            self.assertLess(time.monotonic() - begin, 20)

    def test_a_failure_without_an_error_line(self):
        self.start("", "1:write:cannot open shared object\\n\\n", "1:exit:127", "--nproc", "2")
        self.assertEqual(self.end(), (127, "meristem: error: rank 1: cannot open shared object\n"))
        found, err = self.run_ranks("1:exit:5", "--nproc", "2")
        self.assertRegex(err, r"^meristem: error: rank 1 \(process \d+\) ended with exit code 5\n$")
        self.assertEqual(found, 5)

    def test_a_program_that_is_not_there(self):
        self.environment["MERISTEM_BINARY"] = str(self.folder / "nothing")
        self.assertEqual(self.run_ranks("x", "--nproc", "2"), (2, f"meristem: error: {self.folder}/nothing: No such file or directory\n"))


class Starts(Case):
    def test_what_a_rank_is_told(self):
        shown = "*:print:{RANK}/{WORLD_SIZE}/{LOCAL_RANK}/{LOCAL_WORLD_SIZE}/{MASTER_ADDR}/{OMP_NUM_THREADS}/{TORCHELASTIC_USE_AGENT_STORE}"
        logs = self.folder / "logs"
        self.start("train", "run.yaml", "--resume", "auto", shown, "--nproc", "3", "a.b=1 2", "--logs", str(logs))
        self.assertEqual(self.end(), (0, ""))
        threads = max(1, len(os.sched_getaffinity(0)) // 3)
        told = lambda rank: f"{rank}/3/{rank}/3/127.0.0.1/{threads}/True {['train', 'run.yaml', '--resume', 'auto', shown, 'a.b=1 2']} False\n"  # noqa: E731
        self.assertEqual(self.out.read_text(), told(0))
        self.assertEqual((logs / "attempt-0" / "rank-2.out").read_text(), told(2))
        self.environment["OMP_NUM_THREADS"] = "7"
        self.run_ranks("*:print:{OMP_NUM_THREADS}", "--nproc", "1")
        self.assertTrue(self.out.read_text().startswith("7 "))

    def test_what_rank_0_writes_to_stderr_comes_through_as_it_is(self):
        self.start("", "0:write:note\\n\\r[#  ] 3", "0:sleep:0.2", "0:write:0%\\n", "1:write:hidden\\n", "--nproc", "2")
        self.assertEqual(self.end(), (0, "note\n\r[#  ] 30%\n"))
        self.start("", "0:write:half", "0:sleep:0.2", "1:error:x", "1:exit:4", "0:after:1", "0:exit:1", "--nproc", "2")
        self.assertEqual(self.end(), (4, "half\nmeristem: error: [rank 1] x\n"))

    def test_rank_0_has_a_terminal_where_the_launcher_has_one(self):
        self.start("", "*:print:x", "0:write:note\\n", "0:error:why", "0:exit:2", "--nproc", "1", terminal=True)
        self.assertEqual(self.end(), (2, "note\r\nmeristem: error: why\r\n"))
        self.assertTrue(self.out.read_text().endswith(" True\n"))

    def test_a_dry_run_tries_one_rank_of_so_many(self):
        self.environment["MERISTEM_BINARY"] = "/bin/echo"
        for words, become in (("train x --dry-run --nproc 4", "train x --dry-run --ranks 4"), ("train x --dry-run --nproc 1", "train x --dry-run"),
                              ("train x --ranks=64 --dry-run --nproc 4", "train x --ranks=64 --dry-run")):
            self.assertEqual(self.run_ranks(words), (0, ""))
            self.assertEqual(self.out.read_text(), become + "\n")

    def test_the_entry_in_a_process_of_its_own(self):
        done = subprocess.run([sys.executable, SCRIPTS, "launch", "train", "*:exit:75", "--nproc", "2"], env=os.environ | self.environment, capture_output=True,
                              text=True, timeout=DEADLINE)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (75, "", ""))


class Restarts(Case):
    def test_a_restart_goes_on_and_says_why(self):
        self.start("", "1:once:error:a bad link", "1:once:exit:1", "0:once:after:1", "0:once:error:rank 1 failed: a bad link", "0:once:exit:1", "--nproc", "2",
                   "--max-restarts", "3")
        self.assertEqual(self.end(), (0, "meristem: restart 1 of 3: [rank 1] a bad link\n"))
        self.assertEqual(self.noted(0), ["start 0", "start 1"])

    def test_restarts_end(self):
        found, err = self.run_ranks("*:kill:SIGKILL", "--nproc", "1", "--max-restarts", "2")
        self.assertEqual((found, len(err.splitlines()), self.noted(0)), (1, 3, ["start 0", "start 1", "start 2"]))

    def test_what_a_restart_cannot_help_is_not_tried_again(self):
        for code in (0, 2, 3, 4, 75, 130):
            with self.subTest(code):
                self.assertEqual(self.run_ranks(f"*:exit:{code}", "--nproc", "1", "--max-restarts", "5")[0], code)
        self.assertEqual(self.noted(0), 6 * ["start 0"])


class Signals(Case):
    def send(self, *names, words="*:obey:once *:sleep:50", ready="ready", **how):
        self.forget()
        self.start(words, "--nproc", "2", "--max-restarts", "5", **how)
        self.until_noted(ready, 2)
        for name in names:
            os.kill(self.launcher, getattr(signal, name))
            time.sleep(0.1)
        return self.end()

    def test_a_stop_reaches_all_and_nobody_is_cut_short(self):
        self.environment["SAVES"] = "0.6"
        with mock.patch.object(launch.agent, "LEAVE_SECONDS", 0.2):
            for name, passed_on in (("SIGTERM", "SIGTERM"), ("SIGINT", "SIGINT"), ("SIGUSR1", "SIGUSR1"), ("SIGHUP", "SIGTERM")):
                with self.subTest(name):
                    self.assertEqual(self.send(name), (75, ""))
                    self.assertEqual((self.noted(0), self.noted(1)), 2 * (["start 0", "ready", passed_on, "saved"],))

    def test_a_stop_that_comes_early_waits_until_the_rank_can_obey(self):
        self.assertEqual(self.send("SIGTERM", ready="start 0", words="*:sleep:0.5 *:obey:once *:sleep:50"), (75, ""))
        self.assertEqual(self.noted(1), ["start 0", "ready", "SIGTERM", "saved"])

    def test_a_rank_that_never_obeys_ends_by_the_signal(self):
        with mock.patch.object(launch.agent, "CATCH_SECONDS", 0.2):
            self.assertEqual(self.send("SIGTERM", ready="start 0", words="*:sleep:50"), (128 + signal.SIGTERM, ""))

    def test_a_second_ctrl_c_ends_it_at_once(self):
        self.assertEqual(self.send("SIGINT", "SIGINT", words="*:obey:never *:sleep:0.1" + 500 * " *:sleep:0.1"), (130, ""))
        self.assertEqual(self.noted(1), ["start 0", "ready", "SIGINT", "SIGINT"])


class Refusals(Case):
    def test_numbers(self):
        for words, named in (("--nproc 0", '"0"'), ("--nproc -1", '"-1"'), ("--nproc two", '"two"'), ("--nproc=2.5", '"2.5"'), ("--nproc 257", "256"), ("--nproc=", '""'),
                             ("--nproc", "missing"), ("--nproc 1 --max-restarts x", "--max-restarts")):
            with self.subTest(words):
                found, err = self.run_ranks(f"train {words}")
                self.assertEqual((found, len(err.splitlines()), self.noted(0)), (2, 1, []), err)
                self.assertIn(named, err)

    def test_more_ranks_than_gpus(self):
        with mock.patch.object(launch.run, "count_gpus", lambda: 2):
            found, err = self.run_ranks("train", "--nproc", "3")
            self.assertEqual((found, err), (2, "meristem: error: --nproc 3: this machine shows 2 GPUs, and each rank needs one of its own\n"))
            self.assertEqual(self.run_ranks("train", "--nproc", "2"), (0, ""))


if __name__ == "__main__":
    unittest.main(verbosity=2)
