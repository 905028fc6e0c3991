"""What is asked of encoded media, task by task, and how it is scored.

An asker knows one task: which examples are annotated for it, what it asks of a batch of
encoded media, and its metrics. `runner.evaluate` reads and encodes each medium once for
all askers.
"""

import abc
from collections.abc import Sequence
from typing import Any, ClassVar

from mplug2_jax.batching import Encoded, Shapes
from mplug2_jax.data.sources import QA, Example
from mplug2_jax.evaluation.answers import AnswerRecord, score_answers
from mplug2_jax.evaluation.captions import score_captions
from mplug2_jax.evaluation.results import Record
from mplug2_jax.prediction import Candidates, Prediction
from mplug2_jax.predictor import Predictor
from mplug2_jax.tasks.generation import TaskName


class Asker(abc.ABC):
    """One task of an evaluation.

    Attributes:
      task: its name, under which records and metrics are kept.
      annotated: what its annotations are called, for messages.
    """

    task: ClassVar[TaskName]
    annotated: ClassVar[str]

    def __init__(self, predictor: Predictor):
        self.predictor = predictor

    @abc.abstractmethod
    def count(self, example: Example) -> int:
        """How many things are asked about the example's medium; 0: not annotated."""

    @property
    def texts(self) -> bool:
        """Whether what is asked are texts, rows of which share a device call."""
        return True

    @abc.abstractmethod
    def ask(
        self, encoded: Encoded, examples: Sequence[Example], shapes: Shapes
    ) -> list[list[Record]]:
        """Records of each example, whose media are the rows of `encoded`."""

    @abc.abstractmethod
    def score(self, records: Sequence[Record]) -> dict[str, Any]:
        """Metrics of all records; "by_kind" may hold those of kinds."""


class CaptionAsker(Asker):
    """Captions of the examples that have some."""

    task, annotated = "caption", "captions"

    def __init__(self, predictor: Predictor, meteor: bool = False):
        super().__init__(predictor)
        self.meteor = meteor

    def count(self, example: Example) -> int:
        return min(1, len(example.captions))

    @property
    def texts(self) -> bool:
        return bool(self.predictor.inputs.instruction)

    def ask(
        self, encoded: Encoded, examples: Sequence[Example], shapes: Shapes
    ) -> list[list[Record]]:
        if not any(example.captions for example in examples):
            return [[] for _ in examples]
        captions = self.predictor.caption_encoded(encoded)
        return [
            [_caption_record(example, caption)] if example.captions else []
            for example, caption in zip(examples, captions, strict=True)
        ]

    def score(self, records: Sequence[Record]) -> dict[str, Any]:
        return score_captions(
            {record.id: record.prediction for record in records},
            {record.id: record.truth for record in records},
            meteor=self.meteor,
        )


class AnswerAsker(Asker):
    """Answers to the examples' questions."""

    task, annotated = "qa", "questions"

    def __init__(self, predictor: Predictor, candidates: Sequence[str] | None = None):
        super().__init__(predictor)
        self.candidates: Candidates | None = None
        if candidates is not None:
            self.candidates = predictor.prepare(candidates)

    def count(self, example: Example) -> int:
        return len(example.questions)

    def ask(
        self, encoded: Encoded, examples: Sequence[Example], shapes: Shapes
    ) -> list[list[Record]]:
        asked = [[qa.question for qa in example.questions] for example in examples]
        answers = self.predictor.answer_encoded(encoded, asked, shapes, self.candidates)
        return [
            [
                _answer_record(example, qa, answer)
                for qa, answer in zip(example.questions, its, strict=True)
            ]
            for example, its in zip(examples, answers, strict=True)
        ]

    def score(self, records: Sequence[Record]) -> dict[str, Any]:
        return score_answers(
            AnswerRecord(r.prediction, r.truth[0], r.kind) for r in records
        )


def _caption_record(example: Example, caption: Prediction) -> Record:
    return Record(
        example.id, caption.text, example.captions, caption.score, example=example.id
    )


def _answer_record(example: Example, qa: QA, answer: Prediction) -> Record:
    return Record(
        id=example.id if qa.id is None else qa.id,
        prediction=answer.text,
        truth=qa.answers,
        score=answer.score,
        question=qa.question,
        kind=qa.kind,
        example=example.id,
        votes=tuple(qa.votes),
    )
