"""Greedy and random decoding on lattices whose probabilities are known."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from mplug2_jax.decoding import SamplingConfig, greedy, sample
from mplug2_jax.decoding.interface import log_probabilities
from mplug2_jax.decoding.sampling import draw

LOG_PROB_ATOL = 1e-4
PAD, START, END, A, B = 0, 1, 2, 3, 4
SMALL = SamplingConfig(
    max_length=6, min_length=0, start_id=START, end_id=END, pad_id=PAD
)
DRAWS = 4000
# Four standard errors of a frequency over DRAWS draws.
FREQUENCY_ATOL = 4 * 0.5 / DRAWS**0.5


@functools.partial(jax.jit, static_argnames="config")
def sample_jitted(lattice, key, config, sample_ids=None):
    step, cache = lattice.step_fn(1), lattice.cache(1, config.max_length)
    return sample(step, cache, lattice.logits.shape[0], key, config, sample_ids)


@functools.partial(jax.jit, static_argnames="config")
def greedy_jitted(lattice, config):
    step, cache = lattice.step_fn(1), lattice.cache(1, config.max_length)
    return greedy(step, cache, lattice.logits.shape[0], config)


@functools.partial(jax.jit, static_argnames="config")
def draw_many(logits, config):
    keys, log_p = jax.random.split(jax.random.key(7), DRAWS), log_probabilities(logits)
    return jax.vmap(lambda key: draw(key, log_p, config))(keys)


def frequencies(logits, **choices):
    config = SamplingConfig(**choices)
    tokens = np.asarray(draw_many(np.asarray(logits, np.float32), config))
    return np.bincount(tokens, minlength=len(logits)) / DRAWS


def softmax(logits):
    weights = np.exp(np.asarray(logits) - np.max(logits))
    return weights / weights.sum()


def rows(out):
    """Texts without padding, which is checked."""
    ids, lengths = np.asarray(out.ids), np.asarray(out.lengths)
    assert (ids[np.arange(ids.shape[1]) >= lengths[:, None]] == PAD).all()
    return [tuple(row[:n].tolist()) for row, n in zip(ids, lengths, strict=True)]


def log_prob(lattice, row, ids):
    steps = range(1, len(ids))
    return sum(lattice.log_p(row, ids[:i])[ids[i]] for i in steps)


@pytest.mark.parametrize("min_length", [0, 3])
def test_greedy_equals_a_plain_loop(random_lattice, min_length):
    lattice = random_lattice(0, samples=20, vocabulary=7)
    lattice.logits[..., END] += 1.0
    config = dataclasses.replace(SMALL, min_length=min_length)
    out = greedy_jitted(lattice, config)
    for row, found in enumerate(rows(out)):
        ids = (START,)
        while len(ids) <= config.max_length and ids[-1] != END:
            log_p = lattice.log_p(row, ids)
            if len(ids) <= min_length:
                log_p[END] = -np.inf
            ids += (int(log_p.argmax()),)
        assert found == ids
        expected = log_prob(lattice, row, ids)
        assert out.log_probs[row] == pytest.approx(expected, abs=LOG_PROB_ATOL)


@pytest.mark.parametrize(
    "choices",
    [{"top_k": 1}, {"temperature": 1e-4}, {"temperature": 0.0}, {"top_p": 1e-6}],
    ids=str,
)
def test_the_narrowest_sampling_is_greedy(random_lattice, choices):
    lattice = random_lattice(1, samples=20, vocabulary=7)
    expected = greedy_jitted(lattice, SMALL)
    config = dataclasses.replace(SMALL, **choices)
    out = sample_jitted(lattice, jax.random.key(3), config)
    assert rows(out) == rows(expected)
    np.testing.assert_array_equal(out.log_probs, expected.log_probs)


def test_plain_sampling_follows_the_model(random_lattice):
    lattice = random_lattice(2, samples=1, vocabulary=5)
    logits = lattice.logits[0, 0, START]
    np.testing.assert_allclose(
        frequencies(logits), softmax(logits), atol=FREQUENCY_ATOL
    )


def test_temperature_sharpens_and_flattens():
    logits = np.array([0.0, 1.0, 2.0])
    for temperature in (0.5, 3.0):
        np.testing.assert_allclose(
            frequencies(logits, temperature=temperature),
            softmax(logits / temperature),
            atol=FREQUENCY_ATOL,
        )


def test_top_k_keeps_exactly_k_tokens_even_of_equals():
    logits = np.array([1.0, 3.0, 1.0, 2.0, 1.0])
    kept = frequencies(logits, top_k=3)
    np.testing.assert_allclose(
        kept[[1, 3, 0]], softmax([3.0, 2.0, 1.0]), atol=FREQUENCY_ATOL
    )
    assert kept[[2, 4]].sum() == 0


@pytest.mark.parametrize(
    ("top_p", "nucleus"), [(0.45, [2]), (0.55, [2, 0]), (0.85, [2, 0, 3])]
)
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p, nucleus):
    probabilities = np.array([0.3, 0.05, 0.5, 0.15])
    found = frequencies(np.log(probabilities), top_p=top_p)
    expected = np.zeros(4)
    expected[nucleus] = probabilities[nucleus] / probabilities[nucleus].sum()
    np.testing.assert_allclose(found, expected, atol=FREQUENCY_ATOL)
    assert not found[expected == 0].any()


def test_top_p_is_taken_of_what_top_k_and_temperature_left():
    # Of the two best at temperature 0.5, the first has 0.25 / (0.25 + 0.16) = 0.61.
    logits = np.log([0.5, 0.4, 0.1])
    limits = {"temperature": 0.5, "top_k": 2}
    assert frequencies(logits, **limits, top_p=0.6)[0] == 1
    assert frequencies(logits, **limits, top_p=0.63)[1] > 0.3


def test_whole_texts_follow_the_model(random_lattice):
    lattice = random_lattice(4, samples=1, vocabulary=5, spread=1.0)
    many = lattice.select([0] * DRAWS)
    config = dataclasses.replace(SMALL, max_length=2)
    texts = rows(sample_jitted(many, jax.random.key(0), config))
    for second in range(5):
        ids = (START, A, second)
        expected = np.exp(log_prob(lattice, 0, ids))
        found = sum(text == ids for text in texts) / DRAWS
        assert found == pytest.approx(expected, abs=FREQUENCY_ATOL)


def test_keys_decide_and_log_probs_are_the_models(random_lattice):
    lattice = random_lattice(5, samples=30, vocabulary=8)
    config = dataclasses.replace(SMALL, temperature=2.0, top_k=5, min_length=2)
    first, again, other = (
        sample_jitted(lattice, jax.random.key(seed), config) for seed in (0, 0, 1)
    )
    assert rows(first) == rows(again)
    assert rows(first) != rows(other)
    for row, ids in enumerate(rows(first)):
        assert END not in ids[:3]
        expected = log_prob(lattice, row, ids)
        assert first.log_probs[row] == pytest.approx(expected, abs=LOG_PROB_ATOL)


def test_a_sample_does_not_depend_on_its_batch(random_lattice):
    lattice, key = random_lattice(6, samples=6, vocabulary=8), jax.random.key(2)
    together = rows(sample_jitted(lattice, key, SMALL))
    assert len(set(together)) > 3
    for order in ([5], [3, 1, 4]):
        out = sample_jitted(lattice.select(order), key, SMALL, np.array(order))
        assert rows(out) == [together[i] for i in order]


def test_rows_of_one_sample_draw_differently(random_lattice):
    lattice = random_lattice(7, samples=1, vocabulary=8).select([0] * 8)
    assert len(set(rows(sample_jitted(lattice, jax.random.key(0), SMALL)))) > 4


@pytest.mark.parametrize("choices", [{}, {"top_k": 9}, {"top_p": 0.999}], ids=str)
def test_padded_vocabulary_is_never_drawn(choices):
    logits = np.array([0.0, 1.0, -1e30, 0.5, -1e30])
    found = frequencies(logits, temperature=50.0, **choices)
    assert found[[2, 4]].sum() == 0
    assert found[[0, 1, 3]].min() > 0.25


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", -1.0), ("top_k", -1), ("top_p", 0.0), ("top_p", 1.1)],
)
def test_impossible_configs_are_rejected(name, value):
    with pytest.raises(ValueError, match=f"{name}={value}"):
        SamplingConfig(**{name: value})
