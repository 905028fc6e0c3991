"""Retrieval: the task that is fine-tuned, and what its two stages compute.

All pairs are compared by the features of contrast, the best of them by matching, which
reads the pair fused (as mPLUG v1 and ALBEF evaluate). The stages are pure functions of
the parameters, compiled once for each model and shape.
"""

import dataclasses
import functools
from typing import Any, cast

from jaxtyping import Array, Float, Int, UInt8

from mplug2_jax.models.mplug2 import MPlug2
from mplug2_jax.sharding.replicas import by_rows
from mplug2_jax.tasks.pretraining import ObjectivesConfig, Pretraining
from mplug2_jax.types import Tokens

CONTRAST = ("vision", "text", "contrastive")  # the first stage reads these
MATCHING = ("fusion", "matching")  # and the second these


Encodings = tuple[Float[Array, "B E"], Float[Array, "B N D"]]


@dataclasses.dataclass(frozen=True)
class Retrieval(Pretraining):
    """Contrast and matching (paper section 3.5), as they are pretrained.

    A batch pairs each medium with one of its captions and says which medium it is
    (`media_id`). Whatever the batch or the queue holds of a row's medium belongs to the
    row: it shares the hard target and is no negative (ALBEF and mPLUG v1 fine-tune so).
    """

    objectives: ObjectivesConfig = ObjectivesConfig(mlm=0.0, ilm=0.0)


@functools.partial(by_rows, static_argnames=("model", "is_video"))
def encode_media(
    model: MPlug2,
    params: Any,
    frames: UInt8[Array, "B T H W 3"] | Float[Array, "B T H W 3"],
    *,
    is_video: bool,
) -> Encodings:
    """Unit vectors and states of videos; images are T = 1 with `is_video` False."""

    def run(model: MPlug2):
        vision = model.encode_vision(frames, is_video)
        return model.vision_features(vision), vision.embeds

    return _apply(model, params, run)


@functools.partial(by_rows, static_argnames=("model",))
def encode_texts(model: MPlug2, params: Any, texts: Tokens) -> Encodings:
    """Unit vectors and states of texts by themselves."""

    def run(model: MPlug2):
        stages = model.encode_text_stages(texts)
        return model.text_features(stages), stages.states

    return _apply(model, params, run)


@functools.partial(by_rows, static_argnames=("model",))
def match(
    model: MPlug2,
    params: Any,
    vision: Float[Array, "R N D"],
    text: Float[Array, "R L D"],
    mask: Int[Array, "R L"],
) -> Float[Array, "R"]:
    """Log odds that the text and the medium of a row belong together."""

    def run(model: MPlug2):
        logits = model.match(model.fuse(vision, text, mask).text)
        return logits[:, 1] - logits[:, 0]

    return _apply(model, params, run)


def _apply(model: MPlug2, params: Any, method) -> Any:
    return cast(Any, model.apply({"params": params}, method=method))
