"""Captioning and question answering together; a video is encoded once for both."""

import dataclasses

from mplug2_jax.models.mplug2 import MODULES, MPlug2
from mplug2_jax.tasks.base import SupervisedTask
from mplug2_jax.tasks.captioning import Captioning
from mplug2_jax.tasks.question_answering import QuestionAnswering
from mplug2_jax.types import MultimodalBatch


@dataclasses.dataclass(frozen=True)
class CaptionAndAnswer(SupervisedTask):
    """Sum of the captioning and the question-answering loss.

    Attributes:
      prompt_length: see `Captioning`.
    """

    prompt_length: int = 0

    @property
    def modules(self) -> tuple[str, ...]:
        return MODULES

    @property
    def captioning(self) -> Captioning:
        return Captioning(self.config, self.prompt_length)

    @property
    def answering(self) -> QuestionAnswering:
        return QuestionAnswering(self.config)

    def logits(self, model: MPlug2, batch: MultimodalBatch):
        vision = model.encode_vision(batch.require("frames"), batch.is_video).embeds
        return (
            self.captioning.caption_logits(model, vision, batch),
            self.answering.answer_logits(model, vision, batch),
        )

    def normalizers(self, batch: MultimodalBatch):
        return self.captioning.normalizers(batch) | self.answering.normalizers(batch)

    def loss_of(
        self, logits, batch, soft_logits=None, soft_weight=0.0, normalizers=None
    ):
        soft_caption, soft_answer = soft_logits or (None, None)
        caption, answer = logits
        first, metrics = self.captioning.loss_of(
            caption, batch, soft_caption, soft_weight, normalizers
        )
        second, more = self.answering.loss_of(
            answer, batch, soft_answer, soft_weight, normalizers
        )
        return first + second, metrics | more
