"""Captioning: the decoder continues a prompt, reading the visual embeddings."""

import dataclasses

import jax.numpy as jnp

from mplug2_jax.losses import mean_over_tokens, shift, token_losses
from mplug2_jax.models.decoder import Memory
from mplug2_jax.models.mplug2 import MPlug2
from mplug2_jax.tasks.base import COMPOSITION, SupervisedTask
from mplug2_jax.types import MultimodalBatch


@dataclasses.dataclass(frozen=True)
class Captioning(SupervisedTask):
    """Loss of captions, C per video, whose prompt's first tokens do not count.

    Attributes:
      prompt_length: targets before this position are not scored. Upstream: number of
        the prompt's tokens with [CLS], less one (3 for "a video of").
    """

    prompt_length: int = 0

    @property
    def modules(self) -> tuple[str, ...]:
        return COMPOSITION["captioning"].modules

    def logits(self, model: MPlug2, batch: MultimodalBatch):
        vision = model.encode_vision(batch.require("frames"), batch.is_video).embeds
        return self.caption_logits(model, vision, batch)

    def caption_logits(self, model: MPlug2, vision, batch: MultimodalBatch):
        """Logits `B*C L V` from visual embeddings `B N D`."""
        return model.decode(batch.require("caption"), Memory.of(vision))

    def normalizers(self, batch: MultimodalBatch):
        _, counts = shift(batch.require("caption"), self.prompt_length)
        return {"caption_tokens": jnp.maximum(counts.sum(), 1)}

    def loss_of(
        self, logits, batch, soft_logits=None, soft_weight=0.0, normalizers=None
    ):
        caption = batch.require("caption")
        tokens = (normalizers or self.normalizers(batch))["caption_tokens"]
        losses, counts = token_losses(
            logits,
            caption,
            first=self.prompt_length,
            soft_logits=soft_logits,
            soft_weight=soft_weight,
        )
        loss = mean_over_tokens(losses, tokens)
        hits = (logits[:, :-1].argmax(-1) == caption.values[:, 1:]) & counts
        accuracy = hits.sum() / tokens
        return loss, {"caption_loss": loss, "caption_token_accuracy": accuracy}
