"""A checkpoint and clips on disk, and the command line in this process."""

import pytest
import small

from mplug2_jax.cli.main import main


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    return small.save(tmp_path_factory.mktemp("checkpoint") / "small")


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    return small.write_clips(tmp_path_factory.mktemp("clips"), 3)


@pytest.fixture
def mplug2(capsys, monkeypatch):
    """Runs a command line: (exit status, lines of stdout, stderr)."""
    monkeypatch.setenv("MPLUG2_NO_CACHE", "1")

    def run(*arguments):
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out.splitlines(), captured.err

    return run
