"""Spellings of keys: each file's is recognised and can be written again."""

import pytest

from mplug2_jax.conversion.names import Spelling, read_names

FUSION = "encoder.layer.3.attention.self.query.weight"


def test_canonical_keys_stay():
    keys = ["text_decoder.bert.embeddings.LayerNorm.bias", f"fusion_encoder.{FUSION}"]
    names = read_names(keys)
    assert names.student == {key: key for key in keys}
    assert names.teacher == {} and names.spelling == Spelling()


@pytest.mark.parametrize("wrapper", ["bert.", "fusion.", "fusion.bert."])
def test_pretraining_wrappers(wrapper):
    key = f"fusion_encoder.{wrapper}{FUSION}"
    # Upstream's own rename would also have reached into this one.
    head = "fusion_encoder.cls.predictions.bias"
    names = read_names([key, head])
    assert names.student == {f"fusion_encoder.{FUSION}": key, head: head}
    assert names.spelling.spell(f"fusion_encoder.{FUSION}") == key
    assert names.spelling.spell(head) == head


def test_momentum_copies_have_their_own_wrappers():
    key = f"fusion_encoder_m.bert.{FUSION}"
    names = read_names([key, "temp", "vision_proj_m.weight", "text_decoder_m.bert.x"])
    assert names.student == {"temp": "temp"}
    assert names.teacher == {
        f"fusion_encoder.{FUSION}": key,
        "vision_proj.weight": "vision_proj_m.weight",
        "text_decoder.bert.x": "text_decoder_m.bert.x",
    }
    assert names.spelling.spell(f"fusion_encoder.{FUSION}", teacher=True) == key
    plain = names.spelling.spell(f"fusion_encoder.{FUSION}")
    assert plain == f"fusion_encoder.{FUSION}"


def test_prefix_of_data_parallel_training():
    names = read_names(["module.temp", "module.visn_fc.bias"])
    assert names.student == {
        "temp": "module.temp",
        "visn_fc.bias": "module.visn_fc.bias",
    }
    assert names.spelling.spell("visn_fc.bias") == "module.visn_fc.bias"


def test_two_spellings_of_one_weight_are_an_error():
    with pytest.raises(ValueError, match="two spellings of one weight"):
        read_names([f"fusion_encoder.{FUSION}", f"fusion_encoder.bert.{FUSION}"])
