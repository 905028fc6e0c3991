"""Training batches of one data set: what fine-tuning reads.

Videos are decoded and augmented ahead of the device by threads (PyAV and Pillow let go
of the interpreter while they work). Frames stay uint8 until they are on the device.
"""

from collections.abc import Sequence

import numpy as np

from mplug2_jax.data.batches import BatchConfig, Batches, batches_of
from mplug2_jax.data.clips import ClipReader
from mplug2_jax.data.faults import Faults
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.records import Records
from mplug2_jax.data.sources import QA, Example
from mplug2_jax.data.tokenizers import Tokenizer
from mplug2_jax.data.video import is_image
from mplug2_jax.types import MultimodalBatch, Tokens


def training_batches(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    inputs: InputConfig,
    config: BatchConfig,
    image_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """An endless, shuffled iterator of `MultimodalBatch`es of numpy arrays.

    Each process gets its rows of every global batch of `config.batch_size`.

    Raises:
      ValueError: the examples lack the texts that `config` asks for, or the processes
        cannot share a batch evenly.
    """
    _check(examples, config)
    faults = Faults("training data", len(examples), config.max_bad_share)
    dataset = batches_of(
        examples,
        _Loader(tokenizer, inputs, config, image_size),
        config,
        seed,
        faults,
        process_index,
        process_count,
    )
    return Batches(dataset, config.threads, config.processes, {faults.name: faults})


def all_images(examples: Sequence[Example]) -> bool:
    """Whether the examples are still images; they and videos do not share batches.

    Raises:
      ValueError: there are both.
    """
    if isinstance(examples, Records):
        return examples.kind == "image"
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
        if count and not any(_counts(examples, kind)):
            raise ValueError(
                f"None of the {len(examples)} examples has {kind}, which this task "
                "trains on; check the annotation file and the task."
            )


def _counts(examples: Sequence[Example], kind: str) -> Sequence[int]:
    """How many texts of a kind there are: per example, or of records altogether.

    Where records do not say, one each is assumed.
    """
    if isinstance(examples, Records):
        known = examples.counts[kind]
        return [len(examples) if known is None else known]
    return [len(getattr(example, kind)) for example in examples]


class _Loader:
    """One example as a batch of one; all chance comes from `rng`."""

    def __init__(self, tokenizer, inputs: InputConfig, config: BatchConfig, size: int):
        self.tokenizer, self.inputs, self.config = tokenizer, inputs, config
        self.read = ClipReader(inputs.num_frames, size, config)

    def __call__(self, example: Example, rng: np.random.Generator) -> MultimodalBatch:
        config, inputs = self.config, self.inputs
        texts = {}
        if config.captions_per_video:
            chosen = _choose(example.captions, config.captions_per_video, rng)
            caption = inputs.captions(self.tokenizer, [c or "" for c in chosen])
            texts["caption"] = _blank(caption, [c is None for c in chosen])
        if config.questions_per_video:
            texts |= self._questions(example, rng)
        frames, video = self.read(example, rng)
        return MultimodalBatch(frames, **texts, is_video=video)

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


def epochs_to_steps(
    epochs: float, examples: Sequence[Example], config: BatchConfig
) -> int:
    """Steps of `epochs` passes over all texts, as upstream counts epochs.

    A video with ten captions, of which a batch takes one, is seen ten times an epoch.
    Of prepared records only the sums are known: an epoch shows as many texts as there
    are.
    """
    kinds = {"captions": config.captions_per_video}
    kinds["questions"] = config.questions_per_video
    passes = [
        [-(-texts // count) for texts in _counts(examples, kind)]
        for kind, count in kinds.items()
        if count
    ]
    total = sum(map(max, *passes)) if len(passes) > 1 else sum(passes[0])
    return max(1, round(epochs * total / config.batch_size))
