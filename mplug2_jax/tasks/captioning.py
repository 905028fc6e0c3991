"""Captioning: the decoder continues a prompt, reading the visual embeddings."""

import dataclasses

import jax.numpy as jnp

from mplug2_jax.losses import mean_over_tokens, token_losses
from mplug2_jax.models.decoder import Memory
from mplug2_jax.models.mplug2 import MPlug2
from mplug2_jax.tasks.base import COMPOSITION, Task
from mplug2_jax.types import MultimodalBatch


@dataclasses.dataclass(frozen=True)
class Captioning(Task):
    """Loss of captions, C per video, whose prompt's first tokens do not count.

    Attributes:
      prompt_length: targets before this position are not scored. Upstream: number of
        the prompt's tokens with [CLS], less one (3 for "a video of").
      is_video: False for images (the local temporal modules rest).
    """

    prompt_length: int = 0
    is_video: bool = True

    @property
    def modules(self) -> tuple[str, ...]:
        return COMPOSITION["captioning"].modules

    def logits(self, model: MPlug2, batch: MultimodalBatch):
        vision = model.encode_vision(batch.require("frames"), self.is_video).embeds
        return self.caption_logits(model, vision, batch)

    def caption_logits(self, model: MPlug2, vision, batch: MultimodalBatch):
        """Logits `B*C L V` from visual embeddings `B N D`."""
        return model.decode(batch.require("caption"), Memory.of(vision))

    def loss_of(self, logits, batch, soft_logits=None, soft_weight=0.0):
        caption = batch.require("caption")
        losses, counts = token_losses(
            logits,
            caption,
            first=self.prompt_length,
            soft_logits=soft_logits,
            soft_weight=soft_weight,
        )
        loss = mean_over_tokens(losses, counts)
        hits = logits[:, :-1].argmax(-1) == caption.values[:, 1:]
        accuracy = (hits & counts).sum() / jnp.maximum(counts.sum(), 1)
        return loss, {"caption_loss": loss, "caption_token_accuracy": accuracy}
