"""Heads and the switches of the paper's ablations: what exists, and what it reads."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import keystr, tree_leaves_with_path

from mplug2_jax.boxes import Coordinates
from mplug2_jax.models import config as configs
from mplug2_jax.models.mplug2 import HEADS, MODULES, MPlug2, abstract_params
from mplug2_jax.tasks import TASKS
from mplug2_jax.tasks.base import COMPOSITION
from mplug2_jax.types import Tokens

ALL = (*MODULES, *HEADS)
TEXT = Tokens(jnp.array([[1, 5, 6], [1, 7, 0]]), jnp.array([[1, 1, 1], [1, 1, 0]]))


def paths(config, modules=ALL) -> dict[str, tuple[int, ...]]:
    leaves = tree_leaves_with_path(abstract_params(config, modules))
    return {keystr(p, simple=True, separator="/"): leaf.shape for p, leaf in leaves}


def small(**sections):
    config = configs.tiny().replace(
        vision={"num_layers": 1, "width": 16, "num_heads": 2, "mlp_dim": 16},
        text={"width": 16, "num_heads": 2, "mlp_dim": 16},
        fusion={"num_layers": 1},
        decoder={"num_layers": 1},
    )
    return config.replace(**sections)


def outputs(params, frames, *, config):
    def method(model, frames):
        vision, text = model.encode_vision(frames), model.encode_text_stages(TEXT)
        return vision, text, model.contrast(vision, text)

    modules = ("vision", "local_temporal", "universal", "text", "contrastive")
    return MPlug2(config, modules).apply({"params": params}, frames, method=method)


@functools.cache
def run(config):
    """Parameters drawn on the host, and what they make of two videos and two texts."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, 2, 48, 48, 3), np.uint8)
    params = jax.tree.map(
        lambda leaf: jnp.array(0.3 * rng.normal(size=leaf.shape), leaf.dtype),
        abstract_params(config, ALL),
    )
    return params, jax.jit(functools.partial(outputs, config=config))(params, frames)


def test_heads_are_what_their_conversion_expects():
    found = {k: v for k, v in paths(small()).items() if k.startswith(HEADS)}
    assert found == {
        "contrastive/vision/kernel": (16, 256),
        "contrastive/vision/bias": (256,),
        "contrastive/text/kernel": (16, 256),
        "contrastive/text/bias": (256,),
        "contrastive/temperature": (),
        "matching/kernel": (16, 2),
        "matching/bias": (2,),
        "mlm/embeddings/word/embedding": (128, 16),
        "mlm/head/dense/kernel": (16, 16),
        "mlm/head/dense/bias": (16,),
        "mlm/head/norm/scale": (16,),
        "mlm/head/norm/bias": (16,),
        "mlm/head/bias": (128,),
    }


WITH_HEADS = ("pretraining", "retrieval")


@pytest.mark.parametrize("task", [t for t in TASKS if t not in WITH_HEADS])
def test_fine_tuning_has_no_heads_of_pretraining(task):
    boxes = {"coordinates": Coordinates((1, 2))} if task == "grounding" else {}
    modules = TASKS[task](small(), **boxes).modules
    assert not set(modules) & set(HEADS)
    assert not any(path.startswith(HEADS) for path in paths(small(), modules))


def test_pretraining_is_its_row_of_the_table():
    modules = TASKS["pretraining"](small()).modules
    assert modules == COMPOSITION["pretraining_paired"].modules


def test_features_have_length_one():
    _, (_, _, features) = run(small())
    np.testing.assert_allclose(jnp.linalg.norm(features.vision, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(features.text, axis=1), 1, rtol=1e-5)


def test_contrast_before_or_after_the_universal_layers():
    after, before = (
        small(contrastive={"after": after}) for after in ("universal", "encoder")
    )
    assert paths(after) == paths(before)
    for config, vision_field, text_field in (
        (after, "embeds", "states"),
        (before, "projected", "encoded"),
    ):
        params, (vision, text, features) = run(config)
        head = params["contrastive"]
        for found, states, name in (
            (features.vision, getattr(vision, vision_field), "vision"),
            (features.text, getattr(text, text_field), "text"),
        ):
            raw = states[:, 0] @ head[name]["kernel"] + head[name]["bias"]
            raw = raw / jnp.linalg.norm(raw, axis=1, keepdims=True)
            np.testing.assert_allclose(found, raw, atol=1e-5)


@pytest.mark.parametrize("choice, kept", [("both", "12"), ("first", "1"), ("none", "")])
def test_local_temporal_modules(choice, kept):
    config = small(vision={"local_temporal": choice})
    found = {p.split("/")[2] for p in paths(config) if p.startswith("vision/blocks/")}
    temporal = {name[-1] for name in found if name.startswith("local_temporal_")}
    assert temporal == set(kept)
    frames = jnp.zeros((2, 2, 48, 48, 3), jnp.uint8)
    vision, *_ = jax.eval_shape(
        functools.partial(outputs, config=config), abstract_params(config, ALL), frames
    )
    assert vision.tokens.shape == (2, 1 + 2 * 16, 16)


def test_without_universal_layers_the_encoders_states_stay():
    config = small(universal={"num_layers": 0})
    assert not any(path.startswith("universal/") for path in paths(config))
    depth = paths(config)["text/layers/mlp_norm/scale"][0]
    assert depth == config.text.num_layers
    _, (vision, text, _) = run(config)
    np.testing.assert_array_equal(vision.embeds, vision.tokens)
    np.testing.assert_array_equal(text.states, text.encoded)


def test_number_of_latents():
    config = small(universal={"num_latents": 3})
    assert paths(config)["universal/latents"] == (3, 16)


@pytest.mark.parametrize(
    "section, change, sentence",
    [
        ("vision", {"local_temporal": "second"}, "vision.local_temporal is 'second'"),
        ("contrastive", {"after": "fusion"}, "contrastive.after is 'fusion'"),
    ],
)
def test_unknown_switches_are_named(section, change, sentence):
    values = small().to_dict()
    values[section] |= change
    with pytest.raises(ValueError, match=sentence):
        configs.MPlug2Config.from_dict(values)
