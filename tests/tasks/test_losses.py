"""Losses against sums written out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from mplug2_jax.losses import mean_over_tokens, token_losses, weighted_answers
from mplug2_jax.types import MultimodalBatch, Tokens

LOGITS = jnp.array(np.random.default_rng(0).normal(size=(2, 4, 5)), jnp.float32)
TEXT = Tokens(
    jnp.array([[1, 2, 3, 4], [1, 3, 0, 0]]), jnp.array([[1] * 4, [1, 1, 0, 0]])
)


def log_softmax(row):
    row = np.asarray(row, np.float64)
    return row - np.log(np.exp(row).sum())


def by_hand(row, position):
    """-log p of the token at `position`, from the logits before it."""
    return -log_softmax(LOGITS[row, position - 1])[TEXT.values[row, position]]


def test_tokens_of_the_prompt_and_padding_do_not_count():
    losses, counts = token_losses(LOGITS, TEXT, first=2)
    assert counts.tolist() == [[False, True, True], [False, False, False]]
    expected = (by_hand(0, 2) + by_hand(0, 3)) / 2
    assert float(mean_over_tokens(losses, counts.sum())) == pytest.approx(
        expected, rel=1e-6
    )


def test_nothing_that_counts_is_zero_not_nan():
    losses, counts = token_losses(LOGITS, TEXT, first=9)
    assert float(mean_over_tokens(losses, counts.sum())) == 0.0


def test_answers_are_summed_weighted_and_divided_by_questions():
    losses, _ = token_losses(LOGITS, TEXT)
    loss = weighted_answers(losses, jnp.array([0.5, 2.0]), jnp.int32(2))
    first = sum(by_hand(0, position) for position in (1, 2, 3))
    expected = (0.5 * first + 2.0 * by_hand(1, 1)) / 2
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_soft_targets_are_normalised_over_the_vocabulary():
    soft = 2 * LOGITS[..., ::-1]
    losses, _ = token_losses(LOGITS, TEXT, soft_logits=soft, soft_weight=0.4)
    target = np.exp(log_softmax(soft[0, 0]))
    distilled = -(target * log_softmax(LOGITS[0, 0])).sum()
    expected = 0.6 * by_hand(0, 1) + 0.4 * distilled
    assert float(losses[0, 0]) == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_what_a_task_reads_is_named():
    with pytest.raises(ValueError, match="no caption, which this task reads"):
        MultimodalBatch().require("caption")
