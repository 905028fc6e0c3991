"""Batches: shapes, padding, determinism, resumption, and what is refused."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from mplug2_jax.data import shapes
from mplug2_jax.data.examples import QA
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.pipeline import (
    BatchConfig,
    all_images,
    epochs_to_steps,
    training_batches,
)
from mplug2_jax.data.sources import read_jsonl
from mplug2_jax.data.targets import targets_of
from mplug2_jax.data.tokenizers import WordPieceTokenizer

INPUTS = InputConfig(3, 18, 9, 3, prompt="a video of", prompt_joined=False)
CONFIG = BatchConfig(
    batch_size=2,
    captions_per_video=2,
    questions_per_video=3,
    answers_per_question=2,
    crop_scale=None,
)


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer.from_words([*shapes.vocabulary(), "a video of"])


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return read_jsonl(shapes.write_dataset(folder, "train", 5, num_frames=6, size=24))


def batches(examples, tokenizer, config=CONFIG, seed=0):
    return training_batches(examples, tokenizer, INPUTS, config, 16, seed)


def test_a_batch_holds_what_its_configuration_says(examples, tokenizer):
    batch = next(batches(examples, tokenizer))
    assert batch.frames.shape == (2, 3, 16, 16, 3) and batch.frames.dtype == np.uint8
    assert batch.caption.values.shape == (4, 18)
    assert batch.question.values.shape == (6, 9)
    assert batch.answer.values.shape == (12, 3)
    assert batch.answer_weight.shape == (12,)
    # Every clip has one caption: the second row of each video is padding.
    assert (batch.caption.mask.sum(1) > 0).tolist() == [True, False, True, False]
    assert (batch.answer_weight.reshape(-1, 2) == [1, 0]).all()
    row = batch.caption.values[0]
    text = tokenizer.decode(row[row > 0])
    assert text.startswith("a video of ") and "moves" in text


def test_order_follows_the_seed_and_every_video_comes_once(examples, tokenizer):
    def frames(seed, steps=5):
        stream = batches(examples, tokenizer, seed=seed)
        return np.concatenate([next(stream).frames for _ in range(steps)])

    np.testing.assert_array_equal(frames(0), frames(0))
    assert not np.array_equal(frames(0), frames(1))
    config = dataclasses.replace(CONFIG, batch_size=5)
    batch = next(batches(examples, tokenizer, config))
    assert len({clip[0].tobytes() for clip in batch.frames}) == 5


def test_a_stream_resumes_where_it_stood(examples, tokenizer):
    stream = batches(examples, tokenizer)
    for _ in range(3):
        next(stream)
    state = stream.get_state()
    expected = next(stream).frames
    again = batches(examples, tokenizer)
    again.set_state(state)
    np.testing.assert_array_equal(next(again).frames, expected)


def test_kept_clips_give_the_same_batches(examples, tokenizer):
    kept = dataclasses.replace(CONFIG, keep_clips=True)
    one, two = batches(examples, tokenizer), batches(examples, tokenizer, kept)
    for _ in range(4):
        np.testing.assert_array_equal(next(one).frames, next(two).frames)


def test_augmentation_keeps_the_shape(examples, tokenizer):
    config = dataclasses.replace(CONFIG, crop_scale=(0.5, 1.0))
    assert next(batches(examples, tokenizer, config)).frames.shape[2:4] == (16, 16)


def test_the_heaviest_answers_are_taken(examples, tokenizer):
    asked = QA("what", ("red", "blue", "green"), (0.2, 0.5, 0.3))
    example = dataclasses.replace(examples[0], questions=(asked,))
    config = dataclasses.replace(CONFIG, batch_size=1, questions_per_video=1)
    batch = next(batches([example], tokenizer, config))
    assert batch.answer_weight.tolist() == pytest.approx([0.5, 0.3])
    assert tokenizer.decode(batch.answer.values[0]) == "blue"


def test_no_examples_or_no_texts_is_an_error(examples, tokenizer):
    with pytest.raises(ValueError, match="training data: there are no examples"):
        batches([], tokenizer)
    silent = [dataclasses.replace(e, captions=()) for e in examples]
    with pytest.raises(ValueError, match="None of the 5 examples has captions"):
        batches(silent, tokenizer)


def test_an_epoch_shows_every_text_once(examples, tokenizer):
    """As upstream counts: lines of the annotation file, not videos."""
    config = BatchConfig(batch_size=2, captions_per_video=1)
    targets = targets_of("captioning", tokenizer, INPUTS, config)
    assert epochs_to_steps(10, examples, 2, targets) == 25
    spoken = [dataclasses.replace(e, captions=("a", "b", "c")) for e in examples]
    assert epochs_to_steps(10, spoken, 2, targets) == 75
    assert epochs_to_steps(0.01, examples, 2, targets) == 1


def test_images_and_videos_do_not_share_batches(examples, tokenizer, tmp_path):
    path = tmp_path / "still.png"
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(path)
    still = dataclasses.replace(examples[0], media=path)
    assert all_images([still]) and not all_images(examples)
    with pytest.raises(ValueError, match="1 of 6 training examples are still images"):
        all_images([*examples, still])
    config = dataclasses.replace(CONFIG, batch_size=1)
    assert next(batches([still], tokenizer, config)).frames.shape[1] == 1
