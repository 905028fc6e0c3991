"""A model of eight heads, so that every axis of a mesh divides something in it."""

import numpy as np
import pytest

from mplug2_jax.models.config import (
    ContrastiveConfig,
    DecoderConfig,
    FusionConfig,
    MPlug2Config,
    TextConfig,
    UniversalConfig,
    VisionConfig,
)
from mplug2_jax.types import MultimodalBatch, Tokens

WORDS = 40
VIDEOS = 24  # no size of the model is 24 or 48: a gathered batch is told by its shape


@pytest.fixture(scope="session")
def eight_heads() -> MPlug2Config:
    drawn = {"init_std": 0.1}  # else attention is so even that queries matter little
    text = TextConfig(
        64, 8, 128, 2, WORDS, 32, dropout=0.0, attention_dropout=0.0, **drawn
    )
    return MPlug2Config(
        VisionConfig(64, 1, 8, 12, 24, 128, local_temporal_init="normal", **drawn),
        text,
        FusionConfig(1),
        DecoderConfig(1),
        UniversalConfig(1, 4),
        contrastive=ContrastiveConfig(16),
    )


@pytest.fixture(scope="session")
def videos() -> MultimodalBatch:
    """Two questions and a caption per video; some questions and captions are padding.

    The lengths differ, so that parts of the batch have different numbers of tokens.
    """
    rng = np.random.default_rng(0)

    def tokens(rows: int, length: int) -> Tokens:
        values = rng.integers(5, WORDS, (rows, length))
        ends = rng.integers(2, length + 1, rows)
        return Tokens(values, (np.arange(length) < ends[:, None]).astype(np.int32))

    return MultimodalBatch(
        frames=rng.integers(0, 256, (VIDEOS, 2, 24, 24, 3)).astype(np.uint8),
        caption=tokens(VIDEOS, 7),
        question=tokens(2 * VIDEOS, 5),
        answer=tokens(2 * VIDEOS, 3),
        answer_weight=(rng.random(2 * VIDEOS) < 0.8).astype(np.float32),
    )
