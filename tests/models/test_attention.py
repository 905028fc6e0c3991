"""Attention against a plain computation: segments, shared rows, blocks, dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from mplug2_jax.models import attention
from mplug2_jax.models.attention import KeyValue, attend

ATOL = 2e-6


def draw(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


def memory(rows, length, seed):
    return KeyValue(
        draw(rows, 2, length, 8, seed=seed), draw(rows, 2, length, 8, seed=-seed)
    )


def plain(query, keys, values, mask):
    """One row, one head, one query at a time."""
    out = np.zeros(query.shape, np.float64)
    for row in range(query.shape[0]):
        for head in range(query.shape[1]):
            scores = np.asarray(query[row, head]) @ np.asarray(keys[row, head]).T
            scores = scores / np.sqrt(query.shape[-1])
            scores = np.where(np.broadcast_to(mask[row], scores.shape), scores, -1e9)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            out[row, head] = weights @ np.asarray(values[row, head])
    return out


def test_segments_with_rows_shared_by_consecutive_queries():
    query = draw(6, 2, 3, 8)
    video, text = memory(2, 5, seed=1), memory(6, 4, seed=2)
    mask = jax.random.bernoulli(jax.random.key(3), 0.7, (6, 1, 9)).at[:, :, 0].set(True)
    joined = [
        jnp.concatenate([jnp.repeat(a, 3, axis=0), b], axis=2)
        for a, b in ((video.key, text.key), (video.value, text.value))
    ]
    expected = plain(query, *joined, np.asarray(mask))
    np.testing.assert_allclose(attend(query, (video, text), mask), expected, atol=ATOL)


BLOCKS = {"BLOCKWISE_SCORES": 100, "QUERY_BLOCK": 8}
ROWS = {"CPU_SCORES": 37 * 37 * 2}
ROWS_AND_BLOCKS = {"CPU_SCORES": 37 * 37}


@pytest.mark.parametrize("limits", [BLOCKS, ROWS, ROWS_AND_BLOCKS])
@pytest.mark.parametrize("per_query", [False, True])
def test_blocks_of_queries_equal_the_whole(monkeypatch, per_query, limits):
    query, own = draw(2, 2, 37, 8), memory(2, 37, seed=4)
    shape = (2, 37 if per_query else 1, 37)
    mask = jax.random.bernoulli(jax.random.key(5), 0.6, shape).at[..., 0].set(True)

    def run(query):
        return attend(query, (own,), mask)

    whole, gradient = run(query), jax.grad(lambda q: run(q).sum())(query)
    for name, limit in limits.items():
        monkeypatch.setattr(attention, name, limit)
    np.testing.assert_allclose(run(query), whole, atol=ATOL)
    blockwise = jax.grad(lambda q: run(q).sum())(query)
    np.testing.assert_allclose(blockwise, gradient, atol=ATOL)


def test_long_attention_never_holds_all_scores():
    """4097 tokens, 16 heads: all scores would take 1.07 GB forward alone."""
    shape = jax.ShapeDtypeStruct((1, 16, 4097, 64), jnp.float32)

    def loss(query, key, value):
        return attend(query, (KeyValue(key, value),)).sum()

    compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(shape, shape, shape)
    temporaries = compiled.compile().memory_analysis().temp_size_in_bytes
    assert temporaries < 0.75e9


@pytest.mark.parametrize("limit", [1 << 20, 1], ids=["short", "long"])
def test_dropout_keeps_the_mean(monkeypatch, limit):
    monkeypatch.setattr(attention, "BLOCKWISE_SCORES", limit)
    query, own = draw(1, 2, 4, 8), memory(1, 6, seed=6)
    keys = jax.random.split(jax.random.key(7), 3000)
    outs = jax.vmap(lambda key: attend(query, (own,), None, (0.3, key)))(keys)
    np.testing.assert_allclose(outs.mean(0), attend(query, (own,)), atol=0.05)
    assert float(outs.std(0).min()) > 0.01


@pytest.mark.parametrize(("platform", "loops"), [("cpu", 1), ("tpu", 0), ("gpu", 0)])
def test_the_path_is_of_the_devices_that_a_program_is_for(monkeypatch, platform, loops):
    """Planned for a TPU on a CPU, rows do not go one by one."""
    monkeypatch.setattr(attention, "CPU_SCORES", 100)
    device = AbstractDevice(platform, None, platform)
    mesh = AbstractMesh((1,), ("data",), abstract_device=device)
    query, own = draw(4, 2, 6, 8), memory(4, 6, seed=8)
    with jax.sharding.use_abstract_mesh(mesh):
        program = jax.make_jaxpr(lambda q: attend(q, (own,)))(query)
    assert str(program).count("scan[") == loops
