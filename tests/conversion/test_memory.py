"""Peak memory of a conversion, measured in a process of its own.

A process of JAX, Orbax and PyTorch alone takes some 400 MB, so the reduced file here is
held against the increase; `benchmarks/convert_memory.py` measures the full size.
"""

import json
import subprocess
import sys

import goldens
import numpy as np
import pytest

from mplug2_jax.checkpoint.lazy import LazyArray
from mplug2_jax.conversion.safetensors_io import read_safetensors, write_safetensors

LIMIT = 1.3  # times the file's size
# The base model's keys, a third as wide.
SMALLER = {768: 256, 3072: 1024, 2304: 768, 384: 128, 30522: 16000, 49408: 16000}
SMALLER |= {512: 256, 2048: 1024, 1536: 768}
BERT = {
    "hidden_size": 256,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "num_hidden_layers": 12,
}
CONVERT = """
import json, sys
from pathlib import Path
import orbax.checkpoint, torch
from mplug2_jax.conversion.convert import Options, convert_file, export_checkpoint

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(x for x in lines if x.startswith("VmHWM")).split()[1])

source, target = map(Path, sys.argv[1:3])
before = peak()
if source.is_dir():
    export_checkpoint(source, target)
else:
    convert_file(source, target, Options(bert=json.loads(sys.argv[3]), keep_dead=True))
print(peak() - before)
"""


def random_weights(path):
    """A file of the base model's keys, a third as wide, tied weights once."""
    tensors = {}
    for key, (shape, *layers) in goldens.read_json("keys", "base.json").items():
        shape = tuple(SMALLER.get(size, size) for size in shape)
        for layer in range(*layers) if layers else [""]:
            tensors[key.replace("#", str(layer))] = random_array(shape)
    tensors = {k: t for k, t in tensors.items() if ".predictions.decoder." not in k}
    write_safetensors(path, tensors)


def random_array(shape):
    rng = np.random.default_rng(sum(shape))
    kind = np.dtype(np.float32)
    return LazyArray(shape, kind, lambda: rng.standard_normal(shape, kind))


def measured(source, target):
    command = [sys.executable, "-c", CONVERT, source, target, json.dumps(BERT)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(run.stdout.split()[-1])


@pytest.mark.slow
def test_peak_memory_stays_near_the_files_size(tmp_path):
    import torch

    random_weights(tmp_path / "weights.safetensors")
    state = {
        key: torch.from_numpy(np.array(tensor.read()))
        for key, tensor in read_safetensors(tmp_path / "weights.safetensors").items()
    }
    torch.save({"model": state}, tmp_path / "weights.pth")
    size = (tmp_path / "weights.pth").stat().st_size
    assert size > 250e6
    for source in ("weights.pth", "weights.safetensors"):
        used = measured(tmp_path / source, tmp_path / f"from_{source}")
        assert used < LIMIT * size, f"{source}: {used / size:.2f} times its size"
    for target in ("back.pth", "back.safetensors"):
        used = measured(tmp_path / "from_weights.pth", tmp_path / target)
        assert used < LIMIT * size, f"{target}: {used / size:.2f} times its size"
        print(target, used / size)
