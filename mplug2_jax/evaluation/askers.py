"""What is asked of encoded media, task by task, and how it is scored.

An asker knows one task: which examples are annotated for it, what it asks of a batch of
encoded media, and its metrics. `runner.evaluate` reads and encodes each medium once for
all askers.
"""

import abc
from collections.abc import Sequence
from typing import Any, ClassVar

from mplug2_jax.batching import Encoded, Shapes
from mplug2_jax.data.examples import QA, Example
from mplug2_jax.evaluation.answers import AnswerRecord, score_answers
from mplug2_jax.evaluation.captions import score_captions
from mplug2_jax.evaluation.results import Record
from mplug2_jax.evaluation.vqa import MIN_PEOPLE, score_vqa
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

    @property
    def num_media(self) -> int:
        """How many images the model sees together."""
        return 1

    def unusable(self, examples: Sequence[Example]) -> dict[str, str]:
        """Why some of the examples cannot be scored, by their id; they are left out.

        These are of another number of images than `num_media`; tasks add their own.

        Raises:
          ValueError: there are too many of those.
        """
        return {
            example.id: f"it is {media} media together; expected {self.num_media}"
            for example in examples
            for media in [1 + len(example.others)]
            if self.count(example) and media != self.num_media
        }

    @abc.abstractmethod
    def ask(
        self, encoded: Encoded, examples: Sequence[Example], shapes: Shapes
    ) -> list[list[Record]]:
        """Records of each example, whose media are the rows of `encoded`.

        At least one of them is annotated.
        """

    @abc.abstractmethod
    def score(self, records: Sequence[Record]) -> dict[str, Any]:
        """Metrics of all records; "by_kind" may hold those of kinds."""

    def scores(self, records: Sequence[Record]) -> dict[str, dict[str, Any]]:
        """Metrics by their name, of the records that have a truth; none without."""
        known = [record for record in records if record.truth]
        return {self.task: self.score(known)} if known else {}


class CaptionAsker(Asker):
    """Captions of the examples that have some, or of all.

    Args:
      unscored: all, also those that cannot be scored.
    """

    task, annotated = "caption", "captions"

    def __init__(
        self, predictor: Predictor, meteor: bool = False, unscored: bool = False
    ):
        super().__init__(predictor)
        self.meteor, self.unscored = meteor, unscored

    def count(self, example: Example) -> int:
        return 1 if self.unscored else min(1, len(example.captions))

    @property
    def texts(self) -> bool:
        return bool(self.predictor.inputs.instruction)

    def ask(
        self, encoded: Encoded, examples: Sequence[Example], shapes: Shapes
    ) -> list[list[Record]]:
        captions = self.predictor.caption_encoded(encoded)
        return [
            [_caption_record(example, caption)] if self.count(example) else []
            for example, caption in zip(examples, captions, strict=True)
        ]

    def score(self, records: Sequence[Record]) -> dict[str, Any]:
        return score_captions(
            {record.id: record.prediction for record in records},
            {record.id: record.truth for record in records},
            meteor=self.meteor,
            kinds={record.id: record.kind for record in records},
        )


class AnswerAsker(Asker):
    """Answers to the examples' questions: to those whose answer is known, or to all.

    Args:
      candidates: see `Predictor.answer`.
      unscored: all, also those that cannot be scored.
    """

    task, annotated = "qa", "questions with answers"

    def __init__(
        self,
        predictor: Predictor,
        candidates: Sequence[str] | None = None,
        unscored: bool = False,
    ):
        super().__init__(predictor)
        self.unscored = unscored
        self.candidates: Candidates | None = None
        if candidates is not None:
            self.candidates = predictor.prepare(candidates)

    def count(self, example: Example) -> int:
        return len(self._asked(example))

    def _asked(self, example: Example) -> Sequence[QA]:
        return example.questions if self.unscored else example.answered

    def ask(
        self, encoded: Encoded, examples: Sequence[Example], shapes: Shapes
    ) -> list[list[Record]]:
        asked = [[qa.question for qa in self._asked(example)] for example in examples]
        answers = self.predictor.answer_encoded(encoded, asked, shapes, self.candidates)
        return [
            [
                _answer_record(example, qa, answer)
                for qa, answer in zip(self._asked(example), its, strict=True)
            ]
            for example, its in zip(examples, answers, strict=True)
        ]

    def score(self, records: Sequence[Record]) -> dict[str, Any]:
        return score_answers(
            AnswerRecord(r.prediction, r.truth[0], r.kind) for r in records
        )

    def scores(self, records: Sequence[Record]) -> dict[str, dict[str, Any]]:
        """Also soft accuracy, of the questions that enough people have answered."""
        voted = [record for record in records if len(record.votes) >= MIN_PEOPLE]
        found = super().scores(records)
        if voted:
            found["vqa"] = score_vqa(
                [record.prediction for record in voted],
                [record.votes for record in voted],
                [record.kind for record in voted],
            )
        return found


def _caption_record(example: Example, caption: Prediction) -> Record:
    return Record(
        id=example.id,
        prediction=caption.text,
        truth=example.captions,
        score=caption.score,
        kind=example.kind,
        example=example.id,
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
