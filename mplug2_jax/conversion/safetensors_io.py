"""The safetensors format: an 8-byte length, a JSON header, then raw tensors.

Written here because it is small, and so that tensors stream: reading and writing hold
one of them at a time.
"""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mplug2_jax.checkpoint.lazy import LazyArray
from mplug2_jax.checkpoint.staging import WriteError

_TYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}
_LONGEST_HEADER = 100_000_000  # the format's own limit


def is_safetensors(start: bytes) -> bool:
    """Whether a file that begins with `start` (9 bytes or more) is of this format."""
    if len(start) < 9:
        return False
    (length,) = struct.unpack("<Q", start[:8])
    return length < _LONGEST_HEADER and start[8:9] == b"{"


def read_safetensors(path: Path) -> dict[str, LazyArray]:
    """The tensors of a file, each read when it is asked for.

    Raises:
      ValueError: the file is truncated or its header is damaged.
    """
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = file.read(length)
    try:
        entries = json.loads(header)
    except ValueError:
        raise ValueError(
            f"{path} is truncated or damaged: its safetensors header cannot be read; "
            "fetch the file again."
        ) from None
    entries.pop("__metadata__", None)
    try:
        ends = [_end(entry) for entry in entries.values()]
    except (KeyError, TypeError, IndexError, ValueError):
        raise ValueError(
            f"{path} is damaged: its safetensors header contradicts itself; fetch the "
            "file again."
        ) from None
    size, expected = path.stat().st_size, 8 + length + max(ends, default=0)
    if size != expected:
        raise ValueError(
            f"{path} is truncated or damaged: {size} bytes found, its header says "
            f"{expected}; fetch the file again."
        )
    return {name: _tensor(path, name, 8 + length, e) for name, e in entries.items()}


def _end(entry) -> int:
    """Where a tensor's bytes end; ValueError if they are not as many as its shape."""
    begin, end = entry["data_offsets"]
    width = _TYPES[entry["dtype"]].itemsize if entry["dtype"] in _TYPES else None
    if width is not None and end - begin != math.prod(entry["shape"]) * width:
        raise ValueError
    return end


def _tensor(path: Path, name: str, start: int, entry) -> LazyArray:
    if entry["dtype"] not in _TYPES:
        raise ValueError(
            f"{path}: {name} is of type {entry['dtype']}; expected one of "
            f"{sorted(_TYPES)}."
        )
    dtype, shape = _TYPES[entry["dtype"]], tuple(entry["shape"])
    offset = start + entry["data_offsets"][0]

    def read():
        # Not mapped: pages of a mapped file would count as memory until it is closed.
        array = np.fromfile(
            path, np.uint8, math.prod(shape) * dtype.itemsize, "", offset
        )
        return array.view(dtype).reshape(shape)

    return LazyArray(shape, dtype, read)


def write_safetensors(path: Path, tensors: Mapping[str, LazyArray]) -> None:
    """Writes tensors, reading each when its turn comes; wider types first.

    Raises:
      WriteError: writing failed.
    """
    # Stable, so neighbours stay neighbours; every tensor starts at a multiple of
    # its width.
    tensors = dict(sorted(tensors.items(), key=lambda t: -t[1].dtype.itemsize))
    header: dict[str, dict[str, Any]] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        size = int(np.prod(tensor.shape)) * tensor.dtype.itemsize
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # tensors start aligned
    with path.open("wb") as file:
        try:
            file.write(struct.pack("<Q", len(text)) + text)
            for tensor in tensors.values():
                array = np.ascontiguousarray(tensor.read())
                file.write(array.reshape(-1).view(np.uint8).data)
            file.flush()
        except OSError as error:
            raise WriteError(error) from error
