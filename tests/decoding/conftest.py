"""A language model one can solve by hand: the next token depends on the last two."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lattice:
    """Trigram logits [B, V, V, V]: sample, token before, token, next token."""

    logits: np.ndarray

    def step_fn(self, rows_per_sample):
        """Its step function; the token before the last is only in the cache."""
        logits = jnp.asarray(self.logits, jnp.float32)
        samples = jnp.arange(logits.shape[0] * rows_per_sample) // rows_per_sample

        def step(tokens, position, cache):
            seen = cache["seen"].at[0, :, position].set(tokens)
            before = jnp.where(position > 0, seen[0, :, position - 1], 0)
            return logits[samples, before, tokens], {"seen": seen}

        return step

    def cache(self, rows_per_sample, max_length):
        """Room for every token a row is fed: [1, rows, max_length]."""
        rows = self.logits.shape[0] * rows_per_sample
        return {"seen": jnp.zeros((1, rows, max_length), jnp.int32)}

    def log_p(self, sample, ids):
        """Plain NumPy: log-probabilities of what follows `ids` (start included)."""
        row = self.logits[sample, ids[-2] if len(ids) > 1 else 0, ids[-1]]
        row = row.astype(np.float64)
        return row - np.log(np.exp(row - row.max()).sum()) - row.max()

    def select(self, samples):
        return Lattice(self.logits[list(samples)])

    def pad_vocabulary(self, count):
        """The same model with `count` impossible tokens after the real ones."""
        widths = [(0, 0)] + [(0, count)] * 3
        return Lattice(np.pad(self.logits, widths, constant_values=-1e30))


@pytest.fixture
def random_lattice():
    def make(seed, samples, vocabulary, spread=2.0):
        shape = (samples, vocabulary, vocabulary, vocabulary)
        return Lattice(spread * np.random.default_rng(seed).standard_normal(shape))

    return make


@pytest.fixture
def bigram_lattice():
    """A one-sample lattice from a table of probabilities [V, V]."""

    def make(probabilities):
        with np.errstate(divide="ignore"):
            logits = np.log(np.asarray(probabilities))
        logits = np.maximum(logits, -100.0)  # impossible, but part of the vocabulary
        return Lattice(np.broadcast_to(logits, (1, len(logits), *logits.shape)))

    return make
