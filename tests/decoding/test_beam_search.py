"""Beam search against enumeration, plain-Python rules and lattices done by hand."""

import dataclasses
import functools
import itertools
import math

import jax
import numpy as np
import pytest

from mplug2_jax.decoding import BeamConfig, beam_search

SCORE_ATOL = 1e-4
RULES = ("standard", "upstream")
# Tokens of the small vocabularies below.
PAD, START, END, A, B = 0, 1, 2, 3, 4
SMALL = BeamConfig(
    beam_size=3, max_length=6, min_length=0, start_id=START, end_id=END, pad_id=PAD
)


@functools.partial(jax.jit, static_argnames="config")
def search_jitted(lattice, config):
    beams, length = config.beam_size, config.max_length
    step, cache = lattice.step_fn(beams), lattice.cache(beams, length)
    return beam_search(step, cache, lattice.logits.shape[0], config)


def search(lattice, config):
    """The hypotheses of every sample: lists of (ids, score), padding checked."""
    out = search_jitted(lattice, config)
    ids, scores, lengths = map(np.asarray, (out.ids, out.scores, out.lengths))
    assert not np.isnan(scores).any()
    assert (ids[np.arange(ids.shape[-1]) >= lengths[..., None]] == config.pad_id).all()
    return [
        [
            (tuple(row[:n].tolist()), float(score))
            for row, score, n in zip(*sample, strict=True)
        ]
        for sample in zip(ids, scores, lengths, strict=True)
    ]


def penalty(generated, config):
    return ((5 + generated) / 6) ** config.length_penalty


def upstream_rule(lattice, sample, config):
    """The official rule with lists of hypotheses: (ids, normalised score)."""
    beams, stored = [((config.start_id,), 0.0)], []
    for step in range(config.max_length):
        grown = []
        for ids, total in beams:
            log_p = lattice.log_p(sample, ids)
            if step < config.min_length:
                log_p[config.end_id] = -1e20
            grown += [
                ((*ids, token), (total + p) / penalty(step + 1, config))
                for token, p in enumerate(log_p)
            ]
        grown = sorted(grown, key=lambda h: -h[1])[: config.beam_size]
        stop = grown[0][0][-1] == config.end_id or step + 1 == config.max_length
        stored += [h for h in grown if stop or h[0][-1] == config.end_id]
        if stop:
            break
        beams = [(ids, score * penalty(step + 1, config)) for ids, score in grown]
    return sorted(stored, key=lambda h: -h[1])[: config.beam_size], stored


def standard_rule(lattice, sample, config):
    """The standard rule with lists, and without any early stop."""
    beams, stored = [((config.start_id,), 0.0)], []
    for step in range(config.max_length):
        grown = []
        for ids, total in beams:
            for token, p in enumerate(lattice.log_p(sample, ids)):
                if token != config.end_id:
                    grown.append(((*ids, token), total + p))
                elif step >= config.min_length:
                    score = (total + p) / penalty(step + 1, config)
                    stored.append(((*ids, token), score))
        beams = sorted(grown, key=lambda h: -h[1])[: config.beam_size]
    stored += [(ids, total / penalty(step + 1, config)) for ids, total in beams]
    return sorted(stored, key=lambda h: -h[1])[: config.beam_size], stored


PLAIN = {"upstream": upstream_rule, "standard": standard_rule}


def assert_same(found, expected):
    assert [ids for ids, _ in found] == [ids for ids, _ in expected]
    np.testing.assert_allclose(
        [score for _, score in found],
        [score for _, score in expected],
        rtol=1e-6,
        atol=SCORE_ATOL,
    )


@pytest.mark.parametrize("seed", range(3))
def test_wide_standard_beam_finds_every_sequence(random_lattice, seed):
    lattice = random_lattice(seed, samples=2, vocabulary=5)
    length, others = 4, (PAD, START, A, B)
    bodies = [
        body for n in range(length + 1) for body in itertools.product(others, repeat=n)
    ]
    sequences = [
        (START, *body) if len(body) == length else (START, *body, END)
        for body in bodies
    ]
    config = dataclasses.replace(
        SMALL, beam_size=len(sequences), max_length=length, rule="standard"
    )

    def score(sample, ids):
        steps = range(1, len(ids))
        total = sum(lattice.log_p(sample, ids[:i])[ids[i]] for i in steps)
        return total / penalty(len(ids) - 1, config)

    for sample, found in enumerate(search(lattice, config)):
        scores = {ids: score(sample, ids) for ids in sequences}
        # Some are equally good (the same trigrams in another order).
        expected = [(ids, scores[ids]) for ids, _ in found]
        assert_same(found, expected)
        assert set(scores) == {ids for ids, _ in found}
        assert (np.diff([score for _, score in found]) <= 0).all()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("min_length", [0, 2])
@pytest.mark.parametrize("end_bonus", [-1.0, 1.0, 3.0])
def test_rules_equal_their_plain_python_form(
    random_lattice, rule, min_length, end_bonus
):
    lattice = random_lattice(int(10 * end_bonus) + 77, samples=40, vocabulary=8)
    lattice.logits[..., END] += end_bonus
    config = dataclasses.replace(SMALL, rule=rule, min_length=min_length)
    for sample, found in enumerate(search(lattice, config)):
        expected, _ = PLAIN[rule](lattice, sample, config)
        assert_same(found, expected)


def test_random_lattices_reach_the_odd_corners_of_the_upstream_rule(random_lattice):
    lattice = random_lattice(5, samples=60, vocabulary=8)
    lattice.logits[..., END] += 1.0
    config = dataclasses.replace(SMALL, rule="upstream")
    results = search(lattice, config)
    returned = [ids for found in results for ids, _ in found]
    stored = [upstream_rule(lattice, i, config)[1] for i in range(60)]
    after_an_end = [ids for ids in returned if END in ids[:-1]]
    unfinished_when_stopped = [
        ids for ids in returned if END not in ids and len(ids) <= config.max_length
    ]
    more_than_fit = [hypotheses for hypotheses in stored if len(hypotheses) > 3]
    assert min(map(len, (after_an_end, unfinished_when_stopped, more_than_fit))) >= 5


def test_beam_of_two_escapes_the_greedy_trap(bigram_lattice):
    # a (0.6) leads to an even choice, b (0.4) to a certain end: "b" wins with 0.4.
    table = np.full((5, 5), 0.2)
    table[START] = [0, 0, 0, 0.6, 0.4]
    table[A] = [0.25, 0.25, 0.5, 0, 0]
    table[B] = [0, 0, 1, 0, 0]
    lattice = bigram_lattice(table)
    config = dataclasses.replace(SMALL, length_penalty=0.0, max_length=3)
    for rule in RULES:
        narrow, wide = (
            search(lattice, dataclasses.replace(config, rule=rule, beam_size=k))[0][0]
            for k in (1, 2)
        )
        assert narrow[0] == (START, A, END)
        assert narrow[1] == pytest.approx(math.log(0.3), abs=SCORE_ATOL)
        assert wide[0] == (START, B, END)
        assert wide[1] == pytest.approx(math.log(0.4), abs=SCORE_ATOL)


def test_upstream_continues_a_beam_after_its_end_and_standard_does_not(bigram_lattice):
    # "end" is second at the first step, and so stored, but its beam goes on to "a".
    table = np.full((5, 5), 0.2)
    table[START] = [0, 0, 0.4, 0, 0.6]
    table[END] = [0, 0, 0, 1, 0]
    table[A] = [0, 0, 1, 0, 0]
    table[B] = [0.5, 0.5, 0, 0, 0]
    lattice = bigram_lattice(table)
    config = dataclasses.replace(
        SMALL, beam_size=2, max_length=3, length_penalty=0.0, rule="upstream"
    )
    found = search(lattice, config)[0]
    # All have log 0.4; the one stored first comes first.
    assert [ids for ids, _ in found] == [(START, END), (START, END, A, END)]
    standard = search(lattice, dataclasses.replace(config, rule="standard"))[0]
    assert standard[0][0] == (START, END)
    assert all(END not in ids[:-1] for ids, _ in standard)


@pytest.mark.parametrize("rule", RULES)
def test_a_sample_does_not_depend_on_its_batch(random_lattice, rule):
    lattice = random_lattice(3, samples=5, vocabulary=9)
    lattice.logits[1, ..., END] += 6.0  # done at once
    lattice.logits[2, ..., END] -= 9.0  # never ends
    config = dataclasses.replace(SMALL, rule=rule)
    together = search(lattice, config)
    for order in ([0], [1], [2], [4, 1, 2], [3, 2, 0]):
        assert search(lattice.select(order), config) == [together[i] for i in order]


@pytest.mark.parametrize("rule", RULES)
def test_padded_vocabulary_changes_nothing(random_lattice, rule):
    lattice = random_lattice(4, samples=4, vocabulary=7)
    config = dataclasses.replace(SMALL, rule=rule)
    plain = search(lattice, config)
    for sample, padded in zip(
        plain, search(lattice.pad_vocabulary(9), config), strict=True
    ):
        assert_same(padded, sample)


@pytest.mark.parametrize("rule", RULES)
def test_min_length_forbids_early_ends(random_lattice, rule):
    lattice = random_lattice(8, samples=10, vocabulary=8)
    lattice.logits[..., END] += 5.0
    for min_length in (0, 1, 3):
        config = dataclasses.replace(SMALL, rule=rule, min_length=min_length)
        firsts = [
            ids.index(END) - 1
            for found in search(lattice, config)
            for ids, _ in found
            if END in ids
        ]
        assert min(firsts) == min_length


def test_length_penalty_favours_longer_hypotheses(bigram_lattice):
    # log p: "end" -1.20, "a end" -1.20 - 0.05.
    table = np.full((5, 5), 0.2)
    table[START] = [0.2, 0.2, 0.3, 0.3, 0]
    table[A] = [0.05, 0, 0.95, 0, 0]
    lattice = bigram_lattice(table)
    best = {
        alpha: search(lattice, dataclasses.replace(SMALL, length_penalty=alpha))[0][0]
        for alpha in (0.0, 0.6)
    }
    assert best[0.0][0] == (START, END)
    assert best[0.6][0] == (START, A, END)
    expected = math.log(0.3 * 0.95) / (7 / 6) ** 0.6
    assert best[0.6][1] == pytest.approx(expected, abs=SCORE_ATOL)


@pytest.mark.parametrize("rule", RULES)
def test_more_beams_than_continuations(random_lattice, rule):
    # Two possible tokens, end included, for eight beams, and padding in between.
    lattice = random_lattice(9, samples=3, vocabulary=5)
    lattice.logits[..., [PAD, START, B]] = -1e30
    config = dataclasses.replace(SMALL, rule=rule, beam_size=8, max_length=3)
    for sample, found in enumerate(search(lattice, config)):
        real = [(ids, score) for ids, score in found if score > -math.inf]
        assert all(set(ids[1:]) <= {A, END} for ids, _ in real)
        assert all(ids == () for ids, score in found if score == -math.inf)
        expected, _ = PLAIN[rule](lattice, sample, config)
        assert_same(real, [h for h in expected if h[1] > -1e9])


@pytest.mark.parametrize("rule", RULES)
def test_search_stops_once_nothing_can_change(random_lattice, rule):
    lattice = random_lattice(6, samples=3, vocabulary=8)
    lattice.logits[..., END] += 4.0
    config = dataclasses.replace(SMALL, rule=rule, max_length=200)
    step, calls = lattice.step_fn(config.beam_size), []

    def counting(tokens, position, cache):
        jax.debug.callback(lambda p: calls.append(int(p)), position)
        return step(tokens, position, cache)

    cache = lattice.cache(config.beam_size, config.max_length)
    jax.block_until_ready(beam_search(counting, cache, 3, config))
    jax.effects_barrier()
    assert 1 <= len(calls) < 30


def test_wrong_number_of_cache_rows_is_named(random_lattice):
    lattice = random_lattice(0, samples=2, vocabulary=6)
    with pytest.raises(ValueError, match=r"seen.*\(1, 4, 6\); expected \[layers, 6"):
        beam_search(lattice.step_fn(3), lattice.cache(2, 6), 2, SMALL)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rule": "best"}, "rule 'best' is neither"),
        ({"beam_size": 0}, "beam_size=0"),
        ({"max_length": 3, "min_length": 4}, "min_length=4 and max_length=3"),
        ({"max_length": 0, "min_length": 0}, "max_length=0"),
        ({"length_penalty": -0.5}, "length_penalty=-0.5"),
    ],
)
def test_impossible_configs_are_rejected(values, message):
    with pytest.raises(ValueError, match=message):
        BeamConfig(**values)
