"""Peak memory of conversions, measured in a process of its own.

What JAX, Orbax and PyTorch take whatever the file (some 500 MB) is there before the
measurement starts; `benchmarks/convert_memory.py` measures all of it at full size.
"""

import json
import subprocess
import sys

import goldens
import numpy as np
import pytest
import torch

from mplug2_jax.checkpoint.lazy import LazyArray
from mplug2_jax.conversion.safetensors_io import write_safetensors

LIMIT = 1.3  # times the file's size
# Sizes of the base model, and what they become.
BASE = (768, 3072, 2304, 384, 30522, 49408, 512, 2048, 1536)
SMALLER = (512, 2048, 1536, 256, 20000, 16000, 256, 1024, 768)
TINY = (64, 128, 192, 32, 100, 100, 64, 256, 192)


def bert(sizes):
    return {
        "hidden_size": sizes[0],
        "num_attention_heads": sizes[0] // 64,
        "intermediate_size": sizes[1],
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

def convert(source, target, bert):
    if source.is_dir():
        export_checkpoint(source, target)
    else:
        convert_file(source, target, Options(bert=bert, keep_dead=True))

small, large = json.loads(sys.argv[1])
convert(Path(small[0]), Path(small[1]), small[2])
before = peak()
convert(Path(large[0]), Path(large[1]), large[2])
print(peak() - before)
"""


def write_weights(path, sizes):
    """A file of the base model's keys in other sizes; tied weights once."""
    scale = dict(zip(BASE, sizes, strict=True))
    tensors = {}
    for key, (shape, *layers) in goldens.read_json("keys", "base.json").items():
        shape = tuple(scale.get(size, size) for size in shape)
        for layer in range(*layers) if layers else [""]:
            if ".predictions.decoder." not in key:
                tensors[key.replace("#", str(layer))] = random_array(shape)
    write_safetensors(path.with_suffix(".safetensors"), tensors)
    state = {key: torch.from_numpy(np.array(t.read())) for key, t in tensors.items()}
    torch.save({"model": state}, path.with_suffix(".pth"))


def random_array(shape):
    rng = np.random.default_rng(sum(shape))
    kind = np.dtype(np.float32)
    return LazyArray(shape, kind, lambda: rng.standard_normal(shape, kind))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("memory")
    write_weights(folder / "small", TINY)
    write_weights(folder / "large", SMALLER)
    return folder


def increase(folder, source, target):
    """Bytes that the peak grows by, as a share of the large file."""
    size = (folder / "large.pth").stat().st_size
    assert size > 250e6
    jobs = [
        (f"{folder / name}{source}", f"{folder / name}{target}", bert(sizes))
        for name, sizes in (("small", TINY), ("large", SMALLER))
    ]
    command = [sys.executable, "-c", CONVERT, json.dumps(jobs)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(run.stdout.split()[-1]) / size


@pytest.mark.slow
def test_pytorch_there_and_back(folder):
    assert increase(folder, ".pth", "_converted") < LIMIT
    # PyTorch saves a state dict that is in memory as a whole, beside one stacked leaf.
    assert increase(folder, "_converted", "_back.pth") < LIMIT


@pytest.mark.slow
def test_safetensors_there_and_back(folder):
    """Read and written tensor by tensor."""
    assert increase(folder, ".safetensors", "_streamed") < LIMIT / 2
    assert increase(folder, "_streamed", "_back.safetensors") < LIMIT / 2
