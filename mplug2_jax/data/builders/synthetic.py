"""The synthetic world of `data/shapes.py`: clips, still images and texts made here.

The numbers of examples are the expected counts themselves.
"""

import io
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from mplug2_jax.data import shapes
from mplug2_jax.data.builders.declaration import SHARD_SIZES, Counts, Dataset, Split
from mplug2_jax.data.files import StoredFile
from mplug2_jax.data.sources import QA, Example

FRAMES, SIZE = 9, 48  # odd: the middle frame is the middle of the motion


def _splits(make, kind: str, _: Path, expected: Mapping[str, Counts]):
    splits = {}
    for name, wanted in expected.items():
        number, size = wanted.media or 0, SHARD_SIZES[kind]
        ranges = [range(i, min(i + size, number)) for i in range(0, number, size)]
        questions = None if kind == "video" else 0
        counts = Counts(number, 0 if kind == "text" else number, questions)
        splits[name] = Split([partial(make, name, r) for r in ranges], counts)
    return splits


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
    _dataset("shapes", "video", _videos, train=6000, test=300),
    _dataset("shapes_images", "image", _images, train=6000, test=300),
    _dataset("shapes_texts", "text", _texts, train=6000, test=300),
)
