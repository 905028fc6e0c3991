"""Masked language modelling: which words are hidden, and what stands in their place."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

from mplug2_jax.types import Tokens

# BERT: of the chosen words 80 % become the mask, 10 % another word, 10 % stay.
AS_MASK, AS_WORD = 0.8, 0.1


@flax.struct.dataclass
class Masked:
    """A text with words hidden, the original words, and which of them count."""

    text: Tokens
    targets: Int[Array, "B L"]
    counts: Bool[Array, "B L"]


def mask_words(
    rng: Key[Array, ""],
    text: Tokens,
    probability: float,
    cls_id: int,
    mask_id: int,
    vocab_size: int,
) -> Masked:
    """Chooses each word but `cls_id` with `probability`; padding is never chosen."""
    choice, fate, word = jax.random.split(rng, 3)
    ids = jnp.asarray(text.values)
    words = (text.mask > 0) & (ids != cls_id)
    chosen = words & (jax.random.uniform(choice, ids.shape) < probability)
    fate = jax.random.uniform(fate, ids.shape)
    another = jax.random.randint(word, ids.shape, 0, vocab_size, ids.dtype)
    hidden = jnp.where(fate < AS_MASK, mask_id, ids)
    hidden = jnp.where(fate >= 1 - AS_WORD, another, hidden)
    return Masked(Tokens(jnp.where(chosen, hidden, ids), text.mask), ids, chosen)
