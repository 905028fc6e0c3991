"""The safetensors format, byte by byte."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest

from mplug2_jax.checkpoint.lazy import LazyArray
from mplug2_jax.conversion.safetensors_io import (
    is_safetensors,
    read_safetensors,
    write_safetensors,
)
from mplug2_jax.conversion.torch_io import open_tensors

ARRAYS = {
    "half": np.array([1.5, 2.5, 3.5], np.float16),
    "count": np.array(7, np.int64),
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "brain": np.array([0.5], ml_dtypes.bfloat16),
    "flag": np.array([True, False]),
}


@pytest.fixture
def path(tmp_path):
    lazy = {key: LazyArray.of(array) for key, array in ARRAYS.items()}
    write_safetensors(tmp_path / "x.safetensors", lazy)
    return tmp_path / "x.safetensors"


def test_round_trip(path, same_bits):
    assert is_safetensors(path.read_bytes()[:16])
    found = {k: t.read() for k, t in read_safetensors(path).items()}
    same_bits(found, ARRAYS)
    assert set(open_tensors(path).tensors) == set(ARRAYS)


def test_layout(path):
    """As the format is specified: length, header, data; each tensor aligned."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    assert length % 8 == 0
    assert header.pop("__metadata__") == {"format": "pt"}
    for key, entry in header.items():
        start, end = entry["data_offsets"]
        assert start % ARRAYS[key].itemsize == 0
        assert content[8 + length + start : 8 + length + end] == ARRAYS[key].tobytes()
    assert header["weight"]["shape"] == [2, 3] and header["weight"]["dtype"] == "F32"
    assert header["count"]["shape"] == [] and header["brain"]["dtype"] == "BF16"


@pytest.mark.parametrize("cut", [-1, 20, 60])
def test_truncated(path, cut):
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match="truncated or damaged"):
        open_tensors(path)


def test_types_of_the_future(tmp_path):
    header = b'{"x":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}}'
    content = struct.pack("<Q", len(header)) + header + b"\0"
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="x is of type F4"):
        open_tensors(tmp_path / "x.safetensors")
