"""Files and folders are written whole, and what killed writes left goes."""

import os
import platform
import subprocess
import sys

import pytest

from mplug2_jax.checkpoint.staging import ABANDONED, staged

HERE = platform.node()


@pytest.fixture
def ended():
    """Number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def write(target):
    with staged(target, overwrite=True) as partial:
        partial.write_text("whole")


def test_what_killed_writes_left_is_removed(tmp_path, ended):
    left = tmp_path / f".final.{HERE}.{ended}.partial"
    (left / "params").mkdir(parents=True)
    (left / "params" / "array").write_text("half")
    write(tmp_path / "final")
    assert [path.name for path in tmp_path.iterdir()] == ["final"]


def test_what_others_may_still_write_is_kept(tmp_path, ended):
    kept = {
        f".final.{HERE}.{os.getppid()}.partial",  # it runs
        f".final.else{HERE}.{ended}.partial",  # on another machine
        f".best.{HERE}.{ended}.partial",
        f".final.{HERE}.{ended}.old",  # perhaps the only one
    }
    for name in kept:
        (tmp_path / name).mkdir()
    write(tmp_path / "final")
    assert {path.name for path in tmp_path.iterdir()} == kept | {"final"}


def test_what_nobody_has_changed_for_long_is_removed(tmp_path):
    """Of other machines, and of versions that did not name theirs."""
    still = tmp_path / ".final.elsewhere.1.partial"
    stale = tmp_path / ".final.999.partial"
    for folder in (still, stale):
        folder.mkdir()
        (folder / "array").write_text("half")
        long_ago = folder.stat().st_mtime - ABANDONED - 60
        os.utime(folder, (long_ago, long_ago))
    os.utime(stale / "array", (long_ago, long_ago))
    write(tmp_path / "final")
    assert {path.name for path in tmp_path.iterdir()} == {still.name, "final"}
