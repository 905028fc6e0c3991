"""Attention masks: True where a query may look at a key.

Every mask broadcasts to `B L S` (rows, queries, keys). Masks stay boolean until the
logits are computed, so that one large negative number is chosen in one place.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def padding_mask(mask: Int[Array, "B S"]) -> Bool[Array, "B 1 S"]:
    """Hides padded keys from every query."""
    return (mask > 0)[:, None, :]


def causal_mask(mask: Int[Array, "B L"]) -> Bool[Array, "B L L"]:
    """Lets each token see itself, earlier ones, and no padding.

    queries  1 . . .      of a row of three
             1 1 . .      tokens and one
             1 1 1 .      of padding
             1 1 1 .
    """
    length = mask.shape[1]
    return jnp.tril(jnp.ones((length, length), bool)) & padding_mask(mask)


def step_mask(position: Int[Array, ""], length: int) -> Bool[Array, "1 1 S"]:
    """Lets the token at `position` see the filled part of a cache of `length`."""
    return (jnp.arange(length) <= position)[None, None, :]
