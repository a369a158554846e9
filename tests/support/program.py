"""Starts of the program in tests: `run` and `start`. Where MERISTEM_SERVER names the program as a server (tests/support/program_server.cpp), a start is
a fork of it, which saves the third of a second of processor time that loading LibTorch takes; what runs is a process of its own all the same."""

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import threading

TIMEOUT = 120
_server = None


def environment():
    """Nothing of MERISTEM_*, and one thread: the models are too small for more, and a storm should not wait for the other core. A resolver that does not answer is
    given up soon: torch's store asks it for the name of whoever connects."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MERISTEM_")}
    return kept | {"OMP_NUM_THREADS": "1", "RES_OPTIONS": "timeout:1 attempts:1"}


def start(program, *arguments, **options):
    """A process as subprocess.Popen has it, its output in pipes. `program`: its path, or a list that begins with it, or "logits" (logits.cpp). `options` are Popen's; with any but
    `env` and `cwd` it is an ordinary start."""
    words = [str(word) for word in (*(program if isinstance(program, list) else [program]), *arguments)]
    options.setdefault("env", environment())
    if os.access(os.environ.get("MERISTEM_SERVER", ""), os.X_OK) and words[0] in (os.environ.get("MERISTEM_BINARY"), "logits") and options.keys() <= {"env", "cwd"}:
        return Forked(words, options["env"], options.get("cwd"))
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def run(program, *arguments, timeout=TIMEOUT, **options):
    """(exit code, stdout, stderr)."""
    process = start(program, *arguments, **options)
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


class Server:
    """Answers one request at a time."""

    def __init__(self):
        self.lock = threading.Lock()
        self.process = subprocess.Popen([os.environ["MERISTEM_SERVER"]], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment())
        atexit.register(self.stop)

    def ask(self, **request):
        with self.lock:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            return int(self.process.stdout.readline())

    def stop(self):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def server():
    global _server
    _server = _server or Server()
    return _server


class Forked:
    """What of subprocess.Popen the tests use."""

    def __init__(self, words, env, cwd):
        self.args, self.returncode = words, None
        ends = [os.pipe(), os.pipe()]
        out, err = (f"/proc/{os.getpid()}/fd/{write}" for _, write in ends)
        self.pid = server().ask(arguments=words, folder=str(cwd or os.getcwd()), environment={key: str(value) for key, value in env.items()}, stdout=out,
                                stderr=err)
        for _, write in ends:
            os.close(write)
        self.stdout, self.stderr = (open(read, encoding="utf-8", errors="replace") for read, _ in ends)
        self.ended = os.pidfd_open(self.pid)

    def poll(self):
        if self.returncode is None and select.select([self.ended], [], [], 0)[0]:
            status = server().ask(wait=self.pid)
            self.returncode = os.waitstatus_to_exitcode(status)
            os.close(self.ended)
        return self.returncode

    def wait(self, timeout=None):
        if self.returncode is None and not select.select([self.ended], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.poll()

    def communicate(self, timeout=TIMEOUT):
        said = ["", ""]

        def read(number, stream):
            said[number] = stream.read()

        readers = [threading.Thread(target=read, args=(number, stream), daemon=True) for number, stream in enumerate((self.stdout, self.stderr))]
        for reader in readers:
            reader.start()
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        for reader, stream in zip(readers, (self.stdout, self.stderr)):
            reader.join()
            stream.close()
        return tuple(said)

    def send_signal(self, number):
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self):
        self.send_signal(signal.SIGTERM)

    def kill(self):
        self.send_signal(signal.SIGKILL)
