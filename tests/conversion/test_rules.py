"""Matching keys against the table: each fate, and the reasons of the dead."""

import re

import goldens
import numpy as np
import pytest

from mplug2_jax.checkpoint.lazy import LazyArray
from mplug2_jax.conversion.forward import plan_conversion
from mplug2_jax.models.mplug2 import MODULES
from mplug2_jax.tasks.base import COMPOSITION

QUERY = "text_encoder.encoder.layer.1.attention.self.query.weight"
TABLE = "visual_encoder.visual.positional_embedding"


def shapes(name="base", kind="qa"):
    return {
        k: tuple(v) for k, v in goldens.read_json(name, f"{kind}_keys.json").items()
    }


def plan(keys, name="base", modules=MODULES, **options):
    tensors = {
        k: LazyArray(s, np.dtype(np.float32), lambda: None) for k, s in keys.items()
    }
    return plan_conversion(tensors, goldens.config(name), modules, **options).report


def test_missing():
    keys = shapes()
    del keys[QUERY]
    assert plan(keys).missing == [QUERY]
    allowed = plan(keys, allow_missing=r"layer\.1\.attention")
    assert (allowed.missing, allowed.initialised) == ([], [QUERY])
    assert allowed.problem() is None


def test_unexpected():
    keys = {
        **shapes(),
        "fusion_encoder.encoder.layer.0.novelty": (3,),
        "vision_x": (1,),
    }
    report = plan(keys)
    assert report.unexpected == ["fusion_encoder.encoder.layer.0.novelty", "vision_x"]
    assert "2 unexpected" in report.problem()


def test_wrong_shape():
    report = plan({**shapes(), QUERY: (128, 64)})
    assert report.wrong_shape == {QUERY: ((128, 64), (128, 128))}
    assert f"{QUERY}: (128, 64), expected (128, 128)" in report.text()


def test_position_embeddings_may_have_other_rows_but_no_other_width():
    assert plan({**shapes(), TABLE: (17, 128)}).problem() is None
    assert plan({**shapes(), TABLE: (17, 64)}).wrong_shape


def test_one_of_two_tied_keys_is_enough():
    keys = shapes()
    del keys["text_decoder.bert.embeddings.word_embeddings.weight"]
    del keys["text_decoder.cls.predictions.decoder.bias"]
    assert plan(keys).problem() is None


def reasons(report):
    return {why: len([k for k in report.dead if report.dead[k] == why]) for why in
            set(report.dead.values())}  # fmt: skip


@pytest.mark.parametrize(
    "name, kind, pattern, count",
    [
        ("base", "qa", "CLIP's text tower", 18),
        ("base", "qa", "below the last", 2 * 26),
        ("base", "qa", "second feed-forward", 24),
        ("stride", "qa", "never uses it", 10),  # one connected layer
        ("base", "pretrain", "belongs to (contrastive|matching|mlm)", 27),
    ],
)
def test_reasons_of_the_dead(name, kind, pattern, count):
    found = reasons(plan(shapes(name, kind), name))
    assert sum(n for why, n in found.items() if re.search(pattern, why)) == count


def test_modules_not_asked_for_are_dead():
    report = plan(shapes(), modules=COMPOSITION["captioning"].modules)
    assert report.problem() is None
    named = {why for why in report.dead.values() if "not asked for" in why}
    assert {why.split()[2].rstrip(",") for why in named} == {"text", "fusion"}
    image = plan(shapes(), modules=("vision", "universal"))
    assert any("local_temporal" in why for why in image.dead.values())


def test_an_incomplete_teacher_is_missing_keys():
    keys = shapes(kind="qa_distill")
    del keys["text_encoder_m.embeddings.LayerNorm.weight"]
    assert plan(keys).missing == ["text_encoder_m.embeddings.LayerNorm.weight"]
