"""Several texts about each video as consecutive rows of one array.

So they share one pass, and the video's tokens are projected once for all of them. Rows
of one video never part, wherever a mesh splits the batch.
"""

import itertools
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
    counts = [len(mask) // len(vision) for _, mask in rows.values()]
    fused = model.fuse(vision, *interleaved(list(rows.values()), len(vision)))
    if len(fused.vision) == len(vision):  # connected layers give each text its own
        texts = separated(fused.text, counts)
        parts = [Fused(fused.vision, text) for text in texts]
    else:
        parts = separated(fused, counts)
    return dict(zip(rows, parts, strict=True))


def interleaved(parts: Sequence[T], videos: int) -> T:
    """All rows of the first video, of each part one or several, then of the second."""

    def join(*arrays: Array) -> Array:
        rows = [a.reshape(videos, -1, *a.shape[1:]) for a in arrays]
        return jnp.concatenate(rows, axis=1).reshape(-1, *arrays[0].shape[1:])

    return jax.tree.map(join, *parts)


def separated(joined: T, counts: Sequence[int]) -> list[T]:
    """The inverse of `interleaved`: parts of so many rows of each video."""

    def part(array: Array, start: int, count: int) -> Array:
        rows = array.reshape(-1, sum(counts), *array.shape[1:])
        return rows[:, start : start + count].reshape(-1, *array.shape[1:])

    starts = itertools.accumulate(counts, initial=0)
    return [
        jax.tree.map(lambda a, at=at: part(a, *at), joined)
        for at in zip(starts, counts, strict=False)
    ]


def padded(text: Tokens, length: int) -> Tokens:
    missing = ((0, 0), (0, length - text.mask.shape[1]))
    return jax.tree.map(lambda a: jnp.pad(a, missing), text)
