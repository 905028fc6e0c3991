"""Metrics of predicted classes and numbers, and which of them GLUE's tasks use.

All take one prediction per example and the annotations in the same order.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Metric = Callable[[ArrayLike, ArrayLike], float]


def accuracy(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Returns the share of predicted classes that are right.

    Raises:
      ValueError: lengths differ, there is nothing to score, or a class is no integer.
    """
    predicted, true = _classes(predictions, labels)
    return float(np.mean(predicted == true))


def f1(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Returns the harmonic mean of precision and recall of class 1 (of 0 and 1).

    It is 0 where no example is of class 1 and none is predicted to be.

    Raises:
      ValueError: as `accuracy`, or a class is neither 0 nor 1.
    """
    predicted, true = _classes(predictions, labels)
    odd = set(np.unique((predicted, true)).tolist()) - {0, 1}
    if odd:
        raise ValueError(f"F1 is of the classes 0 and 1; found {sorted(odd)[:3]}")
    both = 2 * np.sum(predicted & true)
    return float(both / max(predicted.sum() + true.sum(), 1))


def matthews(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Returns Matthews' correlation in [-1, 1], of two classes or more (Gorodkin 2004).

    It is 0 where all predictions, or all labels, are the same.

    Raises:
      ValueError: as `accuracy`.
    """
    predicted, true = _classes(predictions, labels)
    names = np.unique((predicted, true))[:, None]
    ours, theirs = (names == predicted) * 1.0, (names == true) * 1.0
    ours -= ours.mean(1, keepdims=True)
    theirs -= theirs.mean(1, keepdims=True)
    spread = np.sum(ours**2) * np.sum(theirs**2)
    return float(np.sum(ours * theirs) / np.sqrt(spread)) if spread else 0.0


def pearson(predictions: ArrayLike, truths: ArrayLike) -> float:
    """Returns the linear correlation in [-1, 1]; nan where one side is constant.

    Raises:
      ValueError: lengths differ, there are fewer than two, or a number is not finite.
    """
    return _correlation(*_numbers(predictions, truths))


def spearman(predictions: ArrayLike, truths: ArrayLike) -> float:
    """Returns the correlation of ranks in [-1, 1]; nan where one side is constant.

    Equal numbers share the mean of their ranks.

    Raises:
      ValueError: as `pearson`.
    """
    return _correlation(*map(_ranks, _numbers(predictions, truths)))


# The metrics of each task (gluebenchmark.com/tasks), by TFDS's name. MNLI has them for
# each of its two splits, matched and mismatched. The benchmark's mean takes one number
# per task: the mean of its metrics, and of MNLI's two splits.
GLUE: dict[str, tuple[Metric, ...]] = {
    "cola": (matthews,),
    "sst2": (accuracy,),
    "mrpc": (accuracy, f1),
    "qqp": (accuracy, f1),
    "stsb": (pearson, spearman),
    "mnli": (accuracy,),
    "qnli": (accuracy,),
    "rte": (accuracy,),
}


def score_glue(task: str, predictions: ArrayLike, labels: ArrayLike) -> dict[str, Any]:
    """Scores one split of a GLUE task.

    Args:
      task: a key of `GLUE`.
      predictions: classes; numbers for "stsb".
      labels: as annotated.

    Returns:
      {"accuracy" | "f1" | "matthews" | "pearson" | "spearman": value, "n": examples}.

    Raises:
      ValueError: the task is unknown, or as its metrics.
    """
    if task not in GLUE:
        raise ValueError(
            f"{task!r} is not a GLUE task; expected one of {', '.join(GLUE)}"
        )
    scores = {metric.__name__: metric(predictions, labels) for metric in GLUE[task]}
    return scores | {"n": len(np.asarray(labels))}


def _classes(*sides: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    predicted, true = _same_length(*sides)
    for name, its in (("predicted classes", predicted), ("labels", true)):
        if its.dtype.kind not in "iub":
            raise ValueError(f"{name} must be integers; found {its.dtype}")
    return predicted.astype(np.int64), true.astype(np.int64)


def _numbers(*sides: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    found, true = (np.asarray(its, np.float64) for its in _same_length(*sides))
    if len(true) < 2:
        raise ValueError("a correlation needs two examples or more; found 1")
    for name, its in (("predictions", found), ("truths", true)):
        if not np.isfinite(its).all():
            raise ValueError(
                f"{(~np.isfinite(its)).sum()} of the {name} are not finite"
            )
    return found, true


def _same_length(first: ArrayLike, second: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    predicted, true = np.asarray(first), np.asarray(second)
    if predicted.shape != true.shape or true.ndim != 1:
        raise ValueError(
            f"predictions and annotations have shapes {predicted.shape} and "
            f"{true.shape}; both must be (N,)"
        )
    if not len(true):
        raise ValueError("nothing to score")
    return predicted, true


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    if first.min() == first.max() or second.min() == second.max():
        return float("nan")
    first, second = first - first.mean(), second - second.mean()
    both = np.linalg.norm(first) * np.linalg.norm(second)
    return float(np.clip(first @ second / both, -1, 1))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[which]
