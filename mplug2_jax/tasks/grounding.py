"""Visual grounding: the decoder writes a phrase's box as four coordinate tokens.

It reads vision and the fused phrase, as in question answering. The paper names neither
the tokens nor the losses: tokens are those of Pix2Seq and OFA (`boxes.Coordinates`),
the overlap losses those of the family (X-VLM, arXiv 2111.08276: L1 and GIoU).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mplug2_jax.boxes import Coordinates, generalised_iou
from mplug2_jax.losses import token_losses
from mplug2_jax.models.mplug2 import MPlug2
from mplug2_jax.tasks.base import COMPOSITION, SupervisedTask
from mplug2_jax.tasks.question_answering import question_memory
from mplug2_jax.types import MultimodalBatch


@dataclasses.dataclass(frozen=True)
class GroundingConfig:
    """Weights of the losses of a box beside that of its tokens; 0 leaves one out.

    Attributes:
      l1: distance of the expected coordinates, which are means over the tokens'
        probabilities, summed over the four.
      giou: 1 - generalised intersection over union of the expected box.
    """

    l1: float = 1.0
    giou: float = 1.0

    def __post_init__(self):
        if min(self.l1, self.giou) < 0:
            raise ValueError(
                f"grounding.l1 is {self.l1} and grounding.giou {self.giou}; expected "
                "weights >= 0."
            )


@dataclasses.dataclass(frozen=True)
class Grounding(SupervisedTask):
    """Cross-entropy of a box's tokens, and how far the expected box is off.

    Attributes:
      coordinates: the tokens that write boxes.
    """

    coordinates: Coordinates
    grounding: GroundingConfig = GroundingConfig()

    @property
    def modules(self) -> tuple[str, ...]:
        return COMPOSITION["grounding"].modules

    def logits(self, model: MPlug2, batch: MultimodalBatch):
        vision = model.encode_vision(batch.require("frames"), batch.is_video).embeds
        memory = question_memory(model, vision, batch.require("question"))
        return model.decode(batch.require("answer"), memory)

    def normalizers(self, batch: MultimodalBatch):
        counts = batch.require("answer_weight") > 0
        return {"boxes": jnp.maximum(counts.sum(), 1)}

    def loss_of(
        self, logits, batch, soft_logits=None, soft_weight=0.0, normalizers=None
    ):
        total = (normalizers or self.normalizers(batch))["boxes"]
        counts = batch.require("answer_weight") > 0
        losses, _ = token_losses(
            logits,
            batch.require("answer"),
            soft_logits=soft_logits,
            soft_weight=soft_weight,
        )
        truth, found = batch.require("box"), self.expected(logits[:, :4])
        terms = {
            "token_loss": losses.sum(axis=1),
            "l1_loss": jnp.abs(found - truth).sum(axis=1),
            "giou_loss": 1 - generalised_iou(found, truth),
        }
        means = {k: jnp.where(counts, v, 0).sum() / total for k, v in terms.items()}
        weights = self.grounding
        loss = means["token_loss"] + weights.l1 * means["l1_loss"]
        loss = loss + weights.giou * means["giou_loss"]
        return loss, {"box_loss": loss, **means}

    def expected(self, logits: Float[Array, "R 4 V"]) -> Float[Array, "R 4"]:
        """Mean coordinates by the probabilities of the tokens that write them."""
        chances = jax.nn.softmax(logits[..., jnp.array(self.coordinates.ids)])
        return chances @ jnp.array(self.coordinates.middles, jnp.float32)
