"""From items to endless batches with Grain: order, shares of processes, position.

Row r of step k is the same, whatever the number of threads, worker processes and
processes of the run: it follows from the seed and its place in the global order.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from mplug2_jax.data.faults import Faults, News, Tolerant
from mplug2_jax.types import MultimodalBatch, Tokens

# More than any run takes. Grain's endless repetition overflows for one example.
EPOCHS = 1 << 32


@dataclasses.dataclass(frozen=True)
class BatchConfig:
    """What a training batch holds.

    Attributes:
      batch_size: videos per step, of all processes together.
      captions_per_video, questions_per_video, answers_per_question: rows of text per
        video; a video with more gets a random choice, one with fewer padding. 0 leaves
        the kind of text out. Pretraining has one of each and does not read these.
      texts_per_medium: phrases of grounding, texts of pair classification.
      crop_scale: share of the area that a random crop keeps; None resizes the whole
        frame instead.
      flip: mirror half of the clips (upstream does; wrong for left/right questions).
      randaugment: (number, level) of operations, or None.
      keep_clips: decode each clip once and keep all its frames in memory; for small
        sets of short clips only.
      threads: decoding threads, of each worker process if there are any.
      processes: worker processes; 0 decodes in threads of the training process.
      max_bad_share: share of the media that may be missing, unreadable, or still
        images among videos; the next example takes the place of each.
      timeout: seconds that reading one example may take.
    """

    batch_size: int = 4
    captions_per_video: int = 0
    questions_per_video: int = 0
    answers_per_question: int = 1
    texts_per_medium: int = 1
    crop_scale: tuple[float, float] | None = (0.5, 1.0)
    flip: bool = True
    randaugment: tuple[int, int] | None = (2, 5)
    keep_clips: bool = False
    threads: int = 4
    processes: int = 0
    max_bad_share: float = 0.01
    timeout: float = 60.0


class Batches(grain.DatasetIterator):
    """Endless batches; the position is one number, the step to come.

    Args:
      dataset: batches by step.
      threads, processes: see `BatchConfig`.
      faults: by name of the data set, to be asked after.
    """

    def __init__(
        self,
        dataset: grain.MapDataset,
        threads: int,
        processes: int = 0,
        faults: Mapping[str, Faults] | None = None,
    ):
        super().__init__()
        self.faults = dict(faults or {})
        self._dataset, self._processes = dataset, processes
        self._options = grain.ReadOptions(threads, prefetch_buffer_size=threads)
        self._step = 0
        self._iterator: grain.DatasetIterator | None = None

    def __next__(self) -> Any:
        if self._iterator is None:
            self._iterator = self._start()
        batch = next(self._iterator)
        if self._processes:
            batch, news = batch
            for name, its in news.items():
                self.faults[name].learn(its)
        self._step += 1
        return batch

    def _start(self) -> grain.DatasetIterator:
        batches = self._dataset[self._step :]
        if self._processes:
            batches = batches.map(_WithNews(self.faults))
        ahead = batches.to_iter_dataset(self._options)
        if self._processes:
            if not flags.FLAGS.is_parsed():  # Grain reads its own to start workers
                flags.FLAGS.mark_as_parsed()
            workers = grain.MultiprocessingOptions(self._processes)
            ahead = ahead.mp_prefetch(workers)
        return iter(ahead)

    def get_state(self) -> dict[str, Any]:
        """The position; the same on every process and for any number of them."""
        return {"step": self._step}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position."""
        self.close()
        self._step = int(state["step"])

    def close(self) -> None:
        """Ends the reading ahead; the next batch starts it anew."""
        if self._iterator is not None:
            self._iterator.close()
        self._iterator = None


class _WithNews:
    """A batch of a worker process, and what the worker has to tell."""

    def __init__(self, faults: Mapping[str, Faults]):
        self.faults = faults

    def __call__(self, batch: Any) -> tuple[Any, dict[str, News]]:
        return batch, {name: its.news() for name, its in self.faults.items()}


def batches_of(
    items: Sequence[Any],
    load: Callable[[Any, np.random.Generator], MultimodalBatch],
    config: BatchConfig,
    seed: int,
    faults: Faults,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.MapDataset:
    """This process's rows of every global batch, by step.

    Args:
      items: examples or texts; shuffled anew for every pass over them.
      load: an item as a batch of one row.
      faults: counts the items that cannot be loaded.

    Raises:
      ValueError: there are no items, or the processes cannot share the batch evenly.
    """
    if not items:
        raise ValueError(
            f"{faults.name}: there are no examples; check the annotation file, or "
            "prepare the data set again."
        )
    rows, rest = divmod(config.batch_size, process_count)
    if rest or rows < 1:
        raise ValueError(
            f"batch_size {config.batch_size} does not divide into the shares of "
            f"{process_count} processes; change it to a multiple."
        )
    return (
        grain.MapDataset.range(len(items))
        .seed(seed)
        .shuffle()
        .repeat(EPOCHS)
        .random_map(Tolerant(items, load, faults, config.timeout))
        .batch(rows, batch_fn=stack)[process_index::process_count]
    )


def stack(batches: Sequence[MultimodalBatch]) -> MultimodalBatch:
    """Joins batches of one medium: frames get a batch axis, text rows follow on."""
    first = batches[0]

    def join(name):
        parts = [getattr(batch, name) for batch in batches]
        if parts[0] is None:
            return None
        if isinstance(parts[0], Tokens):
            values = np.concatenate([part.values for part in parts])
            return Tokens(values, np.concatenate([part.mask for part in parts]))
        return np.stack(parts) if name == "frames" else np.concatenate(parts)

    arrays = [f.name for f in dataclasses.fields(first) if f.name != "is_video"]
    joined: dict[str, Any] = {name: join(name) for name in arrays}
    return dataclasses.replace(first, **joined)
