"""How texts are generated, whatever they are: a user's choice of method."""

import dataclasses
from typing import Literal

from mplug2_jax.decoding.interface import BeamConfig, DecodingConfig, SamplingConfig

Rule = Literal["upstream", "standard"]
METHODS = ("beam", "greedy", "sample")
RULES = ("upstream", "standard")


@dataclasses.dataclass(frozen=True)
class Decoding:
    """A method and its parameters; greatest lengths belong to the model's inputs.

    Attributes:
      method: "beam", "greedy" or "sample".
      rule: of beam search; None is the checkpoint's, and "standard" without one.
      beam_size, length_penalty: of beam search (upstream's configurations: 5, 0.6).
      temperature, top_k, top_p, seed: of "sample".
      min_caption_length: tokens before the end, the prompt's included; None is one
        more than the prompt has, which for upstream's prompt is upstream's 4.
      min_answer_length: tokens before the end (upstream's script: 1).
      ranked: candidate answers that are scored in full (the model family's 128).
    """

    method: Literal["beam", "greedy", "sample"] = "beam"
    rule: Rule | None = None
    beam_size: int = 5
    length_penalty: float = 0.6
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    min_caption_length: int | None = None
    min_answer_length: int = 1
    ranked: int = 128

    def __post_init__(self):
        """Rejects what no search can do, before any model is loaded."""
        if self.method not in METHODS:
            raise ValueError(
                f"Decoding method {self.method!r} is unknown; choose one of {METHODS}."
            )
        if self.ranked < 1:
            raise ValueError(f"ranked={self.ranked} must be at least 1.")
        self.config(max_length=1, min_length=0)

    def config(self, max_length: int, min_length: int, **ids: int) -> DecodingConfig:
        """The search's configuration; its class is the method.

        Args:
          max_length, min_length: tokens; the smaller of both is the least length.
          ids: start_id, end_id and pad_id of the tokenizer.
        """
        common = {
            "max_length": max_length,
            "min_length": min(min_length, max_length),
            **ids,
        }
        if self.method == "greedy":
            return DecodingConfig(**common)
        if self.method == "sample":
            return SamplingConfig(
                **common,
                temperature=self.temperature,
                top_k=self.top_k,
                top_p=self.top_p,
            )
        return BeamConfig(
            **common,
            beam_size=self.beam_size,
            length_penalty=self.length_penalty,
            rule=self.rule or "standard",
        )
