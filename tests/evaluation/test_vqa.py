"""VQA's soft accuracy: official normalisation, and the formula worked out by hand."""

import pytest

from mplug2_jax.evaluation.vqa import normalise_answer, score_vqa, soft_accuracy


@pytest.mark.parametrize(
    ("answer", "normalised"),
    [
        ("", ""),
        (" The  Dog\n", "dog"),
        ("Yes.", "yes"),
        ("an apple and a pear", "apple and pear"),
        # Number words up to ten, alone or among others; none is nothing.
        ("two", "2"),
        ("None", "0"),
        ("Ten of the eleven", "10 of eleven"),
        ("someone", "someone"),
        # Full stops stay before digits, also where the sentence ends in one.
        ("3.5", "3.5"),
        ("u.s.a.", "usa"),
        ("no. 5", "no 5"),
        ("a .5", ".5"),
        # A mark between letters is a blank; beside a blank it is nothing, everywhere.
        ("t-shirt", "t shirt"),
        ("t - shirt", "t shirt"),
        ("red/white", "red white"),
        ("red/white / blue", "redwhite blue"),
        ("red, white,blue", "red whiteblue"),
        ("left?", "left"),
        ("(left)", "left"),
        # A comma between digits takes all marks away.
        ("1,000", "1000"),
        ("1,000-2,000", "10002000"),
        ("1,b", "1 b"),
        # Apostrophes and colons are no marks.
        ("10:30", "10:30"),
        ("man's", "man's"),
        ("dont", "don't"),
        ("Isnt it", "isn't it"),
        ("oclock", "o'clock"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("couldntve", "couldntve"),
        ("yall'd've", "y'all'd've"),
        ("twas", "'twas"),
        ("its", "its"),
        ("somebody'd", "somebodyd"),
        ("Im", "im"),
        ("crème brûlée", "crème brûlée"),
    ],
)
def test_normalisation(answer, normalised):
    assert normalise_answer(answer) == normalised


# Of ten, c say the same: leaving one of them out leaves c - 1, leaving another out c.
@pytest.mark.parametrize(
    ("same", "worth"),
    [
        (0, 0),
        (1, (1 * 0 + 9 * 1 / 3) / 10),
        (2, (2 * 1 / 3 + 8 * 2 / 3) / 10),
        (3, (3 * 2 / 3 + 7 * 1) / 10),
        (4, 1),
        (9, 1),
        (10, 1),
    ],
)
def test_leaving_one_out(same, worth):
    answers = ["dog"] * same + [f"other {i}" for i in range(10 - same)]
    assert soft_accuracy("dog", answers) == pytest.approx(worth, abs=1e-12)


def test_both_sides_are_normalised_where_people_disagree():
    answers = ["two", "2", "2.", "Two", "the two", "3", "3", "many", "a few", "dogs"]
    assert soft_accuracy("2", answers) == soft_accuracy("Two!", answers) == 1
    assert soft_accuracy("three", answers) == pytest.approx(0.6)


def test_nothing_is_normalised_where_all_agree():
    assert soft_accuracy("t-shirt", ["t-shirt"] * 10) == 1
    assert soft_accuracy(" t-shirt\n", ["t-shirt"] * 10) == 1
    assert soft_accuracy("t shirt", ["t-shirt"] * 10) == 0
    assert soft_accuracy("Yes", ["yes"] * 10) == 0


def test_scores_by_kind():
    agree, divided = ["yes"] * 10, ["1"] * 2 + ["2"] * 8
    scores = score_vqa(
        ["yes", "one", "two", "yes"],
        [agree, divided, divided, agree],
        ["yes/no", "number", "number", None],
    )
    assert scores["accuracy"] == pytest.approx((1 + 0.6 + 1 + 1) / 4)
    assert scores["n"] == 4
    number, yes_no = scores["by_kind"].items()
    assert number == ("number", {"accuracy": pytest.approx(0.8), "n": 2})
    assert yes_no == ("yes/no", {"accuracy": 1, "n": 1})
    assert score_vqa(["yes"], [agree]) == {"accuracy": 1, "n": 1, "by_kind": {}}


@pytest.mark.parametrize(
    ("predictions", "answers", "message"),
    [
        ([], [], "no answers to score"),
        (["a"], [], "1 predictions and 1 kinds for 0 questions"),
        (["a"], [["a", "a", "a"]], "4 people or more .* found 3"),
    ],
)
def test_bad_input(predictions, answers, message):
    with pytest.raises(ValueError, match=message):
        score_vqa(predictions, answers)
