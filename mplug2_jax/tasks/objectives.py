"""The four pretraining objectives as functions of a forward pass's outputs."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

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
from mplug2_jax.tasks.negatives import same_texts
from mplug2_jax.types import MultimodalBatch, Tokens

Metrics = dict[str, Array]
# "vision" and "text" Q E, their "media_id" Q, and the "position" to write next.
Queue = dict[str, Array]
NOBODY = -1  # the medium of a key that belongs to no row


@flax.struct.dataclass
class Words:
    """What was predicted in each place of texts; losses are 0 where none counts."""

    losses: Float[Array, "B L"]
    hits: Bool[Array, "B L"]
    counts: Bool[Array, "B L"]

    def metrics(self, name: str) -> Metrics:
        """Means over the words that count."""
        number = jnp.maximum(self.counts.sum(), 1)
        return {
            f"loss_{name}": self.losses.sum() / number,
            f"accuracy_{name}": (self.counts & self.hits).sum() / number,
        }


def belonging(batch: MultimodalBatch, queue: Queue | None) -> Bool[Array, "B S"]:
    """Which keys, the batch's and then the queue's, belong to a row of the batch.

    Those of its medium, and in the batch those whose text is the same. Without
    `media_id` the texts alone tell.
    """
    same, ids = same_texts(batch.require("caption")), batch.media_id
    if ids is not None:
        same |= ids[:, None] == ids
    if queue is None:
        return same
    known = jnp.zeros((len(same), len(queue["text"])), bool)
    if ids is not None and "media_id" in queue:
        known = ids[:, None] == queue["media_id"]
    return jnp.concatenate([same, known], axis=1)


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
    own: Features,
    teacher: Features | None,
    temperature: Float[Array, ""],
    soft_weight: Weight,
    same: Bool[Array, "B S"],
    queue: Queue | None,
) -> Metrics:
    """VLC: the mean of both directions, against the batch and the queue.

    Args:
      same: which keys belong to a row; they share its hard target.
    """
    logits = both_similarities(own, keys_of(own, teacher, queue), queue, temperature)
    soft = (None, None)
    if teacher is not None:
        soft = both_similarities(teacher, teacher, queue, temperature)
    losses = [
        contrastive(one, same, other, soft_weight)
        for one, other in zip(logits, soft, strict=True)
    ]
    hits = [jnp.take_along_axis(same, one.argmax(1)[:, None], axis=1) for one in logits]
    return {
        "loss_vlc": (losses[0] + losses[1]) / 2,
        "accuracy_vlc": jnp.stack(hits).mean(),
        "temperature": jax.lax.stop_gradient(temperature),
    }


def matching(logits: Float[Array, "B 3 2"], alone: Bool[Array, "B"]) -> Metrics:
    """VLM: pairs against hard negatives of both kinds.

    Args:
      alone: rows to which all of the batch belongs: their negatives are none.
    """
    labels = jnp.zeros(logits.shape[:2], jnp.int32).at[:, 0].set(1)
    counts = jnp.ones(labels.shape).at[:, 1:].multiply(~alone[:, None])
    number = counts.sum()
    return {
        "loss_vlm": (counts * cross_entropy(logits, labels)).sum() / number,
        "accuracy_vlm": (counts * (logits.argmax(-1) == labels)).sum() / number,
    }


def masked_words(
    logits: Float[Array, "B L V"],
    masked: Masked,
    soft_logits: Float[Array, "B L V"] | None = None,
    soft_weight: Weight = 0.0,
) -> Words:
    """MLM: the words that were chosen."""
    losses = cross_entropy(logits, masked.targets, soft_logits, soft_weight)
    hits = logits.argmax(-1) == masked.targets
    return Words(jnp.where(masked.counts, losses, 0), hits, masked.counts)


def instructed(
    logits: Float[Array, "B L V"],
    target: Tokens,
    soft_logits: Float[Array, "B L V"] | None = None,
    soft_weight: Weight = 0.0,
) -> Words:
    """ILM: the words of the target."""
    losses, counts = token_losses(
        logits, target, soft_logits=soft_logits, soft_weight=soft_weight
    )
    hits = logits[:, :-1].argmax(-1) == target.values[:, 1:]
    return Words(losses, hits, counts)


def enqueue(
    queue: Queue, features: Features, media_id: Int[Array, "B"] | None = None
) -> Queue:
    """Writes a batch's features over the oldest ones; any number of rows fits.

    Elementwise in the queue, so that it may be sharded by rows.
    """
    size, rows = len(queue["text"]), len(features.text)
    offset = (jnp.arange(size) - queue["position"]) % size
    fresh, source = offset < rows, jnp.minimum(offset, rows - 1)
    media_id = jnp.full(rows, NOBODY, jnp.int32) if media_id is None else media_id
    new = {"vision": features.vision, "text": features.text, "media_id": media_id}

    def write(name: str) -> Array:
        old, its = queue[name], jax.lax.stop_gradient(new[name][source])
        where = fresh.reshape(-1, *[1] * (old.ndim - 1))
        return jnp.where(where, its.astype(old.dtype), old)

    written = {name: write(name) for name in new if name in queue}
    return {**written, "position": (queue["position"] + rows) % size}
