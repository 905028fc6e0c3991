"""Beam search with static shapes: one `lax.while_loop` over any step function.

Two rules. "standard": a hypothesis that takes the end token leaves the beam for a
store of the K best finished ones, and the live beams are always K unfinished ones.
A sample is done when no live beam can still enter the store. "upstream" reproduces
the official generator, in which hypotheses that took the end token go on.

Under both rules only the K best stored hypotheses are ever returned, so a store of K
places that keeps the best of what it holds and what arrives loses nothing: the K best
of a union are the K best of (K best of one part, other part). Earlier ones win ties.
"""

from dataclasses import replace

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mplug2_jax.decoding.interface import (
    BeamConfig,
    Cache,
    StepFn,
    check_rows,
    log_probabilities,
)

# The official generator's log-probability of a forbidden end token.
_UPSTREAM_FORBIDDEN = -1e20


@flax.struct.dataclass
class BeamOutput:
    """K hypotheses per sample, best first.

    Attributes:
      ids: start token, then up to max_length tokens, then padding; S = 1 + max_length.
      scores: log-probability / length penalty; -inf where there is no hypothesis.
      lengths: tokens of each hypothesis, the start included (0: no hypothesis).
    """

    ids: Int[Array, "B K S"]
    scores: Float[Array, "B K"]
    lengths: Int[Array, "B K"]


@flax.struct.dataclass
class _State:
    step: Int[Array, ""]
    ids: Int[Array, "B K S"]
    log_probs: Float[Array, "B K"]
    stored: BeamOutput
    done: Bool[Array, "B"]
    cache: Cache


def beam_search(
    step: StepFn, cache: Cache, batch_size: int, config: BeamConfig
) -> BeamOutput:
    """Searches `batch_size` samples; the cache has B * K rows, K consecutive a sample.

    Samples do not influence each other. ValueError if the cache has other rows.
    """
    check_rows(cache, batch_size * config.beam_size)
    rule = {"standard": _standard, "upstream": _upstream}[config.rule]

    def unfinished(state: _State):
        return (state.step < config.max_length) & ~state.done.all()

    def advance(state: _State) -> _State:
        tokens = lax.dynamic_index_in_dim(state.ids, state.step, 2, keepdims=False)
        logits, cache = step(tokens.reshape(-1), state.step, state.cache)
        log_p = log_probabilities(logits).reshape(*tokens.shape, -1)  # B K V
        state, parents = rule(state, log_p, config)
        return replace(state, step=state.step + 1, cache=_reorder(cache, parents))

    return lax.while_loop(unfinished, advance, _start(cache, batch_size, config)).stored


def _start(cache: Cache, batch_size: int, config: BeamConfig) -> _State:
    """All beams hold the start token; only the first may be continued."""
    shape = (batch_size, config.beam_size)
    empty = jnp.full((*shape, config.max_length + 1), config.pad_id, jnp.int32)
    nothing = jnp.full(shape, -jnp.inf, jnp.float32)
    return _State(
        step=jnp.int32(0),
        ids=empty.at[..., 0].set(config.start_id),
        log_probs=nothing.at[:, 0].set(0.0),
        stored=BeamOutput(empty, nothing, jnp.zeros(shape, jnp.int32)),
        done=jnp.zeros(batch_size, bool),
        cache=cache,
    )


def _standard(state: _State, log_p: Float[Array, "B K V"], config: BeamConfig):
    """One step of the standard rule: (state, parents of its beams)."""
    generated = state.step + 1
    penalty = _length_penalty(generated, config)
    totals = state.log_probs[..., None] + log_p

    end_scores = jnp.where(
        state.step >= config.min_length, totals[..., config.end_id] / penalty, -jnp.inf
    )
    ended = state.ids.at[..., generated].set(config.end_id)
    stored = _store(state, ended, end_scores)

    unended = totals.at[..., config.end_id].set(-jnp.inf)
    log_probs, parents, tokens = _best(unended)
    ids = _extend(state, parents, tokens)
    # What is still alive at the last step is complete, too.
    at_last = jnp.where(generated == config.max_length, log_probs / penalty, -jnp.inf)
    stored = _store(replace(state, stored=stored), ids, at_last)

    # Log-probabilities only fall, and the largest penalty flatters them most.
    bound = log_probs[:, 0] / _length_penalty(config.max_length, config)
    done = state.done | (stored.scores[:, -1] >= bound)
    state = replace(state, ids=ids, log_probs=log_probs, stored=stored, done=done)
    return state, parents


def _upstream(state: _State, log_p: Float[Array, "B K V"], config: BeamConfig):
    """One step of the official generator's rule: (state, parents of its beams).

    A beam that takes the end is stored and stays alive. When the top beam takes it, or
    at the last step, all beams are stored and the sample is done.
    """
    generated = state.step + 1
    penalty = _length_penalty(generated, config)
    end_log_p = jnp.where(
        state.step >= config.min_length, log_p[..., config.end_id], _UPSTREAM_FORBIDDEN
    )
    log_p = log_p.at[..., config.end_id].set(end_log_p)

    totals = state.log_probs[..., None] + log_p
    scores, parents, tokens = _best(totals / penalty)
    ids = _extend(state, parents, tokens)
    ended = tokens == config.end_id
    stop = ended[:, 0] | (generated == config.max_length)
    stored = _store(state, ids, jnp.where(ended | stop[:, None], scores, -jnp.inf))
    done, log_probs = state.done | stop, scores * penalty
    state = replace(state, ids=ids, log_probs=log_probs, stored=stored, done=done)
    return state, parents


def _length_penalty(generated: Int[Array, ""] | int, config: BeamConfig):
    """((5 + length) / 6) ** alpha, of the generated tokens (GNMT, equation 14)."""
    return ((5.0 + generated) / 6.0) ** jnp.float32(config.length_penalty)


def _best(scores: Float[Array, "B K V"]):
    """The K best of all continuations: scores, parent beams, tokens, each [B K].

    Where fewer than K are possible the rest score -inf, now and ever after.
    """
    batch, beams, vocabulary = scores.shape
    best, index = lax.top_k(scores.reshape(batch, -1), beams)
    return best, index // vocabulary, index % vocabulary


def _extend(state: _State, parents: Int[Array, "B K"], tokens: Int[Array, "B K"]):
    """The parents' ids with one more token each."""
    ids = jnp.take_along_axis(state.ids, parents[..., None], axis=1)
    return ids.at[..., state.step + 1].set(tokens)


def _store(state: _State, ids: Int[Array, "B K S"], scores: Float[Array, "B K"]):
    """The store with these hypotheses added where they are good enough.

    -inf adds nothing, and neither does a sample that is done.
    """
    scores = jnp.where(state.done[:, None], -jnp.inf, scores)
    arriving = BeamOutput(ids, scores, jnp.full(scores.shape, state.step + 2))
    both = jax.tree.map(
        lambda old, new: jnp.concatenate([old, new], axis=1), state.stored, arriving
    )
    best, index = lax.top_k(both.scores, scores.shape[1])
    return BeamOutput(
        ids=jnp.take_along_axis(both.ids, index[..., None], axis=1),
        scores=best,
        lengths=jnp.take_along_axis(both.lengths, index, axis=1),
    )


def _reorder(cache: Cache, parents: Int[Array, "B K"]) -> Cache:
    """Every row's cache becomes that of its parent."""
    batch, beams = parents.shape
    rows = (parents + beams * jnp.arange(batch)[:, None]).reshape(-1)
    return jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=1), cache)
