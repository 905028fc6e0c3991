"""Writing files and folders whole or not at all."""

import contextlib
import glob
import os
import platform
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from mplug2_jax.data.files import local_path
from mplug2_jax.exits import FULL

CONFIG = "config.json"  # what every checkpoint folder has
ABANDONED = 24 * 3600  # seconds without a change
_SYSTEM_REASON = re.compile("|".join(os.strerror(code) for code in FULL))


class WriteError(OSError):
    """A library could not write; `staged` says where and cleans up."""

    def __init__(self, error: Exception):
        super().__init__(reason(error))


def reason(error: Exception) -> str:
    """Why writing failed: the system's words, or else the first line of a library's."""
    text = getattr(error, "strerror", None) or str(error).strip()
    found = _SYSTEM_REASON.search(text)
    return found[0] if found else (text.splitlines() or [repr(error)])[0]


@contextlib.contextmanager
def staged(target: str | os.PathLike, *, overwrite: bool = False) -> Iterator[Path]:
    """A sibling path to write to; it becomes `target` when the block ends well.

    After an error nothing is left but what was there before; what a killed process
    leaves goes when `target` is next written.

    Raises:
      ValueError: `target` exists and `overwrite` is False, or it is a folder that is
        no checkpoint.
      OSError: the parent cannot be written, or has no room.
    """
    target = local_path(target, "write to this machine, or to a mounted folder.")
    if target.exists() and not overwrite:
        raise ValueError(
            f"{target} exists already; choose another place or pass --overwrite."
        )
    if target.is_dir() and any(target.iterdir()) and not (target / CONFIG).exists():
        raise ValueError(
            f"{target} is a folder without {CONFIG}, no checkpoint, and is not "
            "overwritten; choose another place."
        )
    made = [folder for folder in target.parents if not folder.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    mine = f".{target.name}.{platform.node()}.{os.getpid()}.partial"
    partial = target.with_name(mine)
    _remove(partial)
    _remove_abandoned(target)
    try:
        yield partial
        _put(partial, target)
    except OSError as error:
        if not isinstance(error, WriteError) and error.errno not in FULL:
            raise
        raise OSError(
            f"Writing {target} failed and nothing of it was kept: "
            f"{reason(error)[:200]}; make room or choose another place."
        ) from error
    finally:
        _remove(partial)
        if not target.exists():
            _remove_empty(made)


def _remove_abandoned(target: Path) -> None:
    """Removes what killed processes have left beside `target`.

    Another machine's processes cannot be asked after; what they write changes.
    """
    here = re.escape(f".{target.name}.{platform.node()}.") + r"(\d+)\.partial"
    for path in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        with contextlib.suppress(OSError):  # somebody else's, or it is gone already
            writer = re.fullmatch(here, path.name)
            ended = writer is not None and not _runs(int(writer[1]))
            if ended or time.time() - _changed(path) > ABANDONED:
                _remove(path)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _changed(path: Path) -> float:
    """When a file, or anything in a folder, last changed."""
    return max(its.lstat().st_mtime for its in (path, *path.rglob("*")))


def _remove_empty(folders: Iterable[Path]) -> None:
    """Removes folders, the innermost first, up to one that somebody has used."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _put(partial: Path, target: Path) -> None:
    """Renames; a folder in the way steps aside first, as rename cannot replace it."""
    if not target.is_dir():
        os.replace(partial, target)
        return
    old = partial.with_suffix(".old")
    os.replace(target, old)
    try:
        os.replace(partial, target)
    except OSError:
        os.replace(old, target)
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
