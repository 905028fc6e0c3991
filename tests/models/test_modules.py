"""What exists, what runs, and what may change without changing the numbers."""

import flax.linen as nn
import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import keystr, tree_leaves_with_path

from mplug2_jax.models import config as configs
from mplug2_jax.models.config import MPlug2Config
from mplug2_jax.models.mplug2 import MPlug2, abstract_params, init_params
from mplug2_jax.tasks.base import COMPOSITION
from mplug2_jax.tasks.captioning import Captioning
from mplug2_jax.types import MultimodalBatch, Tokens


def paths(tree) -> set[str]:
    leaves = tree_leaves_with_path(tree)
    return {keystr(path, simple=True, separator="/") for path, _ in leaves}


@pytest.mark.parametrize("task", COMPOSITION)
def test_parameters_are_those_of_the_tasks_modules(task):
    modules = COMPOSITION[task].modules
    found = paths(abstract_params(configs.tiny(), modules))
    tops = {path.split("/")[0] for path in found}
    assert tops == {name for name in modules if name != "local_temporal"}
    assert any("local_temporal" in p for p in found) == ("local_temporal" in modules)
    assert ("universal/latents" in found) == ("vision" in modules)
    crosses = any(p.startswith("universal/") and "cross_attention" in p for p in found)
    assert crosses == ("vision" in modules)


def test_unknown_module_is_named():
    with pytest.raises(ValueError, match="Unknown modules.*audio"):
        abstract_params(configs.tiny(), ("audio",))


def test_every_parameter_carries_logical_axes():
    boxed = jax.eval_shape(
        lambda: init_params(MPlug2(configs.tiny()), jax.random.key(0))
    )
    leaves = jax.tree.leaves(boxed, is_leaf=lambda x: isinstance(x, nn.Partitioned))
    assert leaves and all(isinstance(leaf, nn.LogicallyPartitioned) for leaf in leaves)
    for leaf in leaves:
        assert len(leaf.names) == leaf.value.ndim
    assert boxed["vision"]["blocks"]["mlp"]["up"]["kernel"].names == (
        "layers",
        "embed",
        "mlp",
    )


@pytest.fixture(scope="module")
def encode():
    model = MPlug2(goldens.config("base"), ("vision", "local_temporal", "universal"))
    params = goldens.params("base", model.modules)

    @jax.jit(static_argnums=1)
    def run(frames, is_video):
        def method(model):
            return model.encode_vision(frames, is_video).tokens

        return model.apply({"params": params}, method=method)

    return run


def test_an_image_skips_the_temporal_modules_and_a_video_does_not(encode):
    frame = jnp.array(goldens.frames(goldens.arrays("base")["video"]))[:, :1]
    assert float(jnp.abs(encode(frame, True) - encode(frame, False)).max()) > 0.01
    images_only = MPlug2(goldens.config("base"), ("vision", "universal"))
    params = goldens.params("base", images_only.modules)
    tokens = images_only.apply(
        {"params": params}, frame, False, method="encode_vision"
    ).tokens
    np.testing.assert_allclose(encode(frame, False), tokens, atol=1e-5)


def test_uint8_frames_are_normalised_on_the_device(encode):
    frames = np.random.default_rng(0).integers(0, 256, (1, 4, 28, 28, 3), np.uint8)
    mean = np.array([0.48145466, 0.4578275, 0.40821073])
    std = np.array([0.26862954, 0.26130258, 0.27577711])
    floats = ((frames / 255 - mean) / std).astype(np.float32)
    np.testing.assert_allclose(encode(frames, True), encode(floats, True), atol=1e-5)


def caption_gradients(**numerics):
    config = goldens.config("base").replace(numerics=numerics)
    stored = goldens.arrays("base")
    caption = Tokens(
        jnp.array(stored["caption_ids"]), jnp.array(stored["caption_mask"])
    )
    batch = MultimodalBatch(goldens.frames(stored["video"]), caption=caption)
    task = Captioning(config, prompt_length=3)
    params = goldens.params("base", task.modules)
    return jax.jit(jax.value_and_grad(lambda p: task.loss(p, batch)[0]))(params)


def test_remat_changes_no_number_and_bfloat16_few():
    loss, grads = caption_gradients()
    for policy in ("dots", "full"):
        again, same = caption_gradients(remat=policy)
        assert float(again) == pytest.approx(float(loss), rel=1e-6)
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(same), strict=True):
            # Gradients of key biases are rounding noise near 1e-8.
            atol = 1e-5 * float(jnp.abs(a).max()) + 1e-7
            np.testing.assert_allclose(a, b, atol=atol)
    half, low = caption_gradients(dtype="bfloat16")
    assert float(half) == pytest.approx(float(loss), rel=0.02)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(low))


def test_dropout_and_drop_path_act_only_with_a_random_stream():
    config = goldens.config("base").replace(
        text={"dropout": 0.3, "attention_dropout": 0.3}, vision={"drop_path": 0.5}
    )
    model = MPlug2(config)
    params = goldens.params("base")
    stored = goldens.arrays("base")
    frames = goldens.frames(stored["video"])

    def embeds(rngs=None):
        out = model.apply({"params": params}, frames, rngs=rngs, method="encode_vision")
        return np.array(out.embeds)

    np.testing.assert_allclose(embeds(), stored["visual_embeds"], atol=1e-4)
    one, two = (embeds({"dropout": jax.random.key(k)}) for k in (0, 1))
    assert np.abs(one - two).max() > 0.1
    np.testing.assert_array_equal(one, embeds({"dropout": jax.random.key(0)}))


def test_config_round_trip_and_errors():
    for name in configs.PRESETS:
        config = configs.preset(name)
        assert MPlug2Config.from_dict(config.to_dict()) == config
    values = configs.tiny().to_dict()
    with pytest.raises(ValueError, match=r"Unknown key model\.vision\.depth"):
        MPlug2Config.from_dict({**values, "vision": {**values["vision"], "depth": 3}})
    with pytest.raises(ValueError, match=r"Missing key model\.fusion"):
        MPlug2Config.from_dict({k: v for k, v in values.items() if k != "fusion"})
    with pytest.raises(ValueError, match="patch_size"):
        configs.tiny().replace(vision={"patch_size": 13})
    with pytest.raises(ValueError, match="text.width 96 does not divide"):
        configs.tiny().replace(text={"width": 96, "num_heads": 5})
    with pytest.raises(ValueError, match="No preset 'huge'"):
        configs.preset("huge")


@pytest.mark.parametrize(
    ("name", "millions"), [("tiny", 1.123), ("base", 380.0), ("large", 1031.7)]
)
def test_sizes_of_the_presets(name, millions):
    """Live parameters, padded vocabulary included; `mplug2 modules` prints them."""
    leaves = jax.tree.leaves(abstract_params(configs.preset(name)))
    assert sum(leaf.size for leaf in leaves) / 1e6 == pytest.approx(millions, rel=1e-3)
