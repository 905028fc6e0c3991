"""The entry point: help, errors, what JAX is told before it starts."""

import argparse
import errno
import os
import signal
import subprocess
import sys
import types
import warnings

import jax
import pytest

from mplug2_jax.checkpoint.staging import staged
from mplug2_jax.cli import main as entry
from mplug2_jax.cli.main import (
    COMMANDS,
    cache_compilations,
    main,
    skip_absent_tpus,
)
from mplug2_jax.data.faults import TooManyFaultsError
from mplug2_jax.exits import LOST


@pytest.fixture
def command(monkeypatch):
    """Puts a function in the place of the command `modules`."""

    def put(run, **extra):
        module = types.ModuleType("mplug2_jax.cli.modules")
        module.__doc__ = "Explains itself."
        module.add_arguments = lambda parser: parser.add_argument("--number", type=int)
        module.run = run
        vars(module).update(extra)
        monkeypatch.setitem(sys.modules, module.__name__, module)

    monkeypatch.setattr(entry, "cache_compilations", lambda environment: None)
    return put


def raises(error):
    def run(*_):
        raise error

    return run


def test_help_lists_all_commands(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown and line in shown for name, line in COMMANDS.items())
    assert main([]) == 2


def test_help_and_its_kin_do_not_wait_for_jax():
    program = (
        "import sys; from mplug2_jax.cli.main import main\n"
        "assert main(['--help']) == main(['caption', '--help']) == 0\n"
        "assert main(['evaluate', '--help']) == main(['ask', '--help']) == 0\n"
        "assert main(['no-such']) == 2\n"
        "sys.exit('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert done.returncode == 0, done.stderr


def test_every_command_exists_and_explains_itself(capsys):
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
        assert f"usage: mplug2 {name}" in capsys.readouterr().out


def test_an_unknown_command_gets_a_suggestion(capsys):
    assert main(["captoin"]) == 2
    assert "did you mean 'caption'?" in capsys.readouterr().err
    assert main(["xyz"]) == 2
    assert "see `mplug2 --help`" in capsys.readouterr().err


def test_the_status_is_the_commands(command):
    seen = []
    command(lambda args: seen.append(args.number) or 7)
    assert main(["modules", "--number", "5"]) == 7
    assert seen == [5]


def test_wrong_arguments(command, capsys):
    command(raises(AssertionError))
    assert main(["modules", "--number", "x"]) == 2
    assert main(["modules", "--other", "1"]) == 2
    assert "unknown arguments: --other 1" in capsys.readouterr().err


def test_overrides_go_to_commands_that_take_them(command):
    seen = []

    def run(args: argparse.Namespace):
        seen.extend(args.overrides)
        return 0

    command(run, OVERRIDES=True)
    assert main(["modules", "--number", "5", "--config.steps=3"]) == 0
    assert seen == ["--config.steps=3"]


@pytest.mark.parametrize(
    "error", [ValueError("bad\n  size"), FileNotFoundError("bad size")]
)
def test_a_users_error_is_one_line(command, capsys, error, monkeypatch):
    command(raises(error))
    assert main(["modules"]) == 2
    assert capsys.readouterr().err == "mplug2 modules: error: bad size\n"
    monkeypatch.setenv("MPLUG2_TRACEBACK", "1")
    with pytest.raises(type(error)):
        main(["modules"])


@pytest.mark.parametrize(
    "error",
    [
        ConnectionError("gone"),
        OSError(errno.EIO, os.strerror(errno.EIO)),
        TooManyFaultsError(
            "3 of 9 cannot be used; the last: Stale file handle: 1.mp4."
        ),
    ],
)
def test_what_another_start_may_mend_has_a_status_of_its_own(command, error):
    command(raises(error))
    assert main(["modules"]) == LOST


@pytest.mark.parametrize("kind", [TypeError, RuntimeError, AssertionError])
def test_an_error_of_ours_is_not_hidden(command, kind):
    command(raises(kind("ours")))
    with pytest.raises(kind, match="ours"):
        main(["modules"])


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (AssertionError(), "none is there"),  # JAX's, of cuda without a GPU
        (RuntimeError("Unable to initialize\n'tpu'"), "Unable to initialize 'tpu'"),
    ],
)
def test_devices_that_are_not_there_are_one_line(
    command, capsys, monkeypatch, error, reason
):
    monkeypatch.setattr(jax, "devices", raises(error))
    command(lambda args: jax.devices(args))
    assert main(["modules"]) == LOST
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("mplug2 modules: error: JAX_PLATFORMS is 'cpu'")
    assert f"({reason}); install" in said and "unset JAX_PLATFORMS" in said


def test_a_warning_is_one_line(command, capsys):
    command(lambda args: warnings.warn("few references", stacklevel=1) or 0)
    assert main(["modules"]) == 0
    assert capsys.readouterr().err == "mplug2 modules: warning: few references\n"


def test_interrupted(command, capsys):
    command(raises(KeyboardInterrupt()))
    assert main(["modules"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_the_compilation_cache(tmp_path):
    fresh = {"XDG_CACHE_HOME": str(tmp_path)}
    cache_compilations(fresh)
    folder = fresh["JAX_COMPILATION_CACHE_DIR"]
    assert folder == str(tmp_path / "mplug2_jax" / "compiled")
    own = {"JAX_COMPILATION_CACHE_DIR": "/elsewhere"}
    cache_compilations(own)
    assert own["JAX_COMPILATION_CACHE_DIR"] == "/elsewhere"
    off = {"MPLUG2_NO_CACHE": "1"}
    cache_compilations(off)
    assert "JAX_COMPILATION_CACHE_DIR" not in off


def test_libtpu_rests_where_there_is_no_tpu(tmp_path, monkeypatch):
    installed = {"libtpu"}
    monkeypatch.setattr(entry, "find_spec", lambda name: name in installed or None)

    def platforms(environment, root=tmp_path / "none"):
        skip_absent_tpus(environment, str(root))
        return environment.get("JAX_PLATFORMS")

    assert platforms({}) == "cpu"
    assert platforms({"JAX_PLATFORMS": "tpu"}) == "tpu"
    (tmp_path / "dev" / "vfio").mkdir(parents=True)
    assert platforms({}, tmp_path) == "cpu"
    (tmp_path / "dev" / "vfio" / "0").touch()
    assert platforms({}, tmp_path) is None
    installed.add("jax_cuda12_plugin")
    assert platforms({}) == "cuda,cpu"
    installed.remove("libtpu")
    assert platforms({}) is None


def test_jax_starts_without_a_word():
    """As a command's does, with libtpu installed and no TPU there."""
    program = (
        "import os; from mplug2_jax.cli.main import skip_absent_tpus\n"
        "skip_absent_tpus(os.environ); import jax; jax.devices()"
    )
    environment = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
    environment["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # others may be planning
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_termination_cleans_away_what_was_begun(command, tmp_path):
    def write(args):
        with staged(tmp_path / "folder" / "file") as partial:
            partial.write_text("half")
            os.kill(os.getpid(), signal.SIGTERM)

    command(write)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        main(["modules"])
    assert stopped.value.code == 143 and not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) is before
