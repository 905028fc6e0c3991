"""Media and questions as device calls of few shapes, so that little is compiled."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from mplug2_jax.data.image import resize
from mplug2_jax.data.prefetch import batched
from mplug2_jax.data.video import Media

T = TypeVar("T")

QUESTION_GROUP = 8  # questions that share one projection of their video's tokens


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Sizes of the device calls of one job, so that each function compiles once.

    Attributes:
      media: rows of an encoding.
      groups: groups of questions answered together.
      questions: those of a group, which are about one medium.
    """

    media: int
    groups: int
    questions: int

    @classmethod
    def fitting(cls, counts: Sequence[int], limit: int) -> "Shapes":
        """For media with so many questions each, at most `limit` rows to a call."""
        questions = min(bucket(max(counts, default=0)), QUESTION_GROUP, limit)
        groups = sum(-(-count // questions) for count in counts)
        return cls(
            media=min(bucket(len(counts)), limit),
            groups=min(bucket(groups), limit // questions),
            questions=questions,
        )


@dataclasses.dataclass(frozen=True)
class Encoded:
    """Visual embeddings of one device batch, whose last rows may be padding.

    Attributes:
      vision: on the device; M consecutive rows for each medium, or view of one.
      indices: places of the media in the list that was encoded.
      numbers: which random streams belong to the media.
      media: M, 1 but for images that belong together.
      views: V, how often each medium is there.
    """

    vision: Float[Array, "B*V*M N D"]
    indices: tuple[int, ...]
    numbers: tuple[int, ...]
    media: int = 1
    views: int = 1

    def require_one(self) -> None:
        """Raises ValueError if each medium is several images."""
        if self.media > 1:
            raise ValueError(
                f"A medium is {self.media} images; only classes are about several "
                "together, texts and boxes are about one."
            )


def as_medium(item: Media | Shaped[np.ndarray, "..."], size: int) -> Media:
    """Frames as a medium of `size` pixels; arrays `H W 3` are images.

    Raises:
      ValueError: neither a video nor an image.
    """
    if not isinstance(item, Media):
        frames = np.asarray(item)
        item = Media(frames[None] if frames.ndim == 3 else frames, frames.ndim == 3)
    frames = item.frames
    if frames.ndim != 4 or frames.shape[3] != 3 or not frames.size:
        raise ValueError(
            f"Frames of shape {frames.shape} are no medium; expected T H W 3 for a "
            "video or H W 3 for an image."
        )
    if frames.dtype == np.uint8:
        return dataclasses.replace(item, frames=resize(frames, size))
    if frames.dtype != np.float32 or frames.shape[1:3] != (size, size):
        raise ValueError(
            f"Frames are {frames.dtype} of {frames.shape[1:3]} pixels; expected "
            f"uint8, or normalised float32 of {size} x {size}."
        )
    return item


def joined(images: Sequence[Media]) -> Media:
    """Images that belong together as one medium, T of them.

    Raises:
      ValueError: one of several is a video, or has several views.
    """
    if len(images) == 1:
        return images[0]
    if not all(its.image for its in images):
        raise ValueError("One of several media is a video; only images join.")
    if any(its.views > 1 for its in images):
        raise ValueError("Images that belong together have one view each.")
    return Media(np.concatenate([its.frames for its in images]), image=True)


def stacked(
    media: Sequence[Media], size: int
) -> Iterator[tuple[list[int], Shaped[np.ndarray, "B T H W 3"], bool, int]]:
    """Batches of media of one kind, each filled up to `size` rows by its last one.

    Yields places of the media, their frames, whether they are images, and their views.
    """
    for places in by_kind(media):
        first = media[places[0]]
        for batch in batched(places, size):
            rows = [media[index].frames for index in padded(batch, size)]
            yield batch, np.stack(rows), first.image, first.views


def by_kind(media: Sequence[Media]) -> list[list[int]]:
    """Places of the media that can be stacked, kind by kind."""
    kinds: dict[tuple, list[int]] = {}
    for index, medium in enumerate(media):
        frames = medium.frames
        kind = (medium.image, medium.views, frames.shape, frames.dtype)
        kinds.setdefault(kind, []).append(index)
    return list(kinds.values())


def question_groups(counts: Sequence[int], size: int) -> list[list[tuple[int, int]]]:
    """Groups of (medium, question) of at most `size` questions about one medium."""
    return [
        [(row, index) for index in group]
        for row, count in enumerate(counts)
        for group in batched(range(count), size)
    ]


def ask_in_groups(
    counts: Sequence[int],
    shapes: Shapes,
    ask: Callable[[list[list[tuple[int, int]]]], Sequence[Any]],
) -> list[list[Any]]:
    """What `ask` says of every question about each medium, in calls of one shape.

    Args:
      counts: questions about each medium.
      ask: given full groups of (medium, question), one result per question in order.
    """
    groups = question_groups(counts, shapes.questions)
    found: list[list[Any]] = [[] for _ in counts]
    for batch in batched(groups, shapes.groups):
        full = [padded(group, shapes.questions) for group in batch]
        results = ask(padded(full, shapes.groups))
        for group, its in zip(batch, batched(results, shapes.questions), strict=False):
            found[group[0][0]] += its[: len(group)]
    return found


def padded(items: Sequence[T], size: int) -> list[T]:
    """The items, and the last one repeated up to `size`."""
    return [*items, *[items[-1]] * (size - len(items))]


def streams(numbers: Sequence[int], count: int) -> Int[np.ndarray, "R*count"]:
    """`count` random streams of its own for every number."""
    each = np.array(numbers)[:, None] * count + np.arange(count)
    return (each % 2**31).astype(np.int32).reshape(-1)


def bucket(count: int) -> int:
    """The power of two from `count` on: few shapes to compile."""
    return 1 << max(0, count - 1).bit_length()
