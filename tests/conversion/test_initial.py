"""CLIP and BERT joined: whose weights end up where, and what is drawn afresh."""

import goldens
import numpy as np
import pytest
import torch

from mplug2_jax.checkpoint.load import load_checkpoint
from mplug2_jax.conversion import export_state_dict
from mplug2_jax.conversion.convert import ConversionError, Options, join_files
from mplug2_jax.conversion.forward import InitialValues

LAYERS, DECODER_LAYERS = 4, 3  # of the golden `base`


@pytest.fixture(scope="module")
def clip(torch_golden):
    """CLIP as OpenAI releases it: 2D stem, half precision, sizes as tensors."""
    inside = "visual_encoder."
    tensors = {
        key.removeprefix(inside): value.half()
        for key, value in torch_golden("base").items()
        if key.startswith(inside) and ".lmhra" not in key
    }
    tensors["visual.conv1.weight"] = tensors["visual.conv1.weight"].squeeze(2)
    return tensors | {"input_resolution": torch.tensor(28)}


@pytest.fixture(scope="module")
def bert():
    """BERT with all its heads; weights differ from every golden's."""
    keys = goldens.read_json("base", "qa_keys.json")
    draw = torch.Generator().manual_seed(0)
    tensors = {}
    for key, shape in keys.items():
        name = key.removeprefix("text_encoder.")
        foreign = ("latents", "crossattention", "_vision.", "position_ids")
        if name != key and not any(word in name for word in foreign):
            tensors[f"bert.{name}"] = torch.randn(shape, generator=draw)
        if key.startswith("text_decoder.cls"):
            name = key.removeprefix("text_decoder.")
            tensors[name] = torch.randn(shape, generator=draw)
    table = tensors["bert.embeddings.word_embeddings.weight"]
    tensors["cls.predictions.decoder.weight"] = table
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"]
    tensors["bert.embeddings.position_ids"] = torch.arange(64)[None]
    tensors["bert.pooler.dense.weight"] = torch.zeros(128, 128)
    tensors["cls.seq_relationship.bias"] = torch.zeros(2)
    return tensors


@pytest.fixture(scope="module")
def join(tmp_path_factory):
    """Joins two state dicts; returns the report, our parameters and upstream's."""

    def run(clip, bert, **ablations):
        folder = tmp_path_factory.mktemp("joined")
        torch.save(clip, folder / "clip.pt")
        torch.save(bert, folder / "bert.bin")
        shapes = goldens.read_json("base", "config.json")["bert"]
        how = Options(bert=shapes, ablations=ablations)
        files = folder / "clip.pt", folder / "bert.bin"
        report = join_files(*files, folder / "model", how)
        params, metadata = load_checkpoint(folder / "model")
        assert metadata.decoding_rule == "standard"
        total = metadata.source["fusion_layers"]
        state = export_state_dict(params, metadata.config, fusion_total=total)
        return report, params, state

    return run


@pytest.fixture(scope="module")
def joined(join, clip, bert):
    return join(clip, bert)


def test_every_weight_has_its_source(joined, clip, bert):
    report, params, state = joined
    vision = [key for key in state if key.startswith("visual_encoder.")]
    for key in vision:
        source = key.removeprefix("visual_encoder.")
        if source in clip and "conv1" not in source:
            assert np.array_equal(state[key], clip[source].float()), key
    stem = state["visual_encoder.visual.conv1.weight"]
    assert np.array_equal(stem[:, :, 0], clip["visual.conv1.weight"].float())
    # Upstream leaves these at zero by mistake.
    positions = params["vision"]["position_embedding"]
    assert np.array_equal(positions, clip["visual.positional_embedding"].float())
    for key, value in bert.items():
        name = key.removeprefix("bert.")
        layer = int(name.split(".")[2]) if "encoder.layer" in name else 0
        owners = ["text_encoder", "text_decoder.bert"]
        if "pooler" in name or "seq_rel" in name or "position_ids" in name:
            owners = []
        elif name.startswith("cls."):
            owners = ["text_decoder"]
        elif "encoder.layer" in name:
            owners = ["text_encoder"]
            owners += ["text_decoder.bert"] if layer < DECODER_LAYERS else []
            owners += ["fusion_encoder"] if layer >= LAYERS - 2 else []
        for owner in owners:
            assert np.array_equal(state[f"{owner}.{name}"], value), (owner, name)
    assert report.problem() is None


def test_the_papers_ablations_start_from_the_same_weights(join, joined, clip, bert):
    """Layers that are not universal are the text encoder's alone."""
    universal, vision = {"num_layers": 1, "num_latents": 3}, {"local_temporal": "none"}
    report, params, state = join(clip, bert, universal=universal, vision=vision)
    assert report.problem() is None
    assert not [key for key in state if ".lmhra" in key]
    whole = joined[2]
    layers = [key for key in whole if key.startswith("text_encoder.encoder.layer")]
    same = [key for key in layers if key in state and "crossattention" not in key]
    assert len({key.split(".")[3] for key in same}) == LAYERS
    for key in same:
        assert np.array_equal(state[key], whole[key]), key
    assert len(params["universal"]["latents"]) == 3


def test_what_neither_has_is_drawn_and_listed(joined):
    report, params, _ = joined
    parts = {"latents", "lmhra1", "lmhra2", "crossattention", "visn_emb_norm"}
    listed = {part for key in report.initialised for part in parts if part in key}
    assert listed == parts
    assert all(any(part in key for part in parts) for key in report.initialised)
    assert float(params["universal"]["latents"].std()) == pytest.approx(1, abs=0.1)
    blocks = params["vision"]["blocks"]
    assert not blocks["local_temporal_1"]["up"]["kernel"].any()  # starts as CLIP
    assert "BERT's pooler, pair head and counters" in report.text()
    assert "bert: pooler.dense.weight" in report.dead
    assert "clip: input_resolution" in report.dead


def test_the_seed_decides():
    def latents(seed):
        values = InitialValues(goldens.config("base"), ("vision", "universal"), seed)
        values.need({"universal/latents"})
        return values("universal/latents")

    assert np.array_equal(latents(0), latents(0))
    assert not np.array_equal(latents(0), latents(1))


def test_old_names_no_prefix_and_no_head(join, joined, clip, bert, same_bits):
    _, _, modern = joined
    old = {
        key.removeprefix("bert.")
        .replace("LayerNorm.weight", "LayerNorm.gamma")
        .replace("LayerNorm.bias", "LayerNorm.beta"): value
        for key, value in bert.items()
        if not key.startswith("cls.")
    }
    report, _, state = join(clip, old)
    heads = {key for key in state if ".cls.predictions." in key}
    assert {k for k in report.initialised if ".cls." in k} == heads - {
        "text_decoder.cls.predictions.decoder.weight",
        "text_decoder.cls.predictions.decoder.bias",
    }
    same_bits(
        {k: v for k, v in state.items() if k not in heads},
        {k: v for k, v in modern.items() if k not in heads},
    )


def test_swapped_files(join, clip, bert):
    with pytest.raises(ValueError, match="another model's weights|no CLIP vision"):
        join(bert, clip)


def test_files_with_something_else_inside(join, clip, bert):
    with pytest.raises(ConversionError, match="bert: encoder.novelty"):
        join(clip, bert | {"bert.encoder.novelty": torch.zeros(1)})
    with pytest.raises(ValueError, match="no visual.conv1.weight"):
        join({"vision_model.x": torch.zeros(1)}, bert)
