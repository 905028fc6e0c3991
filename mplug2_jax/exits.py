"""Exit statuses of commands that fail: whether a launcher should start them again."""

WRONG = 2  # what was asked for; another start ends alike
LOST = 74  # a process, a device or a file system; another start may succeed
BROKEN = 1  # an error that nobody foresaw, with a traceback

# What the system says of a wrong path; whatever else it says may pass.
_WRONG_PATHS = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)


class NoDeviceError(OSError):
    """There is no device of the kind that is asked for."""


def exit_status(error: Exception) -> int:
    """The status of a command that an error ends.

    Errors of files without a number of the system are our own, on what was given.
    """
    if isinstance(error, (ConnectionError, TimeoutError, NoDeviceError)):
        return LOST
    if not isinstance(error, (ValueError, OSError)):
        return BROKEN
    by_system = isinstance(error, OSError) and error.errno is not None
    return LOST if by_system and not isinstance(error, _WRONG_PATHS) else WRONG
