"""What every command has in common: errors that become one line on stderr and the exit code of docs/errors.md; files that appear whole."""

import errno
import functools
import os
import sys


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


def publish(path, write):
    """`write(path)` writes a file that gets its name once it is whole and on disk: a reader, or a killed command, never sees half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(beside)
        with open(beside, "rb") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        error.filename = str(path)  # a full disk does not say which file met it
        raise
    finally:
        beside.unlink(missing_ok=True)
