"""Exit statuses of commands that fail: whether a launcher should start them again."""

import errno
import os
import re

WRONG = 2  # what was asked for; another start ends alike
LOST = 74  # a process, a device or a file system; another start may succeed
BROKEN = 1  # an error that nobody foresaw, with a traceback

# What file systems say that are away or full, in errors of ours and of libraries.
_AWAY = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_MAY_PASS = re.compile("|".join(re.escape(os.strerror(n)) for n in (*_AWAY, *FULL)))


class LostError(OSError):
    """Something is not there, or does not answer, that another start may find."""


def exit_status(error: Exception) -> int:
    """The status of a command that an error ends."""
    if may_pass(error):
        return LOST
    return WRONG if isinstance(error, (ValueError, OSError)) else BROKEN


def may_pass(error: Exception) -> bool:
    """Whether an error is of the machines, not of what was asked for."""
    lost = isinstance(error, (ConnectionError, TimeoutError, LostError))
    return lost or _MAY_PASS.search(str(error)) is not None
