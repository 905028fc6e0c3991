"""Instruction templates: each can be filled, says what it must, names what lacks."""

import pytest

from mplug2_jax.data.templates import KINDS, TEMPLATES, instruct

EXAMPLE = {
    "caption": "a red ball rolls left",
    "question": "which colour {has} it",  # braces of data are no fields
    "answer": "red",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_video", [True, False])
def test_every_template_is_filled(kind, is_video):
    count = len(TEMPLATES[kind])
    filled = {
        instruct(kind, number=n, is_video=is_video, **EXAMPLE) for n in range(count)
    }
    assert len(filled) == count
    medium, other = ("video", "image") if is_video else ("image", "video")
    for source, target in filled:
        assert source and target and other not in source
    if kind == "captioning":
        assert all(medium in source for source, _ in filled)
        assert {target for _, target in filled} == {EXAMPLE["caption"]}
    if kind == "question_answering":
        assert all(EXAMPLE["question"] in source for source, _ in filled)


def test_a_continuation_is_cut_between_words_anywhere():
    number_of_cuts = 4 * len(TEMPLATES["text_continuation"])
    pairs = {
        instruct("text_continuation", number=n, is_video=True, **EXAMPLE)
        for n in range(number_of_cuts)
    }
    assert len(pairs) == number_of_cuts
    for source, rest in pairs:
        beginning = source.removeprefix("continue: ")
        assert f"{beginning} {rest}" == EXAMPLE["caption"]


def test_one_word_is_asked_for_as_a_whole():
    source, target = instruct(
        "text_continuation", number=0, is_video=False, caption="ball"
    )
    assert (source, target) == ("what does the image describe?", "ball")


@pytest.mark.parametrize(
    "kind, sentence",
    [
        ("poetry", "no instruction 'poetry'; expected one of"),
        ("captioning", "no caption"),
        ("question_answering", "no question"),
    ],
)
def test_what_lacks_is_named(kind, sentence):
    with pytest.raises(ValueError, match=sentence):
        instruct(kind, number=0, is_video=True, answer="red")
