"""Errors of the text commands: one line on stderr and the exit code of docs/errors.md."""

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
        except UserError as error:
            return _say(error, 2)
        except DamagedError as error:
            return _say(error, 4)
        except BrokenPipeError:  # the reader has seen enough (`| head`)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:
            return _say(f"{error.filename}: {error.strerror}" if error.filename else error, 2 if error.errno in _PATH_AT_FAULT else 1)
        except KeyboardInterrupt:
            return 130

    return run


def _say(message, code):
    print(f"meristem: error: {message}", file=sys.stderr)
    return code
