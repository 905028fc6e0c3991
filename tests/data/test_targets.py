"""Rows of texts that tasks read of an example, worked out by hand."""

import contextlib
import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mplug2_jax.data.batches import BatchConfig
from mplug2_jax.data.examples import QA, Example, Label
from mplug2_jax.data.faults import TooManyFaultsError
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.pipeline import training_batches
from mplug2_jax.data.targets import LabelNumbers, targets_of
from mplug2_jax.data.tokenizers import WordPieceTokenizer

WORDS = ["describe", "it", ".", "who", "runs", "a", "man", "dog", "yes", "no"]
INSTRUCTION = "describe it."


@pytest.fixture(scope="module")
def tokenizer():
    return WordPieceTokenizer.from_words(WORDS)


@pytest.fixture
def read(tokenizer):
    """Fields of a batch, with ids as words."""

    def run(task, example, batch, **inputs):
        config = InputConfig(1, 6, 5, 3, **inputs)
        fields = {}
        for target in targets_of(task, tokenizer, config, batch):
            fields |= target(example, np.random.default_rng(0))
        return fields

    return run


def rows(tokenizer, *texts, width):
    """[CLS], the words, and zeros; "END" is the end token."""
    ids = {"END": tokenizer.end_id} | {w: tokenizer.encode(w)[1] for w in WORDS}
    made = []
    for text in texts:
        row = (
            [tokenizer.start_id, *(ids[word] for word in text.split())] if text else []
        )
        made.append(row + [0] * (width - len(row)))
    return made


def example(captions=(), questions=()):
    return Example("clip", Path("clip.mp4"), tuple(captions), tuple(questions))


def test_an_instruction_is_the_question_and_the_caption_its_answer(tokenizer, read):
    fields = read(
        "captioning_by_instruction",
        example(["A man runs."]),
        BatchConfig(captions_per_video=2),
        instruction=INSTRUCTION,
    )
    assert fields.keys() == {"question", "answer", "answer_weight"}
    question = rows(tokenizer, "describe it", "", width=5)
    assert fields["question"].values.tolist() == question
    answer = rows(tokenizer, "a man runs END", "END", width=6)
    assert fields["answer"].values.tolist() == answer
    assert fields["question"].mask.tolist() == [[1] * 3 + [0] * 2, [0] * 5]
    assert fields["answer"].mask[0].tolist() == [1] * 5 + [0]
    assert fields["answer_weight"].tolist() == [1, 0]  # of two captions one is padding


def test_questions_and_an_instruction_in_one_batch(tokenizer, read):
    asked = QA("who runs", ("dog", "man"), (0.25, 0.75))
    fields = read(
        "captioning_by_instruction",
        example(["A man runs."], [asked]),
        BatchConfig(
            captions_per_video=1, questions_per_video=1, answers_per_question=2
        ),
        instruction=INSTRUCTION,
    )
    question = rows(tokenizer, "who runs", "describe it", width=5)
    assert fields["question"].values.tolist() == question
    said = ("man END", "dog END", "a man runs END", "END")
    assert fields["answer"].values.tolist() == rows(tokenizer, *said, width=6)
    assert fields["answer_weight"].tolist() == [0.75, 0.25, 1, 0]


def test_only_answered_questions_are_learnt(tokenizer, read):
    batch = BatchConfig(questions_per_video=2)
    known, unknown = QA("who runs", ("dog",), (1.0,)), QA("who", (), ())
    both = example(questions=[unknown, known])
    fields = read("question_answering", both, batch)
    question = rows(tokenizer, "who runs", "", width=5)
    assert fields["question"].values.tolist() == question
    assert fields["answer_weight"].tolist() == [1, 0]
    with pytest.raises(ValueError, match="clip has questions, but no answer to one"):
        read(
            "question_answering", dataclasses.replace(both, questions=(unknown,)), batch
        )


def test_a_task_reads_what_it_uses(read):
    its = example(["a man"], [QA("who runs", ("dog",), (1.0,))])
    batch = BatchConfig(captions_per_video=1, questions_per_video=1)
    assert read("captioning", its, batch).keys() == {"caption"}
    asked = {"question", "answer", "answer_weight"}
    assert read("question_answering", its, batch).keys() == asked
    assert read("caption_and_answer", its, batch).keys() == asked | {"caption"}


@pytest.mark.parametrize(
    ("task", "media", "count"),
    [
        ("pair_classification", 1, 2),
        ("pair_classification", 2, 1),
        ("captioning", 1, 2),
    ],
)
def test_as_many_images_as_the_model_reads_together(
    tokenizer, tmp_path, task, media, count
):
    """Others are what is wrong with an example, before the model meets them."""
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    label = Label("yes", "a man runs")
    its = Example("a", path, ("a man",), labels=(label,), others=(path,) * (count - 1))
    inputs, batch = InputConfig(1, 6, 5, 3, classes=("no", "yes")), BatchConfig(1)
    batch = dataclasses.replace(batch, captions_per_video=1, texts_per_medium=1)

    def first(media):
        targets = targets_of(task, tokenizer, inputs, batch, media=media)
        with contextlib.closing(
            training_batches([its], tokenizer, inputs, batch, 8, 0, targets=targets)
        ) as batches:
            return next(batches)

    message = f"a is {count} media together; expected {media} .*num_media"
    with pytest.raises(TooManyFaultsError, match=message):
        first(media)
    if task != "captioning":
        assert first(count).frames.shape[:2] == (1, count)


@pytest.mark.parametrize("label", ["nan", "inf", "a lot"])
def test_regression_takes_finite_numbers_alone(label):
    """NaN is padding there, and infinity ends learning."""
    number = LabelNumbers((), regression=True)
    np.testing.assert_array_equal(number(["2.5", None]), [2.5, np.nan])
    with pytest.raises(ValueError, match=f"'{label}' is no finite number"):
        number([label])
