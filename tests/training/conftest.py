"""A model small enough to be compiled in seconds, and a batch for it."""

import jax.numpy as jnp
import numpy as np
import pytest

from mplug2_jax.models.config import (
    DecoderConfig,
    FusionConfig,
    MPlug2Config,
    TextConfig,
    UniversalConfig,
    VisionConfig,
)
from mplug2_jax.types import MultimodalBatch, Tokens

WORDS = 40


@pytest.fixture(scope="session")
def small_config() -> MPlug2Config:
    text = TextConfig(32, 2, 64, 2, WORDS, 32, dropout=0.0, attention_dropout=0.0)
    return MPlug2Config(
        vision=VisionConfig(32, 1, 2, 12, 24, 64, local_temporal_init="normal"),
        text=text,
        fusion=FusionConfig(1),
        decoder=DecoderConfig(1),
        universal=UniversalConfig(2, 4),
    )


@pytest.fixture(scope="session")
def small_batch() -> MultimodalBatch:
    """Four videos, each with one caption and two questions with one answer."""
    rng = np.random.default_rng(0)

    def tokens(rows: int, length: int) -> Tokens:
        values = jnp.array(rng.integers(5, WORDS, (rows, length)))
        return Tokens(values, jnp.ones_like(values))

    return MultimodalBatch(
        frames=jnp.array(rng.integers(0, 256, (4, 2, 24, 24, 3)), jnp.uint8),
        caption=tokens(4, 6),
        question=tokens(8, 5),
        answer=tokens(8, 3),
        answer_weight=jnp.ones(8),
    )
