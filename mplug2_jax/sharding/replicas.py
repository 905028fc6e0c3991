"""Inference on several devices: each has all parameters and takes a share of the rows.

What a row gets does not depend on the others, so every device runs the program of one
device by itself, and they exchange nothing on the way.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import (
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)

from mplug2_jax.sharding.mesh import is_single

WHOLE = PartitionSpec()


def replicated(devices: Sequence[Any] | None, rows: int) -> Sharding:
    """Parameters whole on each of as many devices as divide batches of `rows`.

    Args:
      devices: of this process; None: its first.
    """
    devices = jax.local_devices()[:1] if devices is None else devices
    count = max(n for n in range(1, len(devices) + 1) if rows % n == 0)
    if count == 1:
        return SingleDeviceSharding(devices[0])
    return NamedSharding(Mesh(np.array(devices[:count]), ("rows",)), WHOLE)


def by_rows(
    function: Callable[..., Any],
    *,
    static_argnames: Sequence[str],
    shared: Sequence[str] = (),
) -> Callable[..., Any]:
    """`jax.jit` that divides the rows over the devices on which `params` lie.

    Rows whose number does not divide are all done by each device.

    Args:
      function: of `params` and rows, to rows; all are as many, or a multiple of it.
      shared: other arguments that all rows need.
    """
    compiled = jax.jit(function, static_argnames=static_argnames)
    signature = inspect.signature(function)

    @functools.partial(jax.jit, static_argnums=(0, 1, 2))
    def divided(mesh, spec, static, params, whole, rows):
        def share(params: Any, whole: Any, rows: Any) -> Any:
            arrays = whole | rows | dict(static)
            return function(params=params, **arrays)

        return jax.shard_map(
            share,
            mesh=mesh,
            in_specs=(WHOLE, WHOLE, spec),
            out_specs=spec,
            check_vma=False,  # loops start from zeros, which are alike on all devices
        )(params, whole, rows)

    @functools.wraps(compiled)
    def call(*args: Any, **options: Any) -> Any:
        bound = signature.bind(*args, **options)
        bound.apply_defaults()
        rows = dict(bound.arguments)
        params = rows.pop("params")
        if (mesh := _mesh(params)) is None:
            return compiled(*args, **options)
        static = tuple((name, rows.pop(name)) for name in static_argnames)
        whole = {name: rows.pop(name) for name in shared}
        even = all(len(leaf) % mesh.size == 0 for leaf in jax.tree.leaves(rows))
        spec = PartitionSpec(mesh.axis_names) if even else WHOLE
        places = NamedSharding(mesh, WHOLE), NamedSharding(mesh, spec)
        whole, rows = jax.device_put((whole, rows), places)
        return divided(mesh, spec, static, params, whole, rows)

    return call


def _mesh(params: Any) -> Mesh | None:
    """Of the devices that the parameters lie on, if there are several."""
    where = getattr(jax.tree.leaves(params)[0], "sharding", None)
    mesh: Any = getattr(where, "mesh", None)
    return None if is_single(mesh) else mesh
