"""Heads of the pretraining objectives (paper section 3.5) and of classification.

Contrast reads the class tokens of vision and text, matching the class token of the
fused text, masked words any text states. Fine-tuning tasks that do without them have
none of their parameters.
"""

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float

from mplug2_jax.models.config import (
    ClassifierConfig,
    ContrastiveConfig,
    Numerics,
    TextConfig,
)
from mplug2_jax.models.decoder import LMHead
from mplug2_jax.models.layers import TextEmbeddings, dense, named


@flax.struct.dataclass
class Features:
    """Unit vectors whose products are the similarities of the contrastive loss."""

    vision: Float[Array, "B E"]
    text: Float[Array, "R E"]


class ContrastiveHead(nn.Module):
    """Projects both modalities into one space; owns the learned temperature."""

    config: ContrastiveConfig
    text_config: TextConfig
    numerics: Numerics

    def setup(self):
        width, init = (
            self.config.width,
            nn.initializers.normal(self.text_config.init_std),
        )
        self.vision = dense(width, ("embed", None), init, self.numerics)
        self.text = dense(width, ("embed", None), init, self.numerics)
        start = nn.initializers.constant(self.config.temperature)
        params = self.numerics.params
        self.temperature = self.param("temperature", named(start), (), params)

    def of_vision(self, x: Float[Array, "B D"]) -> Float[Array, "B E"]:
        return _unit(self.vision(x))

    def of_text(self, x: Float[Array, "R D"]) -> Float[Array, "R E"]:
        return _unit(self.text(x))


def _unit(x: Float[Array, "B E"]) -> Float[Array, "B E"]:
    """Rows of length one, in float32; a zero row stays zero."""
    x = x.astype(jnp.float32)
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(square, 1e-24))


def matching_head(text: TextConfig, numerics: Numerics) -> nn.DenseGeneral:
    """Class token of a fused text to two classes, the second meaning a pair."""
    init = nn.initializers.normal(text.init_std)
    return dense(2, ("embed", None), init, numerics)


def classifier_head(
    config: ClassifierConfig, text: TextConfig, numerics: Numerics
) -> nn.DenseGeneral:
    """Class tokens, side by side, to the scores of the classes."""
    init = nn.initializers.normal(text.init_std)
    return dense(config.num_classes, ("embed", None), init, numerics)


class MaskedLanguageHead(nn.Module):
    """`LMHead` over a word table of its own.

    Of the embeddings only the word table is ever read, so only it has parameters.
    """

    config: TextConfig
    numerics: Numerics

    def setup(self):
        self.embeddings = TextEmbeddings(self.config, self.numerics)
        self.head = LMHead(self.config, self.numerics)

    def __call__(self, states: Float[Array, "R L D"]) -> Float[Array, "R L V"]:
        """Scores of all words at every position, float32, vocabulary padded."""
        return self.head(states, self.embeddings)
