"""The entry point: finds the command, reports errors, prepares JAX's environment.

A command is a module of this package with `add_arguments(parser)` and `run(args)`,
which returns the exit status; it is imported when it is called for, so that help comes
at once. A command with `OVERRIDES = True` finds unknown arguments in `args.overrides`.
"""

import argparse
import contextlib
import difflib
import importlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from mplug2_jax import __version__
from mplug2_jax.exits import WRONG, LostError, exit_status

COMMANDS = {
    "caption": "describe videos and images",
    "ask": "answer questions about a video or an image",
    "classify": "tell which class media, texts, or texts about media belong to",
    "ground": "find what a phrase names in an image",
    "index": "make files searchable by text",
    "search": "find the files of an index that a text describes",
    "train": "train or fine-tune on your own data",
    "prepare": "make a data set's files ready for training",
    "evaluate": "score a checkpoint on annotated data",
    "quickstart": "make a small world, train on it, show what was learned",
    "convert": "PyTorch checkpoints to ours, and back",
    "compare": "check a checkpoint against the outputs of another run",
    "plan": "what a run would take on TPUs or GPUs that are not there",
    "modules": "which modules a task uses, and how large they are",
}
TPU_DEVICES = ("dev/accel*", "dev/vfio/*")  # one of them, where a TPU is
INTERRUPTED = 130
TERMINATED = 143
BROKEN_PIPE = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line and returns its exit status.

    2 for an error that the user can mend and 74 for one that another start may not meet
    (`exits.py`), reported in one line on stderr (with its traceback if MPLUG2_TRACEBACK
    is set); 130 after Ctrl-C, 143 after SIGTERM.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        return 0 if argv else 2
    if argv[0] == "--version":
        print(f"mplug2 {__version__}")
        return 0
    name = argv[0]
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        advice = f"did you mean {close[0]!r}?" if close else "see `mplug2 --help`"
        print(f"mplug2: error: there is no command {name!r}; {advice}", file=sys.stderr)
        return WRONG
    cache_compilations(os.environ)
    skip_absent_tpus(os.environ)
    try:
        with _terminable(), _backend_named():
            return _run(name, argv[1:])
    except KeyboardInterrupt:
        print(f"\nmplug2 {name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (ValueError, OSError) as error:
        if os.environ.get("MPLUG2_TRACEBACK"):
            raise
        message = " ".join(str(error).split())
        print(f"mplug2 {name}: error: {message}", file=sys.stderr)
        return exit_status(error)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM raises SystemExit, so that what was begun is cleaned away.

    Training has a way of its own, see `training/interrupts.py`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _backend_named() -> Iterator[None]:
    """That JAX finds none of the devices it is to use is told in one line.

    Asked once something has failed: no command waits for devices that it does not use,
    and processes have joined by the time that one touches them.

    Raises:
      LostError: it finds none.
    """
    try:
        yield
    except (AssertionError, RuntimeError) as error:
        import jax

        try:
            jax.devices()
        except (AssertionError, RuntimeError) as found:
            platforms = os.environ.get("JAX_PLATFORMS", "")
            raise LostError(
                f"JAX_PLATFORMS is {platforms!r}, and JAX finds no such device "
                f"({str(found) or 'none is there'}); install what drives it (pip "
                "install -e '.[cuda]' or '.[tpu]'), or unset JAX_PLATFORMS to run on "
                "what is there."
            ) from error
        raise


def cache_compilations(environment: MutableMapping[str, str]) -> None:
    """Lets JAX, when it is imported, keep what it compiles between runs.

    In `~/.cache/mplug2_jax` (XDG_CACHE_HOME); another JAX_COMPILATION_CACHE_DIR stays,
    and MPLUG2_NO_CACHE=1 keeps nothing.
    """
    if not environment.get("MPLUG2_NO_CACHE"):
        folder = _cache_folder(environment) / "mplug2_jax" / "compiled"
        environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
        # Small models are many small programs; JAX's own bound is a second.
        environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


def skip_absent_tpus(environment: MutableMapping[str, str], root: str = "/") -> None:
    """Keeps JAX, when it is imported, from starting libtpu where there is no TPU.

    `plan` needs libtpu installed; every other command would have it look for a TPU,
    and complain on stderr. A choice of JAX_PLATFORMS stays.
    """
    found = any(next(Path(root).glob(sign), None) for sign in TPU_DEVICES)
    if found or "JAX_PLATFORMS" in environment or not find_spec("libtpu"):
        return
    has_cuda = any(find_spec(f"jax_cuda{version}_plugin") for version in (12, 13))
    environment["JAX_PLATFORMS"] = "cuda,cpu" if has_cuda else "cpu"


def _cache_folder(environment: Mapping[str, str]) -> Path:
    own = environment.get("XDG_CACHE_HOME")
    return Path(own) if own else Path.home() / ".cache"


def _run(name: str, arguments: Sequence[str]) -> int:
    command = importlib.import_module(f"{__package__}.{name}")
    parser = _parser(name, command)
    try:
        args, unknown = parser.parse_known_args(arguments)
        if getattr(command, "OVERRIDES", False):
            args.overrides = unknown
        elif unknown:
            parser.error(f"unknown arguments: {' '.join(unknown)}")
    except SystemExit as stop:  # argparse has said why, or has shown its help
        return int(stop.code or 0)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: print(
            f"mplug2 {name}: warning: {message}", file=sys.stderr
        )
        status = command.run(args)
    sys.stdout.flush()
    return status


def _parser(name: str, command: ModuleType) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"mplug2 {name}",
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    return parser


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        (
            "usage: mplug2 COMMAND [ARGUMENT ...]",
            "",
            "mPLUG-2: captions, answers and search for videos and images.",
            "",
            *lines,
            "",
            "`mplug2 COMMAND --help` explains a command's arguments.",
        )
    )
