"""The table: every tensor of upstream's PyTorch model, ours, and the dead ones.

Keys are in upstream's canonical spelling (the fine-tuned files'); `names` strips what
other files put around it. Axes: {vision} and {decoder} count all layers, {text} the
text layers before the universal ones, {universal} the last ones, {fusion} the last
layers of the fusion encoder, the only ones that run.
"""

from collections.abc import Mapping

from mplug2_jax.conversion.rules import Dead, Rule
from mplug2_jax.conversion.transforms import (
    depthwise,
    first_rows,
    from_heads,
    head_bias,
    linear,
    pointwise,
    same,
    stem,
    to_heads,
)
from mplug2_jax.models.config import MPlug2Config

VISUAL = "visual_encoder.visual"
BLOCK = f"{VISUAL}.transformer.resblocks.{{vision}}"


def _norm(source: str, target: str) -> list[Rule]:
    return [
        Rule(f"{source}.weight", f"{target}/scale", same),
        Rule(f"{source}.bias", f"{target}/bias", same),
    ]


def _linear(source: str, target: str) -> list[Rule]:
    return [
        Rule(f"{source}.weight", f"{target}/kernel", linear),
        Rule(f"{source}.bias", f"{target}/bias", same),
    ]


def _packed_attention(source: str, target: str) -> list[Rule]:
    """CLIP: query, key and value are the thirds of one tensor."""
    rules = [
        Rule(f"{source}.out_proj.weight", f"{target}/out/kernel", from_heads),
        Rule(f"{source}.out_proj.bias", f"{target}/out/bias", same),
    ]
    for part, name in enumerate(("query", "key", "value")):
        kernel, bias = f"{target}/{name}/kernel", f"{target}/{name}/bias"
        rules.append(Rule(f"{source}.in_proj_weight", kernel, to_heads, part))
        rules.append(Rule(f"{source}.in_proj_bias", bias, head_bias, part))
    return rules


def _attention(source: str, target: str) -> list[Rule]:
    """BERT's attention with its projection and the norm after the residual."""
    rules = [
        Rule(f"{source}.output.dense.weight", f"{target}/out/kernel", from_heads),
        Rule(f"{source}.output.dense.bias", f"{target}/out/bias", same),
        *_norm(f"{source}.output.LayerNorm", f"{target}_norm"),
    ]
    for name in ("query", "key", "value"):
        inner = f"{source}.self.{name}"
        rules.append(Rule(f"{inner}.weight", f"{target}/{name}/kernel", to_heads))
        rules.append(Rule(f"{inner}.bias", f"{target}/{name}/bias", head_bias))
    return rules


def _bert_layer(source: str, target: str, cross: bool) -> list[Rule]:
    rules = [
        *_attention(f"{source}.attention", f"{target}/attention"),
        *_linear(f"{source}.intermediate.dense", f"{target}/mlp/up"),
        *_linear(f"{source}.output.dense", f"{target}/mlp/down"),
        *_norm(f"{source}.output.LayerNorm", f"{target}/mlp_norm"),
    ]
    if cross:
        rules += _attention(f"{source}.crossattention", f"{target}/cross_attention")
    return rules


def _embeddings(source: str, target: str, words, tied: str | None = None) -> list[Rule]:
    table = f"{source}.{{}}_embeddings.weight".format
    path = f"{target}/{{}}/embedding".format
    return [
        Rule(table("word"), path("word"), words, tied=tied),
        Rule(table("position"), path("position"), same),
        Rule(table("token_type"), path("token_type"), same),
        *_norm(f"{source}.LayerNorm", f"{target}/norm"),
    ]


def _local_temporal(name: str, target: str) -> list[Rule]:
    source, path = f"{BLOCK}.{name}", f"vision/blocks/{target}"
    return [
        *_norm(f"{source}.ln", f"{path}/norm"),
        Rule(f"{source}.down_proj.weight", f"{path}/down/kernel", pointwise),
        Rule(f"{source}.down_proj.bias", f"{path}/down/bias", same),
        Rule(f"{source}.conv.weight", f"{path}/conv/kernel", depthwise),
        Rule(f"{source}.conv.bias", f"{path}/conv/bias", same),
        Rule(f"{source}.up_proj.weight", f"{path}/up/kernel", pointwise),
        Rule(f"{source}.up_proj.bias", f"{path}/up/bias", same),
    ]


def _vision() -> list[Rule]:
    position = f"{VISUAL}.positional_embedding"
    return [
        Rule(f"{VISUAL}.conv1.weight", "vision/patch_embedding/kernel", stem),
        Rule(f"{VISUAL}.class_embedding", "vision/class_embedding", same),
        Rule(position, "vision/position_embedding", same, resized=True),
        *_norm(f"{VISUAL}.ln_pre", "vision/pre_norm"),
        *_norm(f"{VISUAL}.ln_post", "vision/post_norm"),
        *_norm(f"{BLOCK}.ln_1", "vision/blocks/attention_norm"),
        *_norm(f"{BLOCK}.ln_2", "vision/blocks/mlp_norm"),
        *_packed_attention(f"{BLOCK}.attn", "vision/blocks/attention"),
        *_linear(f"{BLOCK}.mlp.c_fc", "vision/blocks/mlp/up"),
        *_linear(f"{BLOCK}.mlp.c_proj", "vision/blocks/mlp/down"),
        *_local_temporal("lmhra1", "local_temporal_1"),
        *_local_temporal("lmhra2", "local_temporal_2"),
        *_linear("visn_fc", "visual_projection/dense"),
        *_norm("visn_layer_norm", "visual_projection/norm"),
    ]


def _lm_head(source: str, target: str, words) -> list[Rule]:
    """All of a head but its output matrix, which is a word table."""
    tied = f"{source}.decoder.bias"
    return [
        *_linear(f"{source}.transform.dense", f"{target}/dense"),
        *_norm(f"{source}.transform.LayerNorm", f"{target}/norm"),
        Rule(f"{source}.bias", f"{target}/bias", words, tied=tied),
    ]


def _decoder(words) -> list[Rule]:
    head = "text_decoder.cls.predictions"
    layer = "text_decoder.bert.encoder.layer.{decoder}"
    embeddings, tied = "text_decoder.bert.embeddings", f"{head}.decoder.weight"
    return [
        *_embeddings(embeddings, "decoder/embeddings", words, tied),
        *_bert_layer(layer, "decoder/layers", cross=True),
        *_lm_head(head, "decoder/head", words),
    ]


def _heads(words) -> list[Rule]:
    """Of pretraining. The head of masked words keeps the fusion encoder's table."""
    head, table = "fusion_encoder.cls.predictions", "mlm/embeddings/word/embedding"
    tied = "fusion_encoder.embeddings.word_embeddings.weight"
    return [
        *_linear("vision_proj", "contrastive/vision"),
        *_linear("text_proj", "contrastive/text"),
        Rule("temp", "contrastive/temperature", same),
        *_linear("itm_head", "matching"),
        Rule(f"{head}.decoder.weight", table, words, tied=tied),
        *_lm_head(head, "mlm/head", words),
    ]


# Parameters of which files have no momentum copy; the teacher takes the student's.
WITHOUT_COPY = ("temp",)
# A key of each head, by which a file shows that it has it.
HEAD_KEYS = {
    "contrastive": "vision_proj.weight",
    "matching": "itm_head.weight",
    "mlm": "fusion_encoder.cls.predictions.bias",
}


def axes(config: MPlug2Config, fusion_total: int) -> dict[str, range]:
    """The layers' numbers in a file whose fusion encoder lists `fusion_total`."""
    deep = config.text.num_layers - config.universal.num_layers
    return {
        "vision": range(config.vision.num_layers),
        "text": range(deep),
        "universal": range(deep, config.text.num_layers),
        "fusion": range(fusion_total - config.fusion.num_layers, fusion_total),
        "decoder": range(config.decoder.num_layers),
    }


def rules(config: MPlug2Config) -> list[Rule]:
    """The table; `config` gives the words before padding and where the latents sit."""
    words = first_rows(config.text.vocab_size)
    first_universal = config.text.num_layers - config.universal.num_layers
    text = "text_encoder.encoder.layer"
    fusion = "fusion_encoder.encoder.layer.{fusion}"
    return [
        *_vision(),
        *_embeddings("text_encoder.embeddings", "text/embeddings", words),
        *_bert_layer(f"{text}.{{text}}", "text/layers", cross=False),
        *_bert_layer(f"{text}.{{universal}}", "universal/layer_{universal}", True),
        Rule(f"{text}.{first_universal}.latents", "universal/latents", same),
        *_norm("visn_emb_norm", "universal/vision_norm"),
        *_bert_layer(fusion, "fusion/layer_{fusion}", cross=True),
        *_decoder(words),
        *_heads(words),
    ]


CLIP_TEXT_TOWER = (
    r"visual_encoder\.(transformer\..+|token_embedding\.weight|positional_embedding"
    r"|text_projection|ln_final\.(weight|bias)|logit_scale)"
)
DEAD = (
    Dead(CLIP_TEXT_TOWER, "CLIP's text tower, never run"),
    Dead(r"visual_encoder\.visual\.proj", "CLIP's projection, never run"),
    Dead(r".+\.embeddings\.position_ids", "a counter, not a weight"),
    Dead(
        r"fusion_encoder\.embeddings\..+",
        "fusion reads the text encoder's states, never its own embeddings",
    ),
    Dead(
        r"(text_encoder|text_decoder\.bert)\.encoder\.layer\.\d+"
        r"\.(intermediate|output)_vision\..+",
        "a second feed-forward for vision that is never run",
    ),
    Dead(
        r"text_decoder\.bert\.encoder\.layer\.\d+\.latents",
        "latents of the decoder, never read",
    ),
    Dead(r"(text|fusion)_encoder\.pooler\.dense\.(weight|bias)", "BERT's pooler"),
    Dead(r"text_encoder\.cls\..+", "a second head of masked words, beside fusion's"),
    Dead(r"\w*queue(_ptr)?|ptr_queue", "a queue of pretraining features"),
)


def dead(layers: Mapping[str, range]) -> tuple[Dead, ...]:
    """The dead weights of a file whose layers are numbered by `layers`."""
    below = "|".join(map(str, range(layers["fusion"].start))) or "none"
    parts = r"(attention|crossattention|intermediate|output)\.[\w.]+\.(weight|bias)"
    pattern = rf"fusion_encoder\.encoder\.layer\.({below})\.{parts}"
    return (*DEAD, Dead(pattern, "a fusion layer below the last ones, never run"))
