"""Boxes of phrases: what is decoded, from which encoding, in which pixels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from PIL import Image

from mplug2_jax.data.tokenizers import WordPieceTokenizer
from mplug2_jax.drawing import COLORS, draw_boxes
from mplug2_jax.grounder import Grounder
from mplug2_jax.models.mplug2 import MPlug2
from mplug2_jax.predictor import Predictor
from mplug2_jax.tasks.base import COMPOSITION
from mplug2_jax.tasks.question_answering import question_memory
from mplug2_jax.types import Tokens

BINS = 32
PHRASES = ("w1 w2", "w44", "w10 w6 w5")
MODULES = COMPOSITION["grounding"].modules


def tokenizer():
    """The small vocabulary, a part of it unused by texts."""
    pieces = [f"w{index}" for index in range(120)]
    pieces[0], pieces[100:104] = "[PAD]", ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    for index in range(BINS):
        pieces[60 + index] = f"[unused{index}]"
    return WordPieceTokenizer.from_vocab(pieces)


def predictor(batch_size=4, bins=BINS):
    params = {name: small.params()[name] for name in MODULES}
    model = MPlug2(small.metadata().config, MODULES)
    inputs = dataclasses.replace(small.INPUTS, num_bins=bins)
    return Predictor(model, params, tokenizer(), inputs, batch_size=batch_size)


def picture(index=0, width=56, height=42):
    pixels = small.clip(index)[1]
    return np.asarray(Image.fromarray(pixels).resize((width, height)))


@pytest.fixture(scope="module")
def grounder():
    return Grounder(predictor())


def test_steps_are_the_best_of_a_whole_recomputation(grounder):
    its, pixels = grounder.predictor, picture()
    found = grounder.ground(pixels, PHRASES)
    steps = np.floor(np.array([f.box for f in found]) * BINS).astype(int)
    ids = np.array(grounder.coordinates.ids)
    rows = np.concatenate([np.full((3, 1), its.tokenizer.start_id), ids[steps]], axis=1)
    frames = its.medium(pixels).frames[None]

    def logits(model, frames, phrase, boxes):
        vision = model.encode_vision(frames, is_video=False).embeds
        return model.decode(boxes, question_memory(model, vision, phrase))

    phrase = its.inputs.questions(its.tokenizer, list(PHRASES))
    boxes = Tokens(jnp.array(rows), jnp.ones_like(jnp.array(rows)))

    @jax.jit
    def recompute(params, *given):
        return its.model.apply({"params": params}, *given, method=logits)

    whole = recompute(its.params, frames, phrase, boxes)
    whole = np.asarray(whole[:, :4], np.float64)[..., ids]
    unrestricted = whole.argmax(-1)
    for row, (x0, y0, _, _) in enumerate(steps):
        total = 0.0
        for place, least in enumerate((0, 0, x0 + 1, y0 + 1)):
            scores = whole[row, place, least : BINS - (place < 2)]
            assert steps[row, place] == least + scores.argmax()
            total += scores.max() - np.log(np.exp(scores).sum())
        assert found[row].probability == pytest.approx(np.exp(total), rel=1e-4)
    assert len({f.box for f in found}) > 1  # the phrase matters
    assert (unrestricted != steps).any(), "no step was restricted; choose other phrases"


def test_boxes_have_an_area_whatever_the_model_prefers(grounder):
    """A model that wants every end as far right as can be, and one the other way."""
    its, ids = grounder.predictor, jnp.array(grounder.coordinates.ids)
    for slope, (low, high) in ((1e3, (BINS - 2, BINS - 1)), (-1e3, (0, 1))):
        params = jax.tree.map(lambda leaf: leaf, its.params)
        head = params["decoder"]["head"]
        head["bias"] = head["bias"].at[ids].add(slope * jnp.arange(BINS))
        (found,) = Grounder(its.replace_params(params)).ground(picture(), PHRASES[:1])
        ends = np.array((low, low, high, high))
        assert found.box == pytest.approx((ends + 0.5) / BINS)
        assert found.probability == pytest.approx(1)


def test_boxes_do_not_depend_on_the_batch(grounder, tmp_path):
    together = grounder.ground(picture(), PHRASES)
    alone = Grounder(predictor(batch_size=1))
    for phrase, found in zip(PHRASES, together, strict=True):
        (its,) = alone.ground(picture(), [phrase])
        assert its.box == found.box and its.phrase == phrase
        assert its.probability == pytest.approx(found.probability, rel=1e-4)
    path = tmp_path / "p.png"
    Image.fromarray(picture()).save(path)
    assert grounder.ground(path, PHRASES) == together
    repeated = grounder.ground(picture(), PHRASES * 3)  # more than one group
    assert [f.box for f in repeated] == [f.box for f in together] * 3


def test_pixels_are_those_of_the_original(grounder):
    (found,) = grounder.ground(picture(width=56, height=42), PHRASES[:1])
    (wide,) = grounder.ground(picture(width=112, height=42), PHRASES[:1])
    assert found.size == (56, 42) and wide.size == (112, 42)
    x0, y0, x1, y1 = found.box
    assert found.pixels == pytest.approx((56 * x0, 42 * y0, 56 * x1, 42 * y1))


def test_what_cannot_be_grounded_is_named(grounder, tmp_path):
    with pytest.raises(ValueError, match="phrase is empty"):
        grounder.ground(picture(), ["w1", " "])
    with pytest.raises(ValueError, match="no image; expected H W 3"):
        grounder.ground(small.clip(0), PHRASES)
    with pytest.raises(ValueError, match=r"no boxes \(inputs.num_bins is 0\)"):
        Grounder(predictor(bins=0))
    with pytest.raises(ValueError, match="cannot find what a phrase names"):
        modules = tuple(m for m in MODULES if m != "decoder")
        model = MPlug2(small.metadata().config, modules)
        Grounder(dataclasses.replace(grounder.predictor, model=model))
    with pytest.raises(ValueError, match="from 2 to 32 bins"):
        Grounder(predictor(bins=33)).ground(picture(), PHRASES)


def test_boxes_are_drawn_where_they_are_in_colours_of_their_own():
    pixels = np.full((400, 600, 3), 90, np.uint8)
    boxes = [(0.1, 0.25, 0.4, 0.75), (0.5, 0.5, 0.9, 0.95)]
    drawn = np.asarray(draw_boxes(pixels, boxes, ["a red cup", "a dog"]))
    assert drawn.shape == pixels.shape
    for (x0, y0, x1, y1), color in zip(boxes, COLORS, strict=False):
        rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        ys, xs = np.nonzero((drawn == rgb).all(-1))
        at = (xs.min() / 600, xs.max() / 600, ys.max() / 400)
        assert at == pytest.approx((x0, x1, y1), abs=0.01)
        assert ys.min() / 400 < y0  # the label stands above
        inside = drawn[int(y0 * 400) + 9 : int(y1 * 400) - 9, int(x0 * 600) + 9]
        assert (inside == 90).all()
    tiny = draw_boxes(np.zeros((48, 48, 3), np.uint8), [(0, 0, 1, 1)], ["w"])
    assert tiny.size == (336, 336)
