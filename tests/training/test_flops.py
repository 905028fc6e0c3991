"""FLOPs counted from the program are those of the arithmetic."""

import jax
import jax.numpy as jnp

from mplug2_jax.tasks import ImageClassification
from mplug2_jax.training.flops import model_flops, step_flops
from mplug2_jax.training.optimizer import OptimizerConfig, make_optimizer
from mplug2_jax.training.step import DistillationConfig, abstract_state, make_step
from mplug2_jax.types import MultimodalBatch

X, W = (
    jax.ShapeDtypeStruct((8, 16), "float32"),
    jax.ShapeDtypeStruct((16, 16), "float32"),
)
ONE = 2 * 8 * 16 * 16


def layers(x, w, count):
    return jax.lax.scan(lambda x, _: (x @ w, None), x, length=count)[0]


def test_loops_count_as_often_as_they_run():
    assert step_flops(lambda x, w: layers(x, w, 5), X, W) == 5 * ONE
    assert step_flops(jax.jit(lambda x, w: layers(x, w, 5) @ w), X, W) == 6 * ONE


def test_gradients_cost_twice_and_recomputation_once_more():
    def loss(x, w):
        return jnp.sum(jnp.tanh(x @ w) @ w)

    both = jax.grad(loss, argnums=(0, 1))
    assert step_flops(both, X, W) == 6 * ONE
    again = jax.grad(jax.checkpoint(loss), argnums=(0, 1))
    assert step_flops(again, X, W) > 6 * ONE


def test_convolutions_count_each_group_by_itself():
    def convolve(x, kernel, groups):  # B T D, 3 D/groups D
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (1,),
            "VALID",
            dimension_numbers=("NWC", "WIO", "NWC"),
            feature_group_count=groups,
        )

    x = jnp.ones((2, 12, 8))
    for groups in (1, 8):
        kernel = jnp.ones((3, 8 // groups, 8))
        expected = 2 * (2 * 10 * 8) * (3 * 8 // groups)
        assert (
            step_flops(lambda x, k, g=groups: convolve(x, k, g), x, kernel) == expected
        )


def test_a_model_s_flops_are_without_recomputation(small_config):
    """Of a step that keeps all activations, whatever the run itself does."""
    frames = jax.ShapeDtypeStruct((4, 1, 24, 24, 3), "uint8")
    label = jax.ShapeDtypeStruct((4,), "int32")
    batch = MultimodalBatch(frames, label=label, is_video=False)
    rest = make_optimizer(OptimizerConfig(), 10), DistillationConfig()
    counted = {}
    for remat in ("none", "full"):
        task = ImageClassification(small_config.replace(numerics={"remat": remat}))
        state, key = abstract_state(task, *rest), jax.random.key(0)
        counted[remat] = step_flops(make_step(task, *rest), state, batch, key)
    assert model_flops(task, *rest, batch) == counted["none"]
    assert counted["full"] > 1.2 * counted["none"]
