"""Where each array of a training run lives on a mesh.

Parameters follow their logical names through `rules.RULES`. Whatever is laid out like
the parameters (optimizer moments, teacher, moving average) is recognised by its path,
which ends in a parameter's path, and by its shape. Batches and queues are divided by
rows. A dimension that does not divide is kept whole on every device, and listed.
"""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.tree_util import keystr, tree_flatten_with_path, tree_map_with_path

from mplug2_jax.sharding.mesh import is_single
from mplug2_jax.sharding.rules import ROWS, RULES, spec_of
from mplug2_jax.types import MultimodalBatch


def _is_box(leaf: Any) -> bool:
    return isinstance(leaf, nn.meta.AxisMetadata)


def _path(keys: Any) -> str:
    return keystr(keys, simple=True, separator="/")


def param_specs(boxed: Any) -> Any:
    """The `PartitionSpec` of every parameter, before any mesh is known.

    Args:
      boxed: parameters, or their shapes, boxed with logical names (`init_params`).

    Raises:
      ValueError: a parameter has no names, or one without a rule.
    """

    def spec(keys, leaf) -> PartitionSpec:
        if not isinstance(leaf, nn.Partitioned):
            raise ValueError(
                f"Parameter {_path(keys)} has no logical axis names; give its "
                "initialiser some (models/layers.py, `named`)."
            )
        return spec_of(leaf.names, f"Parameter {_path(keys)}")

    return tree_map_with_path(spec, boxed, is_leaf=_is_box)


def describe(boxed: Any) -> str:
    """A table of every parameter: path, shape, partition; one line each."""
    leaves, _ = tree_flatten_with_path(nn.meta.unbox(boxed))
    specs = jax.tree.leaves(param_specs(boxed), is_leaf=_is_spec)
    return "".join(
        f"{_path(keys)} {leaf.shape} {_shown(spec)}\n"
        for (keys, leaf), spec in zip(leaves, specs, strict=True)
    )


def undivided(boxed: Any, mesh: Mesh) -> list[str]:
    """The parameter dimensions that rules would divide, but whose size forbids it."""
    leaves, _ = tree_flatten_with_path(nn.meta.unbox(boxed))
    specs = jax.tree.leaves(param_specs(boxed), is_leaf=_is_spec)
    return [
        f"{_path(keys)} axis {axis} ({leaf.shape[axis]} over {wanted!r})"
        for (keys, leaf), spec in zip(leaves, specs, strict=True)
        for axis, (wanted, fits) in enumerate(
            zip(spec, _fit(spec, leaf.shape, mesh), strict=True)
        )
        if wanted != fits
    ]


def state_shardings(state: Any, boxed: Any, mesh: Mesh) -> Any:
    """The sharding of every leaf of a training state, in a tree like `state`.

    Args:
      state: a `TrainState` of arrays or of their shapes.
      boxed: its parameters' shapes, boxed with logical names.

    Raises:
      ValueError: an array is neither laid out like a parameter, nor a queue, nor a
        number.
    """
    leaves, _ = tree_flatten_with_path(nn.meta.unbox(boxed))
    specs = jax.tree.leaves(param_specs(boxed), is_leaf=_is_spec)
    known = {
        _path(keys): (leaf.shape, _fit(spec, leaf.shape, mesh))
        for (keys, leaf), spec in zip(leaves, specs, strict=True)
    }

    def place(keys, leaf) -> NamedSharding:
        if leaf.ndim == 0:
            return NamedSharding(mesh, PartitionSpec())
        if _path(keys[:1]) == "queue":
            rows = _fit(PartitionSpec(ROWS), leaf.shape, mesh)
            return NamedSharding(mesh, rows)
        for start in range(len(keys)):
            shape, spec = known.get(_path(keys[start:]), (None, None))
            if spec is not None and shape == leaf.shape:
                return NamedSharding(mesh, spec)
        raise ValueError(
            f"{_path(keys)} {leaf.shape} of the training state is not laid out like "
            "any parameter; use an optimizer whose state is."
        )

    return tree_map_with_path(place, state)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows of every array of a batch over the axes `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(ROWS))


def row_shards(mesh: Mesh) -> int:
    """Pieces that a batch's rows lie in."""
    return _size(ROWS, mesh)


def check_batch(rows: int, mesh: Mesh | None, accumulation: int = 1) -> None:
    """Raises ValueError unless a batch of `rows` videos divides evenly."""
    parts = 1 if mesh is None else _size(ROWS, mesh)
    if accumulation < 1 or rows % (parts * accumulation):
        raise ValueError(
            f"A batch of {rows} does not divide into {accumulation} accumulated parts "
            f"on {parts} data x fsdp shards; make it a multiple of "
            f"{parts * max(accumulation, 1)}, or change the mesh."
        )


def process_part(mesh: Mesh | None) -> tuple[int, int]:
    """Which part of every global batch this process loads: (index, count).

    Processes that only divide layers (`tensor`) load the same part.

    Raises:
      ValueError: the processes' parts overlap or differ in size.
    """
    if mesh is None:
        return 0, 1
    owned = _owned_rows(mesh)
    parts = sorted(set(owned.values()))
    sizes = {len(part) for part in parts}
    if len(sizes) > 1 or sum(map(len, parts)) != _size(ROWS, mesh):
        raise ValueError(
            f"The mesh {dict(mesh.shape)} divides a batch's rows unevenly over "
            f"{len(owned)} processes; make data x fsdp a multiple of the processes, or "
            "tensor a multiple of the devices of one."
        )
    return parts.index(owned[jax.process_index()]), len(parts)


def shard_batch(batch: MultimodalBatch, mesh: Mesh | None) -> MultimodalBatch:
    """Puts this process's rows (see `process_part`) on its devices.

    Args:
      batch: numpy arrays; of one process, all of the global batch.

    Returns:
      The global batch, or without a mesh the batch as it is.

    Raises:
      ValueError: the rows do not divide over this process's devices.
    """
    if mesh is None or is_single(mesh):
        return batch
    _, count = process_part(mesh)
    mine = _owned_rows(mesh)[jax.process_index()]
    check_batch(units(batch) * count, mesh)

    def place(local):
        size = len(local) // len(mine)  # rows of one shard

        def shard(index):
            at = mine.index((index[0].start or 0) // size) * size
            return local[at : at + size]

        shape = (len(local) * count, *local.shape[1:])
        return jax.make_array_from_callback(shape, batch_sharding(mesh), shard)

    return jax.tree.map(place, batch)


def units(batch: MultimodalBatch) -> int:
    """Videos of a batch, or texts of one without: what it may be divided into."""
    return min(len(leaf) for leaf in jax.tree.leaves(batch))


def distribute(tree: Any, shardings: Any) -> Any:
    """Whole host arrays, the same on every process, to arrays of these shardings."""

    def put(array, sharding):
        return jax.make_array_from_callback(array.shape, sharding, array.__getitem__)

    return jax.tree.map(put, tree, shardings)


@contextlib.contextmanager
def on_mesh(mesh: Mesh | None) -> Iterator[None]:
    """While tracing, tells the model its devices, and lets it pin arrays to them."""
    if mesh is None:
        yield
        return
    rules = () if is_single(mesh) else tuple(RULES.items())
    with (
        jax.sharding.use_abstract_mesh(mesh.abstract_mesh),
        nn.logical_axis_rules(rules),
    ):
        yield


def _owned_rows(mesh: Mesh) -> dict[int, tuple[int, ...]]:
    """For each process the row shards that lie on its devices."""
    shards = mesh.devices.reshape(-1, mesh.shape["tensor"])
    owned: dict[int, tuple[int, ...]] = {}
    for row, devices in enumerate(shards):
        for process in {device.process_index for device in devices}:
            owned[process] = (*owned.get(process, ()), row)
    return owned


def _fit(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The spec without the axes whose size does not divide."""
    fits = [
        axes if axes is None or size % _size(axes, mesh) == 0 else None
        for axes, size in zip(spec, shape, strict=False)
    ]
    return PartitionSpec(*fits)


def _size(axes: str | tuple[str, ...], mesh: Mesh) -> int:
    names = (axes,) if isinstance(axes, str) else axes
    return math.prod(mesh.shape[name] for name in names)


def _is_spec(leaf: Any) -> bool:
    return isinstance(leaf, PartitionSpec)


def _shown(spec: PartitionSpec) -> str:
    return f"P({', '.join(map(repr, spec))})"
