"""Hard negatives of vision-language matching, drawn from the global batch.

Similar pairs that do not belong together teach most. Each text gets one vision and each
vision one text. What moves between devices is embeddings, never frames.
"""

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from mplug2_jax.types import Tokens


@flax.struct.dataclass
class Negatives:
    """Row b of the batch against another row: of vision for text b, and so on."""

    vision: Int[Array, "B"]
    text: Int[Array, "B"]


def same_texts(text: Tokens) -> Bool[Array, "B B"]:
    """Which rows read alike: each with itself, and equal texts with one another."""
    ids = jnp.where(text.mask > 0, text.values, -1)
    return jnp.all(ids[:, None] == ids[None], axis=-1)


def draw_negatives(
    rng: Key[Array, ""],
    vision_to_text: Float[Array, "B B"],
    text_to_vision: Float[Array, "B B"],
) -> Negatives:
    """Draws by the weights of `losses.negative_weights`."""
    first, second = jax.random.split(rng)
    return Negatives(
        vision=jax.random.categorical(first, jnp.log(text_to_vision)),
        text=jax.random.categorical(second, jnp.log(vision_to_text)),
    )


def take_rows(
    x: Shaped[Array, "B ..."], index: Int[Array, "B"], shards: int = 1
) -> Shaped[Array, "B ..."]:
    """`x[index]`, for rows that lie in `shards` equal pieces on as many devices.

    The pieces go round in a ring and each device keeps the rows it asked for, so that
    none ever holds more than two pieces: indexing would gather the whole of `x`
    everywhere (2 GB of visual tokens for 1024 videos of 4 frames).
    """
    if shards == 1:
        return x[index]
    size = len(x) // shards
    piece, row = jnp.divmod(index.reshape(shards, size), size)
    pieces = _split(x.reshape(shards, size, *x.shape[1:]))

    def visit(carry, step):
        passing, taken = carry
        visitor = (jnp.arange(shards)[:, None] + step) % shards
        here = jnp.expand_dims(visitor == piece, range(2, passing.ndim))
        found = jax.vmap(lambda rows, own: rows[own])(passing, row)
        taken = jnp.where(here, found, taken)
        return (_split(jnp.roll(passing, -1, axis=0)), _split(taken)), None

    start = (pieces, jnp.zeros_like(pieces))
    (_, taken), _ = jax.lax.scan(visit, start, jnp.arange(shards))
    return taken.reshape(x.shape)


def _split(pieces: Shaped[Array, "S B ..."]) -> Shaped[Array, "S B ..."]:
    """Pins one piece to each device; nothing off a mesh."""
    axes = ("batch", *(None,) * (pieces.ndim - 1))
    return nn.with_logical_constraint(pieces, axes)
