"""Several texts about each video as consecutive rows of one array.

So they share one pass, and the video's tokens are projected once for all of them. Rows
of one video never part, wherever a mesh splits the batch.
"""

from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mplug2_jax.models.fusion import Fused
from mplug2_jax.models.mplug2 import MPlug2
from mplug2_jax.types import Tokens

T = TypeVar("T")


def fuse_rows(
    model: MPlug2, vision: Float[Array, "B N D"], rows: dict[str, tuple[Array, Array]]
) -> dict[str, Fused]:
    """Several texts per video in one pass, which projects the video's tokens once."""
    if not rows:
        return {}
    fused = model.fuse(vision, *interleaved(list(rows.values())))
    if len(fused.vision) == len(vision):  # connected layers give each text its own
        texts = separated(fused.text, len(rows))
        parts = [Fused(fused.vision, text) for text in texts]
    else:
        parts = separated(fused, len(rows))
    return dict(zip(rows, parts, strict=True))


def interleaved(parts: Sequence[T]) -> T:
    """Row 0 of each part, then row 1 of each: a video's texts stay consecutive."""

    def join(*arrays: Array) -> Array:
        return jnp.stack(arrays, axis=1).reshape(-1, *arrays[0].shape[1:])

    return jax.tree.map(join, *parts)


def separated(joined: T, count: int) -> list[T]:
    """The inverse of `interleaved`."""

    def part(array: Array, index: int) -> Array:
        return array.reshape(-1, count, *array.shape[1:])[:, index]

    return [jax.tree.map(lambda a, i=i: part(a, i), joined) for i in range(count)]


def padded(text: Tokens, length: int) -> Tokens:
    missing = ((0, 0), (0, length - text.mask.shape[1]))
    return jax.tree.map(lambda a: jnp.pad(a, missing), text)
