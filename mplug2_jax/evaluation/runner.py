"""Runs a model over annotated media and scores what it says.

Every example is read once, by worker threads ahead of the device, and encoded once for
its caption and all its questions. Several processes share the examples, and each has
the results of all.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging

from mplug2_jax.batching import Encoded, Shapes
from mplug2_jax.data.evaluation_batches import gather_by_id, windows
from mplug2_jax.data.faults import within
from mplug2_jax.data.prefetch import read_ahead
from mplug2_jax.data.sources import QA, Example
from mplug2_jax.data.video import Media
from mplug2_jax.evaluation.answers import AnswerRecord, score_answers
from mplug2_jax.evaluation.captions import score_captions
from mplug2_jax.prediction import Candidates, Prediction
from mplug2_jax.predictor import Predictor
from mplug2_jax.tasks.generation import TaskName

Found = dict[str, Any]
READ_TIMEOUT = 300.0  # seconds; a medium that takes longer is left out


@dataclasses.dataclass(frozen=True)
class Record:
    """One caption or one answer beside what was annotated.

    Attributes:
      id: of the example; of a question its own, where it has one.
      truth: all references; of a question its answers, best known first.
      score: see `Hypothesis`.
      kind: of the question.
    """

    id: str
    prediction: str
    truth: tuple[str, ...]
    score: float
    question: str | None = None
    kind: str | None = None


@dataclasses.dataclass(frozen=True)
class Results:
    """What was measured.

    Attributes:
      metrics: {"caption": `score_captions`, "qa": `score_answers`}, where run.
      captions, answers: in the order of the examples.
      skipped: why an example's medium could not be used, by its id; it counts nowhere.
      seconds: wall time, compilation included.
    """

    metrics: dict[str, dict[str, Any]]
    captions: tuple[Record, ...]
    answers: tuple[Record, ...]
    skipped: dict[str, str]
    seconds: float

    def flat_metrics(self) -> dict[str, float]:
        """All numbers under one-level names: "caption/cider", "qa/motion/accuracy"."""
        flat = {}
        for task, scores in self.metrics.items():
            kinds = scores.get("by_kind", {})
            flat |= {f"{task}/{k}": v for k, v in scores.items() if k != "by_kind"}
            for kind, its in kinds.items():
                flat |= {f"{task}/{kind}/{name}": value for name, value in its.items()}
        return flat

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)


def evaluate(
    predictor: Predictor,
    examples: Sequence[Example],
    tasks: Collection[TaskName] | None = None,
    *,
    batch_size: int | None = None,
    candidates: Sequence[str] | None = None,
    single_frame: bool = False,
    read: Callable[[Example], Media] | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Results:
    """Captions every example that has captions, answers the questions of all.

    Args:
      tasks: None does what the annotations and the model's modules allow.
      batch_size: by default the predictor's.
      candidates: answers are chosen from them; without, they are generated.
      single_frame: shows each video's middle frame only, as often as it has frames.
      read: reads an example's medium; by default from its file.
      workers: threads that read.
      progress: called with the examples done, of all processes, and their number.

    Raises:
      ValueError: there is nothing to do, ids are not unique, or no medium is usable.
    """
    start = time.monotonic()
    if batch_size is not None:
        predictor = dataclasses.replace(predictor, batch_size=batch_size)
    job = _Job.of(predictor, examples, _tasks(predictor, examples, tasks), candidates)
    read = read or (lambda e: predictor.read(e.media, e.start, e.end))
    read = functools.partial(within, READ_TIMEOUT, read)
    where = jax.process_index(), jax.process_count()
    mine = job.run(read, where, single_frame, workers, progress)
    return job.results(gather_by_id(mine), time.monotonic() - start)


@dataclasses.dataclass
class _Job:
    """What is asked of which examples.

    What comes out is kept by the example's id, as JSON can hold it: its "caption", its
    "answers", or why it was "skipped".
    """

    predictor: Predictor
    examples: list[Example]
    tasks: Collection[TaskName]
    candidates: Candidates | None
    shapes: Shapes

    @classmethod
    def of(cls, predictor, examples, tasks, candidates) -> "_Job":
        chosen = [
            example
            for example in examples
            if ("caption" in tasks and example.captions)
            or ("qa" in tasks and example.questions)
        ]
        ids = [example.id for example in chosen]
        if len(set(ids)) < len(ids):
            twice = next(i for n, i in enumerate(ids) if i in ids[:n])
            raise ValueError(f"Two examples have the id {twice!r}; ids must be unique.")
        counts = [len(e.questions) if "qa" in tasks else 0 for e in chosen]
        if candidates is not None:
            candidates = predictor.prepare(candidates)
        return cls(predictor, chosen, tasks, candidates, predictor.shapes(counts))

    def run(
        self, read, where: tuple[int, int], single: bool, workers, progress
    ) -> dict[str, Found]:
        """What the model says of this process's share of the examples.

        Every process has as many windows, and reports progress as often.
        """
        total, size = len(self.examples), self.shapes.media
        steps = windows(total, size, *where)
        mine = [self.examples[i] for step in steps for i in step.examples]
        found: dict[str, Found] = {}
        with read_ahead(read, mine, 2 * size, workers) as media:
            for number, step in enumerate(steps, 1):
                window = list(itertools.islice(media, len(step.examples)))
                found |= self._window(window, step.indices[0], single)
                progress(min(number * size * where[1], total), total)
        return found

    def _window(
        self, window: Sequence[tuple], first_number: int, single: bool
    ) -> dict[str, Found]:
        """Captions and answers for examples with their media, or why there is none."""
        usable = [(e, medium) for e, medium in window if isinstance(medium, Media)]
        found: dict[str, Found] = {example.id: {} for example, _ in usable}
        for example, error in window:
            if not isinstance(error, Media):
                logging.warning("%s left out: %s", example.id, error)
                found[example.id] = {"skipped": str(error)}
        media = [_middle_frame(medium) if single else medium for _, medium in usable]
        for encoded in self.predictor.encode(media, self.shapes, first_number):
            examples = [usable[index][0] for index in encoded.indices]
            if "caption" in self.tasks and any(e.captions for e in examples):
                self._caption(encoded, examples, found)
            if "qa" in self.tasks:
                self._answer(encoded, examples, found)
        return found

    def _caption(self, encoded: Encoded, examples: Sequence[Example], found) -> None:
        captions = self.predictor.caption_encoded(encoded)
        for example, caption in zip(examples, captions, strict=True):
            if example.captions:
                record = _caption_record(example, caption)
                found[example.id]["caption"] = dataclasses.asdict(record)

    def _answer(self, encoded: Encoded, examples: Sequence[Example], found) -> None:
        asked = [[qa.question for qa in example.questions] for example in examples]
        answers = self.predictor.answer_encoded(
            encoded, asked, self.shapes, self.candidates
        )
        for example, its in zip(examples, answers, strict=True):
            found[example.id]["answers"] = [
                dataclasses.asdict(_answer_record(example, qa, answer))
                for qa, answer in zip(example.questions, its, strict=True)
            ]

    def results(self, found: Mapping[str, Found], seconds: float) -> Results:
        """Everything scored, in the order of the examples."""
        its = {example.id: found[example.id] for example in self.examples}
        skipped = {i: out["skipped"] for i, out in its.items() if "skipped" in out}
        if len(skipped) == len(its):
            reason = next(iter(skipped.values()))
            raise ValueError(f"None of the media can be used; the first: {reason}")
        captions = tuple(_record(o["caption"]) for o in its.values() if "caption" in o)
        answers = tuple(_record(a) for o in its.values() for a in o.get("answers", ()))
        metrics = {}
        if captions:
            metrics["caption"] = score_captions(
                {record.id: record.prediction for record in captions},
                {record.id: record.truth for record in captions},
            )
        if answers:
            metrics["qa"] = score_answers(
                AnswerRecord(r.prediction, r.truth[0], r.kind) for r in answers
            )
        return Results(metrics, captions, answers, skipped, seconds)


def _tasks(
    predictor: Predictor,
    examples: Sequence[Example],
    tasks: Collection[TaskName] | None,
) -> set[TaskName]:
    """The tasks to run; those asked for must be possible."""
    annotated: dict[TaskName, bool] = {
        "caption": any(example.captions for example in examples),
        "qa": any(example.questions for example in examples),
    }
    if tasks is None:
        able: dict[TaskName, bool] = {
            "caption": annotated["caption"] and predictor.can_caption,
            "qa": annotated["qa"] and predictor.can_answer,
        }
        if not any(able.values()):
            raise ValueError(
                f"The examples ({len(examples)}) have nothing that a model of "
                f"{', '.join(predictor.model.modules)} can be asked."
            )
        return {task for task, possible in able.items() if possible}
    for task in tasks:
        predictor.require(task)
        if not annotated[task]:
            what = {"caption": "captions", "qa": "questions"}[task]
            raise ValueError(f"None of the {len(examples)} examples has {what}.")
    return set(tasks)


def _middle_frame(medium: Media) -> Media:
    frames = medium.frames
    middle = frames[len(frames) // 2]
    return dataclasses.replace(medium, frames=np.repeat(middle[None], len(frames), 0))


def _record(values: Found) -> Record:
    return Record(**{**values, "truth": tuple(values["truth"])})


def _caption_record(example: Example, caption: Prediction) -> Record:
    return Record(example.id, caption.text, example.captions, caption.score)


def _answer_record(example: Example, qa: QA, answer: Prediction) -> Record:
    return Record(
        id=example.id if qa.id is None else qa.id,
        prediction=answer.text,
        truth=qa.answers,
        score=answer.score,
        question=qa.question,
        kind=qa.kind,
    )
