"""Question answering: the decoder writes the answer, reading vision and question."""

import dataclasses

import jax.numpy as jnp

from mplug2_jax.losses import token_losses, weighted_answers
from mplug2_jax.models.decoder import Memory
from mplug2_jax.models.mplug2 import MPlug2
from mplug2_jax.tasks.base import COMPOSITION, SupervisedTask
from mplug2_jax.types import MultimodalBatch, Tokens


@dataclasses.dataclass(frozen=True)
class QuestionAnswering(SupervisedTask):
    """Loss of A weighted answers to each of Q questions per video."""

    @property
    def modules(self) -> tuple[str, ...]:
        return COMPOSITION["question_answering"].modules

    def logits(self, model: MPlug2, batch: MultimodalBatch):
        vision = model.encode_vision(batch.require("frames"), batch.is_video).embeds
        return self.answer_logits(model, vision, batch)

    def answer_logits(self, model: MPlug2, vision, batch: MultimodalBatch):
        """Logits `B*Q*A L V` from visual embeddings `B N D`."""
        memory = question_memory(model, vision, batch.require("question"))
        return model.decode(batch.require("answer"), memory)

    def normalizers(self, batch: MultimodalBatch):
        weights = batch.require("answer_weight")
        asked = weights.reshape(len(batch.require("question").mask), -1).max(axis=1)
        counted = {"questions": asked, "answers": weights}
        return {name: jnp.maximum((w > 0).sum(), 1) for name, w in counted.items()}

    def loss_of(
        self, logits, batch, soft_logits=None, soft_weight=0.0, normalizers=None
    ):
        answer, weights = batch.require("answer"), batch.require("answer_weight")
        totals = normalizers or self.normalizers(batch)
        losses, counts = token_losses(
            logits, answer, soft_logits=soft_logits, soft_weight=soft_weight
        )
        loss = weighted_answers(losses, weights, totals["questions"])
        hits = logits[:, :-1].argmax(-1) == answer.values[:, 1:]
        right = jnp.all(hits | ~counts, axis=1) & (weights > 0)
        accuracy = right.sum() / totals["answers"]
        return loss, {"answer_loss": loss, "answer_accuracy": accuracy}


def question_memory(model: MPlug2, vision, question: Tokens) -> Memory:
    """Vision joined with the fused question; Q questions per row of `vision`."""
    states = model.encode_text(question)
    fused = model.fuse(vision, states, question.mask)
    return Memory.of(fused.vision, fused.text, question.mask)
