"""What a search asks of a model, and what one may ask of a search.

The searches know no model. They call a *step function*: given every row's latest
token, its position and a cache, it returns the logits of the next token and the new
cache. Whatever does not depend on the row's history (projected memory, masks) is
closed over by the step function, once per sample.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# A pytree; every leaf has the decoding rows on axis 1: [layers, rows, ...].
Cache = Any

# (token of every row, its position from 0, cache) -> (logits of the next, cache)
StepFn = Callable[
    [Int[Array, "R"], Int[Array, ""], Cache], tuple[Float[Array, "R V"], Cache]
]

# Models give the rows that pad their vocabulary logits far below this.
_IMPOSSIBLE_LOGIT = -1e8


@dataclasses.dataclass(frozen=True)
class DecodingConfig:
    """Lengths and special tokens; ids are those of the BERT vocabulary.

    Attributes:
      max_length: tokens generated at most, the end included, the start not.
      min_length: the end is impossible before this many other tokens.
      start_id: first token of every row.
      end_id: token that ends a row.
      pad_id: what fills a row after its last token.
    """

    max_length: int = 20
    min_length: int = 4
    start_id: int = 101
    end_id: int = 102
    pad_id: int = 0

    def __post_init__(self):
        """Rejects lengths that no output can have."""
        if not 0 <= self.min_length <= self.max_length or self.max_length < 1:
            raise ValueError(
                f"min_length={self.min_length} and max_length={self.max_length} must "
                "satisfy 0 <= min_length <= max_length and max_length >= 1."
            )


@dataclasses.dataclass(frozen=True)
class BeamConfig(DecodingConfig):
    """Beam search; the defaults are those of the released captioning configs.

    Attributes:
      beam_size: hypotheses followed, and returned, per sample.
      length_penalty: exponent of ((5 + length) / 6), which divides log-probabilities.
      rule: "standard", or "upstream" to reproduce the official generator.
    """

    beam_size: int = 5
    length_penalty: float = 0.6
    rule: Literal["standard", "upstream"] = "standard"

    def __post_init__(self):
        """Rejects empty beams, a bonus for short outputs and unknown rules."""
        super().__post_init__()
        if self.beam_size < 1:
            raise ValueError(f"beam_size={self.beam_size} must be at least 1.")
        if self.length_penalty < 0:
            raise ValueError(f"length_penalty={self.length_penalty} is negative.")
        if self.rule not in ("standard", "upstream"):
            raise ValueError(
                f'Decoding rule {self.rule!r} is neither "standard" nor "upstream".'
            )


@dataclasses.dataclass(frozen=True)
class SamplingConfig(DecodingConfig):
    """Random decoding.

    Attributes:
      temperature: divides the logits; 0 takes the most probable token.
      top_k: only this many most probable tokens; 0 means all.
      top_p: only the fewest most probable tokens that reach this probability.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        """Rejects values that leave no token to draw."""
        super().__post_init__()
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"temperature={self.temperature}, top_k={self.top_k} and top_p="
                f"{self.top_p} must satisfy temperature >= 0, top_k >= 0, "
                "0 < top_p <= 1."
            )


def log_probabilities(logits: Float[Array, "*R V"]) -> Float[Array, "*R V"]:
    """Log-softmax in float32; tokens that only pad the vocabulary get -inf."""
    logits = logits.astype(jnp.float32)
    possible = logits > _IMPOSSIBLE_LOGIT
    return jnp.where(possible, jax.nn.log_softmax(logits), -jnp.inf)


def check_rows(cache: Cache, rows: int) -> None:
    """Raises ValueError unless every leaf of the cache has `rows` on axis 1."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(cache):
        if leaf.ndim < 2 or leaf.shape[1] != rows:
            raise ValueError(
                f"Cache leaf {jax.tree_util.keystr(path)} has shape {leaf.shape}; "
                f"expected [layers, {rows}, ...], one row per hypothesis."
            )
