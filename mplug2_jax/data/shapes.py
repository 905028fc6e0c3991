"""A synthetic world: one to three coloured shapes that move over grey textures.

Everything about a clip follows from its `Scene`. Colours are distinct within a clip,
so "the red shape" is always one object. The middle of every trajectory is drawn
independently of its direction, from the region where all four directions fit, and all
objects are equally fast: the middle frame tells nothing about motion.

Lengths are fractions of the frame's side; x points right, y points down.
"""

import io
import json
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from jaxtyping import Float, UInt8

Floats = Float[np.ndarray, "*shape"]

COLORS = {
    "red": (220, 40, 40),
    "green": (50, 190, 60),
    "blue": (50, 80, 235),
    "yellow": (240, 220, 40),
    "purple": (170, 50, 200),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "cross")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
NUMBERS = ("one", "two", "three")
SPLITS = ("train", "test", "unseen_pairs", "order")
# Never shown in train, test or order; each shape and four of six colours lose one.
UNSEEN_PAIRS = (
    ("red", "circle"),
    ("green", "square"),
    ("blue", "triangle"),
    ("yellow", "cross"),
)
SEEN_PAIRS = tuple(
    (color, shape)
    for color in COLORS
    for shape in SHAPES
    if (color, shape) not in UNSEEN_PAIRS
)
TRAVEL = 0.42  # way from first to last frame
MARGIN = 0.25  # of a trajectory's middle from the edges: centres stay inside
APART = 0.34  # least distance of two trajectories' middles
RADII = (0.15, 0.18)


@dataclass(frozen=True)
class Object:
    """One moving shape: passes `middle` at half time; two motions mean a turn there."""

    color: str
    shape: str
    middle: tuple[float, float]
    motion: tuple[str, ...]
    radius: float

    def path(self, time: Float[np.ndarray, "T"]) -> Float[np.ndarray, "T 2"]:
        """Centre (x, y) at each time in [0, 1]."""
        first, last = DIRECTIONS[self.motion[0]], DIRECTIONS[self.motion[-1]]
        way = TRAVEL * (np.asarray(time)[:, None] - 0.5)  # T 1
        return np.array(self.middle) + np.where(way < 0, way * first, way * last)


@dataclass(frozen=True)
class Scene:
    """Objects in the order of `COLORS`, and the seed of the background."""

    objects: tuple[Object, ...]
    texture: int


@dataclass(frozen=True)
class Question:
    """A question with a one-word answer; kind: color, shape, count, motion, order."""

    question: str
    answer: str
    kind: str


def scene_rng(split: str, seed: int, index: int) -> np.random.Generator:
    """The random stream of one clip; no two splits, seeds or clips share one."""
    return np.random.default_rng([zlib.crc32(split.encode()), seed, index])


def make_scene(rng: np.random.Generator, split: str = "train") -> Scene:
    """Draws a scene.

    `train` and `test` share one distribution. In `unseen_pairs` every object is one of
    `UNSEEN_PAIRS`; in `order` one object turns at half time.

    Raises:
      ValueError: unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected one of {SPLITS}")
    pairs = _pairs(rng, count=int(rng.integers(1, 4)), unseen=split == "unseen_pairs")
    motions: list[tuple[str, ...]]
    motions = [(str(m),) for m in rng.choice(list(DIRECTIONS), len(pairs))]
    if split == "order":
        turning = int(rng.integers(len(pairs)))
        others = [d for d in DIRECTIONS if d != motions[turning][0]]
        motions[turning] += (str(rng.choice(others)),)
    objects = [
        Object(color, shape, middle, motion, float(rng.uniform(*RADII)))
        for (color, shape), middle, motion in zip(
            pairs, _middles(rng, len(pairs)), motions, strict=True
        )
    ]
    return Scene(tuple(objects), texture=int(rng.integers(2**32)))


def _pairs(rng: np.random.Generator, count: int, unseen: bool) -> list[tuple[str, str]]:
    """Pairs (color, shape) of distinct colours, in the order of `COLORS`."""
    if unseen:
        chosen = rng.choice(len(UNSEEN_PAIRS), count, replace=False)
        return [UNSEEN_PAIRS[i] for i in sorted(chosen)]
    names = list(COLORS)
    colors = [names[i] for i in sorted(rng.choice(len(names), count, replace=False))]
    allowed = [[s for s in SHAPES if (c, s) in SEEN_PAIRS] for c in colors]
    return [(c, str(rng.choice(a))) for c, a in zip(colors, allowed, strict=True)]


def _middles(rng: np.random.Generator, count: int) -> list[tuple[float, float]]:
    """Middles at least `APART` from each other, uniform, blind to the directions."""
    while True:
        points = rng.uniform(MARGIN, 1 - MARGIN, (64, count, 2))
        gaps = np.linalg.norm(points[:, :, None] - points[:, None], axis=-1)
        near = (gaps + 2 * np.eye(count)).min((1, 2)) < APART
        if not near.all():
            return [(float(x), float(y)) for x, y in points[near.argmin()]]


def render(
    scene: Scene, num_frames: int = 8, size: int = 48
) -> UInt8[np.ndarray, "T H W 3"]:
    """Draws the scene as RGB frames, with edges about one pixel soft."""
    background = _texture(np.random.default_rng(scene.texture), size)
    frames = np.repeat(background[None], num_frames, axis=0)  # T H W 3
    time = np.linspace(0, 1, num_frames) if num_frames > 1 else np.array([0.5])
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size
    for thing in scene.objects:
        centre = thing.path(time).astype(np.float32)
        x = np.abs(grid - centre[:, :1])[:, None, :]  # T 1 W
        y = (grid - centre[:, 1:])[:, :, None]  # T H 1
        distance = _distance(thing.shape, x, y, np.float32(thing.radius))
        alpha = np.clip(0.5 - distance * size, 0, 1)[..., None]  # T H W 1
        frames += alpha * (np.array(COLORS[thing.color], np.float32) - frames)
    return np.clip(frames + 0.5, 0, 255).astype(np.uint8)


def _distance(shape: str, x: Floats, y: Floats, radius: np.float32) -> Floats:
    """Signed distance to the outline (negative inside), by x's magnitude and y."""
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "square":
        return np.maximum(x, np.abs(y)) - 0.86 * radius
    if shape == "triangle":  # tip up, equilateral, circumradius 1.15 radius
        side = 0.866 * x - 0.5 * y
        return np.maximum(side, y) - 0.575 * radius
    arm, length = 0.34 * radius, radius
    upright = np.maximum(x - arm, np.abs(y) - length)
    level = np.maximum(x - length, np.abs(y) - arm)
    return np.minimum(upright, level)


def _texture(rng: np.random.Generator, size: int) -> Float[np.ndarray, "H W 3"]:
    """A muted background: a gradient, stripes or low-frequency noise in near-greys."""
    x, y = np.meshgrid(*[np.linspace(-1, 1, size, dtype=np.float32)] * 2)
    angle, phase = rng.uniform(0, 2 * np.pi, 2)
    along = np.float32(np.cos(angle)) * x + np.float32(np.sin(angle)) * y
    match rng.integers(3):
        case 0:
            pattern = 0.7 * along
        case 1:
            pattern = np.sin(along * np.float32(rng.uniform(6, 14)) + np.float32(phase))
        case _:
            pattern = _smooth_noise(rng, size)
    grey = rng.uniform(70, 120) + rng.uniform(10, 25) * pattern
    grain = rng.normal(0, 2, (size, size)).astype(np.float32)
    tint = rng.uniform(-8, 8, 3).astype(np.float32)
    return ((grey + grain)[..., None] + tint).astype(np.float32)


def _smooth_noise(rng: np.random.Generator, size: int) -> Float[np.ndarray, "H W"]:
    """Bilinear interpolation of a 6 x 6 grid of uniform numbers in [-1, 1]."""
    knots = rng.uniform(-1, 1, (6, 6)).astype(np.float32)
    at = np.linspace(0, 5, size)
    weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(6))).astype(np.float32)
    return weights @ knots @ weights.T


def caption(scene: Scene) -> str:
    """The scene in words, objects in the order of `COLORS`."""
    return " and ".join(
        f"{o.color} {o.shape} moves {' then '.join(o.motion)}" for o in scene.objects
    )


def questions(scene: Scene, rng: np.random.Generator | None = None) -> list[Question]:
    """Every well-posed question about a scene; with `rng`, in random order."""
    shapes = Counter(o.shape for o in scene.objects)
    number = NUMBERS[len(scene.objects) - 1]
    asked = [Question("how many shapes are there", number, "count")]
    for thing in scene.objects:
        asked.append(Question(f"what shape is {thing.color}", thing.shape, "shape"))
        asked += _motion_questions(f"the {thing.color} shape", thing.motion)
        if shapes[thing.shape] == 1:
            question = f"what color is the {thing.shape}"
            asked.append(Question(question, thing.color, "color"))
            asked += _motion_questions(f"the {thing.shape}", thing.motion)
    return asked if rng is None else [asked[i] for i in rng.permutation(len(asked))]


def _motion_questions(name: str, motion: Sequence[str]) -> list[Question]:
    question = f"which way does {name} move"
    if len(motion) == 1:
        return [Question(question, motion[0], "motion")]
    return [
        Question(f"{question} first", motion[0], "order"),
        Question(f"{question} last", motion[1], "order"),
    ]


def vocabulary() -> list[str]:
    """All words of captions, questions and answers."""
    grammar = "moves then and how many shapes are there what shape is color the"
    grammar += " which way does move first last"
    words = [*grammar.split(), *COLORS, *SHAPES, *DIRECTIONS, *NUMBERS]
    return list(dict.fromkeys(words))


def encode_mp4(frames: UInt8[np.ndarray, "T H W 3"], rate: int = 8) -> bytes:
    """H.264 in mp4 (mean error about 1 of 255), without chroma subsampling."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        options = {"crf": "10", "preset": "veryfast"}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv444p"
        stream.codec_context.thread_count = 1
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return buffer.getvalue()


def write_dataset(
    directory: str | os.PathLike,
    split: str,
    count: int,
    num_frames: int = 8,
    size: int = 48,
    seed: int = 0,
    workers: int | None = None,
) -> Path:
    """Writes `count` clips to `directory/split/` and then `directory/split.jsonl`.

    One line per clip: `{"video": "train/00001.mp4", "captions": [...], "qa":
    [{"question", "answer", "kind"}, ...]}`, paths relative to `directory`. The lines
    appear only when every clip is there.

    Returns:
      The path of the annotations.
    """
    root = Path(directory)
    (root / split).mkdir(parents=True, exist_ok=True)
    annotations = root / f"{split}.jsonl"
    annotations.unlink(missing_ok=True)  # it would describe clips overwritten now

    def write(index: int) -> str:
        scene = make_scene(scene_rng(split, seed, index), split)
        name = f"{split}/{index + 1:05d}.mp4"
        (root / name).write_bytes(encode_mp4(render(scene, num_frames, size)))
        asked = [vars(question) for question in questions(scene)]
        line = {"video": name, "captions": [caption(scene)], "qa": asked}
        return json.dumps(line) + "\n"

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        lines = list(pool.map(write, range(count)))
    partial = annotations.with_suffix(".jsonl.partial")
    partial.write_text("".join(lines))
    os.replace(partial, annotations)
    return annotations
