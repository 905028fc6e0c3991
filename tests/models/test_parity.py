"""Every stored tensor, loss, gradient norm and training step of the official code."""

import functools

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.tree_util import keystr, tree_leaves_with_path

from mplug2_jax.models.decoder import Memory
from mplug2_jax.models.mplug2 import MPlug2
from mplug2_jax.tasks.captioning import Captioning
from mplug2_jax.tasks.question_answering import QuestionAnswering
from mplug2_jax.training.optimizer import OptimizerConfig, make_optimizer
from mplug2_jax.types import MultimodalBatch, Tokens

TENSOR_ATOL = 1e-4
MODULE_ATOL = 1e-5
LOSS_RTOL = 1e-5
GRAD_NORM_RTOL = 1e-3
# Keys are shifted by their bias, softmax is not: upstream's stored norms of key biases
# are rounding noise (1e-9 to 1e-7). Ours must be noise too.
NOISE = 1e-6
TRAIN_RTOL = 1e-3


def caption_batch(name):
    stored = goldens.arrays(name)
    caption = Tokens(
        jnp.array(stored["caption_ids"]), jnp.array(stored["caption_mask"])
    )
    return MultimodalBatch(frames=goldens.frames(stored["video"]), caption=caption)


def qa_batch(name):
    stored = goldens.arrays(name)
    tokens = {
        kind: Tokens(
            jnp.array(stored[f"{kind}_ids"]), jnp.array(stored[f"{kind}_mask"])
        )
        for kind in ("question", "answer")
    }
    weights = jnp.ones(len(stored["answer_ids"]))
    frames = goldens.frames(stored["qa_video"])
    return MultimodalBatch(frames=frames, answer_weight=weights, **tokens)


def captioning(name):
    length = int(goldens.arrays(name)["prompt_length"])
    return Captioning(goldens.config(name), prompt_length=length)


@functools.cache
def outputs(name):
    """All tensors of both forward passes in one compiled call."""
    config, stored = goldens.config(name), goldens.arrays(name)

    def forward(model, caption, qa):
        vision = model.encode_vision(caption.frames)
        answering = model.encode_vision(qa.frames)
        states = model.encode_text(qa.question)
        fused = model.fuse(answering.embeds, states, qa.question.mask)
        memory = Memory.of(fused.vision, fused.text, qa.question.mask)
        return {
            "vision_tokens": vision.tokens,
            "universal_vision": vision.universal,
            "visual_embeds": vision.embeds,
            "caption_logits": model.decode(caption.caption, Memory.of(vision.embeds)),
            "question_states": states,
            "fusion_image": fused.vision,
            "fusion_text": fused.text,
            "answer_logits": model.decode(qa.answer, memory),
        }

    model = MPlug2(config)
    run = jax.jit(
        lambda p, *batches: model.apply({"params": p}, *batches, method=forward)
    )
    ours = run(goldens.params(name), caption_batch(name), qa_batch(name))
    words = config.text.vocab_size
    return {
        key: (np.array(value)[..., :words] if "logits" in key else np.array(value))
        for key, value in ours.items()
    }, stored


@pytest.mark.parametrize("name", goldens.NAMES)
def test_every_stored_tensor(name):
    ours, stored = outputs(name)
    for key, value in ours.items():
        np.testing.assert_allclose(
            value, stored[key], rtol=0, atol=TENSOR_ATOL, err_msg=key
        )


@pytest.mark.parametrize("name", goldens.NAMES)
def test_single_modules(name):
    """Each module on the stored input of that module."""
    stored, config = goldens.arrays(name), goldens.config(name)
    qa = qa_batch(name)

    def modules(model, visual_tokens, embeds, states, fused_image, fused_text):
        memory = Memory.of(fused_image, fused_text, qa.question.mask)
        if config.vision.width != config.text.width:
            visual_tokens = model.visual_projection(visual_tokens)
        universal, visual_embeds = model.universal.pool_vision(visual_tokens)
        del embeds
        return {
            "universal_vision": universal,
            "visual_embeds": visual_embeds,
            "question_states": model.encode_text(qa.question),
            "answer_logits": model.decode(qa.answer, memory),
        }

    inputs = ("vision_tokens", "visual_embeds", "question_states", "fusion_image")
    inputs = [jnp.array(stored[key]) for key in (*inputs, "fusion_text")]
    ours = jax.jit(
        lambda p, *a: MPlug2(config).apply({"params": p}, *a, method=modules)
    )(goldens.params(name), *inputs)
    for key, value in ours.items():
        value = np.array(value)[..., : stored[key].shape[-1]]
        np.testing.assert_allclose(
            value, stored[key], rtol=0, atol=MODULE_ATOL, err_msg=key
        )


@functools.cache
def value_and_grad(name, kind):
    task = (
        captioning(name)
        if kind == "caption"
        else QuestionAnswering(goldens.config(name))
    )
    batch = caption_batch(name) if kind == "caption" else qa_batch(name)
    run = jax.jit(jax.value_and_grad(lambda p: task.loss(p, batch)[0]))
    return run(goldens.params(name, task.modules))


@pytest.mark.parametrize("kind", ["caption", "qa"])
@pytest.mark.parametrize("name", goldens.NAMES)
def test_loss(name, kind):
    loss, _ = value_and_grad(name, kind)
    np.testing.assert_allclose(
        loss, goldens.arrays(name)[f"{kind}_loss"], rtol=LOSS_RTOL
    )


@pytest.mark.parametrize("kind", ["caption", "qa"])
@pytest.mark.parametrize("name", goldens.NAMES)
def test_gradient_norms(name, kind):
    """Gradients go back through the converter and are compared under its names."""
    from mplug2_jax.conversion import export_state_dict

    _, grads = value_and_grad(name, kind)
    stored = goldens.read_json(name, f"{kind}_grad_norms.json")
    total = goldens.read_json(name, "config.json")["bert"]["num_hidden_layers"]
    ours = export_state_dict(grads, goldens.config(name), fusion_total=total)
    tied = ("predictions.decoder.weight", "predictions.decoder.bias")
    norms = {
        key: float(np.linalg.norm(np.asarray(grad, np.float64)))
        for key, grad in ours.items()
        if not key.endswith(tied)
    }
    assert {k for k in norms if norms[k] > 0} <= set(stored)
    assert set(stored) <= set(norms)
    for key, norm in stored.items():
        if norm < NOISE:
            assert norms[key] < NOISE, key
        else:
            assert norms[key] == pytest.approx(norm, rel=GRAD_NORM_RTOL), key


@pytest.mark.parametrize("name", goldens.NAMES)
def test_six_training_steps(name):
    """AdamW, two learning rates, upstream's decay rule, no dropout, no schedule."""
    task, batch = captioning(name), caption_batch(name)
    recipe = goldens.read_json(name, "config.json")["optimizer"]
    optimizer = make_optimizer(
        OptimizerConfig(
            learning_rate=recipe["lr1"],
            vision_learning_rate=recipe["lr2"],
            weight_decay=recipe["weight_decay"],
            b1=recipe["betas"][0],
            b2=recipe["betas"][1],
            eps=recipe["eps"],
            schedule="constant",
        ),
        steps=6,
    )
    params = goldens.params(name, task.modules)

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(lambda p: task.loss(p, batch)[0])(params)
        updates, state = optimizer.update(grads, state, params)
        return loss, optax.apply_updates(params, updates), state

    state, losses = optimizer.init(params), []
    for _ in range(6):
        loss, params, state = step(params, state)
        losses.append(float(loss))
    np.testing.assert_allclose(
        losses, goldens.arrays(name)["train_losses"], rtol=TRAIN_RTOL
    )


def test_parameters_exist_only_for_modules_used():
    paths = {
        keystr(path, simple=True, separator="/")
        for path, _ in tree_leaves_with_path(
            goldens.params("base", captioning("base").modules)
        )
    }
    assert not any(path.startswith(("text/", "fusion/")) for path in paths)
