"""Commands and training runs of `mplug2` as parts of a benchmark."""

import time
from pathlib import Path
from typing import Any

from mplug2_jax.cli.main import main

CONFIGS = Path(__file__).parents[1] / "configs"


def command(*arguments: Any) -> None:
    """One command of `mplug2`; its failure ends the benchmark."""
    if status := main([str(argument) for argument in arguments]):
        raise SystemExit(status)


def trained(config: str, workdir: Path, changed: dict[str, Any]) -> float:
    """Minutes of a training run; of what is left of it, if it has begun before.

    Args:
      config: a file's name under `configs/`.
      changed: values of the configuration by name.
    """
    start = time.monotonic()
    overrides = [f"--config.{name}={value}" for name, value in changed.items()]
    path = CONFIGS / f"{config}.py"
    command("train", "--config", path, "--workdir", workdir, *overrides)
    if not (workdir / "final").exists():
        raise SystemExit(f"{workdir} was stopped; the same command goes on")
    return (time.monotonic() - start) / 60
