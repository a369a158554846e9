"""What every command has in common: errors that become one line on stderr and the exit code of docs/errors.md; files that appear whole."""

import argparse
import errno
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import time


class _HelpWithDefaults(argparse.HelpFormatter):
    """Says the default of every option that has one, unless its help does."""

    def _get_help_string(self, action):
        text = action.help or ""
        says_nothing = action.default in (None, False, argparse.SUPPRESS) or not action.option_strings or "default" in text
        return text if says_nothing else f"{text} (default: %(default)s)".lstrip()


def program_options(name):
    """What the program takes under a command, as it says itself: [{"names", "value", "default", "help"}]. Nothing where it is not here."""
    try:
        said = subprocess.run([os.environ["MERISTEM_BINARY"], "describe-commands"], stdout=subprocess.PIPE, check=True).stdout
    except (KeyError, OSError, subprocess.CalledProcessError):
        return []
    return json.loads(said)[name]["options"]


class Parser(argparse.ArgumentParser):
    """The parser of every command: options are not abbreviated, defaults stand in the help. `passes_on`: the program's command to which options that are
    not known here go; its help lists them, but for those in `keeps_back`."""

    def __init__(self, passes_on=None, keeps_back=(), **settings):
        self.passes_on, self.keeps_back = passes_on, set(keeps_back)
        super().__init__(**{"allow_abbrev": False, "formatter_class": _HelpWithDefaults} | settings)

    def format_help(self):
        if self.passes_on is None:
            return super().format_help()
        of_program = self.add_argument_group("options that go to the program")
        for option in program_options(self.passes_on):
            if not set(option["names"]) & (set(self._option_string_actions) | self.keeps_back):
                of_program.add_argument(*option["names"], default=option["default"] or None, help=option["help"].replace("%", "%%"),
                                        **{"metavar": "X"} if option["value"] else {"action": "store_true"})
        return super().format_help()

    def error(self, message):
        """One line, as for every other wrong input."""
        print(f"meristem: error: {message}; see {self.prog} --help", file=sys.stderr)
        raise SystemExit(2)


class UserError(Exception):
    """The user's input is wrong (exit 2): one line naming file, line or offset, what was found, what is allowed."""


class DamagedError(Exception):
    """A file is damaged (exit 4): names the file and the offset or key."""


# Where the path itself is at fault, the user can correct it; a full or failing disk is another matter.
_PATH_AT_FAULT = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG,
                  errno.ELOOP}


def reported(main):
    """Turns the errors of main(argv) into a line and an exit code."""

    @functools.wraps(main)
    def run(argv):
        try:
            return main(argv)
        except (UserError, DamagedError, OSError) as error:
            return report(error)
        except KeyboardInterrupt:
            return 130

    return run


def report(error):
    """Says what went wrong; returns the exit code."""
    if isinstance(error, BrokenPipeError):  # the reader has seen enough (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, OSError):
        return _say(f"{error.filename}: {error.strerror}" if error.filename else error, 2 if error.errno in _PATH_AT_FAULT else 1)
    return _say(error, 4 if isinstance(error, DamagedError) else 2)


def _say(message, code):
    print(f"meristem: error: {message}", file=sys.stderr)
    return code


class Bar:
    """How far a command is, on a terminal, redrawn about twice a second; nothing in a pipe."""

    def __init__(self, what, stream=None):
        self.what, self.stream = what, stream or sys.stderr
        self.on = self.stream.isatty()
        self.begin, self.drawn, self.visible = time.monotonic(), 0.0, False

    def show(self, done, total):
        now = time.monotonic()
        if not self.on or (done < total and now - self.drawn < 0.5):
            return
        self.drawn, self.visible = now, True
        share = done / max(1, total)
        left = int((now - self.begin) * (1 - share) / share) if done else 0
        text = f"{'█' * round(24 * share):·<24} {share:4.0%}  {done:,} of {total:,} {self.what}  {left // 60}:{left % 60:02} left"
        self.stream.write(f"\r\033[K{text}")
        self.stream.flush()

    def clear(self):
        """Before anything else is written, and in the end."""
        if self.visible:
            self.stream.write("\r\033[K")
            self.stream.flush()
            self.visible = False


def program_answer(command, what, said=lambda line: line):
    """What a command of the program prints, in lines. On a terminal a bar shows how many of `what` it has done; its other words pass through `said`. Where it fails,
    so do we, with its exit code."""
    bar = Bar(what)
    with tempfile.TemporaryFile("w+") as answer:
        with subprocess.Popen([*command, *(["--progress-lines"] if bar.on else [])], stdout=answer, stderr=subprocess.PIPE, text=True) as program:
            for line in program.stderr:
                if progress := re.fullmatch(r"progress (\d+) (\d+)\n", line):
                    bar.show(int(progress[1]), int(progress[2]))
                else:
                    bar.clear()
                    sys.stderr.write(said(line))
        bar.clear()
        if program.returncode != 0:
            raise SystemExit(program.returncode)
        answer.seek(0)
        return answer.read().splitlines()


def utf8(place, text):
    """The text, which comes from the command line or a terminal, refused where its bytes are no UTF-8 (Python keeps such bytes as halves of characters)."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = ord(text[error.start])
        what = f"found 0x{found - 0xDC00:02x}" if 0xDC80 <= found <= 0xDCFF else "half a character"
        raise UserError(f"{place}: not UTF-8 at character {error.start} ({what})") from None
    return text


def read_utf8(path):
    """The text of a file that a user wrote."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start}: not UTF-8 (found 0x{error.object[error.start]:02x})") from None


def require_writable(path):
    """Refuses a file that could not be written, before the work whose result it shall hold."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder; a file is needed")
    if not path.parent.is_dir():
        raise UserError(f"{path.parent}: no such folder, so {path.name} cannot be written there")
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise UserError(f"{path}: cannot be written")


def _rename(beside, path, replace):
    if not replace:
        try:
            os.link(beside, path)  # as a rename that refuses to overwrite: there is no moment between a look and the deed
            return
        except FileExistsError:
            raise UserError(f"{path}: exists: another process was first; nothing of it is overwritten") from None
        except OSError:  # a file system without hard links
            if path.exists():
                raise UserError(f"{path}: exists: another process was first; nothing of it is overwritten") from None
    os.replace(beside, path)


def publish(path, write, durable=True, replace=True):
    """`write(path)` writes a file that gets its name once it is whole and (durable) on disk: a reader, or a killed command, never sees half of one. Without
    `replace` a file that has come to stand there in the meantime stays, and a UserError says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(beside)
        if durable:
            with open(beside, "rb") as file:
                os.fsync(file.fileno())
        _rename(beside, path, replace)
    except OSError as error:
        error.filename = str(path)  # a full disk does not say which file met it
        raise
    finally:
        beside.unlink(missing_ok=True)
