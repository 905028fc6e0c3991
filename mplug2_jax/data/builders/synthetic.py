"""The synthetic world of `data/shapes.py`: clips, still images and texts made here.

The numbers of examples are the expected counts themselves.
"""

import io
from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
from PIL import Image

from mplug2_jax.data import shapes
from mplug2_jax.data.builders.declaration import Content, Counts, Dataset, Split
from mplug2_jax.data.files import StoredFile
from mplug2_jax.data.sources import QA, Example

FRAMES, SIZE = 9, 48  # odd: the middle frame is the middle of the motion


def _splits(make, kind: str, expected: Mapping[str, Counts]) -> dict[str, Content]:
    return {
        name: partial(_split, partial(make, name), kind, counts.media or 0)
        for name, counts in expected.items()
    }


def _split(make, kind: str, number: int, shard_size: int) -> Split:
    starts = range(0, number, shard_size)
    ranges = [range(i, min(i + shard_size, number)) for i in starts]
    texts = 0 if kind == "text" else number, None if kind == "video" else 0
    return Split([partial(make, r) for r in ranges], Counts(number, *texts))


def _scene(split: str, kind: str, index: int) -> shapes.Scene:
    """No two kinds show the same scenes."""
    name = split if kind == "video" else f"{split} {kind}"
    return shapes.make_scene(shapes.scene_rng(name, 0, index), split)


def _videos(split: str, indices: range) -> Iterator[Example]:
    for index in indices:
        scene = _scene(split, "video", index)
        data = shapes.encode_mp4(shapes.render(scene, FRAMES, SIZE))
        asked = tuple(
            QA(q.question, (q.answer,), (1.0,), q.kind) for q in shapes.questions(scene)
        )
        name = f"{split}/{index:06d}"
        media = StoredFile(f"{name}.mp4", data)
        yield Example(name, media, (shapes.caption(scene),), asked)


def _images(split: str, indices: range) -> Iterator[Example]:
    for index in indices:
        scene = _scene(split, "image", index)
        buffer = io.BytesIO()
        Image.fromarray(shapes.render(scene, 1, SIZE)[0]).save(buffer, "PNG")
        name = f"{split}/{index:06d}"
        seen = " and ".join(f"{thing.color} {thing.shape}" for thing in scene.objects)
        yield Example(name, StoredFile(f"{name}.png", buffer.getvalue()), (seen,))


def _texts(split: str, indices: range) -> Iterator[tuple[str, str]]:
    for index in indices:
        scene = _scene(split, "text", index)
        asked = shapes.questions(scene, np.random.default_rng(index))[0]
        text = f"{shapes.caption(scene)} {asked.question} {asked.answer}"
        yield f"{split}/{index:06d}", text


def _dataset(name: str, kind, make, **counts: int) -> Dataset:
    return Dataset(
        name=name,
        kind=kind,
        read=partial(_splits, make, kind),
        files="made on the spot; --counts SPLIT=N,... says how many",
        counts={split: Counts(media=number) for split, number in counts.items()},
        manual=False,
    )


DATASETS = (
    _dataset("shapes", "video", _videos, train=8000, test=300),
    _dataset("shapes_images", "image", _images, train=6000, test=300),
    _dataset("shapes_texts", "text", _texts, train=6000, test=300),
)
