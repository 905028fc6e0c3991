"""Boxes of annotated phrases are asked for, and scored against values by hand."""

from types import SimpleNamespace

import numpy as np
import pytest

from mplug2_jax.batching import Encoded, Shapes
from mplug2_jax.data.examples import Example, Region
from mplug2_jax.evaluation.grounding import BoxAsker, score_boxes
from mplug2_jax.evaluation.results import Record, Results
from mplug2_jax.grounder import Grounded
from mplug2_jax.training.validation import score_of

TRUE = (0.2, 0.2, 0.6, 0.6)


def record(box, true=TRUE):
    return Record("1", "", ("",), 0.5, "the dog", box=box, true_box=true)


def test_scores_are_those_by_hand():
    """A hit, one of IoU 1/2 exactly, one of 1/3, and a miss."""
    boxes = [TRUE, (0.2, 0.2, 0.6, 0.4), (0.4, 0.2, 0.8, 0.6), (0.7, 0.7, 0.9, 0.9)]
    scores = score_boxes([record(box) for box in boxes])
    assert scores["mean_iou"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 4)
    assert scores["accuracy_50"] == 0.5 and scores["n"] == 4
    assert score_boxes([record(boxes[3])])["accuracy_50"] == 0
    with pytest.raises(ValueError, match="no area"):
        score_boxes([record(TRUE, true=(0.5, 0.5, 0.5, 0.9))])


def test_pixels_and_shares_score_alike():
    rng = np.random.default_rng(0)
    pairs = [np.sort(rng.random((2, 2, 2)), axis=1).reshape(2, 4) for _ in range(40)]
    shares = score_boxes([record(tuple(a), tuple(b)) for a, b in pairs])
    size = np.array([640, 427, 640, 427])
    pixels = [record(tuple(a * size), tuple(b * size)) for a, b in pairs]
    assert score_boxes(pixels) == pytest.approx(shares)


def test_each_region_is_asked_and_recorded():
    asked = []

    def ground_encoded(encoded, phrases, shapes):
        asked.extend(phrases)
        boxes = iter([TRUE, (0.0, 0.0, 0.1, 0.1)])
        return [[Grounded(p, next(boxes), 0.25) for p in its] for its in phrases]

    asker = BoxAsker.__new__(BoxAsker)
    asker.grounder = SimpleNamespace(ground_encoded=ground_encoded)
    first = Example("a", "a.jpg", regions=(Region("a dog", TRUE, "7"),))  # type: ignore
    other = Example("b", "b.jpg", regions=(Region("a cat", TRUE),))  # type: ignore
    silent = Example("c", "c.jpg", ("caption",))  # type: ignore
    examples = [first, other, silent]
    assert [asker.count(example) for example in examples] == [1, 1, 0]
    said = asker.ask(Encoded(np.zeros((3, 1, 1)), (), ()), examples, Shapes(4, 4, 1))
    assert asked == [["a dog"], ["a cat"], []]
    (dog,), (cat,), nothing = said
    assert not nothing
    assert (dog.id, dog.example, dog.question) == ("7", "a", "a dog")
    assert (cat.id, cat.score, cat.true_box) == ("b", 0.25, TRUE)
    assert dog.prediction == dog.truth[0] == "0.200 0.200 0.600 0.600"
    metrics = {asker.task: asker.score([dog, cat])}
    flat = Results(metrics, {}, {}, 0.0).flat_metrics()
    assert flat["grounding/accuracy_50"] == 0.5 and flat["grounding/n"] == 2
    assert score_of(flat) == 0.5
