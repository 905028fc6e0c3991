"""The shapes of the batches that a configuration trains on."""

import dataclasses
from collections import defaultdict
from typing import Any

import jax
import numpy as np

from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.planning.stand_ins import declared
from mplug2_jax.tasks import CLASSIFICATION
from mplug2_jax.training.config import (
    GROUNDING,
    INSTRUCTED,
    RETRIEVAL,
    TEXTS,
    RunConfig,
)
from mplug2_jax.types import MultimodalBatch, Tokens


@dataclasses.dataclass(frozen=True)
class Share:
    """One kind of batch, and how much of the run it is.

    Attributes:
      rows: videos, images or texts of a global batch.
      weight: share of the steps, in (0, 1].
    """

    name: str
    batch: MultimodalBatch
    rows: int
    weight: float

    @property
    def kind(self) -> str:
        """The name, with the frames or images of a row where there are several."""
        frames = self.batch.frames
        if frames is None or frames.shape[1] == 1:
            return self.name
        count = frames.shape[1]
        return f"video, {count} frames" if self.batch.is_video else f"{count} images"


def batches(config: RunConfig) -> list[Share]:
    """Every kind of global batch of a run, as `jax.ShapeDtypeStruct`s."""
    if not config.mixture:
        return [Share(*_of_task(config), config.batch.batch_size, 1.0)]
    weights: dict[tuple[str, int], float] = defaultdict(float)
    for part in config.mixture:
        weights[part.kind, part.batch.batch_size] += part.weight  # parts of one shape
    total = sum(weights.values())
    return [
        Share(kind, _of_kind(config, kind, rows), rows, weight / total)
        for (kind, rows), weight in weights.items()
        if weight > 0
    ]


def _of_task(config: RunConfig) -> tuple[str, MultimodalBatch]:
    """The kind of a task's media, and its batch."""
    task, inputs, rows = config.task, config.inputs, config.batch.batch_size
    texts: dict[str, Any] = {}
    labels, media = rows, config.model.classifier.num_media
    if task in (TEXTS, "pair_classification"):
        labels *= 1 if task == TEXTS else config.batch.texts_per_medium
        texts["text"] = _tokens(labels, inputs.text_length)
    if task in CLASSIFICATION:
        kind = np.float32 if config.classification.regression else np.int32
        texts["label"] = _array((labels,), kind)
    elif task == GROUNDING:
        boxes = rows * config.batch.texts_per_medium
        texts["question"] = _tokens(boxes, inputs.question_length)
        texts["answer"] = _tokens(boxes, 5)
        texts["answer_weight"] = _array((boxes,), np.float32)
        texts["box"] = _array((boxes, 4), np.float32)
    else:
        texts = _texts(config)
    if task == TEXTS:
        return "text", MultimodalBatch(**texts, is_video=False)
    image = media > 1 or _of_images(config)
    frames = _frames(config, rows, media if image else inputs.num_frames)
    texts["media_id"] = _array((rows,), np.int32)
    its = MultimodalBatch(frames, **texts, is_video=not image)
    return "image" if image else "video", its


def _of_images(config: RunConfig) -> bool:
    """Whether the media are still images, as far as the configuration tells."""
    if known := declared(config.train.path):
        return known.kind == "image"
    return config.task in (GROUNDING, "image_classification")


def _texts(config: RunConfig) -> dict[str, Any]:
    """Of the tasks that write, and of retrieval."""
    inputs, batch = config.inputs, config.batch
    captions, questions = batch.captions_per_video, batch.questions_per_video
    captions *= config.task != "question_answering"
    questions *= config.task not in ("captioning", RETRIEVAL)
    if config.task == INSTRUCTED:
        inputs = dataclasses.replace(
            inputs, answer_length=max(inputs.answer_length, inputs.caption_length)
        )
        captions, questions = 0, captions + questions
    return _paired_texts(
        inputs, batch.batch_size, captions, questions, batch.answers_per_question
    )


def _of_kind(config: RunConfig, kind: str, rows: int) -> MultimodalBatch:
    inputs = config.inputs
    if kind == "text":
        return MultimodalBatch(text=_tokens(rows, inputs.text_length), is_video=False)
    frames = _frames(config, rows, 1 if kind == "image" else inputs.num_frames)
    texts = _paired_texts(inputs, rows, 1, 1, 1)
    texts["media_id"] = _array((rows,), np.int32)
    return MultimodalBatch(frames, **texts, is_video=kind == "video")


def _paired_texts(
    inputs: InputConfig, rows: int, captions: int, questions: int, answers: int
) -> dict[str, Any]:
    texts: dict[str, Any] = {}
    if captions:
        texts["caption"] = _tokens(rows * captions, inputs.caption_length)
    if questions:
        count = rows * questions
        texts["question"] = _tokens(count, inputs.question_length)
        texts["answer"] = _tokens(count * answers, inputs.answer_length)
        texts["answer_weight"] = _array((count * answers,), np.float32)
    return texts


def _frames(config: RunConfig, rows: int, count: int) -> jax.ShapeDtypeStruct:
    size = config.model.vision.image_size
    return _array((rows, count, size, size, 3), np.uint8)


def _tokens(rows: int, length: int) -> Tokens:
    shape = (rows, length)
    return Tokens(_array(shape, np.int32), _array(shape, np.int32))


def _array(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)
