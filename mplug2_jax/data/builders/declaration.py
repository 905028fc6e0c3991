"""What a data set is to `mplug2 prepare`: how its files are read, and what they hold.

A split is a list of shards; a shard gives its items when it is called, wherever that
is: in this process or on a machine of a Beam pipeline.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from mplug2_jax.data.sources import Example

Item = Example | tuple[str, str]  # of text: its id and itself
Shard = Callable[[], Iterable[Item]]

# Items of a shard: about 100 to 300 MB, which writing one holds in memory.
SHARD_SIZES = {"video": 256, "image": 2048, "text": 65536}


@dataclass(frozen=True)
class Counts:
    """What a split holds; None is not known beforehand."""

    media: int | None = None
    captions: int | None = None
    questions: int | None = None


@dataclass(frozen=True)
class Split:
    """A split as its files list it; media that are missing are in no shard."""

    shards: Sequence[Shard]
    counts: Counts
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A data set that can be prepared.

    Attributes:
      name: on the command line.
      kind: of its media.
      read: of the manual directory and the expected counts: the splits.
      files: what the manual directory must hold, for the command's help.
      counts: published; splits without are not checked.
      web: files are collected from the web, and some are always missing; they are left
        out and counted. Elsewhere a missing file is an error.
      manual: whether there is a manual directory at all.
    """

    name: str
    kind: Literal["video", "image", "text"]
    read: Callable[[Path, Mapping[str, Counts]], Mapping[str, Split]]
    files: str
    counts: Mapping[str, Counts] = field(default_factory=dict)
    web: bool = False
    manual: bool = True

    @property
    def shard_size(self) -> int:
        """Items of a shard."""
        return SHARD_SIZES[self.kind]


def listed(examples: Sequence[Example], shard_size: int) -> Split:
    """The split of examples that are known one by one."""
    missing = {e.id: str(e.media) for e in examples if not Path(str(e.media)).is_file()}
    examples = [example for example in examples if example.id not in missing]
    shards = [
        partial(tuple, examples[start : start + shard_size])
        for start in range(0, len(examples), shard_size)
    ]
    captions = sum(len(e.captions) for e in examples)
    questions = sum(len(e.questions) for e in examples)
    counts = Counts(len(examples), captions, questions)
    return Split(shards, counts, tuple(missing.values()))


def check_counts(
    dataset: str, found: Mapping[str, Split], expected: Mapping[str, Counts]
) -> None:
    """Compares what was found with what is published.

    Raises:
      ValueError: they differ.
      FileNotFoundError: media are missing.
    """
    for name, counts in expected.items():
        if name not in found:
            raise ValueError(
                f"{dataset} has no split {name!r} here, only {sorted(found)}; check "
                "the annotation files of the manual directory."
            )
        if missing := found[name].missing:
            raise FileNotFoundError(
                f"{dataset}, split {name}: {len(missing)} media are missing "
                f"({', '.join(missing[:3])}, ...); fetch them, or leave them out with "
                "--any-counts."
            )
        for what, number in vars(counts).items():
            its = getattr(found[name].counts, what)
            if number is not None and its is not None and its != number:
                raise ValueError(
                    f"{dataset}, split {name}: {its} {what} found, {number} expected; "
                    "fetch the annotations again, or take what is there with "
                    "--any-counts."
                )
