"""What a trained model says: captions, answers, and rankings of given answers.

Pure functions of the parameters, compiled once for each model, decoding and shape. The
video is encoded apart from what is asked about it, so that one encoding serves its
caption and all its questions; the decoder's memory is projected once per sample, never
per beam, candidate or step.
"""

import functools
from collections.abc import Callable, Collection
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Key, UInt8

from mplug2_jax.decoding import (
    BeamConfig,
    BeamOutput,
    DecodingConfig,
    RankOutput,
    SamplingConfig,
    beam_search,
    greedy,
    rank_candidates,
    sample,
)
from mplug2_jax.decoding.interface import log_probabilities
from mplug2_jax.models.decoder import DecoderState, Memory
from mplug2_jax.models.mplug2 import MPlug2
from mplug2_jax.sharding.replicas import by_rows
from mplug2_jax.tasks.base import COMPOSITION
from mplug2_jax.tasks.question_answering import question_memory
from mplug2_jax.tasks.retrieval import CONTRAST
from mplug2_jax.types import Tokens

TaskName = Literal[
    "caption",
    "qa",
    "grounding",
    "classification",
    "zero_shot_classification",  # by prompts; the modules are retrieval's
    "pairs",
    "text_classification",
    "retrieval",
]
# Rows of the composition table.
ROWS: dict[TaskName, str] = {
    "caption": "captioning",
    "qa": "question_answering",
    "grounding": "grounding",
    "classification": "action_classification",
    "pairs": "pair_classification",
    "text_classification": "text_classification",
}
DOES: dict[TaskName, str] = {
    "caption": "describe media",
    "qa": "answer questions",
    "grounding": "find what a phrase names",
    "classification": "classify media",
    "pairs": "classify texts about media",
    "text_classification": "classify texts",
}
# What a model has learned, by the task it was trained for (`tasks.TASKS`).
TAUGHT: dict[str, tuple[TaskName, ...]] = {
    "captioning": ("caption",),
    "captioning_by_instruction": ("caption",),
    "question_answering": ("qa",),
    "caption_and_answer": ("caption", "qa"),
    "grounding": ("grounding",),
    "action_classification": ("classification",),
    "image_classification": ("classification",),
    "text_classification": ("text_classification",),
    "pair_classification": ("pairs",),
    "pretraining": ("caption", "qa", "retrieval", "zero_shot_classification"),
    "retrieval": ("retrieval", "zero_shot_classification"),
}
# A classifier reads all that a model encodes: none of media alone has this module.
ALONE: dict[TaskName, str] = {"classification": "text", "text_classification": "vision"}
SEARCHING: tuple[TaskName, ...] = ("retrieval", "zero_shot_classification")
# Candidates are scored in blocks of about so many rows: each holds logits over the
# vocabulary, and a cache.
RANKED_ROWS = 128


def needed(task: TaskName, modules: Collection[str]) -> tuple[str, ...]:
    """The modules of `modules` that a task uses.

    Raises:
      ValueError: some of those it cannot do without are missing.
    """
    if task not in ROWS:
        raise ValueError(f"Task {task!r} is unknown; choose one of {tuple(ROWS)}.")
    if lacking := missing(task, modules):
        raise ValueError(
            f"The model cannot {DOES[task]}: it has no {', '.join(lacking)} (only "
            f"{', '.join(modules)}); use a checkpoint trained for it, with all modules."
        )
    return tuple(m for m in COMPOSITION[ROWS[task]].modules if m in modules)


def missing(task: TaskName, modules: Collection[str]) -> list[str]:
    """Modules a task lacks; a model of images alone has no local temporal ones."""
    wanted = CONTRAST if task in SEARCHING else COMPOSITION[ROWS[task]].modules
    lacking = [m for m in wanted if m not in modules and m != "local_temporal"]
    if not lacking and (other := ALONE.get(task)) in modules:
        return [f"classifier without {other}"]
    return lacking


@functools.partial(by_rows, static_argnames=("model", "is_video"))
def encode(
    model: MPlug2,
    params: Any,
    frames: UInt8[Array, "B T H W 3"] | Float[Array, "B T H W 3"],
    *,
    is_video: bool = True,
) -> Float[Array, "B N D"]:
    """Visual embeddings; images are T = 1 with `is_video` False."""

    def run(model: MPlug2):
        return model.encode_vision(frames, is_video).embeds

    return _apply(model, params, run)


@functools.partial(
    by_rows, static_argnames=("model", "decoding", "count"), shared=("rng",)
)
def caption(
    model: MPlug2,
    decoding: DecodingConfig,
    params: Any,
    vision: Float[Array, "B N D"],
    rng: Key[Array, ""],
    sample_ids: Int[Array, "B*count"],
    *,
    count: int = 1,
) -> BeamOutput:
    """Captions of encoded videos; see `generate`."""

    def run(model: MPlug2):
        memory = Memory.of(vision)
        return generate(model, decoding, memory, rng, sample_ids, count)

    return _apply(model, params, run)


@functools.partial(
    by_rows, static_argnames=("model", "decoding", "count"), shared=("vision", "rng")
)
def answer(
    model: MPlug2,
    decoding: DecodingConfig,
    params: Any,
    vision: Float[Array, "B N D"],
    groups: Int[Array, "G"],
    question: Tokens,
    rng: Key[Array, ""],
    sample_ids: Int[Array, "G*Q*count"],
    *,
    count: int = 1,
) -> BeamOutput:
    """Answers to G groups of Q questions; see `generate`.

    Args:
      groups: the row of `vision` that each group asks about.
      question: G * Q rows, those of a group consecutive.
    """

    def run(model: MPlug2):
        memory = question_memory(model, vision[groups], question)
        return generate(model, decoding, memory, rng, sample_ids, count)

    return _apply(model, params, run)


@functools.partial(
    by_rows, static_argnames=("model", "k"), shared=("vision", "candidates")
)
def rank(
    model: MPlug2,
    k: int,
    params: Any,
    vision: Float[Array, "B N D"],
    groups: Int[Array, "G"],
    question: Tokens,
    candidates: Tokens,
) -> RankOutput:
    """The k likeliest of the candidates for each question (`rank_candidates`).

    Args:
      groups: the row of `vision` that each group of questions asks about.
      question: G * Q rows, those of a group consecutive.
      candidates: for all questions; rows whose mask is zero are padding.
    """

    def run(model: MPlug2):
        memory = question_memory(model, vision[groups], question)
        state, samples = model.start_decoding(memory), len(memory.mask)
        start = jnp.full(samples, candidates.values[0, 0])
        first, _ = model.decode_step(
            start, jnp.int32(0), model.empty_cache(samples, 1), state
        )
        score = functools.partial(_token_log_probs, model, state, samples)
        return rank_candidates(first, candidates, score, k)

    return _apply(model, params, run)


def _apply(model: MPlug2, params: Any, run: Callable[[MPlug2], Any]) -> Any:
    return model.apply({"params": in_computed_type(model, params)}, method=run)


def in_computed_type(model: MPlug2, params: Any) -> Any:
    """Matrices in the type of the products, ahead of a loop that would cast them."""
    compute = model.config.numerics.compute

    def cast(path, leaf):
        is_matrix = path[-1].key in ("kernel", "embedding")
        return leaf.astype(compute) if is_matrix else leaf

    return jax.tree_util.tree_map_with_path(cast, params)


def generate(
    model: MPlug2,
    decoding: DecodingConfig,
    memory: Memory,
    rng: Key[Array, ""],
    sample_ids: Int[Array, "B*count"],
    count: int = 1,
) -> BeamOutput:
    """Texts of a bound model: K = beam size for beams, `count` for random ones, else 1.

    Args:
      decoding: its class is the method: `BeamConfig`, `SamplingConfig`, or greedy.
      rng: seed of random decoding.
      sample_ids: number of each random text's own stream.
      count: random texts per sample.
    """
    state, samples = model.start_decoding(memory), len(memory.mask)

    def step(ids, position, cache):
        return model.decode_step(ids, position, cache, state)

    def cache(rows: int):
        return model.empty_cache(samples * rows, decoding.max_length)

    if isinstance(decoding, BeamConfig):
        return beam_search(step, cache(decoding.beam_size), samples, decoding)
    if isinstance(decoding, SamplingConfig):
        rows = samples * count
        out = sample(step, cache(count), rows, rng, decoding, sample_ids)
    else:
        out = greedy(step, cache(1), samples, decoding)
    return BeamOutput(
        ids=out.ids.reshape(samples, -1, out.ids.shape[1]),
        scores=out.log_probs.reshape(samples, -1),
        lengths=out.lengths.reshape(samples, -1),
    )


def _token_log_probs(
    model: MPlug2, state: DecoderState, samples: int, texts: Tokens
) -> Float[Array, "B*k L-1"]:
    """Log-probability of every token but the first, k consecutive texts per sample.

    Token by token with a cache, block by block: neither the logits of whole texts nor
    another projection of the memory is ever held.
    """
    length = texts.values.shape[1]
    ids = texts.values.reshape(samples, -1, length)  # B k L
    k = ids.shape[1]
    block = min(k, max(1, RANKED_ROWS // samples))
    ids = jnp.pad(ids, ((0, 0), (0, -k % block), (0, 0)))
    blocks = jnp.swapaxes(ids.reshape(samples, -1, block, length), 0, 1)

    def score(block_ids: Int[Array, "B c L"]) -> Float[Array, "B c L-1"]:
        rows = block_ids.reshape(-1, length)

        def advance(cache, position):
            logits, cache = model.decode_step(rows[:, position], position, cache, state)
            following = rows[:, position + 1, None]
            log_p = jnp.take_along_axis(log_probabilities(logits), following, axis=1)
            return cache, log_p[:, 0]

        cache = model.empty_cache(len(rows), length - 1)
        _, log_probs = lax.scan(advance, cache, jnp.arange(length - 1))
        return log_probs.T.reshape(samples, -1, length - 1)

    scored = jnp.swapaxes(lax.map(score, blocks), 0, 1)  # B blocks c L-1
    return scored.reshape(samples, -1, length - 1)[:, :k].reshape(-1, length - 1)
