"""Beams and answer rankings of the official code, hypothesis for hypothesis."""

import functools

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mplug2_jax.decoding import (
    BeamConfig,
    beam_search,
    next_token_log_probs,
    rank_candidates,
)
from mplug2_jax.models.decoder import Memory
from mplug2_jax.models.mplug2 import MPlug2
from mplug2_jax.tasks.question_answering import question_memory
from mplug2_jax.types import Tokens

BEAM_SCORE_ATOL = 1e-3
RANK_PROBS_ATOL = 1e-4
END = 102


def beam_config(name):
    stored = goldens.read_json(name, "config.json")["beam"]
    return BeamConfig(
        beam_size=stored["beam_size"],
        min_length=stored["min_length"],
        max_length=stored["max_length"],
        length_penalty=stored["length_penalty_alpha"],
        start_id=stored["start"],
        end_id=stored["end"],
        rule="upstream",
    )


def bound(name, method, params, *args):
    """`method(model, *args)` of the folder's model with these parameters."""
    return MPlug2(goldens.config(name)).apply({"params": params}, *args, method=method)


@functools.cache
def memory(name, kind):
    """What the decoder reads: from frames, and for `qa` from the questions too."""
    stored = goldens.arrays(name)

    def captioning(model):
        return Memory.of(model.encode_vision(goldens.frames(stored["video"])).embeds)

    def answering(model):
        vision = model.encode_vision(goldens.frames(stored["qa_video"])).embeds
        question = Tokens(
            *(jnp.array(stored[f"question_{x}"]) for x in ("ids", "mask"))
        )
        return question_memory(model, vision, question)

    method = {"caption": captioning, "qa": answering}[kind]
    return jax.jit(lambda p: bound(name, method, p))(goldens.params(name))


@functools.cache
def search(name):
    """Compiled search for one folder; captions and answers differ in the memory."""
    config = beam_config(name)

    def run(model, memory):
        samples = memory.mask.shape[0]
        state = model.start_decoding(memory)
        cache = model.empty_cache(samples * config.beam_size, config.max_length)

        def step(ids, position, cache):
            return model.decode_step(ids, position, cache, state)

        return beam_search(step, cache, samples, config)

    return jax.jit(lambda p, memory: bound(name, run, p, memory))


def with_end_bonus(params, bonus):
    """The head's bias raised at the end token; everything else is shared."""
    head = params["decoder"]["head"]
    head = {**head, "bias": jnp.asarray(head["bias"]).at[END].add(bonus)}
    return {**params, "decoder": {**params["decoder"], "head": head}}


@pytest.mark.parametrize(
    ("file", "bonus"),
    [
        ("caption_beams", 0.0),
        ("caption_beams_eos_plus3", 3.0),
        ("caption_beams_eos_plus5", 5.0),
        ("qa_beams", 0.0),
    ],
)
@pytest.mark.parametrize("name", goldens.NAMES)
def test_beams(name, file, bonus):
    params = with_end_bonus(goldens.params(name), bonus)
    out = search(name)(params, memory(name, file.split("_")[0]))
    ids, lengths = np.asarray(out.ids), np.asarray(out.lengths)
    stored = goldens.read_json(name, f"{file}.json")
    assert [[h["ids"] for h in hypotheses] for hypotheses in stored] == [
        [row[:n].tolist() for row, n in zip(*sample, strict=True)]
        for sample in zip(ids, lengths, strict=True)
    ]
    scores = [[h["score"] for h in hypotheses] for hypotheses in stored]
    np.testing.assert_allclose(out.scores, scores, rtol=0, atol=BEAM_SCORE_ATOL)


@pytest.mark.parametrize("name", goldens.NAMES)
def test_ranking(name):
    stored = goldens.arrays(name)
    candidates = Tokens(*(jnp.array(stored[f"candidate_{x}"]) for x in ("ids", "mask")))

    def run(model, memory):
        rows = memory.mask.shape[0]
        start = jnp.full((rows, 1), candidates.values[0, 0])
        first = model.decode(Tokens(start, jnp.ones_like(start)), memory)[:, 0]

        def token_log_probs(chosen):
            repeats = len(chosen.values) // rows
            wide = jax.tree.map(lambda x: jnp.repeat(x, repeats, axis=0), memory)
            return next_token_log_probs(model.decode(chosen, wide), chosen.values)

        k = stored["rank_ids"].shape[1]
        return rank_candidates(first, candidates, token_log_probs, k)

    rank = jax.jit(lambda p, memory: bound(name, run, p, memory))
    out = rank(goldens.params(name), memory(name, "qa"))
    np.testing.assert_array_equal(out.indices, stored["rank_ids"])
    np.testing.assert_allclose(
        out.probabilities, stored["rank_probs"], rtol=0, atol=RANK_PROBS_ATOL
    )
