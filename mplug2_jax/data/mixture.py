"""Pretraining batches out of several data sets: one data set, so one kind, per step."""

import dataclasses
import functools
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import grain
import numpy as np

from mplug2_jax.data.batches import EPOCHS, BatchConfig, Batches, batches_of
from mplug2_jax.data.faults import Faults
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.opening import DataConfig, open_examples, open_texts
from mplug2_jax.data.pretraining import PairLoader, TextLoader
from mplug2_jax.data.tokenizers import Tokenizer
from mplug2_jax.models.config import from_mapping
from mplug2_jax.types import MultimodalBatch

# Steps among which the parts have their exact shares.
BLOCK = 100


@dataclasses.dataclass(frozen=True)
class PartConfig:
    """One data set of a mixture.

    Attributes:
      name: of its own; losses are logged under it.
      kind: what it holds.
      weight: how many of the steps are its, relative to the other parts; 0 leaves the
        part out.
      data: where it is.
      batch: rows per step and how they are read; numbers of texts are not used.
    """

    name: str = ""
    kind: Literal["video", "image", "text"] = "video"
    weight: float = 1.0
    data: DataConfig = DataConfig()
    batch: BatchConfig = BatchConfig()


def parts_of(values: Mapping[str, Mapping[str, Any]]) -> tuple[PartConfig, ...]:
    """Parts from nested mappings by name.

    Raises:
      ValueError: unknown keys, or values of another type.
    """
    return tuple(
        from_mapping(PartConfig, {**part, "name": name}, f"mixture.{name}")
        for name, part in values.items()
    )


class Schedule:
    """Which part is read at a step, and which of its own steps this is.

    Every `BLOCK` steps hold each part as often as its weight says, once at least, in an
    order that follows from the seed and the block.

    Raises:
      ValueError: no part has a weight, one is negative, or there are too many.
    """

    def __init__(self, weights: Sequence[float], seed: int):
        shares = np.asarray(weights, float)
        if not (shares >= 0).all() or not 0 < (shares > 0).sum() <= BLOCK:
            raise ValueError(
                f"The mixture's weights are {list(weights)}; expected numbers >= 0, "
                f"from 1 to {BLOCK} of them above 0."
            )
        self.seed = seed
        self.counts = tuple(_whole_shares(shares))

    def __getitem__(self, step: int) -> tuple[int, int]:
        block, place = divmod(step, BLOCK)
        order = _order(self.counts, self.seed, block)
        part = order[place]
        earlier = int((order[:place] == part).sum())
        return int(part), int(block * self.counts[part] + earlier)


def _whole_shares(shares: np.ndarray) -> list[int]:
    """`BLOCK` steps in proportion (Webster), one at least for each share above 0."""
    counts = (shares > 0).astype(int)
    for _ in range(BLOCK - counts.sum()):
        counts[np.argmax(shares / (counts + 0.5))] += 1
    return counts.tolist()


@functools.lru_cache(maxsize=64)
def _order(counts: tuple[int, ...], seed: int, block: int) -> np.ndarray:
    parts = np.repeat(np.arange(len(counts)), counts)
    return np.random.default_rng([seed, block]).permutation(parts)


class _Mixed:
    """A step's number to its part's name and batch."""

    def __init__(self, names: Sequence[str], datasets: Sequence, schedule: Schedule):
        self.names, self.datasets, self.schedule = names, datasets, schedule

    def __call__(self, step: int) -> tuple[str, MultimodalBatch]:
        part, own_step = self.schedule[step]
        return self.names[part], self.datasets[part][own_step]


def mixture_batches(
    parts: Sequence[PartConfig],
    tokenizer: Tokenizer,
    inputs: InputConfig,
    image_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """An endless iterator of (part's name, `MultimodalBatch`) of numpy arrays.

    The part, its rows and their order follow from the seed and the step. Batches of
    videos and images have frames, a caption (`[CLS] text`), and an instruction
    (`question`) with its target (`answer`, ending in the end token); batches of text
    have `text`.

    Args:
      process_index, process_count: whose rows of every global batch are wanted;
        processes that share rows give the same index.

    Raises:
      ValueError: names, weights or batch sizes do not fit, or data are unusable.
      FileNotFoundError: data are missing.
    """
    chosen = [part for part in parts if part.weight != 0]
    names = [part.name for part in chosen]
    if len(set(names)) < len(names) or "" in names:
        raise ValueError(f"The mixture's parts are named {names}; give each its name.")
    schedule = Schedule([part.weight for part in chosen], seed)
    datasets, faults = [], {}
    for part in chosen:
        items, load = _open(part, tokenizer, inputs, image_size)
        its = faults[part.name] = Faults(
            part.name, len(items), part.batch.max_bad_share
        )
        own_seed = _seed(seed, part.name)
        where = process_index, process_count
        datasets.append(batches_of(items, load, part.batch, own_seed, its, *where))
    steps = grain.MapDataset.range(EPOCHS).map(_Mixed(names, datasets, schedule))
    threads = max(part.batch.threads for part in chosen)
    processes = max(part.batch.processes for part in chosen)
    return Batches(steps, threads, processes, faults)


def _open(part: PartConfig, tokenizer, inputs: InputConfig, size: int):
    """A part's items, and what makes a row of one."""
    if not part.data.path:
        raise ValueError(
            f"mixture.{part.name}.data.path is empty; set it to your data, or the "
            "part's weight to 0."
        )
    if part.kind == "text":
        return open_texts(part.data), TextLoader(tokenizer, inputs)
    examples = open_examples(part.data, part.batch.max_bad_share)
    video = part.kind == "video"
    return examples, PairLoader(tokenizer, inputs, part.batch, size, video)


def _seed(seed: int, name: str) -> int:
    """A seed of the part's own, whatever the other parts are."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(name.encode())])
    return int(sequence.generate_state(1)[0])
