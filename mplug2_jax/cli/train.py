"""Pretrains, fine-tunes or trains a model from a configuration file.

    mplug2 train --config configs/msrvtt_caption.py --workdir runs/caption \
        --config.train.path=train.jsonl --config.init_from=checkpoints/initial

Running the same command again goes on where it stopped. SIGTERM saves and exits with
status 0, Ctrl-C saves and exits with 130: both after the step under way, so it takes
that step and one save. A second Ctrl-C does not wait.
"""

import argparse
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

OVERRIDES = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Any value of the configuration is overridden by --config.NAME=VALUE."""
    parser.add_argument("--config", required=True, metavar="FILE.py")
    parser.add_argument("--workdir", required=True, metavar="DIR")


def run(args: argparse.Namespace) -> int:
    values = read_config(args.config, args.overrides)
    from mplug2_jax.sharding.distributed import ending_together, initialize

    initialize()
    import jax

    from mplug2_jax.training.config import RunConfig
    from mplug2_jax.training.interrupts import Stopped
    from mplug2_jax.training.loop import train

    try:
        with ending_together(), _memory_named():
            train(RunConfig.from_dict(values), args.workdir)
    except Stopped as stopped:
        if jax.process_index() == 0:
            print(stopped)
        return stopped.exit_status
    print(f"checkpoint: {args.workdir}")
    return 0


@contextlib.contextmanager
def _memory_named() -> Iterator[None]:
    """Running out of device memory is something the user can mend."""
    from jax.errors import JaxRuntimeError

    try:
        yield
    except JaxRuntimeError as error:
        text = str(error)
        if "RESOURCE_EXHAUSTED" not in text:
            raise
        raise ValueError(
            f"The device's memory does not suffice ({text.splitlines()[0][:200]}); "
            "raise config.accumulation or config.mesh.fsdp, or set "
            "config.model.numerics.remat to 'full'."
        ) from error


def _reason(error: Exception) -> str:
    """In one line; ml_collections reports unknown keys with a guess, in quotes."""
    text, hint = str(error).strip(), r'(?:\\n|\s)*Did you mean "(\w+)".*'
    found = re.fullmatch(rf"""["'\\]*(\w+)["'\\]*(?:{hint})?""", text, re.DOTALL)
    if isinstance(error, (KeyError, AttributeError)) and found:
        guess = f"did you mean {found[2]}?" if found[2] else "look into the file."
        return f"there is no key {found[1]}; {guess}"
    return f"{type(error).__name__}: {text.partition(chr(10))[0]}"


def read_config(path: str, overrides: list[str]) -> dict[str, Any]:
    """The values of a file with --config.NAME=VALUE arguments applied.

    Raises:
      ValueError: the file has no `get_config`, or an override does not fit it.
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no configuration file {path}; check --config.")
    values = flags.FlagValues()
    argv = ["train", f"--config={path}", *overrides]
    try:
        config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
        rest = values(argv)[1:]
        config = values["config"].value
    except Exception as error:  # the file is code and may raise anything
        raise ValueError(
            f"{path} with {' '.join(overrides) or 'no overrides'} is no "
            f"configuration: {_reason(error)}"
        ) from error
    if rest:
        raise ValueError(f"Unknown arguments {rest}; expected --config.NAME=VALUE.")
    if config is None:
        raise ValueError(f"get_config() of {path} returns nothing; return its config.")
    return config.to_dict()
