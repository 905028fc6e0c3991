"""Mixtures: shares and order by seed and step, contents of each kind, position."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from mplug2_jax.data import mixture, shapes
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.mixture import BLOCK, Schedule, mixture_batches, parts_of
from mplug2_jax.data.tokenizers import WordPieceTokenizer

INPUTS = InputConfig(2, 14, 12, 16, prompt="a video of", text_length=8)


@pytest.fixture(scope="module")
def tokenizer():
    words = [*shapes.vocabulary(), "a b c d e f g h i j k l m n o p what"]
    return WordPieceTokenizer.from_words(words)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixture")
    shapes.write_dataset(folder, "train", 6, num_frames=4, size=24)
    still = '{"image": "still.png", "caption": "red, circle", "id": "%d"}\n'
    (folder / "stills.jsonl").write_text("".join(still % i for i in range(3)))
    Image.fromarray(np.full((9, 9, 3), 50, np.uint8)).save(folder / "still.png")
    (folder / "texts.txt").write_text("a b c\n\nd e f g h i j k l m n o p\n")
    batch = {"batch_size": 2, "threads": 2, "crop_scale": None}
    values = {
        "clips": {"data": {"path": str(folder / "train.jsonl")}, "weight": 2},
        "stills": {"kind": "image", "data": {"path": str(folder / "stills.jsonl")}},
        "texts": {"kind": "text", "data": {"path": str(folder / "texts.txt")}},
    }
    return parts_of({name: {**value, "batch": batch} for name, value in values.items()})


def stream(parts, tokenizer, seed=0, **where):
    return mixture_batches(parts, tokenizer, INPUTS, 16, seed, **where)


def take(batches, count):
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


def test_a_block_holds_the_parts_in_their_shares():
    schedule = Schedule([2, 1, 1, 0, 0.001], seed=3)
    steps = [schedule[k] for k in range(2 * BLOCK)]
    for block in (steps[:BLOCK], steps[BLOCK:]):
        counts = np.bincount([part for part, _ in block], minlength=5)
        assert counts.tolist() == [50, 25, 24, 0, 1] or counts.tolist()[3:] == [0, 1]
        assert abs(counts[0] - 50) <= 1
    for part in range(5):  # each part's own steps follow on without a gap
        own = [number for which, number in steps if which == part]
        assert own == list(range(len(own)))
    assert steps != [Schedule([2, 1, 1, 0, 0.001], 4)[k] for k in range(2 * BLOCK)]
    assert schedule[10**9] == Schedule([2, 1, 1, 0, 0.001], 3)[10**9]


@pytest.mark.parametrize("weights", [[], [0, 0], [1, -1], [1] * (BLOCK + 1)])
def test_weights_are_checked(weights):
    with pytest.raises(ValueError, match="weights are"):
        Schedule(weights, 0)


def test_each_kind_of_batch_holds_what_its_losses_read(parts, tokenizer):
    batches = dict(take(stream(parts, tokenizer), 16))
    clips, stills, texts = (batches[name] for name in ("clips", "stills", "texts"))
    assert clips.frames.shape == (2, 2, 16, 16, 3) and clips.is_video
    assert stills.frames.shape == (2, 1, 16, 16, 3) and not stills.is_video
    for batch in (clips, stills):
        assert batch.caption.values.shape == (2, 14)
        assert batch.question.values.shape == (2, 12)
        assert batch.answer.values.shape == (2, 16)
        assert batch.answer_weight.tolist() == [1, 1]
        assert batch.question.mask.any(1).all() and batch.text is None
    assert {tokenizer.decode(r[r > 0]) for r in stills.caption.values} == {"red circle"}
    ends = [row[row > 0][-1] for row in clips.answer.values]
    assert ends == [tokenizer.end_id] * 2
    assert tokenizer.end_id not in clips.caption.values
    assert texts.text.values.shape == (2, 8) and texts.frames is None
    assert not texts.is_video and (texts.text.values[:, 0] == tokenizer.start_id).all()


def test_long_texts_give_stretches_from_everywhere(parts, tokenizer):
    only = [dataclasses.replace(p, weight=p.kind == "text") for p in parts]
    rows = [r for _, b in take(stream(only, tokenizer), 40) for r in b.text.values]
    texts = {tokenizer.decode(row[row > 0]) for row in rows}
    assert "a b c" in texts and len(texts) > 3
    assert any(t.endswith("p") for t in texts) and any(t[0] == "d" for t in texts)


def test_order_follows_from_seed_and_step_on_any_number_of_processes(parts, tokenizer):
    whole = take(stream(parts, tokenizer), 10)
    shares = [
        take(stream(parts, tokenizer, process_index=i, process_count=2), 10)
        for i in range(2)
    ]
    for (name, batch), *rows in zip(whole, *shares, strict=True):
        assert [part for part, _ in rows] == [name] * 2
        field = "text" if name == "texts" else "caption"
        values = [getattr(share, field).values for _, share in rows]
        expected = getattr(batch, field).values
        np.testing.assert_array_equal(np.concatenate(values), expected)


def test_a_position_resumes_exactly(parts, tokenizer):
    batches = stream(parts, tokenizer)
    take(batches, 5)
    state = batches.get_state()
    expected = take(batches, 6)
    again = stream(parts, tokenizer)
    again.set_state(state)
    for (name, batch), (its, other) in zip(expected, take(again, 6), strict=True):
        assert name == its
        field = "text" if name == "texts" else "frames"
        one, two = getattr(batch, field), getattr(other, field)
        if field == "text":
            one, two = one.values, two.values
        np.testing.assert_array_equal(one, two)


def test_a_part_without_examples_is_named(parts, tokenizer, monkeypatch):
    monkeypatch.setattr(mixture, "open_examples", lambda *its: [])
    with pytest.raises(ValueError, match="clips: there are no examples"):
        stream(parts, tokenizer)


def test_mistakes_in_a_mixture_are_named(parts, tokenizer):
    with pytest.raises(ValueError, match="give each its name"):
        stream([parts[0], parts[0]], tokenizer)
    with pytest.raises(ValueError, match="mixture.clips.data.path is empty"):
        stream(parts_of({"clips": {}}), tokenizer)
    with pytest.raises(ValueError, match="Unknown key mixture.clips.wieght"):
        parts_of({"clips": {"wieght": 1.0}})
    films = dataclasses.replace(parts[1], kind="video")
    with pytest.raises(ValueError, match="not a video, as the others are"):
        next(stream([films], tokenizer))
