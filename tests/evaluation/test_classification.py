"""Classes of media: records, ranks, top-k, labels that no class has."""

import dataclasses
import types

import numpy as np
import pytest
from small import clip

from mplug2_jax.batching import Encoded, Shapes
from mplug2_jax.data.examples import Example, Label
from mplug2_jax.data.video import Media
from mplug2_jax.evaluation.askers import Asker
from mplug2_jax.evaluation.classification import (
    ClassAsker,
    PromptAsker,
    score_classes,
)
from mplug2_jax.evaluation.runner import _check_views, run_askers

CLASSES = tuple(f"c{i}" for i in range(8))
SHARES = np.random.default_rng(3).dirichlet(np.ones(8), 40)


class Drawn:
    """A classifier whose scores are drawn, by the number in an example's path."""

    classes, predictor, num_media = CLASSES, None, 1

    def read(self, path, start=None, end=None):
        frames = clip(0).copy()
        frames[0, 0, 0] = int(str(path))
        return Media(frames, image=False)

    def shapes(self, counts):
        return Shapes(4, 1, 1)

    def encode(self, media, shapes, first_number=0):
        numbers = np.array([medium.frames[0, 0, 0, 0] for medium in media])
        return [Encoded(numbers, tuple(range(len(media))), ())]

    def scores_encoded(self, encoded):
        return np.log(SHARES[np.asarray(encoded.vision)])


def examples(labels):
    return [
        Example(f"e{i}", str(i), labels=(Label(label),))
        for i, label in enumerate(labels)
    ]


def test_accuracy_ranks_and_probabilities():
    true = np.random.default_rng(4).integers(0, 8, 40)
    found = run_askers(
        Drawn(), examples([CLASSES[i] for i in true]), [ClassAsker(Drawn())]
    )
    metrics = found.metrics["classification"]
    likeliest = np.argsort(-SHARES)
    assert metrics == {
        "accuracy": np.mean(likeliest[:, 0] == true),
        "top_5": np.mean((likeliest[:, :5] == true[:, None]).any(1)),
        "n": 40,
    }
    assert 0 < metrics["accuracy"] < metrics["top_5"] < 1
    for i, record in enumerate(found.records["classification"]):
        assert record.prediction == CLASSES[SHARES[i].argmax()]
        assert record.score == pytest.approx(SHARES[i].max())
        assert record.true_score == pytest.approx(SHARES[i, true[i]])
        assert record.rank == (SHARES[i] > SHARES[i, true[i]]).sum()


def test_equal_scores_are_right_by_chance_only():
    asker = ClassAsker(Drawn())
    flat = np.zeros(8)
    ranks = [asker._record(e, flat).rank for e in examples(CLASSES)]
    assert ranks == list(range(8))
    records = [asker._record(e, flat) for e in examples(CLASSES)]
    assert score_classes(records, 8) == {"accuracy": 1 / 8, "top_5": 5 / 8, "n": 8}
    assert "top_5" not in score_classes(records, 5)


def test_labels_outside_the_set_are_counted_named_or_an_error():
    labels = ["c1"] * 39 + ["whistling"]
    with pytest.raises(ValueError, match="1 of 40 labels .* e39 the label 'whistling'"):
        run_askers(Drawn(), examples(labels), [ClassAsker(Drawn())])
    found = run_askers(Drawn(), examples(labels), [ClassAsker(Drawn(), 0.05)])
    assert found.metrics["classification"]["n"] == 39
    reason = "the label 'whistling' is none of the 8 classes"
    assert found.skipped == {"e39": reason}


class Silent(Asker):
    """Nothing is annotated for it."""

    task = "qa"

    def count(self, example):
        return 0

    def ask(self, encoded, examples, shapes):
        raise AssertionError("nobody asked")

    def score(self, records):
        raise AssertionError("nobody asked")


@pytest.mark.parametrize("asker", [ClassAsker, PromptAsker])
def test_another_number_of_images_is_left_out_and_named(asker):
    alone = examples(["c1"] * 3)
    pair = dataclasses.replace(alone[0], id="pair", others=("0",))
    askers = [asker(Drawn()), Silent(None)]
    found = run_askers(Drawn(), [*alone, pair], askers)
    assert found.skipped == {"pair": "it is 2 media together; expected 1"}
    assert found.metrics[asker.task]["n"] == 3
    with pytest.raises(ValueError, match="None of the media can .* it is 2 media"):
        run_askers(Drawn(), [pair], askers)


def test_regression_is_scored_by_correlation():
    none = types.SimpleNamespace(classes=(), predictor=None)
    asker = ClassAsker(none)
    numbers = examples(["1.0", "2.0", "4.5"])
    records = [
        asker._record(e, np.array([x]))
        for e, x in zip(numbers, (0, 1, 3.5), strict=True)
    ]
    assert asker.score(records) == {
        "pearson": pytest.approx(1),
        "spearman": pytest.approx(1),
        "n": 3,
    }


def test_views_are_for_classes_alone():
    caption = types.SimpleNamespace(task="caption")
    with pytest.raises(ValueError, match="classes of media, not for caption"):
        _check_views([caption], single_frame=False)
    with pytest.raises(ValueError, match="not for a single frame"):
        _check_views([ClassAsker(Drawn())], single_frame=True)
