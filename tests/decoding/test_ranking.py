"""Answer ranking against the rule written out candidate by candidate."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mplug2_jax.decoding import next_token_log_probs, rank_candidates
from mplug2_jax.types import Tokens

ATOL = 1e-5
START, END = 1, 2
ANSWERS = [
    (START, 3, 6, 7, END),  # shares its first token with the third answer
    (START, 4, 5, END),
    (START, 3, END),
    (START, 8, END),
    (START, 5, 5, END),
    (START, 9, 4, END),
]


def padded(answers, length=6, rows=None):
    values = np.zeros((rows or len(answers), length), np.int32)
    for row, ids in zip(values, answers, strict=False):
        row[: len(ids)] = ids
    return Tokens(values, (values > 0).astype(np.int32))


@functools.partial(jax.jit, static_argnames="k")
def rank(lattice, candidates, k, noise_on_padding=0.0):
    samples = lattice.logits.shape[0]
    logits = jnp.asarray(lattice.logits, jnp.float32)

    def token_log_probs(rows):
        ids = rows.values
        sample = jnp.repeat(jnp.arange(samples), ids.shape[0] // samples)[:, None]
        before = jnp.pad(ids[:, :-1], ((0, 0), (1, 0)))
        log_p = next_token_log_probs(logits[sample, before, ids], ids)
        return jnp.where(rows.mask[:, 1:] > 0, log_p, noise_on_padding)

    return rank_candidates(logits[:, 0, START], candidates, token_log_probs, k)


def plain_ranking(lattice, sample, answers, k):
    """(index, probability, log-probability) of the k, best first."""
    first = lattice.log_p(sample, (START,))
    by_first = sorted(
        range(len(answers)), key=lambda a: (-first[answers[a][1]], len(answers[a]))
    )
    scored = []
    for a in by_first[:k]:
        ids = answers[a]
        steps = range(1, len(ids))
        total = sum(lattice.log_p(sample, ids[:i])[ids[i]] for i in steps)
        scored.append((a, np.exp(total + first[ids[1]]), total))
    mass = sum(weight for _, weight, _ in scored)
    scored.sort(key=lambda s: -s[1])
    return [(a, weight / mass, total) for a, weight, total in scored]


@pytest.mark.parametrize("k", [1, 3, 6])
def test_ranking_equals_the_plain_rule(random_lattice, k):
    lattice = random_lattice(0, samples=8, vocabulary=10)
    out = rank(lattice, padded(ANSWERS), k)
    orders = set()
    for sample in range(8):
        indices, probabilities, log_probs = zip(
            *plain_ranking(lattice, sample, ANSWERS, k), strict=True
        )
        assert tuple(out.indices[sample].tolist()) == indices
        np.testing.assert_allclose(out.probabilities[sample], probabilities, atol=ATOL)
        np.testing.assert_allclose(out.log_probs[sample], log_probs, rtol=ATOL)
        orders.add(indices)
    assert len(orders) > 1


def test_first_token_alone_can_exclude_the_best_answer(bigram_lattice):
    # Answer 3: 0.3 * 1 twice the first = 0.09; answer 4: 0.4 * 0.1 * 0.4 = 0.016.
    table = np.full((5, 5), 0.2)
    table[START] = [0, 0, 0.3, 0.3, 0.4]
    table[3] = [0, 0, 1, 0, 0]
    table[4] = [0.9, 0, 0.1, 0, 0]
    lattice = bigram_lattice(table)
    candidates = padded([(START, 3, END), (START, 4, END)], length=3)
    assert rank(lattice, candidates, 1).indices.tolist() == [[1]]
    both = rank(lattice, candidates, 2)
    assert both.indices.tolist() == [[0, 1]]
    expected = [[0.09 / 0.106, 0.016 / 0.106]]
    np.testing.assert_allclose(both.probabilities, expected, atol=ATOL)


def test_the_shorter_of_equal_first_tokens_is_picked(bigram_lattice):
    lattice = bigram_lattice(np.full((8, 8), 1 / 8))
    long, short = (START, 3, 6, 7, END), (START, 3, END)
    for answers, winner in (([long, short], 1), ([short, long], 0)):
        assert rank(lattice, padded(answers), 1).indices.tolist() == [[winner]]


def test_padding_of_rows_tokens_and_vocabulary_changes_nothing(random_lattice):
    lattice = random_lattice(1, samples=4, vocabulary=10)
    plain = rank(lattice, padded(ANSWERS), 4)
    for other in (
        rank(lattice, padded(ANSWERS, length=9), 4),
        rank(lattice, padded(ANSWERS, rows=11), 4),
        rank(lattice, padded(ANSWERS), 4, noise_on_padding=jnp.nan),
        rank(lattice.pad_vocabulary(6), padded(ANSWERS), 4),
    ):
        np.testing.assert_array_equal(other.indices, plain.indices)
        np.testing.assert_allclose(other.probabilities, plain.probabilities, atol=ATOL)


def test_more_places_than_candidates(random_lattice):
    lattice = random_lattice(2, samples=2, vocabulary=10)
    plain = rank(lattice, padded(ANSWERS), 6)
    assert rank(lattice, padded(ANSWERS), 50).indices.shape == (2, 6)
    wide = rank(lattice, padded(ANSWERS, rows=8), 50)
    np.testing.assert_array_equal(wide.indices[:, :6], plain.indices)
    np.testing.assert_allclose(
        wide.probabilities[:, :6], plain.probabilities, atol=ATOL
    )
    assert (wide.probabilities[:, 6:] == 0).all()
    assert np.isneginf(wide.log_probs[:, 6:]).all()


def test_a_sample_does_not_depend_on_its_batch(random_lattice):
    lattice = random_lattice(3, samples=5, vocabulary=10)
    together = rank(lattice, padded(ANSWERS), 3)
    for order in ([4], [2, 0]):
        alone = rank(lattice.select(order), padded(ANSWERS), 3)
        np.testing.assert_array_equal(alone.indices, together.indices[np.array(order)])


def test_nothing_to_rank_is_an_error(random_lattice):
    lattice = random_lattice(4, samples=1, vocabulary=10)
    with pytest.raises(ValueError, match="got k=0"):
        rank(lattice, padded(ANSWERS), 0)
    with pytest.raises(ValueError, match="rows of 1 tokens"):
        rank(lattice, padded([(START,)], length=1), 2)
