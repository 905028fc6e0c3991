"""The synthetic world annotated for further tasks: boxes, statements, people's votes.

Scenes are those of `data/shapes.py`; a still image shows the middle of the motion.
"""

import dataclasses
from collections import Counter

import numpy as np

from mplug2_jax.data import shapes
from mplug2_jax.data.examples import QA, Box, Label, Region
from mplug2_jax.data.shapes import COLORS, DIRECTIONS, SHAPES, Object, Scene

ENTAILED, NOT_ENTAILED = "entailment", "not_entailment"
SIDES = ("left", "right")
PEOPLE = 10
# Left, top, right and bottom edge of a shape, in radii from its centre.
EXTENTS = {
    "circle": (-1.0, -1.0, 1.0, 1.0),
    "square": (-0.86, -0.86, 0.86, 0.86),
    "triangle": (-0.996, -1.15, 0.996, 0.575),
    "cross": (-1.0, -1.0, 1.0, 1.0),
}


def box(thing: Object) -> Box:
    """Where the object is at half time: x0, y0, x1, y1, shares of the frame."""
    centre = np.tile(thing.middle, 2)
    edges = centre + thing.radius * np.array(EXTENTS[thing.shape])
    x0, y0, x1, y1 = np.clip(edges, 0, 1).tolist()
    return x0, y0, x1, y1


def regions(scene: Scene) -> tuple[Region, ...]:
    """Phrases that name one object each, and their boxes."""
    count = Counter(thing.shape for thing in scene.objects)
    found = []
    for thing in scene.objects:
        phrases = [f"{thing.color} {thing.shape}", f"the {thing.color} shape"]
        if count[thing.shape] == 1:
            phrases.append(f"the {thing.shape}")
        found += [Region(phrase, box(thing)) for phrase in phrases]
    return tuple(found)


def statements(
    scene: Scene, rng: np.random.Generator, motion: bool = True
) -> tuple[Label, Label]:
    """A statement about an object that is true, and one that differs in one word.

    The false one is as likely to be true of another scene: of both alone nothing can be
    told.

    Args:
      motion: whether the statements say which way the object moves.
    """
    thing = scene.objects[int(rng.integers(len(scene.objects)))]
    true = {_statement(other, motion) for other in scene.objects}
    names = rng.permutation(["color", "shape", "motion"][: 2 + motion])
    wrong = [[s for s in _changed(thing, n, motion) if s not in true] for n in names]
    return (
        Label(ENTAILED, _statement(thing, motion)),
        Label(NOT_ENTAILED, str(rng.choice(next(filter(None, wrong))))),
    )


def _statement(thing: Object, motion: bool) -> str:
    moves = f" moves {thing.motion[0]}" if motion else ""
    return f"{thing.color} {thing.shape}{moves}"


def _changed(thing: Object, name: str, motion: bool) -> list[str]:
    """Statements about things that training shows and that differ in one property."""
    values = {
        "color": [*COLORS],
        "shape": [*SHAPES],
        "motion": [(direction,) for direction in DIRECTIONS],
    }
    others = [
        dataclasses.replace(thing, **{name: value})
        for value in values[name]
        if value != getattr(thing, name)
    ]
    return [
        _statement(other, motion)
        for other in others
        if (other.color, other.shape) in shapes.SEEN_PAIRS
    ]


def things(scene: Scene) -> set[tuple[str, str]]:
    """Colour and shape of each object."""
    return {(thing.color, thing.shape) for thing in scene.objects}


def sides(left: Scene, right: Scene, rng: np.random.Generator) -> tuple[Label, Label]:
    """Which of two images shows an object: a true statement, and a false one.

    The object is in one image alone; the two must not show the same `things`.
    """
    alone = sorted(things(left) ^ things(right))
    chosen = alone[int(rng.integers(len(alone)))]
    there, not_there = SIDES if chosen in things(left) else SIDES[::-1]
    said = f"{' '.join(chosen)} in the {{}} image"
    return (
        Label(ENTAILED, said.format(there)),
        Label(NOT_ENTAILED, said.format(not_there)),
    )


def voted_questions(scene: Scene, rng: np.random.Generator) -> tuple[QA, ...]:
    """Questions about a still image, each answered by ten people who may err."""
    asked = [
        (q.question, q.answer, "number" if q.kind == "count" else "other")
        for q in shapes.questions(scene)
        if q.kind in ("count", "shape", "color")
    ]
    true, false = statements(scene, rng, motion=False)
    asked += [
        (f"is there a {true.text}", "yes", "yes/no"),
        (f"is there a {false.text}", "no", "yes/no"),
    ]
    return tuple(
        QA(question, *_votes(answer, kind, rng), kind, None, PEOPLE)
        for question, answer, kind in asked
    )


def _votes(
    answer: str, kind: str, rng: np.random.Generator
) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """The right answer of seven people or more, and one wrong answer of the others."""
    pool = {"yes/no": ("yes", "no"), "number": shapes.NUMBERS}.get(kind)
    pool = pool or next(p for p in (tuple(COLORS), SHAPES) if answer in p)
    wrong = int(rng.integers(4))
    other = str(rng.choice([word for word in pool if word != answer]))
    if not wrong:
        return (answer,), (1.0,)
    return (answer, other), (1 - wrong / PEOPLE, wrong / PEOPLE)
