"""Which parameters decay, at which rate they learn, and when."""

import jax
import numpy as np
import optax
import pytest
from jax.tree_util import keystr, tree_leaves_with_path

from mplug2_jax.models.config import large
from mplug2_jax.models.mplug2 import ALL_MODULES, abstract_params
from mplug2_jax.training.layer_decay import layer_factors
from mplug2_jax.training.optimizer import (
    OptimizerConfig,
    is_decayed,
    learning_rate,
    make_optimizer,
)


def test_every_parameter_of_large_decays_as_upstream_says():
    leaves = tree_leaves_with_path(abstract_params(large()))
    paths = [keystr(path, simple=True, separator="/") for path, _ in leaves]
    kept = {path for path in paths if not is_decayed(path)}
    assert {p for p in paths if p.endswith("/bias")} <= kept
    assert "text/layers/attention_norm/scale" in kept
    assert "decoder/head/norm/scale" in kept
    for path in (
        "vision/blocks/attention_norm/scale",
        "vision/blocks/local_temporal_1/norm/scale",
        "vision/pre_norm/scale",
        "universal/vision_norm/scale",
        "universal/latents",
        "vision/class_embedding",
    ):
        assert path in paths and path not in kept


def test_vision_learns_at_its_own_rate():
    config = OptimizerConfig(1e-2, 1e-3, weight_decay=0.0, schedule="constant")
    params = {"vision": {"w": np.ones(3)}, "fusion": {"w": np.ones(3)}}
    optimizer = make_optimizer(config, 10)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    np.testing.assert_allclose(updates["vision"]["w"], -1e-3, rtol=1e-4)
    np.testing.assert_allclose(updates["fusion"]["w"], -1e-2, rtol=1e-4)


def test_schedule_warms_up_and_ends_at_the_floor():
    config = OptimizerConfig(warmup_steps=200)
    schedule = learning_rate(config, 2e-5, 1000)
    assert float(schedule(0)) == pytest.approx(1e-6)
    assert float(schedule(100)) == pytest.approx((1e-6 + 2e-5) / 2)
    assert float(schedule(200)) == pytest.approx(2e-5)
    assert float(schedule(600)) == pytest.approx((2e-5 + 1e-6) / 2, rel=1e-3)
    assert float(schedule(1000)) == pytest.approx(1e-6)


def test_clipping_bounds_the_gradient():
    config = OptimizerConfig(clip_norm=1.0, schedule="constant", b1=0.0, b2=0.0)
    params = {"fusion": {"w": np.ones(4, np.float32)}}
    optimizer = make_optimizer(config, 10)
    grads = jax.tree.map(lambda a: 100 * a, params)
    state = optimizer.update(grads, optimizer.init(params), params)[1]
    moments = [a for a in jax.tree.leaves(state) if getattr(a, "shape", ()) == (4,)]
    assert float(optax.global_norm(moments[0])) == pytest.approx(1.0, rel=1e-5)


def test_unknown_schedule_is_named():
    with pytest.raises(ValueError, match="linear.*expected 'cosine' or 'constant'"):
        OptimizerConfig(schedule="linear")


def params_of_two():
    return {
        "vision": {"blocks": {"mlp": {"kernel": np.ones(3, np.float32)}}},
        "fusion": {"layer_0": {"mlp": {"kernel": np.ones(3, np.float32)}}},
    }


@pytest.mark.parametrize(
    "freeze, frozen",
    [
        (("vision",), {"vision"}),
        (("fusion/layer_0",), {"fusion"}),
        (("*/mlp",), {"vision", "fusion"}),
        (("vision/blocks/mlp/kernel",), {"vision"}),
        (("vis*/blocks",), {"vision"}),
    ],
)
def test_frozen_parameters_have_no_moments_and_no_updates(freeze, frozen):
    config = OptimizerConfig(freeze=freeze, clip_norm=1.0, schedule="constant")
    params = params_of_two()
    optimizer = make_optimizer(config, 10)
    state = optimizer.init(params)
    updates, _ = optimizer.update(params, state, params)
    still = {top for top in params if not np.any(jax.tree.leaves(updates[top])[0])}
    assert still == frozen
    moments = [a for a in jax.tree.leaves(state) if getattr(a, "shape", ()) == (3,)]
    assert len(moments) == 2 * (len(params) - len(frozen))


def test_frozen_gradients_do_not_count_in_clipping():
    config = OptimizerConfig(
        clip_norm=1.0, schedule="constant", b1=0.0, freeze=("vision",)
    )
    params = params_of_two()
    optimizer = make_optimizer(config, 10)
    grads = params_of_two()
    grads["vision"]["blocks"]["mlp"]["kernel"] *= 1e6
    state = optimizer.update(grads, optimizer.init(params), params)[1]
    moments = [a for a in jax.tree.leaves(state) if getattr(a, "shape", ()) == (3,)]
    assert float(optax.global_norm(moments[0])) == pytest.approx(1.0, rel=1e-5)


def test_pattern_of_no_parameter_is_named():
    optimizer = make_optimizer(OptimizerConfig(freeze=("vison",)), 10)
    with pytest.raises(ValueError, match="freeze names 'vison'.*start with.*fusion"):
        optimizer.init(params_of_two())


def test_learning_rates_fall_with_the_depth_below_the_heads():
    config, decay = large(), 0.5
    params = abstract_params(config, ALL_MODULES)
    factors = {
        keystr(path, simple=True, separator="/"): np.asarray(factor).reshape(-1)
        for path, factor in tree_leaves_with_path(layer_factors(params, decay))
    }
    # Two universal layers above 24 blocks of vision and 22 layers of text.
    kernel = factors["vision/blocks/mlp/up/kernel"]
    np.testing.assert_array_equal(kernel, decay ** np.arange(26.0, 2, -1))
    temporal = factors["vision/blocks/local_temporal_1/norm/scale"]
    np.testing.assert_array_equal(temporal, kernel)
    text = factors["text/layers/mlp_norm/bias"]
    np.testing.assert_array_equal(text, decay ** np.arange(24.0, 2, -1))
    leaf = next(iter(factors[p] for p in factors if p.startswith("text/embeddings")))
    assert leaf == decay**25
    for path, depth in {
        "vision/patch_embedding/kernel": 27,
        "vision/class_embedding": 27,
        "vision/position_embedding": 27,
        "vision/pre_norm/scale": 27,
        "vision/post_norm/scale": 2,
        "universal/latents": 2,
        "universal/layer_0/mlp_norm/scale": 2,
        "universal/layer_1/mlp_norm/scale": 1,
        "universal/vision_norm/scale": 0,
        "decoder/head/norm/scale": 0,
    }.items():
        assert factors[path] == decay**depth, path
    for module in ("fusion", "decoder", "contrastive", "matching", "mlm", "classifier"):
        own = [factors[path] for path in factors if path.startswith(f"{module}/")]
        assert own and all((factor == 1).all() for factor in own)


def test_factors_scale_what_the_optimizer_does():
    params = {
        "vision": {
            "blocks": {"mlp": {"kernel": np.ones((3, 2), np.float32)}},
            "class_embedding": np.ones(2, np.float32),
        },
        "classifier": {"kernel": np.ones(2, np.float32)},
    }

    def updates(decay, clip=1.0):
        config = OptimizerConfig(
            1e-2, 1e-2, schedule="constant", layer_decay=decay, clip_norm=clip
        )
        optimizer = make_optimizer(config, 10)
        state = optimizer.init(params)
        return optimizer.update(params, state, params)[0], jax.tree.structure(state)

    whole, structure = updates(1.0)
    plain = make_optimizer(OptimizerConfig(1e-2, 1e-2, clip_norm=1.0), 10)
    assert structure == jax.tree.structure(plain.init(params))
    slowed, _ = updates(0.5)
    shares = jax.tree.map(lambda a, b: np.asarray(a / b), slowed, whole)
    np.testing.assert_allclose(shares["classifier"]["kernel"], 1)
    kernel = shares["vision"]["blocks"]["mlp"]["kernel"]
    np.testing.assert_allclose(kernel, [[1 / 8] * 2, [1 / 4] * 2, [1 / 2] * 2])
    np.testing.assert_allclose(shares["vision"]["class_embedding"], 1 / 16)


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "layer_decay": (0.0, -0.5, 1.5, float("nan")),
        "learning_rate": (-1e-4, float("nan"), float("inf")),
        "vision_learning_rate": (-1e-4,),
        "weight_decay": (-0.1,),
        "clip_norm": (-1.0,),
        "warmup_steps": (-1,),
        "b1": (1.5, -0.1),
        "b2": (1.0,),
        "eps": (0.0,),
    }.items(),
)
def test_what_no_step_could_use_is_named(name, values):
    for value in values:
        with pytest.raises(ValueError, match=rf"optimizer\.{name} is .*; expected "):
            OptimizerConfig(**{name: value})


def test_a_rate_of_0_is_none():
    params = params_of_two()
    optimizer = make_optimizer(OptimizerConfig(1e-2, 0.0), 10)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert not np.any(jax.tree.leaves(updates["vision"])[0])
    assert np.all(jax.tree.leaves(updates["fusion"])[0] < 0)
