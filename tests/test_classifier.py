"""Classes of media: views, batches, trained classifiers and prompts."""

import dataclasses

import flax.linen as nn
import goldens
import jax
import numpy as np
import pytest
import small
from PIL import Image

from mplug2_jax.classifier import Classifier, PromptClassifier
from mplug2_jax.data.video import Media, read_media, read_video, sample_indices
from mplug2_jax.data.views import Views, read_views, three_crops
from mplug2_jax.models.mplug2 import MPlug2, init_params
from mplug2_jax.predictor import Predictor
from mplug2_jax.retriever import Retriever
from mplug2_jax.tasks.base import COMPOSITION
from mplug2_jax.tasks.generation import missing

CLASSES = tuple(f"kind {i}" for i in range(7))
MODULES = COMPOSITION["action_classification"].modules
CONTRAST = ("vision", "local_temporal", "universal", "text", "contrastive")
ATOL = 1e-5


def fresh(modules, config):
    """The goldens' weights, with heads drawn at random."""
    model = MPlug2(config, modules)
    drawn = jax.jit(lambda key: init_params(model, key))(jax.random.key(7))
    params = {**nn.meta.unbox(drawn), **small.params()}
    keep = {*modules, "visual_projection"}
    return model, {k: v for k, v in params.items() if k in keep}


@pytest.fixture(scope="module")
def classifier():
    config = goldens.config("base").replace(classifier={"num_classes": len(CLASSES)})
    model, params = fresh(MODULES, config)
    params["classifier"] = jax.tree.map(lambda a: 20 * a, params["classifier"])
    inputs = dataclasses.replace(small.INPUTS, classes=CLASSES)
    its = Predictor(model, params, small.tokenizer(), inputs, batch_size=2)
    return Classifier(its)


def test_clips_divide_every_interval_evenly():
    assert sample_indices(40, 4).tolist() == [4, 14, 24, 34]
    three = sample_indices(36, 3, clips=3).reshape(3, 3)
    assert three.tolist() == [[1, 13, 25], [5, 17, 29], [9, 21, 33]]
    for count in (1, 2, 5, 31, 100):
        for clips in (1, 2, 3, 4, 7):
            found = sample_indices(count, 4, clips=clips).reshape(clips, 4)
            parts = min(count, 4)
            bounds = np.linspace(0, count, parts + 1).astype(int)
            own = found[:, :parts]
            assert (own >= bounds[:-1]).all() and (own < bounds[1:]).all()
            assert (np.diff(found, axis=0) >= 0).all()
        middle = sample_indices(count, 4)
        assert np.array_equal(middle, sample_indices(count, 4, clips=1))


def test_crops_lie_along_the_longer_side():
    wide = np.zeros((2, 10, 30, 3), np.uint8)
    wide[:, :, :10], wide[:, :, 10:20], wide[:, :, 20:] = 50, 100, 200
    left, centre, right = three_crops(wide, 10).reshape(3, 2, 10, 10, 3)
    for crop, value in ((left, 50), (centre, 100), (right, 200)):
        assert (crop == value).all()
    top, _, bottom = three_crops(wide.transpose(0, 2, 1, 3), 10).reshape(3, 2, -1)
    assert (top == 50).all() and (bottom == 200).all()
    assert three_crops(wide, 5).shape == (6, 5, 5, 3)


def test_views_of_a_file_are_clips_in_crops(tmp_path):
    (path,) = small.write_clips(tmp_path, 1)
    single = read_views(path, 2, 14, Views())
    assert np.array_equal(single.frames, read_media(path, 2, 14).frames)
    found = read_views(path, 2, 14, Views(clips=2, crops=3))
    assert found.frames.shape == (2 * 2 * 3, 14, 14, 3) and found.views == 6
    clips = read_video(path, 2, None, clips=2)
    assert np.array_equal(found.frames, three_crops(clips, 14))
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 60, 3), "u1")).save(
        photo
    )
    image = read_views(photo, 2, 20, Views(clips=4, crops=3))
    assert (image.image, image.views, len(image.frames)) == (True, 3, 3)
    assert not np.array_equal(image.frames[0], image.frames[2])
    for clips, crops in ((0, 1), (1, 2), (1, 0)):
        with pytest.raises(ValueError, match="expected 1 clip or more, and 1 or 3"):
            Views(clips, crops)


def test_probabilities_do_not_depend_on_the_batch(classifier):
    media = [small.clip(0), small.clip(1)[0], small.clip(2)]
    shapes = classifier.shapes([0] * 3)
    together = classifier.classify_media(
        [classifier.predictor.medium(m) for m in media], shapes, len(CLASSES)
    )
    for medium, found in zip(media, together, strict=True):
        again = classifier.classify(medium, top_k=len(CLASSES))
        shares = {h.text: h.score for h in found.hypotheses}
        assert sum(shares.values()) == pytest.approx(1, abs=ATOL)
        assert set(shares) == set(CLASSES)
        scores = [h.score for h in found.hypotheses]
        assert scores == sorted(scores, reverse=True)
        for hypothesis in again.hypotheses:
            assert hypothesis.score == pytest.approx(shares[hypothesis.text], abs=ATOL)
    assert len({found.text for found in together}) > 1  # the medium matters


def test_views_are_averaged_as_probabilities(classifier):
    views = [small.clip(i) for i in range(2)]
    medium = Media(np.concatenate(views), image=False, views=2)
    (found,) = classifier.classify_media(
        [medium], classifier.shapes([0]), top_k=len(CLASSES)
    )
    each = [classifier.classify(view, top_k=len(CLASSES)) for view in views]
    shares = [{h.text: h.score for h in its.hypotheses} for its in each]
    mean = {name: np.mean([its[name] for its in shares]) for name in CLASSES}
    assert {h.text: h.score for h in found.hypotheses} == pytest.approx(mean, abs=ATOL)
    assert max(abs(mean[n] - shares[0][n]) for n in CLASSES) > 100 * ATOL


def test_who_can_classify_what():
    rows = {
        "classification": ("action_classification", "image_classification"),
        "pairs": ("pair_classification",),
        "text_classification": ("text_classification",),
    }
    for task in rows:
        for row in (name for names in rows.values() for name in names):
            able = not missing(task, COMPOSITION[row].modules)
            assert able == (row in rows[task]), (task, row)


def test_what_cannot_be_classified_is_named(classifier):
    its = classifier.predictor
    with pytest.raises(ValueError, match="top_k=8 classes.*there are 1 to 7"):
        classifier.classify(small.clip(0), top_k=8)
    with pytest.raises(ValueError, match="scores 7 classes, inputs.classes names 0"):
        Classifier(dataclasses.replace(its, inputs=small.INPUTS))
    with pytest.raises(ValueError, match="cannot classify media: it has no classifier"):
        Classifier(small.predictor())
    pair = MPlug2(its.model.config, COMPOSITION["pair_classification"].modules)
    with pytest.raises(ValueError, match="no classifier without text"):
        Classifier(dataclasses.replace(its, model=pair))
    two = Media(np.stack([small.clip(0)[0]] * 2), image=True)
    with pytest.raises(ValueError, match="has 2 images; the model was trained on 1"):
        classifier.classify_media([two], classifier.shapes([0]))


@pytest.fixture(scope="module")
def retriever():
    model, params = fresh(CONTRAST, goldens.config("base"))
    return Retriever(
        Predictor(model, params, small.tokenizer(), small.INPUTS, batch_size=2)
    )


def test_prompts_are_averaged_and_compared(retriever):
    names, templates = ["w1", "w44_w5", "w91"], ["w3 {}", "{} w6"]
    its = PromptClassifier(retriever, names, templates)
    prompts = [t.replace("{}", n) for n in ("w1", "w44 w5", "w91") for t in templates]
    texts = retriever.encode_texts(prompts).features.reshape(3, 2, -1)
    mean = texts.mean(axis=1)
    mean /= np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(its.features, mean, atol=ATOL)
    assert abs(np.linalg.norm(texts.mean(axis=1), axis=1) - 1).max() > ATOL
    clip = small.clip(0)
    (vector,) = retriever.encode_media([clip]).features
    scores = vector @ mean.T / retriever.temperature
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    found = its.classify(clip, top_k=3)
    said = {h.text: h.score for h in found.hypotheses}
    assert said == pytest.approx(dict(zip(names, shares, strict=True)), abs=1e-4)
    both = Media(np.concatenate([clip, clip]), image=False, views=2)
    (again,) = its.classify_media([both], its.shapes([0]), 3)
    assert {h.text: h.score for h in again.hypotheses} == pytest.approx(said, abs=1e-4)


def test_prompts_that_cannot_be_compared_are_named(retriever):
    with pytest.raises(ValueError, match="template 'a photo' has no {} for the class"):
        PromptClassifier(retriever, ["a", "b"], ["a photo"])
    for names in (["a"], ["a", "a"]):
        with pytest.raises(ValueError, match="1 different ones; name two or more"):
            PromptClassifier(retriever, names)
    two = Media(np.stack([small.clip(0)[0]] * 2), image=True)
    its = PromptClassifier(retriever, ["w1", "w91"])
    with pytest.raises(ValueError, match="has 2 images; the model was trained on 1"):
        its.classify_media([two], its.shapes([0]))
