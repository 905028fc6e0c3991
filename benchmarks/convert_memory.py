"""Peak memory and time of full-size conversions, there and back.

    python benchmarks/convert_memory.py --directory /somewhere/with/30GB --size large

Makes random files of upstream's keys (`tests/golden/keys`), 6.2 GB for `large`, and
runs `mplug2 convert` on them, each run a process of its own. Peak memory is the
largest resident set the kernel saw, pages of mapped files included.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from mplug2_jax.checkpoint.lazy import LazyArray
from mplug2_jax.conversion.safetensors_io import write_safetensors

KEYS = Path(__file__).parents[1] / "tests" / "golden" / "keys"
LIMIT = 1.3  # times the file's size


def random_tensors(size: str) -> dict[str, LazyArray]:
    """Upstream's keys with random values; tied weights once."""
    tensors = {}
    for key, (shape, *layers) in json.loads(
        (KEYS / f"{size}.json").read_text()
    ).items():
        for layer in range(*layers) if layers else [""]:
            if ".predictions.decoder." not in key:
                tensors[key.replace("#", str(layer))] = _random(tuple(shape))
    return tensors


def _random(shape: tuple[int, ...]) -> LazyArray:
    kind, rng = np.dtype(np.float32), np.random.default_rng(0)
    return LazyArray(shape, kind, lambda: rng.standard_normal(shape, kind))


def write_pytorch(source: Path, target: Path) -> None:
    """The same tensors as a `.pth` file, their storages mapped from `source`."""
    import torch

    with source.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__")
    data = np.memmap(source, np.uint8, "c", offset=8 + length)
    state = {}
    for key, entry in header.items():
        start, end = entry["data_offsets"]
        values = data[start:end].view(np.float32).reshape(entry["shape"])
        state[key] = torch.from_numpy(values)
    torch.save({"model": state}, target)


def make_files(folder: Path, size: str) -> None:
    """weights.safetensors and weights.pth of the same tensors."""
    write_safetensors(folder / "weights.safetensors", random_tensors(size))
    write_pytorch(folder / "weights.safetensors", folder / "weights.pth")


def measure(*arguments: str | Path) -> tuple[float, float]:
    """Seconds and peak bytes of one `mplug2 convert`."""
    command = [sys.executable, "-m", "mplug2_jax", "convert", *map(str, arguments)]
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.monotonic() - start, usage.ru_maxrss * 1024


def main() -> None:
    """Prints one line per conversion."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--size", choices=("base", "large"), default="large")
    args = parser.parse_args()
    args.directory.mkdir(parents=True, exist_ok=True)
    folder = args.directory
    # A process of its own: children would start with this one's peak.
    maker = multiprocessing.get_context("spawn").Process(
        target=make_files, args=(folder, args.size)
    )
    maker.start()
    maker.join()
    size = (folder / "weights.pth").stat().st_size
    print(f"{args.size}: file of {size / 1e9:.2f} GB, limit {LIMIT} times its size")
    for name, arguments in {
        "weights.pth -> folder": ("weights.pth", "live"),
        "weights.pth -> folder, dead kept": ("weights.pth", "all", "--keep-dead"),
        "weights.safetensors -> folder": ("weights.safetensors", "streamed"),
        "folder -> back.pth, dead too": ("all", "back.pth"),
        "folder -> back.safetensors, dead too": ("all", "back.safetensors"),
    }.items():
        source, target, *options = arguments
        seconds, peak = measure(
            "--from", folder / source, "--to", folder / target, *options
        )
        verdict = "ok" if peak <= LIMIT * size else "BEYOND THE LIMIT"
        print(
            f"{name:<38} {seconds:6.1f} s  peak {peak / 1e9:5.2f} GB = "
            f"{peak / size:.2f} x  {verdict}",
            flush=True,
        )


if __name__ == "__main__":
    main()
