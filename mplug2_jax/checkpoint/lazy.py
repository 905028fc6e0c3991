"""Arrays that are brought into memory only when needed, and Orbax writing them so.

A model is larger than one wants in memory twice. Of a tree of `LazyArray` leaves
Orbax reads, writes and frees one leaf after the other.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import Shaped
from orbax.checkpoint import type_handlers

from mplug2_jax.checkpoint.staging import write_failed

Tree = dict[str, Any]
# Chunks on disk: a sharded restore reads those it needs, and compressing one costs
# little memory.
CHUNK_BYTES = 32 * 2**20
BATCH_BYTES = 32 * 2**20  # small leaves are written together: each write has a cost


@dataclasses.dataclass(frozen=True)
class LazyArray:
    """An array known by shape and type; `read` brings its values."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], Shaped[np.ndarray, "..."]]

    @classmethod
    def of(cls, array: Shaped[Any, "..."]) -> "LazyArray":
        """Wraps an array that is already there."""
        kind = np.dtype(array.dtype)
        return cls(tuple(array.shape), kind, lambda: np.asarray(array))


class _LazyHandler(type_handlers.NumpyHandler):
    """Stores `LazyArray` as numpy arrays are stored, few at a time."""

    def __init__(self):
        super().__init__(deepcopy_host_arrays=False)

    async def serialize(
        self,
        values: Sequence[LazyArray],
        infos: Sequence[type_handlers.ParamInfo],
        args: Sequence[type_handlers.SaveArgs] | None = None,
    ) -> Sequence[Any]:
        args = args or [ocp.SaveArgs()] * len(values)
        arrays: list[np.ndarray] = []
        for end, value in enumerate(values, start=1):
            arrays.append(value.read())
            if end < len(values) and sum(a.nbytes for a in arrays) < BATCH_BYTES:
                continue
            batch = slice(end - len(arrays), end)
            try:
                commits = await super().serialize(arrays, infos[batch], args[batch])
                for commit in commits:
                    commit.result()  # written before the next ones are read
            except Exception as error:  # tensorstore's errors have no common type
                raise write_failed(infos[0].parent_dir, error) from error
            arrays.clear()
        return []


def save_tree(directory: str, tree: Tree) -> None:
    """Writes a tree of arrays and `LazyArray`s with Orbax, leaf after leaf.

    Raises:
      OSError: writing failed; what is in `directory` is then useless.
    """
    lazy = jax.tree.map(
        lambda leaf: leaf if isinstance(leaf, LazyArray) else LazyArray.of(leaf), tree
    )
    save_args = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES), lazy)
    registry = type_handlers.create_type_handler_registry(
        (LazyArray, _LazyHandler()), (jax.Array, type_handlers.ArrayHandler())
    )
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    with ocp.Checkpointer(handler) as checkpointer:
        checkpointer.save(directory, ocp.args.PyTreeSave(lazy, save_args=save_args))
