"""Greedy decoding and sampling with temperature, top-k and top-p.

Every sample draws from its own random stream, folded from its number, so its text
does not depend on what else is in the batch.
"""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Key

from mplug2_jax.decoding.interface import (
    Cache,
    DecodingConfig,
    SamplingConfig,
    StepFn,
    check_rows,
    log_probabilities,
)


@flax.struct.dataclass
class SampleOutput:
    """One text per sample.

    Attributes:
      ids: start token, then up to max_length tokens, then padding; S = 1 + max_length.
      log_probs: log-probability of the text under the model itself, end included.
      lengths: tokens of each row, the start included.
    """

    ids: Int[Array, "B S"]
    log_probs: Float[Array, "B"]
    lengths: Int[Array, "B"]


@flax.struct.dataclass
class _State:
    step: Int[Array, ""]
    output: SampleOutput
    done: Bool[Array, "B"]
    cache: Cache


def greedy(
    step: StepFn, cache: Cache, batch_size: int, config: DecodingConfig
) -> SampleOutput:
    """Takes the most probable token at every step; the cache has one row a sample."""
    return _generate(
        step, cache, batch_size, config, lambda log_p, _: log_p.argmax(axis=-1)
    )


def sample(
    step: StepFn,
    cache: Cache,
    batch_size: int,
    key: Key[Array, ""],
    config: SamplingConfig,
    sample_ids: Int[Array, "B"] | None = None,
) -> SampleOutput:
    """Draws one text per sample; the cache has one row a sample.

    `sample_ids` number the samples' random streams (default: their rows); give a
    sample the same number and it gets the same text in any batch.
    """
    if config.temperature == 0:
        return greedy(step, cache, batch_size, config)
    if sample_ids is None:
        sample_ids = jnp.arange(batch_size)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, sample_ids)

    def choose(log_p: Float[Array, "B V"], position: Int[Array, ""]):
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, position)
        return jax.vmap(lambda k, row: draw(k, row, config))(step_keys, log_p)

    return _generate(step, cache, batch_size, config, choose)


def draw(
    key: Key[Array, ""], log_p: Float[Array, "V"], config: SamplingConfig
) -> Int[Array, ""]:
    """Draws a token: temperature first, then the top-k, then the nucleus of those."""
    scaled = log_p / config.temperature
    if config.top_k == 0 and config.top_p == 1:
        return jax.random.categorical(key, scaled)
    # Best first; ranks settle ties, so exactly k tokens remain.
    count = min(config.top_k or log_p.size, log_p.size)
    scaled, tokens = lax.top_k(scaled, count)
    probabilities = jax.nn.softmax(scaled)
    before = jnp.cumsum(probabilities) - probabilities
    scaled = jnp.where(before < config.top_p, scaled, -jnp.inf)
    return tokens[jax.random.categorical(key, scaled)]


def _generate(
    step: StepFn,
    cache: Cache,
    batch_size: int,
    config: DecodingConfig,
    choose: Callable[[Float[Array, "B V"], Int[Array, ""]], Int[Array, "B"]],
) -> SampleOutput:
    """Appends chosen tokens until every row has ended or is full."""
    check_rows(cache, batch_size)

    def unfinished(state: _State):
        return (state.step < config.max_length) & ~state.done.all()

    def advance(state: _State) -> _State:
        out, done = state.output, state.done
        latest = lax.dynamic_index_in_dim(out.ids, state.step, 1, keepdims=False)
        logits, cache = step(latest, state.step, state.cache)
        log_p = log_probabilities(logits)
        tokens = choose(_forbid_early_end(log_p, state.step, config), state.step)
        gained = jnp.take_along_axis(log_p, tokens[:, None], axis=1)[:, 0]
        tokens = jnp.where(done, config.pad_id, tokens)
        output = SampleOutput(
            ids=out.ids.at[:, state.step + 1].set(tokens),
            log_probs=out.log_probs + jnp.where(done, 0.0, gained),
            lengths=out.lengths + ~done,
        )
        ended = ~done & (tokens == config.end_id)
        return _State(state.step + 1, output, done | ended, cache)

    ids = jnp.full((batch_size, config.max_length + 1), config.pad_id, jnp.int32)
    empty = SampleOutput(
        ids=ids.at[:, 0].set(config.start_id),
        log_probs=jnp.zeros(batch_size, jnp.float32),
        lengths=jnp.ones(batch_size, jnp.int32),
    )
    start = _State(jnp.int32(0), empty, jnp.zeros(batch_size, bool), cache)
    return lax.while_loop(unfinished, advance, start).output


def _forbid_early_end(
    log_p: Float[Array, "B V"], position: Int[Array, ""], config: DecodingConfig
) -> Float[Array, "B V"]:
    end = jnp.arange(log_p.shape[-1]) == config.end_id
    return jnp.where(end & (position < config.min_length), -jnp.inf, log_p)
