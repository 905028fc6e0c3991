"""A batch processed in parts, one after the other, to hold fewer activations."""

from collections.abc import Callable
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

T = TypeVar("T")


def split(rows: T, parts: int, units: int) -> T:
    """Arrays with the parts on a new leading axis; each takes every `parts`-th unit.

    So every device of a mesh keeps the rows it has, and an even share of each part.

    Args:
      units: videos of the batch, or texts of one without; arrays may have several
        consecutive rows for each.
    """

    def divide(a: Array) -> Array:
        a = a.reshape(units // parts, parts, -1, *a.shape[1:])
        a = jnp.moveaxis(a, 1, 0).reshape(parts, -1, *a.shape[3:])
        return _pinned(a, 1)

    return jax.tree.map(divide, rows)


def in_parts(function: Callable[..., T], parts: int, *rows: Any) -> T:
    """`function(index, *rows)`, a part of the rows at a time; the results as of all.

    What a part computes is computed again in the backward pass, so that of all parts
    only the results are held. Gradients are those of the whole.

    Args:
      function: maps trees of arrays to a tree of arrays, row by row.
      rows: trees of arrays of one row per unit.
    """
    if parts == 1:
        return function(0, *rows)
    units = len(jax.tree.leaves(rows)[0])

    def visit(_, inputs):
        return None, jax.checkpoint(function)(*inputs)

    pieces = (jnp.arange(parts), *split(rows, parts, units))
    _, results = jax.lax.scan(visit, None, pieces)

    def join(a: Array) -> Array:
        return _pinned(jnp.moveaxis(a, 0, 1).reshape(units, *a.shape[2:]), 0)

    return jax.tree.map(join, results)


def _pinned(a: Array, axis: int) -> Array:
    """Keeps the rows, which lie on `axis`, divided over a mesh."""
    axes = tuple("batch" if i == axis else None for i in range(a.ndim))
    return nn.with_logical_constraint(a, axes)
