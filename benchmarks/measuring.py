"""What the benchmarks share: random parameters, interleaved timing, the machine."""

import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from mplug2_jax.models.config import MPlug2Config
from mplug2_jax.models.mplug2 import MPlug2, init_params


def random_params(config: MPlug2Config, modules: tuple[str, ...]) -> Any:
    """Initial parameters, with noise where they start as zeros or ones.

    So every branch counts, and the magnitudes are those of a real model.
    """
    config = config.replace(vision={"local_temporal_init": "normal"})
    rng = np.random.default_rng(0)

    def disturb(leaf):
        if leaf.size > 1 << 20:
            return leaf
        return leaf + 0.02 * rng.standard_normal(leaf.shape, np.float32)

    init = jax.jit(lambda: init_params(MPlug2(config, modules), jax.random.key(0)))
    return jax.tree.map(disturb, nn.meta.unbox(init()))


def interleaved(
    runs: dict[str, Callable[[], Any]], repeats: int
) -> dict[str, list[float]]:
    """Seconds of each run, in turn, after one run of each that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def row(name: str, seconds: list[float]) -> str:
    """A line of a table: name, least and median time in seconds."""
    return f"| {name} | {min(seconds):.3f} | {statistics.median(seconds):.3f} |"


def machine(*packages: str) -> str:
    """Processor, cores, load, versions and date, one line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if _is_linux() else []
    names = [x.split(":")[1].strip() for x in lines if x.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if _is_linux() else os.cpu_count()
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"{names[0] if names else platform.processor()}, {cores} cores, load "
        f"{os.getloadavg()[0]:.1f}; Python {platform.python_version()}, {versions}; "
        f"{datetime.date.today()}"
    )


def _is_linux() -> bool:
    return platform.system() == "Linux"
