"""Scores of question answering: exact match, overall and per kind of question."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mplug2_jax.data.text import clean_answer

Normalise = Callable[[str], str]


@dataclass(frozen=True)
class AnswerRecord:
    """One answered question.

    Attributes:
      prediction: the answer as decoded or chosen.
      truth: the annotated answer.
      kind: what the question asks about ("colour", "motion", ...); None: not counted by
        kind.
    """

    prediction: str
    truth: str
    kind: str | None = None


def matches(prediction: str, truth: str, normalise: Normalise = clean_answer) -> bool:
    """Whether an answer counts as right."""
    return normalise(prediction) == normalise(truth)


def exact_match(
    predictions: Sequence[str],
    truths: Sequence[str],
    normalise: Normalise = clean_answer,
) -> float:
    """Returns the share of predictions that equal their truth, as upstream scores QA.

    Args:
      predictions: one answer per question.
      truths: the annotated answers, in the same order.
      normalise: applied to both sides. With the default, as in upstream, an answer that
        the tokenizer does not give back ("t-shirt" is decoded as "t - shirt") never
        counts; `lambda text: tokenizer.decode(tokenizer.encode(text))` counts it.

    Raises:
      ValueError: lengths differ, or there is nothing to score.
    """
    if len(predictions) != len(truths):
        raise ValueError(f"{len(predictions)} predictions for {len(truths)} answers")
    if not truths:
        raise ValueError("no answers to score")
    pairs = zip(predictions, truths, strict=True)
    hits = (matches(prediction, truth, normalise) for prediction, truth in pairs)
    return sum(hits) / len(truths)


def score_answers(
    records: Iterable[AnswerRecord], normalise: Normalise = clean_answer
) -> dict[str, Any]:
    """Scores answers overall and per kind of question.

    Returns:
      {"accuracy", "n", "by_kind": {kind: {"accuracy", "n"}}}, kinds sorted.

    Raises:
      ValueError: there is nothing to score.
    """
    records = list(records)
    groups: dict[str, list[AnswerRecord]] = defaultdict(list)
    for record in records:
        if record.kind is not None:
            groups[record.kind].append(record)
    by_kind = {kind: _score(groups[kind], normalise) for kind in sorted(groups)}
    return {**_score(records, normalise), "by_kind": by_kind}


def _score(records: Sequence[AnswerRecord], normalise: Normalise) -> dict[str, Any]:
    predictions = [record.prediction for record in records]
    truths = [record.truth for record in records]
    return {
        "accuracy": exact_match(predictions, truths, normalise),
        "n": len(records),
    }
