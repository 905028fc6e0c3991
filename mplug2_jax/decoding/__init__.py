"""Decoding over any step function: beam search, greedy, sampling, answer ranking."""

from mplug2_jax.decoding.beam_search import BeamOutput, beam_search
from mplug2_jax.decoding.interface import (
    BeamConfig,
    Cache,
    DecodingConfig,
    SamplingConfig,
    StepFn,
)
from mplug2_jax.decoding.ranking import (
    RankOutput,
    next_token_log_probs,
    rank_candidates,
)
from mplug2_jax.decoding.sampling import SampleOutput, greedy, sample

__all__ = [
    "BeamConfig",
    "BeamOutput",
    "Cache",
    "DecodingConfig",
    "RankOutput",
    "SampleOutput",
    "SamplingConfig",
    "StepFn",
    "beam_search",
    "greedy",
    "next_token_log_probs",
    "rank_candidates",
    "sample",
]
