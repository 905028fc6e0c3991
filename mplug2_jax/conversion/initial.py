"""CLIP and BERT joined into the weights that training starts from.

Both are renamed to upstream's canonical keys, BERT's layers once for every place
they fill: the text encoder (universal layers included), the fusion encoder and the
decoder take the layers of the same number. What neither has is listed in `FRESH`.
"""

import dataclasses
import re
from collections.abc import Mapping

import numpy as np
from jaxtyping import Shaped

from mplug2_jax.checkpoint.lazy import LazyArray
from mplug2_jax.models.config import MPlug2Config

# Weights that exist in neither, drawn by the model's own initialisation.
FRESH = (
    r"\.latents$|\.lmhra[12]\.|\.crossattention\.|^visn_(emb_norm|fc|layer_norm)\."
    r"|^text_decoder\.cls\.predictions\."
)
_CLIP_EXTRAS = re.compile(
    r"transformer\..+|token_embedding\.weight|positional_embedding|text_projection"
    r"|ln_final\.(weight|bias)|logit_scale|visual\.proj|input_resolution"
    r"|context_length|vocab_size"
)
_BERT_EXTRAS = re.compile(r"pooler\..+|cls\.seq_relationship\..+|.+\.position_ids")


@dataclasses.dataclass(frozen=True)
class Renamed:
    """A source's tensors under canonical keys, and those that have no place.

    Attributes:
      dead: key -> why it is left out.
      unexpected: keys that belong to no CLIP or BERT.
    """

    tensors: dict[str, LazyArray]
    dead: dict[str, str]
    unexpected: list[str]


def rename_clip(tensors: Mapping[str, LazyArray], taps: int = 1) -> Renamed:
    """OpenAI's CLIP: `visual.*` becomes the vision encoder.

    Args:
      taps: frames under the stem's kernel; the 2D kernel goes to the middle one.

    Raises:
      ValueError: there is no `visual.*`.
    """
    tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    if "visual.conv1.weight" not in tensors:
        raise ValueError(
            "The --clip file is no CLIP vision transformer in OpenAI's layout: it has "
            f"no visual.conv1.weight (first tensors: {_first(tensors)})."
        )
    found = Renamed({}, {}, [])
    for key, tensor in tensors.items():
        if _CLIP_EXTRAS.fullmatch(key):
            found.dead[f"clip: {key}"] = "CLIP's text tower and projections, never run"
        elif key == "visual.conv1.weight" and len(tensor.shape) == 4:
            found.tensors[f"visual_encoder.{key}"] = _inflate(tensor, taps)
        elif key.startswith("visual."):
            found.tensors[f"visual_encoder.{key}"] = tensor
        else:
            found.unexpected.append(f"clip: {key}")
    return found


def rename_bert(tensors: Mapping[str, LazyArray], config: MPlug2Config) -> Renamed:
    """BERT, with or without the prefix `bert.`, old names of norms included.

    Raises:
      ValueError: there are no word embeddings.
    """
    tensors = {_modern(key): tensor for key, tensor in tensors.items()}
    if "embeddings.word_embeddings.weight" not in tensors:
        raise ValueError(
            "The --bert file is no BERT: it has no embeddings.word_embeddings.weight "
            f"(first tensors: {_first(tensors)})."
        )
    found = Renamed({}, {}, [])
    for key, tensor in tensors.items():
        places = _places(key, config)
        found.tensors.update(dict.fromkeys(places, tensor))
        if _BERT_EXTRAS.fullmatch(key):
            found.dead[f"bert: {key}"] = "BERT's pooler, pair head and counters"
        elif not places:
            found.unexpected.append(f"bert: {key}")
    return found


def bert_shapes_as_text(tensors: Mapping[str, LazyArray]) -> dict[str, LazyArray]:
    """The tensors as the text encoder's, to infer a configuration from."""
    return {f"text_encoder.{_modern(key)}": tensor for key, tensor in tensors.items()}


def _modern(key: str) -> str:
    key = key.removeprefix("module.").removeprefix("bert.")
    return key.replace("LayerNorm.gamma", "LayerNorm.weight").replace(
        "LayerNorm.beta", "LayerNorm.bias"
    )


def _places(key: str, config: MPlug2Config) -> list[str]:
    if key.startswith("cls.predictions."):
        return [f"text_decoder.{key}"]
    if key.startswith("embeddings.") and not key.endswith("position_ids"):
        return [f"text_encoder.{key}", f"text_decoder.bert.{key}"]
    layer = re.match(r"encoder\.layer\.(\d+)\.", key)
    if layer is None:
        return []
    number, places = int(layer[1]), [f"text_encoder.{key}"]
    if number >= config.text.num_layers - config.fusion.num_layers:
        places.append(f"fusion_encoder.{key}")
    if number < config.decoder.num_layers:
        places.append(f"text_decoder.bert.{key}")
    return places


def _inflate(kernel: LazyArray, taps: int) -> LazyArray:
    """`W 3 p p` to `W 3 taps p p`, zero but in the middle."""
    width, colours, height, breadth = kernel.shape
    shape = (width, colours, taps, height, breadth)

    def read() -> Shaped[np.ndarray, "W 3 taps p p"]:
        values = kernel.read()
        inflated = np.zeros(shape, values.dtype)
        inflated[:, :, taps // 2] = values
        return inflated

    return LazyArray(shape, kernel.dtype, read)


def _first(tensors: Mapping[str, LazyArray]) -> str:
    return ", ".join(list(tensors)[:3]) or "none"
