"""Training batches of one data set: what fine-tuning reads.

Videos are decoded and augmented ahead of the device by threads (PyAV and Pillow let go
of the interpreter while they work). Frames stay uint8 until they are on the device.
"""

import contextlib
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from mplug2_jax.data.batches import BatchConfig, Batches, batches_of
from mplug2_jax.data.clips import ClipReader
from mplug2_jax.data.examples import Example, TextExample
from mplug2_jax.data.faults import Faults
from mplug2_jax.data.files import MediaError, MediaFile
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.records import Records
from mplug2_jax.data.targets import Fields, LabelNumbers, Targets, targets_of
from mplug2_jax.data.tokenizers import Tokenizer
from mplug2_jax.data.video import is_image
from mplug2_jax.types import MultimodalBatch


def training_batches(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    inputs: InputConfig,
    config: BatchConfig,
    image_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    *,
    targets: Sequence[Targets] | None = None,
) -> Batches:
    """An endless, shuffled iterator of `MultimodalBatch`es of numpy arrays.

    Each process gets its rows of every global batch of `config.batch_size`.

    Args:
      targets: what is read beside the frames; by default the captions and questions
        that `config` asks for.

    Raises:
      ValueError: there are no examples, they lack what is asked for or are of several
        kinds, or the processes cannot share a batch evenly.
    """
    if targets is None:
        targets = targets_of("", tokenizer, inputs, config)
    _check(examples, targets)
    video = not all_images(examples, config.max_bad_share)
    read = ClipReader(inputs.num_frames, image_size, config, video)
    load = _Loader(read, targets)
    return _batches(examples, load, config, seed, process_index, process_count)


def text_batches(
    examples: Sequence[TextExample],
    tokenizer: Tokenizer,
    inputs: InputConfig,
    config: BatchConfig,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    *,
    regression: bool = False,
) -> Batches:
    """As `training_batches`, of texts and their classes, or numbers."""
    load = _TextLoader(tokenizer, inputs, regression)
    return _batches(examples, load, config, seed, process_index, process_count)


def _batches(examples, load, config: BatchConfig, seed: int, *process: int) -> Batches:
    faults = Faults("training data", len(examples), config.max_bad_share)
    dataset = batches_of(examples, load, config, seed, faults, *process)
    return Batches(dataset, config.threads, config.processes, {faults.name: faults})


def all_images(examples: Sequence[Example], max_bad_share: float = 0.0) -> bool:
    """Whether the examples are still images; they and videos do not share batches.

    Args:
      max_bad_share: of the examples, which may be of another kind than the most;
        reading them fails.

    Raises:
      ValueError: there are more of those.
    """
    if isinstance(examples, Records):
        return examples.kind == "image"
    kinds: dict[str, list[MediaFile]] = {"videos": [], "still images": []}
    for example in examples:
        with contextlib.suppress(MediaError):  # which reading raises again
            is_still = is_image(example.media)
            kinds["still images" if is_still else "videos"].append(example.media)
    most, few = sorted(kinds, key=lambda kind: len(kinds[kind]), reverse=True)
    if len(kinds[few]) > max_bad_share * len(examples):
        raise ValueError(
            f"{len(kinds[few])} of {len(examples)} training examples are {few} "
            f"({kinds[few][0]}, ...), the others {most}; train on one kind at a time."
        )
    return most == "still images"


def _check(examples: Sequence[Example], targets: Sequence[Targets]) -> None:
    for kind in (k for t in targets for k, count in t.counts.items() if count):
        if examples and not any(_counts(examples, kind)):
            raise ValueError(
                f"None of the {len(examples)} examples has {kind}, which this task "
                "trains on; check the annotation file and the task."
            )


def _counts(examples: Sequence, kind: str) -> Sequence[int]:
    """How many texts of a kind there are: per example, or of records altogether.

    Where records do not say, one each is assumed.
    """
    if isinstance(examples, Records):
        known = examples.counts.get(kind)
        return [len(examples) if known is None else known]
    return [len(getattr(example, kind)) for example in examples]


class _Loader:
    """One example as a batch of one; all chance comes from `rng`."""

    def __init__(self, read: ClipReader, targets: Sequence[Targets]):
        self.read, self.targets = read, targets

    def __call__(self, example: Example, rng: np.random.Generator) -> MultimodalBatch:
        fields: Fields = {}
        media = 1 + len(example.others)
        for target in self.targets:
            if media != target.media:
                raise ValueError(
                    f"{example.id} is {media} media together; expected {target.media} "
                    "(more only in classification, config.model.classifier.num_media)"
                )
            fields |= target(example, rng)
        frames, ids = self.read(example, rng), media_id(example)
        video = self.read.is_video
        return MultimodalBatch(frames, **fields, media_id=ids, is_video=video)


class _TextLoader:
    """A text and its class as a batch of one."""

    def __init__(self, tokenizer: Tokenizer, inputs: InputConfig, regression: bool):
        self.tokenizer, self.inputs = tokenizer, inputs
        self.number = LabelNumbers(inputs.classes, regression)

    def __call__(
        self, example: TextExample, rng: np.random.Generator
    ) -> MultimodalBatch:
        text = self.inputs.text_pairs(self.tokenizer, [(example.text, example.second)])
        label = self.number([example.label])
        return MultimodalBatch(text=text, label=label, is_video=False)


def media_id(example: Example) -> Int[np.ndarray, "1"]:
    """A number >= 0 of the example's medium, and of its segment.

    It follows from the name alone, so that it is the same in every process and epoch;
    of a million media some hundred share theirs with another, which does no harm.
    """
    name = f"{example.media} {example.start} {example.end}"
    return np.array([zlib.crc32(name.encode()) >> 1], np.int32)


def epochs_to_steps(
    epochs: float,
    examples: Sequence[Example] | Sequence[TextExample],
    batch_size: int,
    targets: Sequence[Targets] = (),
) -> int:
    """Steps of `epochs` passes over all texts, as upstream counts epochs.

    A video with ten captions, of which a batch takes one, is seen ten times an epoch.
    Of prepared records only the sums are known: an epoch shows as many texts as there
    are. Without targets an epoch shows each example once.
    """
    passes = [
        [-(-texts // count) for texts in _counts(examples, kind)]
        for target in targets
        for kind, count in target.counts.items()
        if count
    ]
    total = len(examples)
    if passes:
        total = sum(map(max, *passes)) if len(passes) > 1 else sum(passes[0])
    return max(1, round(epochs * total / batch_size))
