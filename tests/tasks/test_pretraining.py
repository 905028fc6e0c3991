"""Pretraining: the objectives against the official family's numbers, and promises."""

import functools

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ScopeParamNotFoundError

from mplug2_jax.conversion import convert_state_dict, export_state_dict
from mplug2_jax.models import config as configs
from mplug2_jax.models.mplug2 import HEADS, MODULES
from mplug2_jax.tasks import objectives as terms
from mplug2_jax.tasks.base import COMPOSITION
from mplug2_jax.tasks.masking import Masked
from mplug2_jax.tasks.negatives import Negatives, same_texts
from mplug2_jax.tasks.pretraining import Models, ObjectivesConfig, Pretraining
from mplug2_jax.types import MultimodalBatch, Tokens

RTOL = 1e-4  # of losses and gradient norms; tensors absolutely
NOISE = 1e-6  # norms of key biases are rounding noise, see test_parity
NAMES = ("base", "proj")


def stored(name):
    return goldens.arrays(name, "pretrain.npz")


def tokens(name, kind):
    ids, mask = (stored(name)[f"{kind}_{part}"] for part in ("ids", "mask"))
    return Tokens(jnp.array(ids, jnp.int32), jnp.array(mask, jnp.int32))


def golden_batch(name):
    return MultimodalBatch(
        goldens.frames(stored(name)["video"]),
        caption=tokens(name, "text"),
        question=tokens(name, "prefix"),
        answer=tokens(name, "target"),
    )


def golden_masked(name):
    labels = jnp.array(stored(name)["mlm_labels"], jnp.int32)
    ids = jnp.array(stored(name)["mlm_ids"], jnp.int32)
    text = Tokens(ids, tokens(name, "text").mask)
    return Masked(text, jnp.maximum(labels, 0), labels >= 0)


@functools.cache
def golden_run(name):
    """Outputs, metrics and gradients of one compiled call, masks and draws fixed."""
    config = goldens.config(name).replace(contrastive={"width": 32})
    task, batch, masked = Pretraining(config), golden_batch(name), golden_masked(name)
    params, teacher, _ = convert_state_dict(
        goldens.state_dict(name, "pretrain"), config, task.modules
    )
    numbers = stored(name)
    keys = [numbers[f"negative_{kind}_index"] for kind in ("vision", "text")]
    negatives = Negatives(*map(jnp.array, keys))
    queue = {
        "vision": jnp.array(numbers["vision_queue"].T),
        "text": jnp.array(numbers["text_queue"].T),
        "position": jnp.int32(0),
    }

    def loss(params, teacher, queue):
        models = Models(task.model, params, teacher)
        alpha = jnp.array(numbers["alpha"])
        total, given = task.paired_loss(models, batch, masked, negatives, alpha, queue)
        own, taught = (
            task.encode(run, batch, task.texts(batch, masked), 1)
            for run in (models.student, models.taught)
        )
        others = task.others(own, negatives)
        out = models.student(lambda m: task.fuse(m, own, others, batch))
        keys = terms.keys_of(own.features, taught.features, queue)
        same, temperature = same_texts(batch.caption), task.temperature(models)
        weights = terms.hard_negative_weights(own.features, keys, temperature, same)
        return total, (own, taught, out, given.metrics, weights, given.queue)

    (total, aux), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        params, teacher, queue
    )
    return config, total, aux, grads


@pytest.mark.parametrize("name", NAMES)
def test_losses(name):
    numbers, (_, total, (_, _, out, metrics, *_), _) = stored(name), golden_run(name)
    pairs = {"vlc": "vlc", "vlm": "vlm", "mlm": "mlm", "ilm": "prefix"}
    for ours, theirs in pairs.items():
        np.testing.assert_allclose(
            metrics[f"loss_{ours}"], numbers[f"loss_{theirs}"], rtol=RTOL, err_msg=ours
        )
    expected = sum(numbers[f"loss_{theirs}"] for theirs in pairs.values())
    np.testing.assert_allclose(total, expected, rtol=RTOL)
    hard = terms.masked_words(out.masked, golden_masked(name)).metrics("mlm")
    np.testing.assert_allclose(hard["loss_mlm"], numbers["loss_mlm_hard"], rtol=RTOL)
    hard = terms.instructed(out.target, golden_batch(name).answer).metrics("ilm")
    np.testing.assert_allclose(hard["loss_ilm"], numbers["loss_prefix_hard"], rtol=RTOL)


@pytest.mark.parametrize("name", NAMES)
def test_features_negatives_and_matching(name):
    numbers, (_, _, (own, _, out, _, weights, _), _) = stored(name), golden_run(name)
    found = {
        "vision_features": own.features.vision,
        "text_features": own.features.text,
        "negative_weights_v2t": weights[0],
        "negative_weights_t2v": weights[1],
        "vlm_logits": out.matching.swapaxes(0, 1).reshape(-1, 2),
    }
    for key, value in found.items():
        np.testing.assert_allclose(value, numbers[key], atol=RTOL, rtol=0, err_msg=key)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_norms(name):
    config, _, _, grads = golden_run(name)
    norms = goldens.read_json(name, "pretrain_grad_norms.json")
    total = goldens.read_json(name, "config.json")["bert"]["num_hidden_layers"]
    ours = export_state_dict(grads, config, fusion_total=total)
    ours = {k: np.linalg.norm(np.asarray(v, np.float64)) for k, v in ours.items()}
    for key, norm in norms.items():
        found = ours[key.replace("fusion_encoder.bert.", "fusion_encoder.")]
        if norm < NOISE:
            assert found < 10 * NOISE, key
        else:
            assert found == pytest.approx(norm, rel=RTOL, abs=NOISE), key
    listed = {key.replace("fusion_encoder.bert.", "fusion_encoder.") for key in norms}
    tied = (".decoder.weight", ".decoder.bias", "fusion_encoder.embeddings")
    others = {k for k, norm in ours.items() if k not in listed and norm > 10 * NOISE}
    assert not {k for k in others if not (k.endswith(tied[:2]) or tied[2] in k)}


def test_the_next_queue_starts_with_the_teachers_features():
    _, _, (_, taught, _, _, _, queue), _ = golden_run("base")
    np.testing.assert_array_equal(queue["text"][:4], taught.features.text)
    np.testing.assert_array_equal(queue["vision"][:4], taught.features.vision)
    np.testing.assert_array_equal(queue["text"][4:], stored("base")["text_queue"].T[4:])
    assert int(queue["position"]) == 4


# A model so small that it compiles in a moment.

SMALL = configs.tiny().replace(
    vision={
        "width": 16,
        "num_layers": 1,
        "num_heads": 2,
        "patch_size": 8,
        "image_size": 16,
        "mlp_dim": 16,
    },
    text={"width": 16, "num_heads": 2, "num_layers": 2, "mlp_dim": 16},
    fusion={"num_layers": 1},
    decoder={"num_layers": 1},
    universal={"num_layers": 1, "num_latents": 2},
    contrastive={"width": 8},
)
OBJECTIVES = ObjectivesConfig(queue_size=10, cls_id=1, mask_id=3, mlm_probability=0.4)
TASK = Pretraining(SMALL, OBJECTIVES)


def random_tokens(rows, length, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, 128, (rows, length), np.int32)
    ids[:, 0] = 1
    lengths = rng.integers(2, length + 1, (rows, 1))
    mask = (np.arange(length) < lengths).astype(np.int32)
    return Tokens(jnp.array(ids * mask), jnp.array(mask))


def pairs(rows=4, is_video=True):
    rng = np.random.default_rng(1)
    shape = (rows, 2 if is_video else 1, 16, 16, 3)
    return MultimodalBatch(
        jnp.array(rng.integers(0, 256, shape, np.uint8)),
        caption=random_tokens(rows, 6, 2),
        question=random_tokens(rows, 4, 3),
        answer=random_tokens(rows, 5, 4),
        is_video=is_video,
    )


TEXTS = MultimodalBatch(text=random_tokens(3, 7), is_video=False)
TEXTS_OF_FOUR = MultimodalBatch(text=random_tokens(4, 7), is_video=False)


@functools.cache
def params():
    return jax.jit(TASK.init)(jax.random.key(0))


@functools.cache
def stepper():
    def run(params, batch, rng, teacher, queue):
        return jax.value_and_grad(TASK.loss, has_aux=True)(
            params, batch, rng, teacher, 0.4, queue
        )

    return jax.jit(run)


def gradient_size(grads, module):
    return sum(float(jnp.abs(leaf).sum()) for leaf in jax.tree.leaves(grads[module]))


def test_a_batch_of_pairs_reaches_every_module_and_the_queue():
    queue = TASK.init_queue()
    np.testing.assert_allclose(jnp.linalg.norm(queue["text"], axis=1), 1, rtol=1e-5)
    arguments = (pairs(), jax.random.key(1), params(), queue)
    (loss, out), grads = stepper()(params(), *arguments)
    names = ("vlc", "vlm", "mlm", "ilm")
    parts = [float(out.metrics[f"loss_{name}"]) for name in names]
    assert float(loss) == pytest.approx(sum(parts), rel=1e-5)
    assert all(np.isfinite(list(map(float, out.metrics.values()))))
    assert {f"accuracy_{name}" for name in names} < set(out.metrics)
    assert set(grads) == set(TASK.modules) - {"local_temporal"}
    assert all(gradient_size(grads, module) > 0 for module in grads)
    assert int(out.queue["position"]) == 4
    (again, _), _ = stepper()(params(), *arguments)
    assert float(again) == float(loss)
    (other, _), _ = stepper()(params(), pairs(), jax.random.key(2), *arguments[2:])
    assert float(other) != float(loss)


def test_a_batch_of_texts_needs_only_its_modules():
    row = COMPOSITION["pretraining_text"].modules
    only = {name: params()[name] for name in row}
    queue = TASK.init_queue()
    (loss, out), grads = stepper()(only, TEXTS, jax.random.key(1), only, queue)
    assert set(out.metrics) == {"loss_mlm", "accuracy_mlm"}
    assert float(loss) == float(out.metrics["loss_mlm"]) > 0
    assert gradient_size(grads, "mlm") > 0 and gradient_size(grads, "text") > 0
    jax.tree.map(np.testing.assert_array_equal, out.queue, queue)


@pytest.mark.parametrize("batch", [pairs(), TEXTS_OF_FOUR], ids=["pairs", "texts"])
def test_parts_change_nothing(batch):
    """Contrast, negatives and masks are the whole batch's, however it is processed."""
    teacher = jax.tree.map(lambda x: 0.9 * x, params())

    def run(parts):
        arguments = params(), batch, jax.random.key(1), teacher, 0.4, TASK.init_queue()
        return jax.jit(lambda *a: TASK.gradients(*a, parts=parts))(*arguments)

    (loss, out), grads = run(1)
    (other, parted), gradients = run(2)
    assert float(other) == pytest.approx(float(loss), rel=1e-6)
    assert parted.metrics.keys() == out.metrics.keys()
    for name, value in out.metrics.items():
        assert float(parted.metrics[name]) == pytest.approx(float(value), rel=1e-5), (
            name
        )
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-6),
        parted.queue,
        out.queue,
    )
    for one, same in zip(*map(jax.tree.leaves, (gradients, grads)), strict=True):
        assert jnp.linalg.norm(one - same) <= 1e-4 * jnp.linalg.norm(same) + NOISE


@pytest.mark.parametrize(
    "weights, absent",
    [
        ({"ilm": 0}, {"decoder"}),
        ({"mlm": 0}, {"mlm"}),
        ({"vlm": 0}, {"matching"}),
        ({"vlc": 0}, set()),  # hard negatives need the features
        ({"vlc": 0, "vlm": 0}, {"contrastive", "matching"}),
        ({"vlm": 0, "mlm": 0, "ilm": 0}, {"matching", "mlm", "decoder", "fusion"}),
    ],
)
def test_an_objective_that_is_off_costs_nothing(weights, absent):
    task = Pretraining(SMALL, ObjectivesConfig(**weights, queue_size=10))
    assert set(task.modules) == {*MODULES, *HEADS} - absent
    own = {k: v for k, v in params().items() if k in task.modules}
    (_, out), grads = jax.eval_shape(
        lambda p: jax.value_and_grad(task.loss, has_aux=True)(p, pairs()), own
    )
    off = {f"loss_{name}" for name, weight in weights.items() if weight == 0}
    if weights.keys() != {"vlc"}:
        assert not off & set(out.metrics)
    assert set(grads) == set(own)
    assert (task.init_queue() is None) == ("contrastive" in absent)


def test_without_a_queue_the_batch_alone_is_contrasted():
    task = Pretraining(SMALL, ObjectivesConfig(negatives="batch"))
    assert task.init_queue() is None
    rng = jax.random.key(0)
    _, out = jax.eval_shape(lambda p: task.loss(p, pairs(), rng, p, 0.4), params())
    assert out.queue is None and "loss_vlc" in out.metrics


def test_images_skip_the_temporal_modules():
    blocks = {k: v for k, v in params()["vision"]["blocks"].items() if "local" not in k}
    without = params() | {"vision": params()["vision"] | {"blocks": blocks}}
    jax.eval_shape(TASK.loss, without, pairs(2, is_video=False))
    with pytest.raises(ScopeParamNotFoundError, match="local_temporal_1"):
        jax.eval_shape(TASK.loss, without, pairs(2))


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"vlc": -1.0}, "none below 0 and one above"),
        ({"vlc": 0, "vlm": 0, "mlm": 0, "ilm": 0}, "one above"),
        ({"negatives": "bank"}, "negatives is 'bank'; expected 'queue' or 'batch'"),
        ({"queue_size": 0}, "queue_size is 0; expected at least 1"),
        ({"mlm_probability": 1.5}, "mlm_probability is 1.5"),
        ({"min_temperature": 0.7}, "temperature ranges from 0.7 to 0.5"),
    ],
)
def test_objectives_that_make_no_sense(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        ObjectivesConfig(**change)


@pytest.mark.parametrize(
    "task, batch, sentence",
    [
        (TASK, pairs(1), "A batch of one pair has no negatives"),
        (Pretraining(SMALL, OBJECTIVES, shards=3), pairs(), "mesh's 3 pieces"),
        (TASK, pairs(12), "12 pairs do not fit into objectives.queue_size 10"),
        (TASK, pairs().replace(caption=None), "no caption"),
        (TASK, pairs().replace(caption=random_tokens(8, 4)), "8 rows of caption for 4"),
        (
            Pretraining(SMALL, ObjectivesConfig(mlm=0)),
            TEXTS,
            "serves objectives.mlm alone, which is 0",
        ),
        (
            Pretraining(SMALL, ObjectivesConfig(vlc=0, vlm=0, mlm=0)),
            pairs().replace(question=None),
            "no question, which objectives.ilm reads",
        ),
    ],
)
def test_batches_that_do_not_fit(task, batch, sentence):
    with pytest.raises(ValueError, match=sentence):
        jax.eval_shape(lambda p: task.loss(p, batch, queue=task.init_queue()), params())
