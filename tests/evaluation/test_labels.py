"""Metrics of classes and numbers against scikit-learn's and SciPy's."""

import math

import numpy as np
import pytest
from scipy import stats

from mplug2_jax.evaluation.labels import (
    GLUE,
    accuracy,
    f1,
    matthews,
    pearson,
    score_glue,
    spearman,
)


@pytest.fixture(scope="module")
def official():
    return pytest.importorskip("sklearn.metrics")


def drawn(classes: int, seed: int, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels, most of which agree."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    noise = rng.integers(classes, size=n)
    return np.where(rng.random(n) < 0.6, labels, noise), labels


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_classes_against_scikit_learn(official, classes, seed):
    predictions, labels = drawn(classes, seed)
    expected = official.accuracy_score(labels, predictions)
    assert accuracy(predictions, labels) == pytest.approx(expected, abs=1e-12)
    expected = official.matthews_corrcoef(labels, predictions)
    assert 0.3 < expected < 0.9
    assert matthews(predictions, labels) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_f1_against_scikit_learn(official, share):
    rng = np.random.default_rng(0)
    labels, predictions = (rng.random((2, 300)) < share).astype(int)
    expected = official.f1_score(labels, predictions)
    assert f1(predictions, labels) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("round_to", [None, 0])  # with rounding: many equal numbers
def test_correlations_against_scipy(round_to):
    rng = np.random.default_rng(0)
    truths = rng.uniform(0, 5, 200)
    predictions = truths + rng.normal(size=200)
    if round_to is not None:
        truths, predictions = truths.round(round_to), predictions.round(round_to)
    expected = stats.pearsonr(predictions, truths).statistic
    assert pearson(predictions, truths) == pytest.approx(expected, abs=1e-12)
    expected = stats.spearmanr(predictions, truths).statistic
    assert spearman(predictions, truths) == pytest.approx(expected, abs=1e-12)


def test_values_worked_out_by_hand():
    predictions, labels = [1, 1, 1, 0, 0], [1, 1, 0, 0, 1]
    assert accuracy(predictions, labels) == 3 / 5
    assert f1(predictions, labels) == pytest.approx(2 / 3)  # 2 of 3 and 2 of 3
    # (tp tn - fp fn) / sqrt of the four sums: (2 * 1 - 1 * 1) / sqrt(3 * 3 * 2 * 2)
    assert matthews(predictions, labels) == pytest.approx(1 / 6)
    assert matthews([0, 1], [1, 0]) == pytest.approx(-1)
    assert pearson([1, 2, 3], [2, 4, 6]) == pytest.approx(1)
    assert spearman([1, 2, 9], [5, 6, 7]) == pytest.approx(1)
    # Ranks 1.5, 1.5, 3 and 1, 2, 3 about their mean 2.
    assert spearman([0, 0, 7], [1, 2, 3]) == pytest.approx(1.5 / math.sqrt(1.5 * 2))


def test_degenerate_sides():
    assert matthews([1, 1, 1], [0, 1, 1]) == matthews([0, 1], [1, 1]) == 0
    assert f1([0, 0], [0, 0]) == f1([0, 0], [1, 1]) == 0
    assert f1([True, False], [True, False]) == 1
    for correlation in (pearson, spearman):
        assert math.isnan(correlation([0.1] * 10, range(10)))
        assert math.isnan(correlation(range(10), [0.1] * 10))


def test_glue_scores_each_task_by_its_metrics():
    predictions, labels = drawn(2, 0)
    assert set(GLUE) == {
        *("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte")
    }
    assert score_glue("mrpc", predictions, labels) == {
        "accuracy": accuracy(predictions, labels),
        "f1": f1(predictions, labels),
        "n": 200,
    }
    assert set(score_glue("cola", predictions, labels)) == {"matthews", "n"}
    numbers = [1.0, 2.5, 2.0], [0.0, 4.0, 5.0]
    expected = {"pearson": pearson(*numbers), "spearman": pytest.approx(0.5), "n": 3}
    assert score_glue("stsb", *numbers) == expected
    assert score_glue("mnli", [0, 1, 2, 2], [0, 1, 2, 1]) == {"accuracy": 0.75, "n": 4}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: accuracy([], []), "nothing to score"),
        (lambda: accuracy([1], [1, 0]), r"shapes \(1,\) and \(2,\)"),
        (
            lambda: accuracy([0.5], [1]),
            "predicted classes must be integers; found float",
        ),
        (lambda: matthews([1], ["a"]), "labels must be integers"),
        (lambda: f1([0, 2], [0, 1]), r"classes 0 and 1; found \[2\]"),
        (lambda: pearson([1], [1]), "two examples or more"),
        (lambda: spearman([1, np.nan], [1, 2]), "1 of the predictions are not finite"),
        (lambda: pearson([1, 2], [1, np.inf]), "1 of the truths are not finite"),
        (
            lambda: score_glue("wnli", [0], [0]),
            "'wnli' is not a GLUE task; expected one",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
