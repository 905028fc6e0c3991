"""The model's configuration, as far as a file's shapes tell it.

Shapes do not show the number of heads, how many fusion layers run, connected layers or
the temporal stride; these come from a preset or from upstream's BERT configuration.
What both know must agree.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from mplug2_jax.conversion.rules import Shape
from mplug2_jax.models.config import (
    DecoderConfig,
    FusionConfig,
    MPlug2Config,
    TextConfig,
    UniversalConfig,
    VisionConfig,
    preset,
)

Facts = dict[str, int | bool]  # "vision.width" -> value

_VISUAL = "visual_encoder.visual"
_TEXT, _DECODER = "text_encoder", "text_decoder.bert"
CLIP_HEAD_WIDTH = 64  # upstream: heads = width // 64
DEFAULT_DECODER_LAYERS = 12  # config_bert_large_text.json


def visible_facts(shapes: Mapping[str, Shape]) -> Facts:
    """What the shapes of canonical keys tell; absent modules tell nothing."""
    facts: Facts = {}

    def see(name: str, key: str, axis: int) -> None:
        if key in shapes and len(shapes[key]) > axis:
            facts[name] = shapes[key][axis]

    def count(name: str, pattern: str) -> None:
        found = {m[1] for key in shapes if (m := re.match(pattern, key))}
        if found:
            facts[name] = len(found)

    block = f"{_VISUAL}.transformer.resblocks.0"
    see("vision.width", f"{_VISUAL}.class_embedding", 0)
    see("vision.patch_size", f"{_VISUAL}.conv1.weight", -1)
    see("vision.mlp_dim", f"{block}.mlp.c_fc.weight", 0)
    count("vision.num_layers", rf"{_VISUAL}\.transformer\.resblocks\.(\d+)\.")
    for owner in (_DECODER, _TEXT):  # where both exist, the text encoder counts
        table = f"{owner}.embeddings.{{}}_embeddings.weight".format
        see("text.vocab_size", table("word"), 0)
        see("text.width", table("word"), 1)
        see("text.max_positions", table("position"), 0)
        see("text.type_vocab_size", table("token_type"), 0)
        see("text.mlp_dim", f"{owner}.encoder.layer.0.intermediate.dense.weight", 0)
    layer = r"\.encoder\.layer\.(\d+)\."
    count("text.num_layers", rf"{_TEXT}{layer}")
    count("universal.num_layers", rf"{_TEXT}{layer}crossattention\.")
    count("decoder.num_layers", rf"text_decoder\.bert{layer}")
    see("contrastive.width", "vision_proj.weight", 0)
    for key, shape in shapes.items():
        if re.fullmatch(rf"{_TEXT}{layer}latents", key):
            facts["universal.num_latents"] = shape[0]
    return facts | _stem_facts(shapes, facts)


def _stem_facts(shapes: Mapping[str, Shape], facts: Facts) -> Facts:
    stem = shapes.get(f"{_VISUAL}.conv1.weight", ())
    table = shapes.get(f"{_VISUAL}.positional_embedding", ())
    found: Facts = {}
    if len(stem) == 5:
        found["vision.temporal_downsampling"] = stem[2] == 3
    if table and "vision.patch_size" in facts:
        side = math.isqrt(max(table[0] - 1, 0))
        found["vision.image_size"] = side * facts["vision.patch_size"]
    return found


def infer_config(
    shapes: Mapping[str, Shape],
    *,
    size: str | None = None,
    bert: Mapping[str, Any] | None = None,
) -> MPlug2Config:
    """The configuration of a file with these canonical keys and shapes.

    Args:
      size: name of a preset.
      bert: upstream's (or Hugging Face's) BERT configuration.

    Raises:
      ValueError: shapes contradict what was given, or nothing tells the rest.
    """
    facts = visible_facts(shapes)
    if needed := {"vision.width", "vision.patch_size", "text.width"} - set(facts):
        raise ValueError(
            f"These are another model's weights: nothing tells {min(needed)} (first "
            f"tensors: {', '.join(list(shapes)[:3])}); expected mPLUG-2's, or give "
            "--clip and --bert for the models it starts from."
        )
    if bert is not None:
        given, config, name = _stated(bert), _from_bert(bert, facts), "--bert-config"
        if size is not None:
            raise ValueError("Give --size or --bert-config, not both.")
    else:
        size = size or _guess(facts)
        config, name = preset(size), f"size {size}"
        given = _flat(config)
        # Another resolution or stem is not another size.
        given.pop("vision.image_size")
        given.pop("vision.temporal_downsampling")
    clashes = [
        f"{key} is {facts[key]} in the file and {given[key]} in {name}"
        for key in sorted(facts.keys() & given.keys())
        if facts[key] != given[key]
    ]
    if clashes:
        raise ValueError(
            f"The configuration contradicts the file: {'; '.join(clashes)}; choose "
            "another --size or --bert-config."
        )
    return _apply(config, facts)


def _guess(facts: Facts) -> str:
    for size in ("large", "base"):
        config = preset(size)
        if facts["text.width"] == config.text.width and facts.get(
            "text.num_layers", config.text.num_layers
        ) == (config.text.num_layers):
            return size
    raise ValueError(
        f"A text width of {facts['text.width']} with "
        f"{facts.get('text.num_layers', 'no')} layers is neither base nor large, and "
        "shapes do not tell the number of heads; give --bert-config JSON or --size."
    )


def _flat(config: MPlug2Config) -> Facts:
    nested = config.to_dict()
    return {
        f"{section}.{key}": value
        for section in ("vision", "text", "universal", "decoder")
        for key, value in nested[section].items()
    }


# Our names of the BERT configuration's entries; the first that is there counts.
_BERT_NAMES = {
    "text.width": ("hidden_size",),
    "text.mlp_dim": ("intermediate_size",),
    "text.vocab_size": ("vocab_size",),
    "text.max_positions": ("max_position_embeddings",),
    "text.type_vocab_size": ("type_vocab_size",),
    "text.num_layers": ("text_encoder_layers", "num_hidden_layers"),
    "universal.num_layers": ("num_uni_layer",),
    "decoder.num_layers": ("text_decode_layers",),
}


def _stated(bert: Mapping[str, Any]) -> Facts:
    found = {
        ours: next((bert[name] for name in names if name in bert), None)
        for ours, names in _BERT_NAMES.items()
    }
    return {name: value for name, value in found.items() if value is not None}


def _from_bert(bert: Mapping[str, Any], facts: Facts) -> MPlug2Config:
    """A configuration around the entries of a BERT configuration file."""
    width = facts["vision.width"]
    try:
        layers = bert["num_hidden_layers"]
        text = TextConfig(
            width=bert["hidden_size"],
            num_heads=bert["num_attention_heads"],
            mlp_dim=bert["intermediate_size"],
            num_layers=bert.get("text_encoder_layers", layers),
            layer_norm_eps=bert.get("layer_norm_eps", 1e-12),
            dropout=bert.get("hidden_dropout_prob", 0.1),
            attention_dropout=bert.get("attention_probs_dropout_prob", 0.1),
            init_std=bert.get("initializer_range", 0.02),
        )
    except KeyError as error:
        raise ValueError(
            f"The BERT configuration has no entry {error}; expected one like "
            "bert-large-uncased's config.json."
        ) from None
    patch = facts["vision.patch_size"]
    # A quarter of the layers fuse in both of the paper's sizes.
    fusion = bert.get("fusion_layers", max(layers // 4, 1))
    stride = bert.get("stride_layer", 0)
    return MPlug2Config(
        vision=VisionConfig(
            width=width,
            num_layers=facts.get("vision.num_layers", 1),
            num_heads=max(width // CLIP_HEAD_WIDTH, 1),
            patch_size=patch,
            image_size=facts.get("vision.image_size", patch),
            mlp_dim=facts.get("vision.mlp_dim", 4 * width),
        ),
        text=text,
        fusion=FusionConfig(fusion, stride if stride < fusion else 0),
        decoder=DecoderConfig(bert.get("text_decode_layers", DEFAULT_DECODER_LAYERS)),
        universal=UniversalConfig(bert.get("num_uni_layer", 2)),
    )


def _apply(config: MPlug2Config, facts: Facts) -> MPlug2Config:
    sections: dict[str, dict[str, Any]] = {}
    for name, value in facts.items():
        section, key = name.split(".")
        sections.setdefault(section, {})[key] = value
    return config.replace(**sections)
