"""mPLUG-2: the modules a task chose, composed (paper figure 2 and table 1)."""

import functools
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mplug2_jax.models.attention import KeyValue
from mplug2_jax.models.config import MPlug2Config
from mplug2_jax.models.decoder import DecoderState, Memory, TextDecoder, empty_cache
from mplug2_jax.models.fusion import Fused, FusionLayers
from mplug2_jax.models.heads import (
    ContrastiveHead,
    Features,
    MaskedLanguageHead,
    classifier_head,
    matching_head,
)
from mplug2_jax.models.layers import Dropout, dense, layer_norm
from mplug2_jax.models.text import TextEncoder
from mplug2_jax.models.universal import UniversalLayers
from mplug2_jax.models.vision import VisionEncoder
from mplug2_jax.types import Tokens

MODULES = ("vision", "local_temporal", "universal", "text", "fusion", "decoder")
HEADS = ("contrastive", "matching", "mlm")  # of the pretraining objectives
ALL_MODULES = (*MODULES, *HEADS, "classifier")


@flax.struct.dataclass
class VisionOutput:
    """Visual tokens at the points where they are used or compared."""

    tokens: Float[Array, "B N W"]  # after the vision encoder
    universal: Float[Array, "B N D"]  # last universal layer
    embeds: Float[Array, "B N D"]  # what fusion and decoder read
    projected: Float[Array, "B N D"]  # `tokens` at the text's width


@flax.struct.dataclass
class TextOutput:
    """Text states before and after the universal layers."""

    encoded: Float[Array, "R L D"]
    states: Float[Array, "R L D"]


class VisualProjection(nn.Module):
    """Maps visual tokens to the text width, where the two differ."""

    config: MPlug2Config

    @nn.compact
    def __call__(self, x: Float[Array, "B N W"]) -> Float[Array, "B N D"]:
        text, numerics = self.config.text, self.config.numerics
        init = nn.initializers.normal(text.init_std)
        x = dense(text.width, ("embed", "mlp"), init, numerics, name="dense")(x)
        x = layer_norm(text.layer_norm_eps, numerics, name="norm")(x)
        return Dropout(text.dropout)(x)


class MPlug2(nn.Module):
    """The model; a module that is not in `modules` has no parameters.

    Attributes:
      config: shapes and numerics.
      modules: a subset of `ALL_MODULES`, usually a task's row of the composition
        table.
    """

    config: MPlug2Config
    modules: tuple[str, ...] = MODULES

    def setup(self):
        config, numerics, has = self.config, self.config.numerics, self.has
        if unknown := set(self.modules) - set(ALL_MODULES):
            raise ValueError(
                f"Unknown modules {sorted(unknown)}; choose of {ALL_MODULES}."
            )
        if has("vision"):
            self.vision = VisionEncoder(config.vision, has("local_temporal"), numerics)
            if config.vision.width != config.text.width:
                self.visual_projection = VisualProjection(config)
        if has("universal"):
            self.universal = UniversalLayers(
                config.universal, config.text, has("vision"), numerics
            )
        if has("text"):
            depth = config.text.num_layers - config.universal.num_layers
            self.text = TextEncoder(config.text, depth, numerics)
        if has("fusion"):
            self.fusion = FusionLayers(config.fusion, config.text, numerics)
        if has("decoder"):
            self.decoder = TextDecoder(config.decoder, config.text, numerics)
        if has("contrastive"):
            self.contrastive = ContrastiveHead(
                config.contrastive, config.text, numerics
            )
        if has("matching"):
            self.matching = matching_head(config.text, numerics)
        if has("mlm"):
            self.mlm = MaskedLanguageHead(config.text, numerics)
        if has("classifier"):
            self.classifier = classifier_head(config.classifier, config.text, numerics)

    def has(self, module: str) -> bool:
        return module in self.modules

    def encode_vision(
        self, frames: Float[Array, "B T H W 3"], is_video: bool = True
    ) -> VisionOutput:
        """Frames (uint8, or normalised floats) to visual embeddings.

        An image is T = 1 with `is_video` False: the local temporal modules rest.
        """
        tokens = self.vision(frames, is_video)
        projected = tokens
        if self.config.vision.width != self.config.text.width:
            projected = self.visual_projection(tokens)
        if not self.has("universal"):
            return VisionOutput(tokens, projected, projected, projected)
        return VisionOutput(tokens, *self.universal.pool_vision(projected), projected)

    def encode_text(self, text: Tokens) -> Float[Array, "B L D"]:
        """Text encoder, then the universal layers without cross-attention."""
        return self.encode_text_stages(text).states

    def encode_text_stages(self, text: Tokens) -> TextOutput:
        """As `encode_text`, with the states before the universal layers."""
        x = self.text(text.values, text.mask)
        return TextOutput(x, self.universal.encode_text(x, text.mask))

    def contrast(self, vision: VisionOutput, text: TextOutput) -> Features:
        """Features of the class tokens, before or after the universal layers."""
        return Features(self.vision_features(vision), self.text_features(text))

    def vision_features(self, vision: VisionOutput) -> Float[Array, "B E"]:
        early = self.config.contrastive.after == "encoder"
        x = vision.projected if early else vision.embeds
        return self.contrastive.of_vision(x[:, 0])

    def text_features(self, text: TextOutput) -> Float[Array, "R E"]:
        early = self.config.contrastive.after == "encoder"
        x = text.encoded if early else text.states
        return self.contrastive.of_text(x[:, 0])

    def temperature(self) -> Float[Array, ""]:
        """The learned divisor of similarities."""
        return self.contrastive.temperature

    def match(self, fused_text: Float[Array, "R L D"]) -> Float[Array, "R 2"]:
        """Logits, float32, of a text not belonging (0) and belonging (1) to vision."""
        return self.matching(fused_text[:, 0]).astype(jnp.float32)

    def predict_masked(self, states: Float[Array, "R L D"]) -> Float[Array, "R L V"]:
        """Scores of words at every position; states fused, or of a text alone."""
        return self.mlm(states)

    def classify(self, tokens: Float[Array, "R M*D"]) -> Float[Array, "R K"]:
        """Scores, float32, of the classes, from class tokens of M media."""
        return self.classifier(tokens).astype(jnp.float32)

    def fuse(
        self,
        vision: Float[Array, "B N D"],
        text: Float[Array, "R L D"],
        mask: Int[Array, "R L"],
    ) -> Fused:
        """Text reads vision; R / B consecutive texts belong to each video."""
        return self.fusion(vision, text, mask)

    def decode(self, text: Tokens, memory: Memory) -> Float[Array, "R L V"]:
        """Next-token logits of whole texts, float32, padded vocabulary."""
        return self.decoder(text.values, text.mask, memory)

    def start_decoding(self, memory: Memory) -> DecoderState:
        return self.decoder.start(memory)

    def decode_step(
        self,
        ids: Int[Array, "R"],
        position: Int[Array, ""],
        cache: KeyValue,
        state: DecoderState,
    ) -> tuple[Float[Array, "R V"], KeyValue]:
        """One token per row; see `TextDecoder.step`."""
        return self.decoder.step(ids, position, cache, state)

    def empty_cache(self, rows: int, length: int) -> KeyValue:
        config = self.config
        return empty_cache(config.decoder, config.text, config.numerics, rows, length)

    def __call__(self, frames, text: Tokens) -> None:
        """Runs every chosen module once, so that `init` makes its parameters."""
        if self.has("text"):
            encoded = self.encode_text_stages(text)
            states = encoded.states
        if self.has("vision"):
            vision = self.encode_vision(frames, self.has("local_temporal"))
        if self.has("fusion"):
            states = self.fuse(vision.embeds, states, text.mask).text
        if self.has("decoder"):
            self.decode(text, Memory.of(vision.embeds))
        if self.has("contrastive"):
            self.contrast(vision, encoded)
        if self.has("matching"):
            self.match(states)
        if self.has("mlm"):
            self.predict_masked(states)
        if self.has("classifier"):
            width = self.config.classifier.num_media * self.config.text.width
            self.classify(jnp.zeros((1, width), self.config.numerics.compute))


def init_params(model: MPlug2, key: jax.Array) -> dict[str, Any]:
    """Fresh parameters of the chosen modules, boxed with their logical axis names."""
    size = model.config.vision.image_size
    text = Tokens(jnp.zeros((1, 2), jnp.int32), jnp.ones((1, 2), jnp.int32))
    frames = jnp.zeros((1, 1, size, size, 3), jnp.float32)
    return dict(model.init(key, frames, text)["params"])


def abstract_params(
    config: MPlug2Config, modules: Iterable[str] = MODULES
) -> dict[str, Any]:
    """Shapes and types of every parameter, without memory for any of them."""
    leaves, structure = _abstract_leaves(config, tuple(modules))
    return jax.tree.unflatten(structure, leaves)


@functools.cache
def _abstract_leaves(config: MPlug2Config, modules: tuple[str, ...]):
    """Tracing the model takes a second; loading and converting ask several times."""
    model = MPlug2(config, modules)
    boxed = jax.eval_shape(lambda: init_params(model, jax.random.key(0)))
    return jax.tree.flatten(nn.meta.unbox(boxed))
