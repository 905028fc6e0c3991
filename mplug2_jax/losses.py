"""Cross-entropies of language modelling and contrast, in float32."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mplug2_jax.types import Tokens

Weight = Float[Array, ""] | float


def cross_entropy(
    logits: Float[Array, "... V"],
    targets: Int[Array, "..."],
    soft_logits: Float[Array, "... V"] | None = None,
    soft_weight: Weight = 0.0,
) -> Float[Array, "..."]:
    """-log p of each target.

    With a momentum teacher the loss is (1 - w) * hard + w * soft, the soft targets
    being the teacher's softmax over the vocabulary (upstream normalises over the
    sequence and leaves the weight at 0, which is the same as no teacher).
    """
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    losses = -jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
    if soft_logits is None:
        return losses
    soft = jax.nn.softmax(soft_logits.astype(jnp.float32))
    distilled = -jnp.sum(jax.lax.stop_gradient(soft) * log_probs, axis=-1)
    return (1 - soft_weight) * losses + soft_weight * distilled


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
    soft_weight: Weight = 0.0,
) -> tuple[Float[Array, "B L"], Bool[Array, "B L"]]:
    """Next-token `cross_entropy` of each position, 0 where it does not count."""
    targets, counts = shift(text, first)
    soft = None if soft_logits is None else soft_logits[:, :-1]
    losses = cross_entropy(logits[:, :-1], targets, soft, soft_weight)
    return jnp.where(counts, losses, 0.0), counts


def mean_over_tokens(
    losses: Float[Array, "B L"], num_tokens: Int[Array, ""]
) -> Float[Array, ""]:
    """Mean over the tokens that count (captioning); 0 if there are none."""
    return losses.sum() / jnp.maximum(num_tokens, 1)


def weighted_answers(
    losses: Float[Array, "R L"], weights: Float[Array, "R"], num_questions: Array
) -> Float[Array, ""]:
    """Sum over tokens, times the answer's weight, per question (upstream's QA loss)."""
    return (losses.sum(axis=1) * weights).sum() / jnp.maximum(num_questions, 1)


@jax.custom_vjp
def bounded(x: Float[Array, ""], low: float, high: float) -> Float[Array, ""]:
    """`x` clamped; outside, only gradients that lead back inside pass.

    A plain clamp would hold a learned temperature that once left its range for ever.
    """
    return jnp.clip(x, low, high)


def _bounded_forward(x, low, high):
    return jnp.clip(x, low, high), (x <= low, x >= high)


def _bounded_backward(outside, gradient):
    below, above = outside
    stuck = (below & (gradient > 0)) | (above & (gradient < 0))
    return jnp.where(stuck, 0.0, gradient), None, None


bounded.defvjp(_bounded_forward, _bounded_backward)


def similarities(
    features: Float[Array, "B E"],
    keys: Float[Array, "B E"],
    queue: Float[Array, "S E"] | None,
    temperature: Float[Array, ""],
) -> Float[Array, "B B+S"]:
    """Products with the batch's keys, then the queue's, over the temperature."""
    inside = features @ keys.T
    if queue is not None:
        inside = jnp.concatenate([inside, features @ queue.T], axis=1)
    return inside / temperature


def contrastive(
    logits: Float[Array, "B S"],
    same: Bool[Array, "B K"],
    soft_logits: Float[Array, "B S"] | None = None,
    soft_weight: Weight = 0.0,
) -> Float[Array, ""]:
    """One direction of VLC (paper section 3.5), a mean over the global batch.

    Targets are (1 - w) * hard + w * softmax(`soft_logits`). Under jit on a mesh the
    arrays are global and so are the negatives.

    Args:
      logits: `similarities`, the first B columns those of the batch itself.
      same: which of the first K keys belong to a row and share its hard target: the
        diagonal, equal texts, and what else is about the row's medium. Others do not.
      soft_logits: the momentum teacher's similarities.
    """
    hard = same / same.sum(axis=1, keepdims=True)
    target = jnp.pad(hard, ((0, 0), (0, logits.shape[1] - same.shape[1])))
    if soft_logits is not None:
        target = (1 - soft_weight) * target + soft_weight * jax.nn.softmax(soft_logits)
    losses = -jnp.sum(
        jax.lax.stop_gradient(target) * jax.nn.log_softmax(logits), axis=1
    )
    return losses.mean()


def negative_weights(
    logits: Float[Array, "B S"], same: Bool[Array, "B B"]
) -> Float[Array, "B B"]:
    """Chances of each of the batch to be a row's hard negative, not normalised.

    Above 0 for all that may be one: at a low temperature a softmax is 0 for all but the
    row's own, which must never be drawn.
    """
    inside = jax.nn.softmax(logits[:, : len(logits)])
    inside = jnp.maximum(inside, jnp.finfo(inside.dtype).tiny)
    return jax.lax.stop_gradient(jnp.where(same, 0.0, inside))
