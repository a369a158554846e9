"""scripts/gpu_check: runs the parts of gpu_parts.py one after the other and keeps what they found. scripts/gpu_check says how it is called."""

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import gpu_parts  # noqa: E402
from gpu_report import Results, describe, is_good  # noqa: E402

ROOT = HERE.parents[1]
FAULTS = ("hang", "kill", "fail")
LEAST_SECONDS = 5  # a part that has less is not begun
REPORT_SECONDS = 5


def stop(message):
    print(f"gpu_check: error: {message}", file=sys.stderr)
    raise SystemExit(2)


class Programs:
    """The programs of a folder that scripts/gpu_pack made, or of a build."""

    def __init__(self, folder, packed):
        self.folder, self.packed = folder.resolve(), packed  # parts run in a folder of their own

    def __call__(self, name):
        if self.packed:
            return self.folder / name
        return next((path for path in self.folder.rglob(name) if path.is_file() and os.access(path, os.X_OK)), self.folder / name)

    def environment(self, torch):
        """Programs that were linked elsewhere find the libraries of this machine's LibTorch."""
        if not self.packed or torch is None:
            return {}
        folders = [torch / "lib", *sorted((torch.parent / "nvidia").glob("*/lib")), self.folder.parent / "lib"]
        return {"LD_LIBRARY_PATH": ":".join(map(str, [*folders, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]))}


def torch_folder():
    found = importlib.util.find_spec("torch")
    return Path(found.origin).parent if found and found.origin else None


def last_line(text):
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip()[:160] if lines else "it said nothing"


class Machine:
    """What the check needs: each missing thing is one line, before anything else is done."""

    def __init__(self, programs, rehearse, building):
        self.programs, self.rehearse, self.building = programs, rehearse, building
        self.torch, self.gpu, self.missing, self.poorer = torch_folder(), "rehearsed on a CPU" if rehearse else "", [], []
        self.sanitizer = shutil.which("compute-sanitizer")

    def look(self):
        self.look_at_gpu()
        self.look_at_torch()
        for tool in ("nvcc", "cmake", "ninja") if self.building else ():
            if not shutil.which(tool):
                self.missing.append(f"{tool}: not on the PATH; the programs are built here, unless scripts/gpu_pack has linked them elsewhere")
        if not self.building:
            self.look_at_programs()
        if not self.sanitizer and not self.rehearse:
            self.poorer.append("compute-sanitizer: not on the PATH; without it no kernel is proven")
        if importlib.util.find_spec("transformers") is None:
            self.poorer.append("transformers: not installed; steps are measured without a peer")
        if not (shutil.which("cc") or shutil.which("gcc")):
            self.poorer.append("cc: not on the PATH; torch.compile needs it, so steps may have no compiled peer")

    def look_at_gpu(self):
        if self.rehearse:
            return
        asked = subprocess.run(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True) if shutil.which("nvidia-smi") else None
        if asked is None or asked.returncode != 0 or not asked.stdout.strip():
            self.missing.append("a GPU: nvidia-smi names none; --rehearse runs the check without one")
        else:
            self.gpu = asked.stdout.splitlines()[0].strip()

    def look_at_torch(self):
        version = self.torch / "version.py" if self.torch else None
        text = version.read_text() if version and version.exists() else ""
        if "__version__ = '2.11." not in text:
            self.missing.append(f"torch 2.11: {sys.executable} has {'another version' if text else 'none'}; name a Python that has it in MERISTEM_PYTHON")
        elif not self.rehearse and not (self.torch / "lib" / "libtorch_cuda.so").exists():
            self.missing.append(f"torch with CUDA: {self.torch} is a build for CPUs")

    def look_at_programs(self):
        """Each is there, and starts: a program that was linked elsewhere may ask for a library that is not here."""
        environment = {**os.environ, **self.programs.environment(self.torch)}
        for name in ("meristem-bench",) if self.rehearse and not self.programs.packed else gpu_parts.PROGRAMS:
            path = self.programs(name)
            if not os.access(path, os.X_OK):
                self.missing.append(f"{name}: no program {path}")
                continue
            started = subprocess.run([path, "--help"], env=environment, capture_output=True, text=True, timeout=60)
            if started.returncode != 0:
                self.missing.append(f"{name}: does not start: {last_line(started.stderr)}")


class Runner:
    """Runs a part in a process group of its own and ends the group with it, whatever it left behind."""

    def __init__(self, work, deadline, keep):
        self.work, self.deadline, self.keep, self.child = work, deadline, keep, None
        self.spent = {}  # seconds, by group

    def run(self, part):
        """(state, seconds, note)"""
        left = self.deadline - time.monotonic()
        if left < LEAST_SECONDS:
            return "skipped", 0, "no time left; --minutes gives more"
        of_group = gpu_parts.GROUPS.get(part.group(), left)
        left = min(left, of_group - self.spent.get(part.group(), 0))
        if left < min(LEAST_SECONDS, part.seconds):
            return "skipped", 0, f"the {of_group} s of {part.group()} are spent"
        seconds, begin, log = min(part.seconds, left), time.monotonic(), self.work / f"{part.stem()}.log"
        with open(log, "wb") as output:
            try:
                self.child = subprocess.Popen(part.command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, cwd=self.work,
                                              env={**os.environ, **part.environment}, start_new_session=True)
            except OSError as error:
                return "failed", 0, str(error)
            code = self.wait(begin + seconds)
        self.end()
        taken = round(time.monotonic() - begin, 1)
        self.spent[part.group()] = self.spent.get(part.group(), 0) + taken
        text = log.read_text(errors="replace")
        if code is None:
            return "out of time", taken, f"ended after {seconds:.0f} s"
        if code == 0 and "No tests ran" in text:  # Catch2 calls that a success
            return "failed", taken, "no test has this tag"
        if code == 0:
            return "passed", taken, ""
        if code == 4:
            return "skipped", taken, last_line(text)
        return "failed", taken, f"{f'signal {-code}' if code < 0 else f'exit code {code}'}: {last_line(text)}"

    def wait(self, until):
        """The exit code; None where time is up. What the part has left so far is kept while it runs."""
        kept = time.monotonic()
        while True:
            try:
                return self.child.wait(timeout=min(0.5, max(0.01, until - time.monotonic())))
            except subprocess.TimeoutExpired:
                if time.monotonic() >= until:
                    return None
                if time.monotonic() - kept > 5:
                    self.keep()
                    kept = time.monotonic()

    def end(self):
        """No grace: who did not end in its time may not end at all. A process that even SIGKILL cannot end is left to the system."""
        if self.child is None:
            return
        try:
            os.killpg(self.child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            self.child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            print("gpu_check: a process does not end; going on", flush=True)
        self.child = None


def planted(part, fault):
    """The part with a fault, for rehearsals: it hangs, deaf to SIGTERM and with a child of its own; is killed after its first line; or fails."""
    if fault == "hang":
        part.seconds = 2
        part.command = [sys.executable, "-c", "import signal, subprocess, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
                        "subprocess.Popen(['sleep', '1000']); print('hanging', flush=True); time.sleep(1000)"]
    elif fault == "kill":
        part.command = [sys.executable, "-c", "import os, signal, subprocess, sys; child = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE)\n"
                        "sys.stdout.write(child.stdout.readline().decode()); sys.stdout.flush(); os.killpg(0, signal.SIGKILL)", *part.command]
    elif fault == "fail":
        part.command = ["sh", "-c", "echo because; exit 3"]


def build_part(build, torch):
    """Where no folder of scripts/gpu_pack is used: the programs, in a build folder of their own."""
    script = (f'cd "{ROOT}" && cmake --preset cuda -B "{build}" -DMERISTEM_TORCH_ROOT="{torch}" && '
              f'cmake --build "{build}" --parallel --target {" ".join(gpu_parts.PROGRAMS)}')
    return gpu_parts.Part("build", 600, ["bash", "-c", script])


def parse_arguments():
    parser = argparse.ArgumentParser(prog="gpu_check", allow_abbrev=False, usage="scripts/gpu_check [--out DIR] [--minutes N] [--only \"PART …\"] [--rehearse]")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu_check_results")
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--only", default="")
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--programs", type=Path, help=argparse.SUPPRESS)  # of a rehearsal: another build folder than scripts/meristem's
    parser.add_argument("--plant", action="append", default=[], metavar="PART=FAULT")
    parser.add_argument("--list", action="store_true")
    parser.error = stop
    return parser.parse_args()


def wanted(name, only):
    return not only or any(name == word or name.startswith(f"{word}/") for word in only)


def choose(listed, only, plants):
    for word in only:
        if not any(wanted(part.name, [word]) for part in listed):
            stop(f"--only: found '{word}'; allowed: {' '.join(dict.fromkeys(part.name.partition('/')[0] for part in listed))}, or one that --list names")
    chosen = [part for part in listed if wanted(part.name, only)]
    for plant in plants:
        name, _, fault = plant.partition("=")
        part = next((part for part in chosen if part.name == name), None)
        if plant != "out=full" and (part is None or fault not in FAULTS):
            stop(f"--plant: found '{plant}'; allowed: out=full, or a part of this run = {', '.join(FAULTS)}")
        if part:
            planted(part, fault)
    return chosen


def commit_of(pack):
    if pack:
        return pack["commit"]
    asked = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True) if shutil.which("git") else None
    return asked.stdout.strip() if asked and asked.returncode == 0 else "unknown"


def read_pack():
    path = ROOT / "pack.json"
    return json.loads(path.read_text()) if path.exists() else None


def place_of_programs(arguments, pack):
    if pack:
        return Programs(ROOT / "programs", packed=True)
    if arguments.programs or arguments.rehearse:
        return Programs(arguments.programs or ROOT / "build" / "release", packed=False)
    return Programs(ROOT / "build" / "gpu_check", packed=False)


def check_out(out):
    """The folder takes what this check writes and nothing else, so that all of it can be brought home."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        other = sorted(path.name for path in out.iterdir() if path.name not in Results.FILES)
    except OSError as error:
        stop(f"--out: {error}")
    if other:
        stop(f"--out {out}: found {other[0]}; allowed: an empty folder, or one with an earlier result of this command")


def run_all(arguments, machine, chosen, results):
    runner = Runner(results.work, time.monotonic() + 60 * arguments.minutes - REPORT_SECONDS, results.keep)

    def cut(number, _):
        runner.end()
        results.note(runner.part, "cut", 0, f"by signal {number}")
        results.keep()
        raise SystemExit(1)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, cut)
    for part in chosen:
        runner.part = part
        print(f"== {results.seconds():4.0f} s  {part.name}: at most {part.seconds:.0f} s", flush=True)
        state, seconds, note = runner.run(part)
        results.note(part, state, seconds, note)
        results.keep()
        if state not in ("passed",):
            print(f"             {part.name}: {state}: {note}", flush=True)
        if part.name == "build" and state != "passed":
            print((results.work / "build.log").read_text(errors="replace")[-3000:])
            break


def main():
    arguments = parse_arguments()
    pack = read_pack()
    programs = place_of_programs(arguments, pack)
    building = not (pack or arguments.rehearse)
    work = Path(tempfile.mkdtemp(prefix="gpu_check."))
    machine = Machine(programs, arguments.rehearse, building)
    on = (gpu_parts.Rehearsed if arguments.rehearse else gpu_parts.OnGpu)(programs, work, machine.sanitizer)
    listed = gpu_parts.parts(on, bool(machine.sanitizer) or arguments.rehearse, programs.environment(machine.torch))
    if building:
        listed.insert(0, build_part(programs.folder, machine.torch))
    if arguments.list:
        print("\n".join(f"{part.name:34} at most {part.seconds:3.0f} s" for part in listed))
        return 0
    chosen = choose(listed, arguments.only.split(), arguments.plant)
    check_out(arguments.out)
    machine.look()
    for line in machine.poorer:
        print(f"gpu_check: {line}")
    for line in machine.missing:
        print(f"gpu_check: error: {line}", file=sys.stderr)
    if machine.missing:
        return 2
    results = Results(arguments.out, work, machine.gpu, commit_of(pack), arguments.rehearse, full="out=full" in arguments.plant)
    print(f"{machine.gpu}; torch in {machine.torch}; logs in {work}")
    run_all(arguments, machine, chosen, results)
    print("\n" + "\n".join(describe(results.gather())))
    if results.unwritten:
        print(f"gpu_check: error: {results.unwritten}; all results follow in one line", file=sys.stderr)
        print(json.dumps(results.gather()))
    else:
        shutil.rmtree(work, ignore_errors=True)  # it is in the archive
    return 0 if is_good(results.gather()) and not results.unwritten else 1


if __name__ == "__main__":
    sys.exit(main())
