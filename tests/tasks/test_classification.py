"""The loss of classification by hand: smoothing, mixup, padding, parts, regression."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mplug2_jax.models.config import tiny
from mplug2_jax.models.vision import normalize_frames
from mplug2_jax.tasks.classification import (
    ActionClassification,
    ClassificationConfig,
    TextClassification,
    class_tokens,
    log_mean_probabilities,
)
from mplug2_jax.training.config import RunConfig, default_config
from mplug2_jax.types import MultimodalBatch

CLASSES = 3
LOGITS = np.array([[2.0, 0.5, -1], [0, 1, 3], [1, 1, 0], [-1, 2, 0.5]], np.float32)
LABELS = np.array([0, 1, -1, 1], np.int32)  # the third does not count
RTOL = 1e-5


class Linear(ActionClassification):
    """Classifies by a linear map of pixels."""

    def _apply(self, params, batch, rngs):
        frames = normalize_frames(batch.frames, jnp.float32)
        return frames.reshape(len(frames), -1) @ params


def task(kind=Linear, classes=CLASSES, **changed):
    config = tiny().replace(classifier={"num_classes": classes})
    return kind(config, classification=ClassificationConfig(**changed))


def videos(labels=LABELS):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (len(labels), 2, 2, 2, 3), np.uint8)
    return MultimodalBatch(jnp.array(frames), label=jnp.array(labels))


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_smoothed_and_padded(smoothing):
    its = task(label_smoothing=smoothing)
    loss, metrics = its.loss_of(jnp.array(LOGITS), videos())
    total = 0.0
    for row, label in enumerate(LABELS):
        for k in range(CLASSES) if label >= 0 else ():
            target = (1 - smoothing) * (k == label) + smoothing / CLASSES
            total -= target * log_softmax(LOGITS)[row, k]
    assert float(loss) == pytest.approx(total / 3, rel=RTOL)
    assert float(metrics["class_accuracy"]) == pytest.approx(2 / 3)


def test_parts_of_a_batch_add_up_to_the_whole():
    """The second of two parts has one label less."""
    its, batch = task(label_smoothing=0.1), videos()
    weights = jnp.array(np.random.default_rng(1).normal(size=(24, CLASSES)))
    (whole, out), grads = its.gradients(weights, batch)
    (sum_, parts), added = its.gradients(weights, batch, parts=2)
    assert float(sum_) == pytest.approx(float(whole), rel=RTOL)
    np.testing.assert_allclose(added, grads, rtol=1e-4, atol=1e-6)
    accuracy = float(out.metrics["class_accuracy"])
    assert float(parts.metrics["class_accuracy"]) == pytest.approx(accuracy)


def test_mixup_mixes_media_and_their_targets_alike():
    labels = np.array([0, 1, 2, 1], np.int32)
    its, batch = task(mixup=0.8), videos(labels)
    key = jax.random.key(3)
    mixed = its._mixed(batch, key)
    share = float(jax.random.beta(key, 0.8, 0.8))
    assert 0 < share < 1
    one_hot = np.eye(CLASSES)[labels]
    targets = share * one_hot + (1 - share) * one_hot[::-1]
    np.testing.assert_allclose(mixed.label, targets, rtol=RTOL)
    frames = np.asarray(normalize_frames(batch.frames, jnp.float32))
    expected = share * frames + (1 - share) * frames[::-1]
    np.testing.assert_allclose(mixed.frames, expected, atol=1e-5)
    loss, _ = its.loss_of(jnp.array(LOGITS), mixed)
    by_hand = -(targets * log_softmax(LOGITS)).sum() / 4
    assert float(loss) == pytest.approx(by_hand, rel=RTOL)
    weights = jnp.array(np.random.default_rng(1).normal(size=(24, CLASSES)))
    trained = float(its.loss(weights, batch, key)[0])
    tested = float(its.loss(weights, batch)[0])
    assert trained != pytest.approx(tested)  # without chance nothing is mixed
    assert tested == pytest.approx(float(task().loss(weights, batch)[0]))


def test_regression_is_the_squared_error_of_what_is_known():
    its = task(TextClassification, classes=1, regression=True)
    labels = jnp.array([1.0, jnp.nan, 4.0])
    batch = MultimodalBatch(label=labels, is_video=False)
    found = jnp.array([[2.0], [9.0], [1.5]])
    loss, _ = its.loss_of(found, batch)
    assert float(loss) == pytest.approx((1.0 + 2.5**2) / 2)
    grads = jax.grad(lambda x: its.loss_of(x, batch)[0])(found)
    np.testing.assert_allclose(grads, [[1.0], [0.0], [-2.5]])


def test_class_tokens_of_several_images_stand_side_by_side():
    """Each image's token is its mean colour; M of a row are joined in order."""

    def encode_vision(frames, is_video):
        assert not is_video and frames.shape[1] == 1
        means = jnp.asarray(frames, jnp.float32).mean(axis=(1, 2, 3))
        return types.SimpleNamespace(embeds=means[:, None])

    model = types.SimpleNamespace(encode_vision=encode_vision)
    frames = videos().frames  # of 4 rows, 2 images
    batch = MultimodalBatch(frames, is_video=False)
    found = class_tokens(model, batch)
    means = np.asarray(frames, np.float32).mean(axis=(2, 3))
    np.testing.assert_allclose(found, means.reshape(4, 6), rtol=RTOL)


def test_probabilities_of_views_are_averaged():
    views = jnp.array(LOGITS).reshape(2, 2, CLASSES)
    mean = np.exp(log_softmax(LOGITS)).reshape(2, 2, CLASSES).mean(axis=1)
    np.testing.assert_allclose(np.exp(log_mean_probabilities(views)), mean, rtol=RTOL)


@pytest.mark.parametrize(
    "changed",
    [{"label_smoothing": 1.0}, {"mixup": -1.0}, {"regression": True, "mixup": 0.2}],
)
def test_values_that_make_no_sense_are_named(changed):
    with pytest.raises(ValueError, match="expected a share below|neither label"):
        ClassificationConfig(**changed)
    assert dataclasses.asdict(ClassificationConfig())["mixup"] == 0


@pytest.mark.parametrize("name", ["text_classification", "pair_classification"])
def test_texts_are_not_mixed(name):
    values = default_config(name, "tiny").to_dict()
    values["train"]["path"], values["batch"]["texts_per_medium"] = "x.jsonl", 1
    RunConfig.from_dict(values)
    values["classification"]["mixup"] = 0.2
    with pytest.raises(ValueError, match=f"mixup is 0.2; task {name} reads texts"):
        RunConfig.from_dict(values)
