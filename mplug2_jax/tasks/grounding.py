"""Visual grounding: the decoder writes a phrase's box as four coordinate tokens.

It reads vision and the fused phrase, as in question answering. The paper names neither
the tokens nor the losses: tokens are those of Pix2Seq and OFA (`boxes.Coordinates`),
the overlap losses those of the family (X-VLM, arXiv 2111.08276: L1 and GIoU).
"""

import dataclasses
import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from mplug2_jax.boxes import Coordinates, generalised_iou
from mplug2_jax.losses import token_losses
from mplug2_jax.models.decoder import Memory
from mplug2_jax.models.mplug2 import MPlug2
from mplug2_jax.sharding.replicas import by_rows
from mplug2_jax.tasks.base import COMPOSITION, SupervisedTask
from mplug2_jax.tasks.generation import in_computed_type
from mplug2_jax.tasks.question_answering import question_memory
from mplug2_jax.types import MultimodalBatch, Tokens


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


@flax.struct.dataclass
class WrittenBoxes:
    """Boxes as the decoder wrote them.

    Attributes:
      steps: x0, y0, x1, y1 as steps of the image's width and height, from 0; always
        x0 < x1 and y0 < y1.
      log_probs: log-probability of the box among all that can be written so.
    """

    steps: Int[Array, "R 4"]
    log_probs: Float[Array, "R"]


@functools.partial(
    by_rows, static_argnames=("model", "coordinates", "start_id"), shared=("vision",)
)
def ground(
    model: MPlug2,
    coordinates: Coordinates,
    start_id: int,
    params: Any,
    vision: Float[Array, "B N D"],
    groups: Int[Array, "G"],
    phrase: Tokens,
) -> WrittenBoxes:
    """Boxes of what G groups of Q phrases name; see `write_boxes`.

    Args:
      start_id: the token before the first coordinate.
      groups: the row of `vision` that each group is about.
      phrase: G * Q rows, those of a group consecutive.
    """

    def run(model: MPlug2):
        memory = question_memory(model, vision[groups], phrase)
        return write_boxes(model, coordinates, start_id, memory)

    out: Any = model.apply({"params": in_computed_type(model, params)}, method=run)
    return out


def write_boxes(
    model: MPlug2, coordinates: Coordinates, start_id: int, memory: Memory
) -> WrittenBoxes:
    """The likeliest coordinate at each of four steps of a bound model, with a cache.

    Every box has an area: x1 is chosen among the steps behind x0, y1 among those behind
    y0, and neither x0 nor y0 is the last step.
    """
    state, rows = model.start_decoding(memory), len(memory.mask)
    ids = jnp.array(coordinates.ids)
    places = jnp.arange(len(coordinates.ids))

    def write(carry, position: Int[Array, ""]):
        token, latest, cache = carry
        logits, cache = model.decode_step(token, position, cache, state)
        is_low = position < 2
        allowed = (places < len(places) - is_low) & (is_low | (places > latest[:, :1]))
        scores = jnp.where(allowed, logits[:, ids].astype(jnp.float32), -jnp.inf)
        log_p = jax.nn.log_softmax(scores)
        step = log_p.argmax(axis=1)
        latest = jnp.stack([latest[:, 1], step], axis=1)
        return (ids[step], latest, cache), (step, log_p.max(axis=1))

    latest = jnp.zeros((rows, 2), jnp.int32)  # the two steps before: x0 for x1
    carry = jnp.full(rows, start_id), latest, model.empty_cache(rows, 4)
    _, (steps, log_probs) = lax.scan(write, carry, jnp.arange(4))
    return WrittenBoxes(steps.T, log_probs.sum(axis=0))
