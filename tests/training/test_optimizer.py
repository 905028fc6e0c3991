"""Which parameters decay, at which rate they learn, and when."""

import jax
import numpy as np
import optax
import pytest
from jax.tree_util import keystr, tree_leaves_with_path

from mplug2_jax.models.config import large
from mplug2_jax.models.mplug2 import abstract_params
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
        make_optimizer(OptimizerConfig(schedule="linear"), 10)


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
