"""Arrays that are brought into memory only when needed, and Orbax writing them so.

A model is larger than one wants in memory twice. Of a tree of `LazyArray` leaves
Orbax reads, writes and frees one leaf after the other.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Shaped
from orbax.checkpoint import type_handlers

from mplug2_jax.checkpoint.staging import WriteError

Tree = dict[str, Any]
# Chunks on disk: a sharded restore reads those it needs, and compressing one costs
# little memory.
CHUNK_BYTES = 32 * 2**20
# Small leaves are written side by side, because each write has a cost.
BATCH, BATCH_BYTES = 16, 32 * 2**20


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


def flatten(tree: Tree) -> dict[str, Any]:
    """Leaves by path, "vision/class_embedding"."""
    return dict(flatten_dict(tree, sep="/"))


def unflatten(leaves: Mapping[str, Any]) -> Tree:
    """The tree whose leaves lie at these paths."""
    return unflatten_dict(dict(leaves), sep="/")


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
        writing: list[Any] = []
        size = 0
        for value, info, arg in zip(values, infos, args, strict=True):
            array = value.read()
            writing += await super().serialize([array], [info], [arg])
            size += array.nbytes
            if size >= BATCH_BYTES or len(writing) >= BATCH:
                _finish(writing)
                size = 0
        _finish(writing)
        return []


def _finish(writing: list[Any]) -> None:
    """Waits for all writes, so that none goes on after an error."""
    errors = []
    for write in writing:
        try:
            write.result()
        except Exception as error:  # tensorstore's errors have no common type
            errors.append(error)
    writing.clear()
    if errors:
        raise WriteError(errors[0]) from errors[0]


@contextlib.contextmanager
def _without_tracebacks() -> Iterator[None]:
    """Orbax logs a traceback per failed write; the error raised says it once."""

    def quiet(record) -> bool:
        return "_SignalingThread" not in record.getMessage()

    logger = logging.get_absl_logger()
    logger.addFilter(quiet)
    try:
        yield
    finally:
        logger.removeFilter(quiet)


def alone() -> ocp.options.MultiprocessingOptions:
    """What has Orbax wait for no other process."""
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"only{me}"
    )


def save_tree(directory: str, tree: Tree) -> None:
    """Writes a tree of arrays and `LazyArray`s with Orbax, leaf after leaf.

    Of several processes the one that calls writes; the others are not waited for.

    Raises:
      WriteError: writing failed; what is in `directory` is then useless.
    """
    lazy = jax.tree.map(
        lambda leaf: leaf if isinstance(leaf, LazyArray) else LazyArray.of(leaf), tree
    )
    save_args = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES), lazy)
    registry = type_handlers.create_type_handler_registry(
        (LazyArray, _LazyHandler()), (jax.Array, type_handlers.ArrayHandler())
    )
    options = alone()
    handler = ocp.PyTreeCheckpointHandler(
        type_handler_registry=registry, multiprocessing_options=options
    )
    with (
        _without_tracebacks(),
        ocp.Checkpointer(handler, multiprocessing_options=options) as checkpointer,
    ):
        checkpointer.save(directory, ocp.args.PyTreeSave(lazy, save_args=save_args))
