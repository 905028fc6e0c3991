"""What the benchmarks share: arguments, random parameters, timing, the machine."""

import argparse
import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mplug2_jax.models.config import PRESETS, MPlug2Config
from mplug2_jax.models.mplug2 import abstract_params


def arguments(doc: str | None, **defaults: int) -> argparse.ArgumentParser:
    """A parser of `--size`, `--limit` and an integer for each of `defaults`."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--size", choices=sorted(PRESETS), default="large")
    parser.add_argument("--limit", type=float, help="of the ratio of times")
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    return parser


def random_params(config: MPlug2Config, modules: tuple[str, ...]) -> Any:
    """Parameters of a real model's magnitudes, none of them zero; numpy.

    One draw, turned further for each array, so that all are there in seconds.
    """
    noise = np.random.default_rng(0).standard_normal(1_000_003, np.float32)
    noise *= 0.6 * config.text.width**-0.5  # 0.02 for large
    leaves, structure = jax.tree.flatten_with_path(abstract_params(config, modules))

    def draw(index: int, path: Any, shape: tuple[int, ...]) -> np.ndarray:
        turned = np.roll(noise, 7919 * index) + np.float32(path[-1].key == "scale")
        return np.resize(turned, shape)

    drawn = [draw(i, path, leaf.shape) for i, (path, leaf) in enumerate(leaves)]
    return jax.tree.unflatten(structure, drawn)


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


def table(seconds: dict[str, list[float]]) -> str:
    """Least and median time of each run in seconds."""
    rows = (
        f"| {name} | {min(times):.3f} | {statistics.median(times):.3f} |"
        for name, times in seconds.items()
    )
    return "\n".join(("| | min s | median s |\n|---|---|---|", *rows))


def append(file: Path, record: dict[str, Any]) -> None:
    """Adds a line of JSON to the file."""
    with file.open("a") as lines:
        lines.write(f"{json.dumps(record)}\n")


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
