"""What a data set is to `mplug2 prepare`: how its files are read, and what they hold.

A split is a list of shards; a shard gives its items when it is called, wherever that
is: in this process or on a machine of a Beam pipeline.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from absl import logging

from mplug2_jax.data.examples import Example, TextExample, labels_of
from mplug2_jax.data.files import StoredFile

Item = Example | TextExample | tuple[str, str]  # of text: its id and itself
Shard = Callable[[], Iterable[Item]]

# Items of a shard: about 100 to 300 MB, which writing one holds in memory.
SHARD_SIZES = {"video": 256, "image": 2048, "text": 65536, "labelled_text": 65536}
Kind = Literal["video", "image", "text", "labelled_text"]


@dataclass(frozen=True)
class Counts:
    """What a split holds; None is not known beforehand."""

    media: int | None = None
    captions: int | None = None
    questions: int | None = None
    labels: int | None = None
    regions: int | None = None


@dataclass(frozen=True)
class Split:
    """A split as its files list it; media that are missing are in no shard.

    Attributes:
      classes: the labels that occur, as far as they are known beforehand.
    """

    shards: Sequence[Shard]
    counts: Counts
    missing: tuple[str, ...] = ()
    classes: frozenset[str] = frozenset()


# Examples known one by one, or what cuts a split into shards of so many items.
Content = Sequence[Example] | Sequence[TextExample] | Callable[[int], Split]


@dataclass(frozen=True)
class Dataset:
    """A data set that can be prepared.

    Attributes:
      name: on the command line.
      kind: of its media.
      read: of the manual directory, or of the expected counts of one that is made on
        the spot: the contents of its splits.
      files: what the manual directory must hold, for the command's help.
      counts: published by who made the data or the splits; the files must have them.
      reported: by papers only; other numbers of the files are logged.
      web: files are collected from the web, and some are always missing: however many,
        they are named in the log and left out when the records are written, as are
        splits of which none is there.
      max_missing: share of a split's media that may be missing; more are an error, in
        every split of a set that is not from the web, unless any counts will do.
      manual: whether there is a manual directory at all.
      classes: names of the labels, in the order of a classifier's scores; by default
        all that occur in the splits, in alphabetical order.
    """

    name: str
    kind: Kind
    read: Callable[[Any], Mapping[str, Content]]
    files: str
    counts: Mapping[str, Counts] = field(default_factory=dict)
    reported: Mapping[str, Counts] = field(default_factory=dict)
    web: bool = False
    max_missing: float = 0.0
    manual: bool = True
    classes: tuple[str, ...] = ()

    def splits(self, manual: Path, expected: Mapping[str, Counts]) -> dict[str, Split]:
        """The splits, of the expected counts.

        Where nothing is expected, media that are missing are left out, and splits of
        which none is here.

        Raises:
          ValueError: files are damaged, or hold something else.
          FileNotFoundError: files are missing.
        """
        size = SHARD_SIZES[self.kind]
        contents = self.read(manual if self.manual else expected)
        splits = {
            name: content(size) if callable(content) else _listed(content, size)
            for name, content in contents.items()
        }
        if absent := [name for name in expected if name not in splits]:
            raise ValueError(
                f"{self.name} has no split {absent[0]!r} here, only {sorted(splits)}; "
                "check the annotation files of the manual directory."
            )
        for name, split in splits.items():
            _check_media(self, name, split, strict=bool(expected))
        splits = {name: split for name, split in splits.items() if split.shards}
        if not splits:
            raise ValueError(f"{self.name}: no split holds anything.")
        if wrong := _differences(self.name, splits, expected):
            raise ValueError(
                f"{wrong[0]}; fetch the annotations again, or take what is there with "
                "--any-counts."
            )
        for difference in _differences(self.name, splits, self.reported):
            logging.warning("%s, as papers have it", difference)
        return splits


def _listed(
    examples: Sequence[Example] | Sequence[TextExample], shard_size: int
) -> Split:
    missing = {
        example.id: str(file)
        for example in examples
        if isinstance(example, Example)
        for file in (example.media, *example.others)
        if not (isinstance(file, StoredFile) or file.is_file())
    }
    found = [example for example in examples if example.id not in missing]
    shards = [
        partial(tuple, found[start : start + shard_size])
        for start in range(0, len(found), shard_size)
    ]
    texts = ("captions", "questions", "labels", "regions")
    if found and isinstance(found[0], TextExample):
        counts = {"labels": len(found)}
    else:
        counts = {name: sum(len(getattr(e, name)) for e in found) for name in texts}
    return Split(
        shards,
        Counts(len(found), **counts),
        tuple(missing.values()),
        frozenset(label for example in found for label in labels_of(example)),
    )


def _check_media(dataset: Dataset, name: str, split: Split, strict: bool) -> None:
    """Whether enough of a split's media are here; what is missing is logged.

    Raises:
      FileNotFoundError: in a strict check more than the data set's share is missing.
    """
    missing, here = split.missing, bool(split.shards)
    if here and not missing:
        return
    said, share = f"{dataset.name}, split {name}, lists nothing", 1.0
    if missing:
        share = len(missing) / (len(missing) + (split.counts.media or 0))
        said = (
            f"{dataset.name}, split {name}: {len(missing)} media are missing "
            f"({', '.join(missing[:3])}, ...), {share:.1%} of the split"
        )
    if strict and share > dataset.max_missing:
        limit = f"at most {dataset.max_missing:.0%} may be; "
        raise FileNotFoundError(
            f"{said}; {limit if dataset.max_missing else ''}fetch them, or leave "
            f"{'them' if here else 'the split'} out with --any-counts."
        )
    logging.warning("%s; %s left out", said, "they are" if here else "the split is")


def _differences(
    dataset: str, found: Mapping[str, Split], expected: Mapping[str, Counts]
) -> list[str]:
    """Where numbers that are known on both sides differ."""
    return [
        f"{dataset}, split {name}: {its} {what} found, {number} expected"
        for name, counts in expected.items()
        if name in found
        for what, number in vars(counts).items()
        for its in [getattr(found[name].counts, what)]
        if None not in (number, its) and its != number
    ]
