"""Writing files and folders whole or not at all."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def staged(target: str | os.PathLike, *, overwrite: bool = False) -> Iterator[Path]:
    """A sibling path to write to; it becomes `target` when the block ends well.

    After an error nothing is left but what was there before.

    Raises:
      ValueError: `target` exists and `overwrite` is False.
      OSError: the parent does not exist or cannot be written.
    """
    target = Path(target)
    if target.exists() and not overwrite:
        raise ValueError(
            f"{target} exists already; choose another place or pass --overwrite."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    _remove(partial)
    try:
        yield partial
        _put(partial, target)
    finally:
        _remove(partial)


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


def write_failed(target: str | os.PathLike, error: Exception) -> OSError:
    """The one-sentence form of whatever a writing library raised."""
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return OSError(
        f"Writing {target} failed, nothing was kept: {reason[0][:200]}; make room or "
        "choose another place."
    )
