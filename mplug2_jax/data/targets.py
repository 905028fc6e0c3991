"""What a task reads of an example beside its frames: rows of texts, classes, boxes."""

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np

from mplug2_jax.data.batches import BatchConfig
from mplug2_jax.data.examples import KIND, QA, Example, Label, Region
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.tokenizers import Tokenizer, padded_rows
from mplug2_jax.types import Tokens

Fields = dict[str, Any]  # of a `MultimodalBatch` of one example


class Targets(abc.ABC):
    """Fields of a batch of one example; all chance comes from `rng`.

    Attributes:
      counts: which annotations of an example are read, and how many a batch takes.
      media: images that an example is made of, seen together.
    """

    counts: dict[str, int]
    media = 1

    @abc.abstractmethod
    def __call__(self, example: Example, rng: np.random.Generator) -> Fields:
        """Raises ValueError for an example that lacks what the task needs."""


def targets_of(
    task: str,
    tokenizer: Tokenizer,
    inputs: InputConfig,
    config: BatchConfig,
    regression: bool = False,
    media: int = 1,
) -> list[Targets]:
    """What the task of that name (`mplug2_jax.tasks.TASKS`) reads.

    Args:
      regression, media: of classification, see `Classes`.
    """
    shared = tokenizer, inputs, config
    if task == "retrieval":
        return [PlainCaptions(*shared)]
    if task == "grounding":
        return [Boxes(*shared)]
    if task.endswith("classification"):
        texts = task == "pair_classification"
        return [Classes(*shared, texts=texts, regression=regression, media=media)]
    captions = config.captions_per_video * (task != "question_answering")
    questions = config.questions_per_video * (task != "captioning")
    found: list[Targets] = []
    if captions and not inputs.instruction:
        found.append(Captions(*shared))
    if questions or (captions and inputs.instruction):
        found.append(Questions(*shared))
    return found


class Captions(Targets):
    """Captions behind the prompt, with their end."""

    def __init__(self, tokenizer: Tokenizer, inputs: InputConfig, config: BatchConfig):
        self.tokenizer, self.inputs = tokenizer, inputs
        self.counts = {"captions": config.captions_per_video}

    def __call__(self, example: Example, rng: np.random.Generator) -> Fields:
        chosen = _choose(example.captions, self.counts["captions"], rng)
        caption = self.inputs.captions(self.tokenizer, [c or "" for c in chosen])
        return {"caption": _blank(caption, [c is None for c in chosen])}


class PlainCaptions(Captions):
    """Captions without prompt and end, as contrast and matching read them."""

    def __call__(self, example: Example, rng: np.random.Generator) -> Fields:
        chosen = _choose(_some(example, "captions"), self.counts["captions"], rng)
        texts = [text for text in chosen if text is not None]
        return {"caption": self.inputs.plain_captions(self.tokenizer, texts)}


class Questions(Targets):
    """Questions with weighted answers, and by instruction captions among them."""

    def __init__(self, tokenizer: Tokenizer, inputs: InputConfig, config: BatchConfig):
        self.tokenizer, self.inputs = tokenizer, inputs
        self.answers = config.answers_per_question
        self.counts = {"questions": config.questions_per_video}
        if inputs.instruction:
            self.counts["captions"] = config.captions_per_video

    def __call__(self, example: Example, rng: np.random.Generator) -> Fields:
        inputs, tokenizer = self.inputs, self.tokenizer
        if example.questions and not example.answered:
            raise ValueError(f"{example.id} has questions, but no answer to one")
        asked = _choose(example.answered, self.counts["questions"], rng)
        captions = _choose(example.captions, self.counts.get("captions", 0), rng)
        texts = [qa.question if qa else "" for qa in asked]
        texts += [inputs.instruction] * len(captions)
        answers = [pair for qa in asked for pair in _answers(qa, self.answers)]
        tokens = []
        if asked:
            tokens.append(inputs.answers(tokenizer, [text for text, _ in answers]))
        if captions:
            spaces = [[text or "", *[""] * (self.answers - 1)] for text in captions]
            rows = [text for each in spaces for text in each]
            tokens.append(inputs.instructed(tokenizer, rows))
        weights = [weight for _, weight in answers]
        for text in captions:
            weights += [float(text is not None)] + [0.0] * (self.answers - 1)
        question = inputs.questions(tokenizer, texts)
        blank = [qa is None for qa in asked] + [c is None for c in captions]
        return {
            "question": _blank(question, blank),
            "answer": _joined(tokens),
            "answer_weight": np.array(weights, np.float32),
        }


class Classes(Targets):
    """The class of a medium, or of texts about it.

    Args:
      texts: whether texts are what is classified.
      regression: labels are numbers.
      media: images that the classifier reads together.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        inputs: InputConfig,
        config: BatchConfig,
        *,
        texts: bool,
        regression: bool = False,
        media: int = 1,
    ):
        self.tokenizer, self.inputs, self.texts = tokenizer, inputs, texts
        self.media = media
        self.number = LabelNumbers(inputs.classes, regression)
        self.counts = {"labels": config.texts_per_medium if texts else 1}

    def __call__(self, example: Example, rng: np.random.Generator) -> Fields:
        labels = [
            its
            for its in example.labels
            if bool(its.text) == self.texts and its.id != KIND
        ]
        if not labels:
            what = "no text with a label" if self.texts else "no label of its own"
            raise ValueError(f"{example.id} has {what}")
        chosen: list[Label | None] = _choose(labels, self.counts["labels"], rng)
        fields: Fields = {"label": self.number([c and c.label for c in chosen])}
        if self.texts:
            pairs = [(c.text if c else "", "") for c in chosen]
            text = self.inputs.text_pairs(self.tokenizer, pairs)
            fields["text"] = _blank(text, [c is None for c in chosen])
        return fields


class LabelNumbers:
    """Labels as what a classifier is trained on: classes or, in regression, numbers.

    Raises ValueError for a label that is neither.
    """

    def __init__(self, classes: Sequence[str], regression: bool = False):
        self.classes = None if regression else {c: i for i, c in enumerate(classes)}

    def __call__(self, labels: Sequence[str | None]) -> np.ndarray:
        """One for each label; None is padding, and does not count."""
        if self.classes is None:
            return np.array(
                [np.nan if x is None else finite_number(x) for x in labels], "f4"
            )
        if unknown := [x for x in labels if x is not None and x not in self.classes]:
            raise ValueError(
                f"the label {unknown[0]!r} is none of the {len(self.classes)} classes"
            )
        known = [-1 if x is None else self.classes[x] for x in labels]
        return np.array(known, np.int32)


def finite_number(label: str) -> float:
    """What a label of regression says.

    Raises:
      ValueError: no number, or NaN, which would count as padding, or infinity.
    """
    try:
        number = float(label)
    except ValueError:
        number = np.nan
    if not np.isfinite(number):
        raise ValueError(f"the label {label!r} is no finite number")
    return number


class Boxes(Targets):
    """Phrases, and the boxes they name, also as tokens."""

    def __init__(self, tokenizer: Tokenizer, inputs: InputConfig, config: BatchConfig):
        self.tokenizer, self.inputs = tokenizer, inputs
        self.coordinates = inputs.coordinates(tokenizer)
        self.counts = {"regions": config.texts_per_medium}

    def __call__(self, example: Example, rng: np.random.Generator) -> Fields:
        regions = _some(example, "regions")
        chosen: list[Region | None] = _choose(regions, self.counts["regions"], rng)
        phrases = [c.phrase if c else "" for c in chosen]
        boxes = np.array([c.box if c else (0, 0, 1, 1) for c in chosen], np.float32)
        start = np.full((len(boxes), 1), self.tokenizer.start_id, np.int32)
        rows = np.concatenate([start, self.coordinates.tokens(boxes)], axis=1)
        question = self.inputs.questions(self.tokenizer, phrases)
        return {
            "question": _blank(question, [c is None for c in chosen]),
            "answer": Tokens(rows, np.ones_like(rows)),  # type: ignore[arg-type]
            "answer_weight": np.array([c is not None for c in chosen], np.float32),
            "box": boxes,
        }


def _some(example: Example, kind: str) -> Sequence:
    if not (found := getattr(example, kind)):
        raise ValueError(f"{example.id} has no {kind.removesuffix('s')}")
    return found


def _choose(texts: Sequence, count: int, rng: np.random.Generator) -> list:
    """`count` of the texts in random order; None fills what is missing."""
    order = rng.permutation(len(texts))[:count]
    return [texts[i] for i in order] + [None] * (count - len(order))


def _answers(qa: QA | None, count: int) -> list[tuple[str, float]]:
    """The question's `count` heaviest answers and weights; weight 0 is padding."""
    known = [] if qa is None else list(zip(qa.answers, qa.weights, strict=True))
    known = sorted(known, key=lambda pair: -pair[1])[:count]
    return known + [("", 0.0)] * (count - len(known))


def _blank(tokens: Tokens, rows: Sequence[bool]) -> Tokens:
    """Rows without a text get an all-zero mask and do not count in the loss."""
    keep = ~np.asarray(rows)[:, None]
    return Tokens(values=tokens.values * keep, mask=tokens.mask * keep)


def _joined(parts: Sequence[Tokens]) -> Tokens:
    """Rows of several widths as one array."""
    rows = [
        row[: int(mask.sum())]
        for part in parts
        for row, mask in zip(part.values, part.mask, strict=True)
    ]
    width = max(part.values.shape[1] for part in parts)
    return padded_rows(rows, width, 0)
