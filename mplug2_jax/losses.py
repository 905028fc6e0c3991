"""Cross-entropies of the language-model objectives, in float32."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mplug2_jax.types import Tokens


def shift(text: Tokens, first: int = 0) -> tuple[Int[Array, "B L"], Bool[Array, "B L"]]:
    """Next-token targets and which of them count, aligned with `logits[:, :-1]`.

    Args:
      text: the decoder's input.
      first: targets at positions below it (the prompt) do not count.
    """
    counts = (text.mask[:, 1:] > 0) & (jnp.arange(1, text.mask.shape[1]) >= first)
    return text.values[:, 1:], counts


def token_losses(
    logits: Float[Array, "B L V"],
    text: Tokens,
    *,
    first: int = 0,
    soft_logits: Float[Array, "B L V"] | None = None,
    soft_weight: Float[Array, ""] | float = 0.0,
) -> tuple[Float[Array, "B L"], Bool[Array, "B L"]]:
    """Next-token cross-entropy of each position, 0 where it does not count.

    With a momentum teacher the loss is (1 - w) * hard + w * soft, the soft targets
    being the teacher's softmax over the vocabulary (upstream normalises over the
    sequence and leaves the weight at 0, which is the same as no teacher).
    """
    targets, counts = shift(text, first)
    log_probs = jax.nn.log_softmax(logits[:, :-1].astype(jnp.float32))
    losses = -jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
    if soft_logits is not None:
        soft = jax.nn.softmax(soft_logits[:, :-1].astype(jnp.float32))
        distilled = -jnp.sum(jax.lax.stop_gradient(soft) * log_probs, axis=-1)
        losses = (1 - soft_weight) * losses + soft_weight * distilled
    return jnp.where(counts, losses, 0.0), counts


def mean_over_tokens(
    losses: Float[Array, "B L"], counts: Bool[Array, "B L"]
) -> Float[Array, ""]:
    """Mean over the tokens that count (captioning); 0 if there are none."""
    return losses.sum() / jnp.maximum(counts.sum(), 1)


def weighted_answers(
    losses: Float[Array, "R L"], weights: Float[Array, "R"], num_questions: Array
) -> Float[Array, ""]:
    """Sum over tokens, times the answer's weight, per question (upstream's QA loss)."""
    return (losses.sum(axis=1) * weights).sum() / jnp.maximum(num_questions, 1)
