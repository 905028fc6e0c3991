"""Runs a model over annotated media and scores what it says.

Every example is read once, by worker threads ahead of the device, and encoded once for
all that is asked about it. Several processes share the examples, and each has the
results of all.
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

from mplug2_jax.batching import Shapes, joined
from mplug2_jax.classifier import Classifier, MediaClassifier, PromptClassifier
from mplug2_jax.data.evaluation_batches import gather_by_id, windows
from mplug2_jax.data.examples import Example
from mplug2_jax.data.faults import within
from mplug2_jax.data.prefetch import read_ahead
from mplug2_jax.data.records import described
from mplug2_jax.data.video import Media
from mplug2_jax.data.views import Views
from mplug2_jax.evaluation.askers import AnswerAsker, Asker, CaptionAsker
from mplug2_jax.evaluation.classification import ClassAsker, PromptAsker
from mplug2_jax.evaluation.grounding import BoxAsker
from mplug2_jax.evaluation.pairs import PairAsker
from mplug2_jax.evaluation.results import Record, Results
from mplug2_jax.evaluation.usable import MAX_BAD_SHARE, UnusableError
from mplug2_jax.predictor import Predictor
from mplug2_jax.tasks.generation import TaskName

Found = dict[str, Any]
Encoder = Predictor | MediaClassifier  # what reads media and encodes them
READ_TIMEOUT = 300.0  # seconds; a medium that takes longer is left out


class NothingToAskError(ValueError):
    """Nothing in the annotations is a task of the model."""


def evaluate(
    predictor: Predictor,
    examples: Sequence[Example],
    tasks: Collection[TaskName] | None = None,
    *,
    batch_size: int | None = None,
    candidates: Sequence[str] | None = None,
    meteor: bool = False,
    unscored: bool = False,
    single_frame: bool = False,
    views: Views = Views(),
    max_bad_share: float = MAX_BAD_SHARE,
    read: Callable[[Example], Media] | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Results:
    """Asks the model all that the examples' annotations know an answer to.

    Args:
      tasks: None does what the annotations allow and the model has learned.
      batch_size: by default the predictor's.
      candidates: answers are chosen from them; without, they are generated.
      meteor: see `score_captions`.
      unscored: asks also what the annotations know no answer to; it counts nowhere.
      single_frame: shows each video's middle frame only, as often as it has frames.
      views: of each medium, of classification.
      max_bad_share: of the labels of media, and of those of texts about them, which
        may be none of the classes.
      read: reads an example's medium; by default from its file.
      workers: threads that read.
      progress: called with the examples done, of all processes, and their number.

    Raises:
      UnusableError: more labels than allowed, or all media, cannot be used.
      ValueError: there is nothing to do, a task is none of media, or ids are not
        unique.
    """
    if batch_size is not None:
        predictor = dataclasses.replace(predictor, batch_size=batch_size)
    make: dict[TaskName, Callable[[], Asker]] = {
        "caption": lambda: CaptionAsker(predictor, meteor, unscored),
        "qa": lambda: AnswerAsker(predictor, candidates, unscored),
        "grounding": lambda: BoxAsker(predictor),
        "classification": lambda: ClassAsker(
            Classifier(predictor, views), max_bad_share
        ),
        "pairs": lambda: PairAsker(predictor, max_bad_share),
    }
    askers = _askers(predictor, described(examples), tasks, make)
    encoder: Encoder = predictor
    if not views.single:
        _check_views(askers, single_frame)
        encoder = Classifier(predictor, views)
    return run_askers(
        encoder,
        examples,
        askers,
        single_frame=single_frame,
        read=read,
        workers=workers,
        progress=progress,
    )


def evaluate_prompts(
    classifier: PromptClassifier,
    examples: Sequence[Example],
    *,
    max_bad_share: float = MAX_BAD_SHARE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Results:
    """Zero-shot classification of all examples with labels, scored.

    Raises: as `evaluate`.
    """
    asker = PromptAsker(classifier, max_bad_share)
    if not any(map(asker.count, described(examples))):
        raise ValueError(f"None of the {len(examples)} examples has {asker.annotated}.")
    return run_askers(classifier, examples, [asker], progress=progress)


def _check_views(askers: Sequence[Asker], single_frame: bool) -> None:
    others = [a.task for a in askers if not isinstance(a, ClassAsker)]
    if others or single_frame:
        what = "a single frame" if single_frame else ", ".join(others)
        raise ValueError(
            f"Several clips or crops are for the classes of media, not for {what}; "
            "leave them out, or choose the task classification."
        )


def run_askers(
    encoder: Encoder,
    examples: Sequence[Example],
    askers: Sequence[Asker],
    *,
    single_frame: bool = False,
    read: Callable[[Example], Media] | None = None,
    workers: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Results:
    """What askers get to know of examples, read and encoded once for all of them.

    See `evaluate`.
    """
    start = time.monotonic()
    job = _Job.of(encoder, examples, askers)
    read = read or functools.partial(read_whole, encoder)
    read = functools.partial(within, READ_TIMEOUT, read)
    where = jax.process_index(), jax.process_count()
    mine = job.run(read, where, single_frame, workers, progress)
    return job.results(gather_by_id(mine), time.monotonic() - start)


def read_whole(predictor: Encoder, example: Example) -> Media:
    """An example's medium, or all its images as one.

    Raises: as `Predictor.read`; ValueError if there is a video among several.
    """
    first = predictor.read(example.media, example.start, example.end)
    return joined([first, *map(predictor.read, example.others)])


@dataclasses.dataclass
class _Job:
    """What is asked of which examples.

    What comes out is kept by the example's id, as JSON can hold it: its records by
    task, or why it was "skipped".

    Attributes:
      source: whose examples are read when it is their turn.
      places: of the examples in the source, by id.
      examples: what is known about them (`described`).
    """

    predictor: Encoder
    source: Sequence[Example]
    places: Mapping[str, int]
    examples: list[Example]
    askers: Sequence[Asker]
    shapes: Shapes
    unusable: Mapping[str, str]

    @classmethod
    def of(cls, predictor, examples, askers: Sequence[Asker]) -> "_Job":
        known = [
            (place, example)
            for place, example in enumerate(described(examples))
            if any(asker.count(example) for asker in askers)
        ]
        unusable = _unusable(askers, [example for _, example in known])
        known = [pair for pair in known if pair[1].id not in unusable]
        _check_some(len(known), unusable)
        chosen = [example for _, example in known]
        ids = [example.id for example in chosen]
        if len(set(ids)) < len(ids):
            twice = next(i for n, i in enumerate(ids) if i in ids[:n])
            raise ValueError(f"Two examples have the id {twice!r}; ids must be unique.")
        asking = [asker for asker in askers if asker.texts]
        counts = [max((a.count(e) for a in asking), default=0) for e in chosen]
        places = {example.id: place for place, example in known}
        shapes = predictor.shapes(counts)
        return cls(predictor, examples, places, chosen, askers, shapes, unusable)

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

        def read_one(example: Example) -> Media:
            return read(self.source[self.places[example.id]])

        with read_ahead(read_one, mine, 2 * size, workers) as media:
            for number, step in enumerate(steps, 1):
                window = list(itertools.islice(media, len(step.examples)))
                found |= self._window(window, step.indices[0], single)
                progress(min(number * size * where[1], total), total)
        return found

    def _window(
        self, window: Sequence[tuple], first_number: int, single: bool
    ) -> dict[str, Found]:
        """What is said about examples with their media, or why there is nothing."""
        usable = [(e, medium) for e, medium in window if isinstance(medium, Media)]
        found: dict[str, Found] = {example.id: {} for example, _ in usable}
        for example, error in window:
            if not isinstance(error, Media):
                logging.warning("%s left out: %s", example.id, error)
                found[example.id] = {"skipped": str(error)}
        media = [_middle_frame(medium) if single else medium for _, medium in usable]
        for encoded in self.predictor.encode(media, self.shapes, first_number):
            examples = [usable[index][0] for index in encoded.indices]
            for asker in self.askers:
                if not any(map(asker.count, examples)):
                    continue
                said = asker.ask(encoded, examples, self.shapes)
                for example, records in zip(examples, said, strict=True):
                    its = [dataclasses.asdict(record) for record in records]
                    found[example.id][asker.task] = its
        return found

    def results(self, found: Mapping[str, Found], seconds: float) -> Results:
        """Everything scored, in the order of the examples."""
        its = {example.id: found[example.id] for example in self.examples}
        skipped = {i: out["skipped"] for i, out in its.items() if "skipped" in out}
        _check_some(len(its) - len(skipped), skipped)
        metrics, records = {}, {}
        for asker in self.askers:
            said = (r for out in its.values() for r in out.get(asker.task, ()))
            if kept := tuple(map(_record, said)):
                records[asker.task] = kept
                metrics |= asker.scores(kept)
        return Results(metrics, records, {**self.unusable, **skipped}, seconds)


def _unusable(askers: Sequence[Asker], examples: Sequence[Example]) -> dict[str, str]:
    """Why examples are left out, by their id, logged."""
    found: dict[str, str] = {}
    for asker in askers:
        found |= asker.unusable(examples)
    for name, reason in found.items():
        logging.warning("%s left out: %s", name, reason)
    return found


def _check_some(left: int, left_out: Mapping[str, str]) -> None:
    """Raises UnusableError if no medium is left."""
    if left_out and not left:
        reason = next(iter(left_out.values()))
        raise UnusableError(f"None of the media can be used; the first: {reason}")


def _askers(
    predictor: Predictor,
    examples: Sequence[Example],
    tasks: Collection[TaskName] | None,
    make: Mapping[TaskName, Callable[[], Asker]],
) -> list[Asker]:
    """Of the tasks to run; those asked for must be possible."""
    if tasks is None:
        able = [make[task]() for task in make if predictor.can(task)]
        if found := [a for a in able if any(map(a.count, examples))]:
            return found
        raise NothingToAskError(
            f"The examples ({len(examples)}) have nothing that {predictor.origin} "
            "can be asked; annotate them for it, or say which task (--task)."
        )
    askers = []
    for task in tasks:
        if task not in make:
            raise ValueError(
                f"The examples are videos or images, and the task is {task}; expected "
                f"one of {', '.join(make)}: choose one of these, or other data."
            )
        predictor.require(task)
        askers.append(make[task]())
        if not any(map(askers[-1].count, examples)):
            what = askers[-1].annotated
            raise ValueError(f"None of the {len(examples)} examples has {what}.")
    return askers


def _middle_frame(medium: Media) -> Media:
    if medium.image:
        return medium
    frames = medium.frames
    middle = frames[len(frames) // 2]
    return dataclasses.replace(medium, frames=np.repeat(middle[None], len(frames), 0))


def _record(values: Found) -> Record:
    """A record that travelled as JSON."""
    lists = {name: tuple(v) for name, v in values.items() if isinstance(v, list)}
    return Record(**{**values, **lists})
