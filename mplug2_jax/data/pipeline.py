"""Examples to batches: a Grain pipeline, deterministic by (seed, step), resumable.

Videos are decoded and augmented ahead of the device by threads (PyAV and Pillow let go
of the interpreter while they work). Frames stay uint8 until they are on the device.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from mplug2_jax.data.image import augment_frames
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.sources import QA, Example
from mplug2_jax.data.tokenizers import Tokenizer
from mplug2_jax.data.video import frame_times, is_image, read_media, sample_indices
from mplug2_jax.types import MultimodalBatch, Tokens

# More than any run takes. Grain's endless repetition overflows for one example.
EPOCHS = 1 << 32


@dataclasses.dataclass(frozen=True)
class BatchConfig:
    """What a training batch holds.

    Attributes:
      batch_size: videos per step.
      captions_per_video, questions_per_video, answers_per_question: rows of text per
        video; a video with more gets a random choice, one with fewer padding. 0 leaves
        the kind of text out.
      crop_scale: share of the area that a random crop keeps; None resizes the whole
        frame instead.
      flip: mirror half of the clips (upstream does; wrong for left/right questions).
      randaugment: (number, level) of operations, or None.
      keep_clips: decode each clip once and keep all its frames in memory; for small
        sets of short clips only.
      threads: decoding threads.
    """

    batch_size: int = 4
    captions_per_video: int = 0
    questions_per_video: int = 0
    answers_per_question: int = 1
    crop_scale: tuple[float, float] | None = (0.5, 1.0)
    flip: bool = True
    randaugment: tuple[int, int] | None = (2, 5)
    keep_clips: bool = False
    threads: int = 4


def training_batches(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    inputs: InputConfig,
    config: BatchConfig,
    image_size: int,
    seed: int,
) -> grain.DatasetIterator:
    """An endless, shuffled iterator of `MultimodalBatch`es of numpy arrays.

    Its `get_state` and `set_state` resume it exactly.

    Raises:
      ValueError: the examples lack the texts that `config` asks for.
    """
    _check(examples, config)
    load = _Loader(tokenizer, inputs, config, image_size)
    dataset = (
        grain.MapDataset.source(examples)
        .seed(seed)
        .shuffle()
        .repeat(EPOCHS)
        .random_map(load)
        .batch(config.batch_size, batch_fn=_stack)
    )
    options = grain.ReadOptions(config.threads, prefetch_buffer_size=config.threads)
    return iter(dataset.to_iter_dataset(options))


def all_images(examples: Sequence[Example]) -> bool:
    """Whether the examples are still images; they and videos do not share batches.

    Raises:
      ValueError: there are both.
    """
    stills = [example.media for example in examples if is_image(example.media)]
    if stills and len(stills) < len(examples):
        raise ValueError(
            f"{len(stills)} of {len(examples)} training examples are still images "
            f"({stills[0]}, ...), the others videos; train on one kind at a time."
        )
    return bool(stills)


def _check(examples: Sequence[Example], config: BatchConfig) -> None:
    if not examples:
        raise ValueError("There are no training examples; check the annotation file.")
    wanted = {"captions": config.captions_per_video}
    wanted["questions"] = config.questions_per_video
    for kind, count in wanted.items():
        without = [example.id for example in examples if not getattr(example, kind)]
        if count and len(without) == len(examples):
            raise ValueError(
                f"None of the {len(examples)} examples has {kind}, which this task "
                "trains on; check the annotation file and the task."
            )


class _Loader:
    """Decodes one example and encodes its texts; all chance comes from `rng`."""

    def __init__(self, tokenizer, inputs: InputConfig, config: BatchConfig, size: int):
        self.tokenizer, self.inputs, self.config = tokenizer, inputs, config
        self.size = size
        self.clip = functools.cache(self._whole) if config.keep_clips else None

    def __call__(self, example: Example, rng: np.random.Generator) -> MultimodalBatch:
        config, inputs = self.config, self.inputs
        texts = {}
        if config.captions_per_video:
            chosen = _choose(example.captions, config.captions_per_video, rng)
            caption = inputs.captions(self.tokenizer, [c or "" for c in chosen])
            texts["caption"] = _blank(caption, [c is None for c in chosen])
        if config.questions_per_video:
            texts |= self._questions(example, rng)
        return MultimodalBatch(frames=self._frames(example, rng), **texts)

    def _questions(self, example: Example, rng: np.random.Generator):
        asked = _choose(example.questions, self.config.questions_per_video, rng)
        count = self.config.answers_per_question
        pairs = [pair for qa in asked for pair in _answers(qa, count)]
        question = self.inputs.questions(
            self.tokenizer, [qa.question if qa else "" for qa in asked]
        )
        answer = self.inputs.answers(self.tokenizer, [text for text, _ in pairs])
        weights = np.array([weight for _, weight in pairs], np.float32)
        return {"question": question, "answer": answer, "answer_weight": weights}

    def _frames(self, example: Example, rng: np.random.Generator) -> np.ndarray:
        config, count = self.config, self.inputs.num_frames
        if is_image(example.media):  # T = 1
            count = 1
        size = self.size if config.crop_scale is None else None
        if self.clip is not None:
            frames = self.clip(example.media, example.start, example.end)
            frames = frames[sample_indices(len(frames), count, rng)]
        else:
            where = (example.start, example.end)
            frames = read_media(example.media, count, size, rng, *where).frames
        if config.crop_scale is None:
            return frames
        return augment_frames(
            frames, rng, self.size, config.crop_scale, config.flip, config.randaugment
        )

    def _whole(self, media, start, end) -> np.ndarray:
        """All frames of a clip, at the model's size unless crops are taken later."""
        times = frame_times(media)
        inside = (times >= (start or 0.0)) & (times < (end or np.inf))
        size = self.size if self.config.crop_scale is None else None
        return read_media(media, max(inside.sum(), 1), size, None, start, end).frames


def _choose(texts: Sequence, count: int, rng: np.random.Generator) -> list:
    """`count` of the texts in random order; None fills what is missing."""
    order = rng.permutation(len(texts))[:count]
    return [texts[i] for i in order] + [None] * (count - len(order))


def _answers(qa: QA | None, count: int) -> list[tuple[str, float]]:
    """The question's `count` heaviest answers and weights; weight 0 is padding."""
    known = [] if qa is None else list(zip(qa.answers, qa.weights, strict=True))
    known = sorted(known, key=lambda pair: -pair[1])[:count]
    return known + [("", 0.0)] * (count - len(known))


def _blank(tokens: Tokens, rows: Sequence[bool]) -> Tokens:
    """Rows without a text get an all-zero mask and do not count in the loss."""
    keep = ~np.asarray(rows)[:, None]
    return Tokens(values=tokens.values * keep, mask=tokens.mask * keep)


def _stack(batches: Sequence[MultimodalBatch]) -> MultimodalBatch:
    """Joins single-video batches: frames get a batch axis, text rows follow on."""
    first = batches[0]

    def join(name):
        parts = [getattr(batch, name) for batch in batches]
        if parts[0] is None:
            return None
        if isinstance(parts[0], Tokens):
            values = np.concatenate([part.values for part in parts])
            return Tokens(values, np.concatenate([part.mask for part in parts]))
        return np.stack(parts) if name == "frames" else np.concatenate(parts)

    names = [field.name for field in dataclasses.fields(first)]
    joined: dict[str, Any] = {name: join(name) for name in names}
    return MultimodalBatch(**joined)


def epochs_to_steps(
    epochs: float, examples: Sequence[Example], config: BatchConfig
) -> int:
    """Steps of `epochs` passes over all texts, as upstream counts epochs.

    A video with ten captions, of which a batch takes one, is seen ten times an epoch.
    """
    kinds = {"captions": config.captions_per_video}
    kinds["questions"] = config.questions_per_video
    passes = sum(
        max(
            -(-len(getattr(e, kind)) // count) for kind, count in kinds.items() if count
        )
        for e in examples
    )
    return max(1, round(epochs * passes / config.batch_size))
