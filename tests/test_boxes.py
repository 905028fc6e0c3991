"""Overlap of boxes against torchvision's values, pixels counted, and by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mplug2_jax.boxes import box_accuracy, generalised_iou, iou

FIRST = np.array([[0, 0, 4, 4], [1, 2, 5, 9], [0, 0, 1, 1], [2, 2, 3, 3.5]])
SECOND = np.array([[0, 0, 4, 4], [3, 0, 6, 6], [5, 7, 9, 8], [0, 1, 8, 9]])
# Each of FIRST with each of SECOND, by box_iou and generalized_box_iou of torchvision
# 0.29.2.
IOU = [
    [1, 0.13333333333333333, 0, 0.17647058823529413],
    [0.15789473684210525, 0.21052631578947367, 0, 0.4375],
    [0.0625, 0, 0, 0],
    [0.09375, 0, 0, 0.0234375],
]
GENERALISED = [
    [1, -0.033333333333333326, -0.7222222222222222, 0.12091503267973858],
    [0.0023391812865496964, 0.054970760233918115, -0.42857142857142855, 0.4375],
    [0.0625, -0.4722222222222222, -0.9305555555555556, -0.09722222222222222],
    [0.09375, -0.1875, -0.8690476190476191, 0.0234375],
]


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_values_are_torchvision_s(kind):
    first, second = kind(FIRST)[:, None], kind(SECOND)[None]
    np.testing.assert_allclose(iou(first, second), IOU, atol=1e-6)
    np.testing.assert_allclose(generalised_iou(first, second), GENERALISED, atol=1e-6)
    assert isinstance(iou(first, second), type(first))


def test_values_are_shares_of_pixels():
    grid = np.stack(np.meshgrid(np.arange(12), np.arange(12)), -1)
    covers = lambda box: ((grid >= box[:2]) & (grid < box[2:])).all(-1)  # noqa: E731
    corners = np.random.default_rng(0).integers(0, 13, (40, 2, 2))
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1).astype(float)
    for a, b in itertools.pairwise(boxes):
        union = (covers(a) | covers(b)).sum()
        share = (covers(a) & covers(b)).sum() / max(union, 1)
        assert iou(a, b) == pytest.approx(share)
        hull = np.prod(np.maximum(a, b)[2:] - np.minimum(a, b)[:2])
        expected = share - (hull - union) / max(hull, 1)
        assert generalised_iou(a, b) == pytest.approx(expected)


def test_boxes_without_area():
    point, reversed_box, box = np.array([[1, 1, 1, 1], [3, 3, 0, 0], [0, 0, 3, 3.0]])
    assert iou(point, point) == iou(reversed_box, box) == iou(point, box) == 0
    for other in (point, reversed_box, box):
        assert np.isfinite(generalised_iou(point, other))
    assert np.isnan(iou(np.full(4, np.nan), box))


def test_boxes_apart_are_drawn_together():
    box, other = jnp.array([0, 0, 1, 1.0]), jnp.array([3, 0, 4, 1.0])
    slope = jax.jit(jax.grad(lambda box: generalised_iou(box, other)))(box)
    assert slope[2] > 0  # the right side moves right
    flat = jax.grad(lambda box: generalised_iou(box, other) + iou(box, box))
    assert np.isfinite(flat(jnp.ones(4))).all()


def test_accuracy_counts_from_the_threshold_on():
    truths = np.array([[0, 0, 10, 10.0]] * 4)
    predictions = np.array(
        [[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4.99], [np.nan] * 4]
    )
    assert box_accuracy(predictions, truths) == 2 / 4
    assert box_accuracy(predictions, truths, 0.4) == 3 / 4
    assert box_accuracy(predictions, truths, 1) == 1 / 4


@pytest.mark.parametrize(
    ("predictions", "truths", "threshold", "message"),
    [
        ([], [], 0.5, r"shapes \(0,\) and \(0,\)"),
        (np.zeros((0, 4)), np.zeros((0, 4)), 0.5, "N >= 1"),
        ([[0, 0, 1, 1]], [[0, 0, 1, 1]] * 2, 0.5, r"shapes \(1, 4\) and \(2, 4\)"),
        ([[0, 0, 1, 1]], [[0, 0, 1, 1]], 0, "threshold is 0"),
        (
            [[0, 0, 1, 1]],
            [[0, 1, 1, 1]],
            0.5,
            r"1 true boxes .* number 0: \[0\.0, 1\.0",
        ),
        ([[0, 0, 1, 1]], [[0, 0, 1, np.nan]], 0.5, "1 true boxes have no area"),
    ],
)
def test_bad_input(predictions, truths, threshold, message):
    with pytest.raises(ValueError, match=message):
        box_accuracy(predictions, truths, threshold)
