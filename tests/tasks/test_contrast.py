"""Contrast, negatives and masks alone, on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import logical_axis_rules
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mplug2_jax.losses import (
    bounded,
    contrastive,
    cross_entropy,
    negative_weights,
)
from mplug2_jax.models.heads import Features
from mplug2_jax.tasks.masking import mask_words
from mplug2_jax.tasks.negatives import draw_negatives, same_texts, take_rows
from mplug2_jax.tasks.objectives import contrast, enqueue, matching
from mplug2_jax.types import Tokens

ROWS, WIDTH = 16, 8


@pytest.fixture(scope="module")
def mesh():
    return Mesh(np.array(jax.devices()).reshape(8), ("data",))


def unit(rng, *shape):
    x = rng.normal(size=shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("negatives", ["queue", "batch"])
def test_contrast_over_a_mesh_is_that_of_one_device(negatives, mesh):
    """In float64, where nothing but the order of a sum may differ."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        own, taught, waiting = (
            Features(*map(jnp.array, unit(rng, 2, rows, WIDTH)))
            for rows in (ROWS, ROWS, 24)
        )
        queue = {"vision": waiting.vision, "text": waiting.text}
        arguments = own, jnp.float64(0.07), taught, queue
        same = jnp.eye(ROWS, dtype=bool)

        def loss(own, temperature, taught, queue):
            if negatives == "batch":
                queue = None
            known = same if queue is None else jnp.pad(same, ((0, 0), (0, 24)))
            return contrast(own, taught, temperature, 0.4, known, queue)["loss_vlc"]

        rows = NamedSharding(mesh, PartitionSpec("data"))
        whole = NamedSharding(mesh, PartitionSpec())
        spread = jax.device_put(arguments, (rows, whole, rows, rows))
        run = jax.value_and_grad(loss, argnums=(0, 1))
        alone, single = jax.jit(run)(*arguments)
        meshed = jax.jit(run, out_shardings=(whole, (rows, whole)))
        value, gradients = meshed(*spread)
        assert len(value.sharding.device_set) == 8 and value.dtype == jnp.float64
        np.testing.assert_allclose(value, alone, rtol=1e-14)
        for one, other in zip(*map(jax.tree.leaves, (gradients, single)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-14)


def test_contrast_by_hand():
    logits = jnp.array([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0]])
    soft = jnp.array([[1.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
    log_p = np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))
    taught = np.exp(soft) / np.exp(soft).sum(1, keepdims=True)
    target = 0.7 * np.eye(2, 3) + 0.3 * taught
    expected = -(target * log_p).sum(1).mean()
    found = contrastive(logits, jnp.eye(2, dtype=bool), soft, 0.3)
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_equal_texts_share_the_target_and_are_no_negatives():
    text = Tokens(
        jnp.array([[1, 5, 6], [1, 5, 0], [1, 5, 9]]),
        jnp.array([[1, 1, 1], [1, 1, 0], [1, 1, 0]]),
    )
    same = same_texts(text)
    assert same.astype(int).tolist() == [[1, 0, 0], [0, 1, 1], [0, 1, 1]]
    logits = jnp.array([[3.0, 1, 2], [1, 4, 0], [0, 2, 2]])
    weights = negative_weights(logits, same)
    assert (np.array(weights)[np.array(same)] == 0).all()
    drawn = jax.vmap(lambda key: draw_negatives(key, weights, weights))(
        jax.random.split(jax.random.key(0), 500)
    )
    for index in (drawn.vision, drawn.text):
        assert not same[jnp.arange(3), index].any()
    shares = np.bincount(drawn.text[:, 0], minlength=3) / 500
    expected = np.array(weights[0] / weights[0].sum())
    np.testing.assert_allclose(shares, expected, atol=0.08)
    hard = contrastive(logits, same)
    target = np.array([[1, 0, 0], [0, 0.5, 0.5], [0, 0.5, 0.5]])
    by_hand = -(target * np.array(jax.nn.log_softmax(logits))).sum(1).mean()
    assert float(hard) == pytest.approx(by_hand, rel=1e-6)


def test_a_row_is_never_its_own_negative():
    """Not where the softmax of all others is 0, and not where there are no others."""
    same = jnp.eye(3, dtype=bool)
    weights = negative_weights(1e3 * same, same)
    drawn = draw_negatives(jax.random.key(0), weights, weights)
    for index in (drawn.vision, drawn.text):
        assert not same[jnp.arange(3), index].any()
    right = jnp.array([[-5.0, 5], [5, -5], [5, -5]])
    wrong = right.at[1:].multiply(-1)
    metrics = matching(jnp.stack([right, wrong]), jnp.array([False, True]))
    assert metrics["accuracy_vlm"] == 1
    assert float(metrics["loss_vlm"]) < 1e-4


@pytest.mark.parametrize("shards", [1, 2, 8])
def test_rows_are_taken_the_same_in_any_number_of_pieces(shards):
    rng = np.random.default_rng(0)
    x = jnp.array(rng.normal(size=(ROWS, 3, 2)), jnp.float32)
    index = jnp.array(rng.integers(0, ROWS, ROWS))
    weight = jnp.arange(x.size, dtype=jnp.float32).reshape(x.shape)

    def taken(x):
        return (take_rows(x, index, shards) * weight).sum()

    np.testing.assert_array_equal(take_rows(x, index, shards), x[index])
    expected = jnp.zeros_like(x).at[index].add(weight)
    np.testing.assert_allclose(jax.grad(taken)(x), expected)


def test_on_a_mesh_rows_travel_in_a_ring(mesh):
    """The compiled program permutes pieces and gathers no visual tokens."""
    rows = NamedSharding(mesh, PartitionSpec("data"))
    x = jax.device_put(jnp.arange(ROWS * 64.0).reshape(ROWS, 64), rows)
    index = jax.device_put(jnp.arange(ROWS)[::-1], rows)
    with jax.set_mesh(mesh), logical_axis_rules((("batch", "data"),)):
        run = jax.jit(
            jax.value_and_grad(lambda x, i: (take_rows(x, i, 8) ** 2).sum()),
            out_shardings=(None, rows),
        )
        program = run.lower(x, index).compile()
        value, gradient = program(x, index)
    text = program.as_text()
    assert "collective-permute" in text
    gathers = [line for line in text.splitlines() if " all-gather" in line]
    assert not any("f32" in line.split("all-gather")[0] for line in gathers)
    assert float(value) == pytest.approx(float((x**2).sum()))
    np.testing.assert_allclose(gradient, 2 * x)


@pytest.mark.parametrize(
    "x, upstream, value, gradient",
    [
        (0.07, 1.0, 0.07, 1.0),
        (0.9, 1.0, 0.5, 1.0),  # descent lowers it: back inside
        (0.9, -1.0, 0.5, 0.0),
        (-0.2, -1.0, 0.001, -1.0),
        (-0.2, 1.0, 0.001, 0.0),
    ],
)
def test_a_bounded_value_finds_back(x, upstream, value, gradient):
    found, back = jax.vjp(lambda x: bounded(x, 0.001, 0.5), jnp.float32(x))
    assert float(found) == pytest.approx(value)
    assert float(back(jnp.float32(upstream))[0]) == gradient


def test_cross_entropy_with_and_without_a_teacher():
    logits = jnp.array([[0.0, 1.0, 2.0]])
    log_p = np.array(jax.nn.log_softmax(logits))[0]
    targets = jnp.array([1])
    assert float(cross_entropy(logits, targets)[0]) == pytest.approx(-log_p[1])
    soft = jnp.log(jnp.array([[0.2, 0.3, 0.5]]))
    expected = -0.6 * log_p[1] - 0.4 * (np.array([0.2, 0.3, 0.5]) * log_p).sum()
    found = cross_entropy(logits, targets, soft, 0.4)[0]
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_masks_choose_words_only_and_keep_the_proportions():
    rows, length, cls, mask, vocabulary = 400, 30, 1, 3, 1000
    rng = np.random.default_rng(0)
    ids = rng.integers(500, vocabulary, (rows, length))
    ids[:, 0] = cls
    valid = np.arange(length) < rng.integers(2, length + 1, (rows, 1))
    text = Tokens(jnp.array(ids * valid), jnp.array(valid, jnp.int32))
    masked = mask_words(jax.random.key(0), text, 0.15, cls, mask, vocabulary)
    counts, values = np.array(masked.counts), np.array(masked.text.values)
    assert not counts[:, 0].any() and not counts[~valid].any()
    assert (values[~counts] == np.array(text.values)[~counts]).all()
    np.testing.assert_array_equal(masked.targets, text.values)
    words = valid[:, 1:].sum()
    assert counts.sum() / words == pytest.approx(0.15, abs=0.02)
    share_masked = (values[counts] == mask).mean()
    share_kept = (values[counts] == np.array(text.values)[counts]).mean()
    assert share_masked == pytest.approx(0.8, abs=0.05)
    assert share_kept == pytest.approx(0.1, abs=0.04)
    again = mask_words(jax.random.key(0), text, 0.15, cls, mask, vocabulary)
    np.testing.assert_array_equal(again.text.values, values)


def test_a_queue_forgets_the_oldest_and_wraps():
    queue = {
        "vision": jnp.zeros((5, 2)),
        "text": jnp.zeros((5, 2)),
        "position": jnp.int32(0),
    }
    for step in (1.0, 2.0):
        rows = jnp.full((3, 2), step) + jnp.arange(3.0)[:, None] / 10
        queue = enqueue(queue, Features(rows, -rows))
    expected = [2.2, 1.1, 1.2, 2.0, 2.1]
    np.testing.assert_allclose(queue["vision"][:, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(queue["text"][:, 1], [-x for x in expected], rtol=1e-6)
    assert int(queue["position"]) == 1
