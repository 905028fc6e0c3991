"""Text classification: the classes, or numbers, that a model gives to texts."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jaxtyping import Float

from mplug2_jax.data.evaluation_batches import gather_by_id, windows
from mplug2_jax.data.examples import TextExample
from mplug2_jax.data.targets import LabelNumbers
from mplug2_jax.evaluation.labels import (
    accuracy,
    f1,
    pearson,
    score_glue,
    spearman,
)
from mplug2_jax.evaluation.results import Record, Results
from mplug2_jax.evaluation.usable import MAX_BAD_SHARE, UnusableError, unusable
from mplug2_jax.prediction import classified
from mplug2_jax.predictor import Predictor
from mplug2_jax.text_classifier import TextClassifier

TASK = "text_classification"


def evaluate_texts(
    predictor: Predictor,
    examples: Sequence[TextExample],
    glue: str = "",
    *,
    max_bad_share: float = MAX_BAD_SHARE,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Results:
    """Classifies texts and scores the classes; processes share the texts.

    Args:
      glue: the task of GLUE whose metrics count (`labels.GLUE`, and
        `tfds_sets.glue_task`); "": see `score_texts`.
      max_bad_share: of the texts, which may be empty, or whose label may be none of
        the classes.
      progress: called with the texts done, of all processes, and their number.

    Raises:
      UnusableError: more than allowed are empty, or have a label that is none of the
        model's classes.
      ValueError: there are none, or ids are not unique.
    """
    start, classifier = time.monotonic(), TextClassifier(predictor)
    bad = _unusable(examples, classifier.classes, max_bad_share)
    if not (examples := [e for e in examples if e.id not in bad]):
        raise ValueError("There are no texts to evaluate; check the annotations.")
    total, size = len(examples), predictor.batch_size
    where = jax.process_index(), jax.process_count()
    found: dict[str, Any] = {}
    for number, step in enumerate(windows(total, size, *where), 1):
        its = [examples[i] for i in step.examples]
        if its:
            scores = classifier.scores([(e.text, e.second) for e in its])
            rows = zip(its, scores.tolist(), strict=True)
            found |= {example.id: row for example, row in rows}
        progress(min(number * size * where[1], total), total)
    records = _records(examples, gather_by_id(found), classifier.classes)
    metrics = score_texts(records, classifier.classes, glue)
    return Results({TASK: metrics}, {TASK: records}, bad, time.monotonic() - start)


def score_texts(
    records: Sequence[Record], classes: Sequence[str], glue: str = ""
) -> dict[str, Any]:
    """Scores predicted classes, or in regression numbers.

    Args:
      classes: in the order of the scores; none in regression.
      glue: a task of GLUE, which names its metrics.

    Returns:
      accuracy and n, with two classes f1 of the second one; in regression pearson,
      spearman and n; of a task of GLUE what `score_glue` returns.
    """
    number = LabelNumbers(classes, regression=not classes)
    said = number([record.prediction for record in records])
    true = number([record.truth[0] for record in records])
    if glue:
        return score_glue(glue, said, true)
    metrics = (accuracy, f1) if len(classes) == 2 else (accuracy,)
    if not classes:
        metrics = (pearson, spearman)
    scores = {metric.__name__: metric(said, true) for metric in metrics}
    return scores | {"n": len(records)}


def class_record(
    label: str,
    scores: Float[np.ndarray, "K"] | Sequence[float],
    classes: Sequence[str],
    **named: Any,
) -> Record:
    """What scores say, beside the annotated label.

    Args:
      named: further fields of the record.
    """
    row = np.asarray(scores, np.float32)
    (said,) = classified(row[None], classes, len(classes))
    order = [hypothesis.text for hypothesis in said.hypotheses]
    return Record(
        prediction=said.text,
        truth=(label,),
        score=said.score,
        rank=order.index(label) if classes else None,
        **named,
    )


def _unusable(
    examples: Sequence[TextExample], classes: Sequence[str], max_bad_share: float
) -> dict[str, str]:
    """Before the work: what would spoil it at its end."""
    labels: dict[str, list[str]] = {}
    empty: dict[str, str] = {}
    for example in examples:
        if example.id in labels:
            raise ValueError(
                f"Two texts have the id {example.id!r}; ids must be unique."
            )
        labels[example.id] = [example.label]
        if not example.text.strip():
            empty[example.id] = "the text is empty"
    bad = unusable(labels, classes, max_bad_share) | empty
    if len(bad) > max_bad_share * len(labels):
        first, reason = next(iter(bad.items()))
        raise UnusableError(
            f"{len(bad)} of {len(labels)} texts cannot be scored; of {first} {reason}. "
            "Use other data, or allow a share of such (--max-bad-share)."
        )
    for name, reason in bad.items():
        logging.warning("%s left out: %s", name, reason)
    return bad


def _records(
    examples: Sequence[TextExample],
    scores: Mapping[str, Sequence[float]],
    classes: Sequence[str],
) -> tuple[Record, ...]:
    return tuple(
        class_record(
            example.label,
            scores[example.id],
            classes,
            id=example.id,
            question=" / ".join(filter(None, (example.text, example.second))),
            example=example.id,
        )
        for example in examples
    )
