"""The synthetic world of `data/shapes.py`: clips, still images and texts made here.

Beside what pretraining reads there is a set for each kind of task: boxes of phrases,
directions and things as classes, entailment over captions and over clips, statements
about two images, questions with votes.

The numbers of examples are the expected counts themselves.
"""

import dataclasses
import io
import itertools
from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
from PIL import Image

from mplug2_jax.data import shape_tasks, shapes
from mplug2_jax.data.builders.declaration import Content, Counts, Dataset, Split
from mplug2_jax.data.examples import QA, Example, Label, TextExample
from mplug2_jax.data.files import StoredFile

FRAMES, SIZE = 9, 48  # odd: the middle frame is the middle of the motion
ANNOTATIONS = ("captions", "questions", "labels", "regions")
MOTIONS = tuple(shapes.DIRECTIONS)
THINGS = tuple(map(" ".join, shapes.SEEN_PAIRS))
FOLLOWS = (shape_tasks.ENTAILED, shape_tasks.NOT_ENTAILED)


def _splits(
    make, holds: tuple[str, ...], expected: Mapping[str, Counts]
) -> dict[str, Content]:
    return {
        name: partial(_split, partial(make, name), holds, counts.media or 0)
        for name, counts in expected.items()
    }


def _split(make, holds: tuple[str, ...], number: int, shard_size: int) -> Split:
    starts = range(0, number, shard_size)
    ranges = [range(i, min(i + shard_size, number)) for i in starts]
    unknown = dict.fromkeys(ANNOTATIONS, 0) | dict.fromkeys(holds, None)
    return Split([partial(make, r) for r in ranges], Counts(number, **unknown))


def _scene(split: str, kind: str, index: int) -> shapes.Scene:
    """No two kinds show the same scenes."""
    name = split if kind == "video" else f"{split} {kind}"
    return shapes.make_scene(shapes.scene_rng(name, 0, index), split)


def _videos(split: str, indices: range) -> Iterator[Example]:
    for index in indices:
        scene = _scene(split, "video", index)
        asked = tuple(
            QA(q.question, (q.answer,), (1.0,), q.kind) for q in shapes.questions(scene)
        )
        texts = {"captions": (shapes.caption(scene),), "questions": asked}
        yield _clip(scene, split, index, **texts)


def _images(split: str, indices: range) -> Iterator[Example]:
    for index in indices:
        scene = _scene(split, "image", index)
        seen = " and ".join(f"{thing.color} {thing.shape}" for thing in scene.objects)
        yield _still(scene, split, index, captions=(seen,))


def _still(scene: shapes.Scene, split: str, index: int, **annotated) -> Example:
    name = f"{split}/{index:06d}"
    return Example(name, _picture(scene, name), **annotated)


def _picture(scene: shapes.Scene, name: str) -> StoredFile:
    buffer = io.BytesIO()
    Image.fromarray(shapes.render(scene, 1, SIZE)[0]).save(buffer, "PNG")
    return StoredFile(f"{name}.png", buffer.getvalue())


def _clip(scene: shapes.Scene, split: str, index: int, **annotated) -> Example:
    name, data = f"{split}/{index:06d}", shapes.render(scene, FRAMES, SIZE)
    media = StoredFile(f"{name}.mp4", shapes.encode_mp4(data))
    return Example(name, media, **annotated)


def _boxes(split: str, indices: range) -> Iterator[Example]:
    for index in indices:
        scene = _scene(split, "box", index)
        yield _still(scene, split, index, regions=shape_tasks.regions(scene))


def _voted(split: str, indices: range) -> Iterator[Example]:
    for index in indices:
        scene, rng = _scene(split, "vote", index), np.random.default_rng(index)
        asked = shape_tasks.voted_questions(scene, rng)
        yield _still(scene, split, index, questions=asked)


def _motions(split: str, indices: range) -> Iterator[Example]:
    """Clips of one object, whose class is its direction."""
    for index in indices:
        scene = _scene(split, "motion", index)
        thing = scene.objects[0]
        scene = dataclasses.replace(scene, objects=(thing,))
        yield _clip(scene, split, index, labels=(Label(thing.motion[0]),))


def _things(split: str, indices: range) -> Iterator[Example]:
    """Stills of one object, whose class is its colour and shape."""
    for index in indices:
        scene = _scene(split, "thing", index)
        thing = scene.objects[index % len(scene.objects)]
        scene = dataclasses.replace(scene, objects=(thing,))
        label = Label(f"{thing.color} {thing.shape}")
        yield _still(scene, split, index, labels=(label,))


def _couples(split: str, indices: range) -> Iterator[Example]:
    """Two stills, and statements about which of them shows an object."""
    for index in indices:
        scenes = _different(split, index)
        said = shape_tasks.sides(*scenes, np.random.default_rng(index))
        name = f"{split}/{index:06d}"
        left, right = (
            _picture(scene, f"{name} {side}")
            for scene, side in zip(scenes, shape_tasks.SIDES, strict=True)
        )
        yield Example(name, left, labels=said, others=(right,))


def _different(split: str, index: int) -> tuple[shapes.Scene, shapes.Scene]:
    """Two scenes that do not show the same things."""
    left = _scene(split, "left", index)
    rights = (_scene(split, f"right {n}", index) for n in itertools.count())
    shown = shape_tasks.things(left)
    return left, next(s for s in rights if shape_tasks.things(s) != shown)


def _pairs(split: str, indices: range) -> Iterator[Example]:
    """Clips with a statement that is true and one that is not."""
    for index in indices:
        scene, rng = _scene(split, "pair", index), np.random.default_rng(index)
        yield _clip(scene, split, index, labels=shape_tasks.statements(scene, rng))


def _entailment(split: str, indices: range) -> Iterator[TextExample]:
    """Captions, each with a statement that follows from it or does not."""
    for index in indices:
        scene, rng = _scene(split, "entail", index), np.random.default_rng(index)
        said = shape_tasks.statements(scene, rng)[index % 2]
        name = f"{split}/{index:06d}"
        yield TextExample(name, shapes.caption(scene), said.text, said.label)


def _texts(split: str, indices: range) -> Iterator[tuple[str, str]]:
    for index in indices:
        scene = _scene(split, "text", index)
        asked = shapes.questions(scene, np.random.default_rng(index))[0]
        text = f"{shapes.caption(scene)} {asked.question} {asked.answer}"
        yield f"{split}/{index:06d}", text


def _dataset(name: str, kind, make, holds=(), classes=(), **counts: int) -> Dataset:
    return Dataset(
        name=name,
        kind=kind,
        read=partial(_splits, make, holds),
        files="made on the spot; --counts SPLIT=N,... says how many",
        counts={split: Counts(media=number) for split, number in counts.items()},
        manual=False,
        classes=classes,
    )


CAPTIONS, QUESTIONS, LABELS, REGIONS = ((name,) for name in ANNOTATIONS)
DATASETS = (
    _dataset("shapes", "video", _videos, CAPTIONS + QUESTIONS, train=8000, test=300),
    _dataset("shapes_images", "image", _images, CAPTIONS, train=6000, test=300),
    _dataset("shapes_texts", "text", _texts, train=6000, test=300),
    _dataset("shapes_boxes", "image", _boxes, REGIONS, train=6000, test=300),
    _dataset("shapes_votes", "image", _voted, QUESTIONS, train=6000, test=300),
    _dataset("shapes_motion", "video", _motions, LABELS, MOTIONS, train=3000, test=300),
    _dataset("shapes_things", "image", _things, LABELS, THINGS, train=3000, test=300),
    _dataset("shapes_pairs", "video", _pairs, LABELS, FOLLOWS, train=6000, test=300),
    _dataset(
        "shapes_couples", "image", _couples, LABELS, FOLLOWS, train=6000, test=300
    ),
    _dataset(
        "shapes_entailment",
        "labelled_text",
        _entailment,
        LABELS,
        FOLLOWS,
        train=8000,
        test=600,
    ),
)
