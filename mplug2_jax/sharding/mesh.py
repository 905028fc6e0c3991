"""The device mesh: data, fsdp and tensor axes, and slices joined by a slower network.

`data` repeats parameters, `fsdp` divides parameters and batch alike, `tensor` divides
heads, hidden units and vocabulary. Slices lie in front of `data`, so that only gradient
sums cross the network between them.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

AXES = ("data", "fsdp", "tensor")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the axes; their product is the number of devices.

    Attributes:
      data: replicas within a slice; -1 means as many as the other axes leave.
      fsdp: parts that parameters and optimizer state are cut into.
      tensor: parts that each layer's heads and hidden units are cut into.
      slices: groups of devices between which the network is slow: TPU slices, or hosts
        with GPUs, where one group may hold all hosts.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    slices: int = 1


def make_mesh(
    config: MeshConfig = MeshConfig(), devices: Sequence[Any] | None = None
) -> Mesh:
    """The mesh `(data, fsdp, tensor)` over `devices`, by default all there are.

    Raises:
      ValueError: the axes do not multiply to the number of devices, or TPUs (of GPUs
        if more than one is asked for) are of another number of slices.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = _shape(config, len(devices))
    found = {getattr(device, "slice_index", None) for device in devices}
    # XLA numbers hosts with GPUs as slices; any axis may lie across these.
    undivided = config.slices == 1 and devices[0].platform == "gpu"
    if found == {None} or undivided:  # the order of the devices groups them
        full = (config.slices * shape[0], *shape[1:])
        grid = mesh_utils.create_device_mesh(
            full, devices, allow_split_physical_axes=True
        )
    elif len(found) != config.slices:
        raise ValueError(
            f"mesh.slices is {config.slices}, but the {len(devices)} devices belong to "
            f"{len(found)} slices; set mesh.slices={len(found)}."
        )
    else:
        grid = mesh_utils.create_hybrid_device_mesh(
            shape, (config.slices, 1, 1), devices, allow_split_physical_axes=True
        )
    return Mesh(np.asarray(grid), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def is_single(mesh: Mesh | None) -> bool:
    """Whether there is nothing to divide: no mesh, or one of one device."""
    return mesh is None or mesh.size == 1


def _shape(config: MeshConfig, devices: int) -> tuple[int, int, int]:
    """Sizes within a slice, with -1 resolved."""
    fixed = {"fsdp": config.fsdp, "tensor": config.tensor, "slices": config.slices}
    for name, size in fixed.items():
        if size < 1:
            raise ValueError(f"mesh.{name} is {size}; expected at least 1.")
    if config.data < 1 and config.data != -1:
        raise ValueError(
            f"mesh.data is {config.data}; expected at least 1, or -1 for all that is "
            "left."
        )
    others = math.prod(fixed.values())
    data = devices // others if config.data == -1 else config.data
    if data * others != devices or data == 0:
        asked = " x ".join(f"{name} {size}" for name, size in fixed.items())
        raise ValueError(
            f"There are {devices} devices, and mesh data {config.data} x {asked} does "
            "not divide them; choose sizes whose product is the number of devices."
        )
    return data, config.fsdp, config.tensor
