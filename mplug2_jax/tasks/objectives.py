"""The four pretraining objectives as functions of a forward pass's outputs.

Each returns its loss and accuracy by name. Part of a larger batch (gradient
accumulation) gives its `share` of them, so that the parts add up.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mplug2_jax.losses import (
    Weight,
    contrastive,
    cross_entropy,
    negative_weights,
    similarities,
    token_losses,
)
from mplug2_jax.models.heads import Features
from mplug2_jax.tasks.masking import Masked
from mplug2_jax.types import Tokens

Metrics = dict[str, Array]
Queue = dict[str, Array]  # "vision" and "text" S E, and the "position" to write next


@flax.struct.dataclass
class Outputs:
    """What the forward pass of a batch of pairs gives; None where an objective is off.

    Attributes:
      matching: of each pair, of its text with another vision, of its vision with
        another text.
    """

    features: Features | None = None
    temperature: Float[Array, ""] | None = None
    matching: Float[Array, "3 B 2"] | None = None
    masked: Float[Array, "B L V"] | None = None
    target: Float[Array, "B L V"] | None = None


def both_similarities(
    own: Features, keys: Features, queue: Queue | None, temperature: Float[Array, ""]
) -> tuple[Float[Array, "B S"], Float[Array, "B S"]]:
    """Of each vision with all texts, and of each text with all visions."""
    texts, visions = (queue["text"], queue["vision"]) if queue else (None, None)
    return (
        similarities(own.vision, keys.text, texts, temperature),
        similarities(own.text, keys.vision, visions, temperature),
    )


def keys_of(own: Features, teacher: Features | None, queue: Queue | None) -> Features:
    """What the batch is compared with: momentum features where there is a queue.

    Without a queue the negatives are the global batch's own features, through which
    gradients flow as well.
    """
    return own if teacher is None or queue is None else teacher


def hard_negative_weights(
    own: Features,
    keys: Features,
    temperature: Float[Array, ""],
    same: Bool[Array, "B B"],
) -> tuple[Float[Array, "B B"], Float[Array, "B B"]]:
    """Chances of texts for each vision, and of visions for each text."""
    vision, text = both_similarities(own, keys, None, temperature)
    return negative_weights(vision, same), negative_weights(text, same)


def contrast(
    out: Outputs,
    teacher: Features | None,
    soft_weight: Weight,
    same: Bool[Array, "B B"],
    queue: Queue | None,
    share: Weight,
) -> Metrics:
    """VLC: the mean of both directions, against the batch and the queue."""
    own, temperature = out.features, out.temperature
    assert own is not None and temperature is not None
    logits = both_similarities(own, keys_of(own, teacher, queue), queue, temperature)
    soft = (None, None)
    if teacher is not None:
        soft = both_similarities(teacher, teacher, queue, temperature)
    losses = [
        contrastive(one, same, other, soft_weight)
        for one, other in zip(logits, soft, strict=True)
    ]
    reach = logits[0].shape[1] - len(same)
    right = jnp.pad(same, ((0, 0), (0, reach)))
    hits = [
        jnp.take_along_axis(right, one.argmax(1)[:, None], axis=1) for one in logits
    ]
    return {
        "loss_vlc": share * (losses[0] + losses[1]) / 2,
        "accuracy_vlc": share * jnp.stack(hits).mean(),
        "temperature": share * jax.lax.stop_gradient(temperature),
    }


def matching(logits: Float[Array, "3 B 2"], share: Weight) -> Metrics:
    """VLM: pairs against hard negatives of both kinds."""
    labels = jnp.zeros(logits.shape[:2], jnp.int32).at[0].set(1)
    return {
        "loss_vlm": share * cross_entropy(logits, labels).mean(),
        "accuracy_vlm": share * (logits.argmax(-1) == labels).mean(),
    }


def masked_words(
    logits: Float[Array, "B L V"],
    masked: Masked,
    soft_logits: Float[Array, "B L V"] | None,
    soft_weight: Weight,
    share: Weight,
) -> Metrics:
    """MLM: mean over the words that were chosen."""
    losses = cross_entropy(logits, masked.targets, soft_logits, soft_weight)
    hits = logits.argmax(-1) == masked.targets
    number = jnp.maximum(masked.counts.sum(), 1)
    return {
        "loss_mlm": share * jnp.where(masked.counts, losses, 0).sum() / number,
        "accuracy_mlm": share * (masked.counts & hits).sum() / number,
    }


def instructed(
    logits: Float[Array, "B L V"],
    target: Tokens,
    soft_logits: Float[Array, "B L V"] | None,
    soft_weight: Weight,
    tokens: Array,
) -> Metrics:
    """ILM: mean over the target's `tokens`."""
    losses, counts = token_losses(
        logits, target, soft_logits=soft_logits, soft_weight=soft_weight
    )
    hits = logits[:, :-1].argmax(-1) == target.values[:, 1:]
    return {
        "loss_ilm": losses.sum() / tokens,
        "accuracy_ilm": (counts & hits).sum() / tokens,
    }


def enqueue(queue: Queue, features: Features) -> Queue:
    """Writes a batch's features over the oldest ones; any number of rows fits.

    Elementwise in the queue, so that it may be sharded by rows.
    """
    size, rows = len(queue["text"]), len(features.text)
    offset = (jnp.arange(size) - queue["position"]) % size
    fresh, source = (offset < rows)[:, None], jnp.minimum(offset, rows - 1)

    def write(old: Array, new: Array) -> Array:
        new = jax.lax.stop_gradient(new).astype(old.dtype)
        return jnp.where(fresh, new[source], old)

    return {
        "vision": write(queue["vision"], features.vision),
        "text": write(queue["text"], features.text),
        "position": (queue["position"] + rows) % size,
    }
