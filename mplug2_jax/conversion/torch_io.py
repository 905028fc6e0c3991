"""Reading and writing PyTorch files without running what they contain.

`open_tensors` knows zip archives (mapped into memory, so that unread tensors cost
nothing), the older pickle format, TorchScript archives and safetensors.
PyTorch itself is needed for all but safetensors.
"""

import argparse
import dataclasses
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from absl import logging

from mplug2_jax.checkpoint.lazy import LazyArray
from mplug2_jax.checkpoint.staging import WriteError
from mplug2_jax.conversion.safetensors_io import is_safetensors, read_safetensors

CONTAINERS = ("model", "module", "state_dict")


def _scalar(dtype: np.dtype, data: bytes = b"") -> Any:
    """A numpy number as pickles spell it; objects, which could run code, are not."""
    if dtype.hasobject:
        raise pickle.UnpicklingError("GLOBAL numpy.object_")
    return np.frombuffer(data, dtype)[0]


# Training scripts store their arguments and scores beside the weights. These classes
# hold plain values; everything else stays refused.
HARMLESS = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(code)) for code in ("f2", "f4", "f8", "i4", "i8", "u1", "?")),
    (_scalar, "numpy._core.multiarray.scalar"),
    (_scalar, "numpy.core.multiarray.scalar"),
]


@dataclasses.dataclass(frozen=True)
class TensorFile:
    """The tensors of a file.

    Attributes:
      container: the entry they were found under ("model"), or None at the top.
      ignored: other entries of the file.
    """

    path: Path
    tensors: dict[str, LazyArray]
    container: str | None = None
    ignored: tuple[str, ...] = ()


def open_tensors(path: str | Path) -> TensorFile:
    """Opens a file of tensors; their values are read when asked for.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is truncated, no checkpoint, or runs code when unpickled.
    """
    path = Path(path)
    with path.open("rb") as file:
        start = file.read(16)
    if is_safetensors(start):
        return TensorFile(path, read_safetensors(path))
    if start.startswith(b"PK"):
        return _open_zip(path)
    if start.startswith(b"\x80"):
        return _find_tensors(path, _load(path, mmap=False))
    raise ValueError(
        f"{path} is not a checkpoint: it is neither a PyTorch file nor safetensors."
    )


# What PyTorch's reader of the old format raises when bytes are missing.
UNREADABLE = (
    *(RuntimeError, EOFError, KeyError, ValueError, IndexError, TypeError),
    *(AttributeError, AssertionError, struct.error),
)


def _open_zip(path: Path) -> TensorFile:
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is truncated: the end of its archive is missing; fetch it again."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise _damaged(path, error) from None
    if any(name.endswith("/constants.pkl") for name in names):
        # TorchScript: its code is not Python and runs only when called.
        torch = _torch()
        try:
            module = torch.jit.load(str(path), map_location="cpu")
        except RuntimeError as error:
            raise _damaged(path, error) from None
        return _find_tensors(path, dict(module.state_dict()))
    if not any(name.endswith("/data.pkl") for name in names):
        raise ValueError(f"{path} is a zip archive, but not one that PyTorch wrote.")
    return _find_tensors(path, _load(path, mmap=True))


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        raise ValueError(
            "PyTorch files need PyTorch; run `pip install torch`, or give "
            "a .safetensors file."
        ) from None
    return torch


def _load(path: Path, mmap: bool) -> Any:
    torch = _torch()
    if not mmap:
        logging.info("%s is of the old format and is read into memory whole.", path)
    with torch.serialization.safe_globals(HARMLESS):
        try:
            return torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)
        except pickle.UnpicklingError as error:
            raise _refused(path, error) from None
        except UNREADABLE as error:
            raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> ValueError:
    reason = (str(error).splitlines() or ["it ends too early"])[0]
    return ValueError(
        f"{path} is truncated or damaged ({reason[:150]}); fetch it again."
    )


def _refused(path: Path, error: pickle.UnpicklingError) -> ValueError:
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    if not found and not zipfile.is_zipfile(path):
        return ValueError(f"{path} is a pickle, but not one that PyTorch wrote.")
    what = found[1] if found else "an object beside its tensors"
    return ValueError(
        f"{path} would run code when read ({what}), which is refused; where you trust "
        "it, load it in PyTorch and save its state dict alone."
    )


def _find_tensors(path: Path, loaded: Any) -> TensorFile:
    """Finds the state dict in whatever a training script has saved around it."""
    if isinstance(loaded, Mapping):
        for container in (*CONTAINERS, None):
            tensors = _tensors(loaded.get(container) if container else loaded)
            if tensors:
                used = {container} if container else set(tensors)
                ignored = tuple(str(key) for key in loaded if key not in used)
                return TensorFile(path, tensors, container, ignored)
    raise ValueError(
        f"{path} holds no tensors: expected a state dict, or one under any of "
        f"{', '.join(CONTAINERS)}; found {_describe(loaded)}."
    )


def _describe(loaded: Any) -> str:
    if isinstance(loaded, Mapping):
        return f"the entries {', '.join(map(str, list(loaded)[:5])) or '(none)'}"
    return f"an object of type {type(loaded).__name__}"


def _tensors(state: Any) -> dict[str, LazyArray]:
    if not isinstance(state, Mapping):
        return {}
    tensor = _torch().Tensor
    return {k: _lazy(v) for k, v in state.items() if isinstance(v, tensor)}


def _lazy(tensor: Any) -> LazyArray:
    torch = _torch()
    if tensor.dtype == torch.bfloat16:
        kind = np.dtype(ml_dtypes.bfloat16)
        return LazyArray(
            tuple(tensor.shape),
            kind,
            lambda: tensor.detach().view(torch.int16).numpy().view(kind),
        )
    kind = np.dtype(str(tensor.dtype).removeprefix("torch."))
    return LazyArray(tuple(tensor.shape), kind, lambda: tensor.detach().numpy())


def write_torch(
    path: Path, tensors: Mapping[str, LazyArray], container: str | None
) -> None:
    """Writes a state dict; keys that share one `LazyArray` share their storage.

    Args:
      container: the entry to put the state dict under, or None for the top.

    Raises:
      WriteError: writing failed.
    """
    torch = _torch()
    made: dict[int, Any] = {}
    state = {}
    for key, tensor in tensors.items():
        if id(tensor) not in made:
            made[id(tensor)] = _to_torch(tensor)
        state[key] = made[id(tensor)]
    try:
        torch.save({container: state} if container else state, path)
    except OSError as error:
        raise WriteError(error) from error
    except RuntimeError as error:  # says which position, not why
        reason = OSError("PyTorch could not write the whole file")
        raise WriteError(reason) from error


def _to_torch(tensor: LazyArray) -> Any:
    torch = _torch()
    array = tensor.read()
    if not array.flags.writeable:  # PyTorch would warn; the file is only read again
        array = array.copy()
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array).reshape(tensor.shape)
