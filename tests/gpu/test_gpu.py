"""Numbers and kernels of a GPU: `pytest -m gpu tests/gpu` with JAX_PLATFORMS=cuda.

What needs no GPU runs at small size everywhere: the programs that a GPU would be given,
and 16-bit attention by the kernels of the CPU.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn

from mplug2_jax.models.attention import KeyValue, attend
from mplug2_jax.models.config import preset
from mplug2_jax.models.decoder import Memory
from mplug2_jax.models.mplug2 import MPlug2, abstract_params
from mplug2_jax.tasks import TASKS
from mplug2_jax.training.optimizer import OptimizerConfig, make_optimizer
from mplug2_jax.training.step import DistillationConfig, create_state, make_step
from mplug2_jax.types import MultimodalBatch, Tokens

ON_GPU = jax.default_backend() == "gpu"
NEEDS_GPU = (pytest.mark.gpu, pytest.mark.skipif(not ON_GPU, reason="no GPU here"))
# Relative errors. bfloat16 rounds to 2^-9 = 0.002, several times in a row.
ATTENTION, FORWARD, LOSS, GRADIENT = 0.01, 0.03, 0.01, 0.05


def on_gpu(test):
    """The test, left out where there is no GPU."""
    for mark in NEEDS_GPU:
        test = mark(test)
    return test


def error(found, expected) -> float:
    found, expected = (np.asarray(a, np.float64) for a in (found, expected))
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def draw(*shape, seed=0):
    """Random numbers that bfloat16 holds exactly."""
    return jax.random.normal(jax.random.key(seed), shape, jnp.bfloat16)


def attention(query, key, value, cotangent, dropout=None):
    """Output and the three gradients."""

    def run(query, key, value):
        return attend(query, (KeyValue(key, value),), None, dropout)

    out, pullback = jax.vjp(run, query, key, value)
    return out, *pullback(cotangent.astype(out.dtype))


# Rows, heads, queries, keys: a frame, a video's tokens, latents reading them.
FRAME, VIDEO, POOLING = (16, 16, 257, 257), (1, 16, 4097, 4097), (2, 16, 50, 4097)


@pytest.mark.parametrize(
    "shape",
    [
        (2, 2, 9, 9),
        (2, 2, 4, 7),
        *(pytest.param(s, marks=NEEDS_GPU) for s in (FRAME, VIDEO, POOLING)),
    ],
)
def test_attention_in_bfloat16(shape):
    rows, heads, length, keys = shape
    width = 64 if ON_GPU else 8
    arrays = (
        draw(rows, heads, long, width, seed=seed)
        for seed, long in enumerate((length, keys, keys, length))
    )
    low = tuple(arrays)
    exact = jax.jit(attention)(*(a.astype(jnp.float32) for a in low))
    for found, expected in zip(jax.jit(attention)(*low), exact, strict=True):
        assert found.dtype == jnp.bfloat16
        assert error(found, expected) < ATTENTION


@pytest.fixture
def for_gpu(monkeypatch):
    """Lowers a function as if a GPU with cuDNN 9.10 were here; gives the text."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    return lambda function, *args: (
        jax.jit(function).trace(*args).lower(lowering_platforms=("cuda",)).as_text()
    )


@pytest.mark.parametrize(
    "shape, rate", [(FRAME, 0.0), (POOLING, 0.0), (VIDEO, 0.0), (VIDEO, 0.1)]
)
def test_cudnn_takes_long_attentions_forward_and_backward(for_gpu, shape, rate):
    """Odd lengths and dropout included."""
    rows, heads, length, keys = shape
    query, key = (
        jax.ShapeDtypeStruct((rows, heads, long, 64), jnp.bfloat16)
        for long in (length, keys)
    )

    def run(query, key, value, cotangent, rng):
        dropout = (rate, rng) if rate else None
        return attention(query, key, value, cotangent, dropout)

    rng = jax.eval_shape(jax.random.key, 0)
    text = for_gpu(run, query, key, key, query, rng)
    assert text.count("@__cudnn$fmhaSoftmax(") == 1
    assert text.count("@__cudnn$fmhaSoftmaxBackward(") == 1
    assert f"{length}x{keys}x" not in text  # scores of all pairs are never held


def answers(rows: int, config) -> MultimodalBatch:
    side = config.vision.image_size
    rng = np.random.default_rng(0)

    def tokens(length):
        ids = rng.integers(3, config.text.vocab_size, (rows, length), np.int32)
        return Tokens(ids, np.ones_like(ids))

    return MultimodalBatch(
        frames=rng.integers(0, 256, (rows, 4, side, side, 3), np.uint8),
        question=tokens(6),
        answer=tokens(5),
        answer_weight=np.ones(rows, np.float32),
    )


def fine_tune(dtype: str, steps: int):
    """Losses and first gradient norm of fine-tuning on one batch."""
    config = preset("tiny").replace(numerics={"dtype": dtype, "remat": "dots"})
    task = TASKS["question_answering"](config)
    recipe = OptimizerConfig(1e-3, 1e-3, schedule="constant")
    optimizer, distillation = make_optimizer(recipe, steps), DistillationConfig()
    key = jax.random.key(0)
    state = create_state(task, optimizer, distillation, key)
    step, batch = make_step(task, optimizer, distillation), answers(4, config)
    rows = []
    for _ in range(steps):
        state, metrics = step(state, batch, key)
        rows.append(metrics)
    return [float(r["loss"]) for r in rows], float(rows[0]["gradient_norm"])


@on_gpu
def test_fine_tuning_in_bfloat16():
    low, low_norm = fine_tune("bfloat16", 20)
    exact, exact_norm = fine_tune("float32", 20)
    assert abs(low[0] / exact[0] - 1) < LOSS
    assert abs(low_norm / exact_norm - 1) < GRADIENT
    assert low[-1] < 0.5 * low[0]


@on_gpu
def test_forward_pass_in_bfloat16():
    """Odd lengths, by flash attention: 197 patches of a frame, 785 of the video."""
    config = preset("base")
    modules = ("vision", "local_temporal", "universal")
    params = TASKS["captioning"](config).init(jax.random.key(0))
    params = {name: params[name] for name in ("vision", "universal")}
    frames = answers(2, config).frames

    def embeds(dtype: str):
        model = MPlug2(config.replace(numerics={"dtype": dtype}), modules)

        def run(params, frames):
            variables = {"params": params}
            return model.apply(variables, frames, method="encode_vision").embeds

        return jax.jit(run)(params, frames)

    assert error(embeds("bfloat16"), embeds("float32")) < FORWARD


@pytest.mark.parametrize(
    "dtype, bound",
    [pytest.param("float32", 1e-4, marks=NEEDS_GPU), ("bfloat16", FORWARD)],
)
def test_decoding_by_steps_equals_the_whole_text(dtype, bound):
    config = preset("tiny").replace(numerics={"dtype": dtype})
    model = MPlug2(config, ("vision", "decoder"))
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: 0.1 * rng.standard_normal(leaf.shape, np.float32),
        abstract_params(config, model.modules),
    )
    ids = jnp.asarray(answers(3, config).answer.values)
    vision, text = (draw(3, n, config.text.width).astype(dtype) for n in (17, 5))
    mask = jnp.ones((3, 5), jnp.int32).at[1, 2:].set(0)

    def run(model):
        memory = Memory.of(vision, text, mask)
        whole = model.decode(Tokens(ids, jnp.ones_like(ids)), memory)
        state, cache = model.start_decoding(memory), model.empty_cache(*ids.shape)

        def step(cache, position):
            return model.decode_step(ids[:, position], position, cache, state)[::-1]

        _, steps = jax.lax.scan(step, cache, jnp.arange(ids.shape[1]))
        return whole, jnp.swapaxes(steps, 0, 1)

    words = config.text.vocab_size

    @jax.jit
    def both(params):
        return model.apply({"params": params}, method=run)

    whole, steps = both(params)
    assert error(steps[..., :words], whole[..., :words]) < bound
