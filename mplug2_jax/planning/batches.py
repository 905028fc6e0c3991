"""The shapes of the batches that a configuration trains on."""

import dataclasses
from collections import defaultdict
from typing import Any

import jax
import numpy as np

from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.training.config import RunConfig
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


def batches(config: RunConfig) -> list[Share]:
    """Every kind of global batch of a run, as `jax.ShapeDtypeStruct`s."""
    if not config.mixture:
        batch = config.batch
        task_texts = _paired_texts(
            config.inputs,
            batch.batch_size,
            batch.captions_per_video * (config.task != "question_answering"),
            batch.questions_per_video * (config.task != "captioning"),
            batch.answers_per_question,
        )
        frames = _frames(config, batch.batch_size, config.inputs.num_frames)
        whole = MultimodalBatch(frames, **task_texts)
        return [Share("video", whole, batch.batch_size, 1.0)]
    weights: dict[tuple[str, int], float] = defaultdict(float)
    for part in config.mixture:
        weights[part.kind, part.batch.batch_size] += part.weight  # parts of one shape
    total = sum(weights.values())
    return [
        Share(kind, _of_kind(config, kind, rows), rows, weight / total)
        for (kind, rows), weight in weights.items()
        if weight > 0
    ]


def _of_kind(config: RunConfig, kind: str, rows: int) -> MultimodalBatch:
    inputs = config.inputs
    if kind == "text":
        return MultimodalBatch(text=_tokens(rows, inputs.text_length), is_video=False)
    frames = _frames(config, rows, 1 if kind == "image" else inputs.num_frames)
    texts = _paired_texts(inputs, rows, 1, 1, 1)
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
