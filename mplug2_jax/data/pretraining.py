"""Rows of pretraining: pairs of a medium and its text, and plain texts."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from mplug2_jax.data.batches import BatchConfig
from mplug2_jax.data.clips import ClipReader
from mplug2_jax.data.examples import Example
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.pipeline import media_id
from mplug2_jax.data.templates import Instruction, Kind, instruct
from mplug2_jax.data.text import clean_caption
from mplug2_jax.data.tokenizers import Tokenizer
from mplug2_jax.types import MultimodalBatch

T = TypeVar("T")
OF_CAPTIONS: tuple[Kind, ...] = ("captioning", "text_continuation")


class PairLoader:
    """One pair as a batch of one: frames, a caption, an instruction with its target.

    A medium that has questions and no caption lends the contrastive and matching losses
    its question and answer as the text.

    Args:
      is_video: what the media must be; still images and videos do not share batches.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        inputs: InputConfig,
        config: BatchConfig,
        size: int,
        is_video: bool,
    ):
        self.tokenizer, self.inputs, self.is_video = tokenizer, inputs, is_video
        self.read = ClipReader(inputs.num_frames, size, config, is_video)

    def __call__(self, example: Example, rng: np.random.Generator) -> MultimodalBatch:
        caption, instruction = self._texts(example, rng)
        inputs = self.inputs
        return MultimodalBatch(
            self.read(example, rng),
            question=inputs.questions(self.tokenizer, [instruction.source]),
            answer=inputs.answers(self.tokenizer, [instruction.target]),
            answer_weight=np.ones(1, np.float32),
            caption=inputs.plain_captions(self.tokenizer, [caption]),
            media_id=media_id(example),
            is_video=self.is_video,
        )

    def _texts(
        self, example: Example, rng: np.random.Generator
    ) -> tuple[str, Instruction]:
        """A caption of the example, and what is asked and answered about it."""
        captions, questions = example.captions, example.answered
        if not captions and not questions:
            raise ValueError(f"{example.id} has neither a caption nor an answer")
        caption = _one(captions, rng) if captions else ""
        qa = _one(questions, rng) if questions else None
        kind: Kind = "question_answering"
        if qa is None or (caption and rng.random() < 0.5):
            kind = _one(OF_CAPTIONS, rng)
        caption = clean_caption(caption)
        instruction = instruct(
            kind,
            caption=caption,
            question=qa.question if qa else "",
            answer=_one(qa.answers, rng) if qa else "",
            number=int(rng.integers(2**31)),
            is_video=self.is_video,
        )
        return caption or f"{qa.question} {qa.answers[0]}", instruction  # type: ignore


def _one(choices: Sequence[T], rng: np.random.Generator) -> T:
    return choices[int(rng.integers(len(choices)))]


class TextLoader:
    """One text as a batch of one; of a long one a random stretch."""

    def __init__(self, tokenizer: Tokenizer, inputs: InputConfig):
        self.tokenizer, self.inputs = tokenizer, inputs

    def __call__(self, text: str, rng: np.random.Generator) -> MultimodalBatch:
        words, room = text.split(), self.inputs.text_length - 1  # and [CLS]
        if not words:
            raise ValueError("the text is empty")
        start = rng.integers(max(len(words) - room, 0) + 1)
        stretch = " ".join(words[start : start + room])
        tokens = self.inputs.texts(self.tokenizer, [stretch])
        return MultimodalBatch(text=tokens, is_video=False)
