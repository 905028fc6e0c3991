"""Configurations from shapes."""

import goldens
import pytest

from mplug2_jax.conversion.infer import infer_config, visible_facts


def shapes(name="base"):
    keys = goldens.read_json(name, "qa_keys.json")
    return {key: tuple(shape) for key, shape in keys.items()}


def bert(name="base", **changes):
    return goldens.read_json(name, "config.json")["bert"] | changes


@pytest.mark.parametrize("name", goldens.NAMES)
def test_goldens(name):
    assert infer_config(shapes(name), bert=bert(name)) == goldens.config(name)


@pytest.mark.parametrize(
    "change, sentence",
    [
        (
            {"hidden_size": 256},
            "text.width is 128 in the file and 256 in --bert-config",
        ),
        ({"text_encoder_layers": 6}, "text.num_layers is 4 in the file and 6"),
        ({"text_decode_layers": 2}, "decoder.num_layers is 3 in the file and 2"),
        ({"vocab_size": 30522}, "text.vocab_size is 120 in the file and 30522"),
        ({"num_uni_layer": 1}, "universal.num_layers is 2 in the file and 1"),
    ],
)
def test_contradictions(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        infer_config(shapes(), bert=bert(**change))


def test_a_preset_of_another_size():
    with pytest.raises(ValueError, match="contradicts the file.*decoder.num_layers"):
        infer_config(shapes(), size="large")


def test_no_preset_is_guessed_for_unknown_widths():
    with pytest.raises(ValueError, match="128 with 4 layers is neither base nor large"):
        infer_config(shapes())


def test_bert_configuration_without_an_entry():
    entries = bert()
    del entries["num_attention_heads"]
    with pytest.raises(ValueError, match="no entry 'num_attention_heads'"):
        infer_config(shapes(), bert=entries)


def test_entries_of_a_plain_bert_suffice():
    ours = "fusion_layers stride_layer text_encoder_layers text_decode_layers"
    ours = {*ours.split(), "num_uni_layer"}
    plain = {key: value for key, value in bert().items() if key not in ours}
    config = infer_config(shapes(), bert=plain)
    assert config.fusion.num_layers == 1  # a quarter of the layers, as in the paper
    assert config.decoder.num_layers == 3 and config.universal.num_layers == 2


def test_the_width_of_the_contrastive_features_is_seen():
    keys = goldens.read_json("proj", "pretrain_keys.json")
    found = {key: tuple(shape) for key, shape in keys.items()}
    assert visible_facts(found)["contrastive.width"] == 32


def test_resolution_and_stem_are_seen():
    facts = visible_facts(shapes("tdown"))
    assert facts["vision.temporal_downsampling"] is True
    assert visible_facts(shapes("proj"))["vision.image_size"] == 42


@pytest.mark.parametrize("keys", [{"bert.pooler.dense.weight": (8, 8)}, {}])
def test_another_model(keys):
    with pytest.raises(ValueError, match="another model's weights"):
        infer_config(keys)
