"""`mplug2 ask` on a real file."""

import json

import small

SMALL = ("--batch-size", 2, "--beam-size", small.BEAM)


def test_answers_in_the_order_of_the_questions(mplug2, checkpoint, clips):
    expected = small.predictor().answer(clips[0], list(small.QUESTIONS))
    arguments = ("ask", clips[0], *small.QUESTIONS, "--checkpoint", checkpoint, *SMALL)
    status, lines, _ = mplug2(*arguments)
    assert (status, lines) == (0, [answer.text for answer in expected])
    _, lines, _ = mplug2(*arguments, "--json")
    assert [json.loads(line)["question"] for line in lines] == list(small.QUESTIONS)
    assert [json.loads(line)["answer"] for line in lines] == [a.text for a in expected]


def test_candidates_are_ranked(mplug2, checkpoint, clips, tmp_path):
    candidates = tmp_path / "answers.txt"
    candidates.write_text("w3 w4\n\nw9\n w12 \nw9\n")
    arguments = ("ask", clips[0], "w44", "--checkpoint", checkpoint, *SMALL)
    status, lines, _ = mplug2(
        *arguments, "--candidates", candidates, "--top-k", 3, "--scores"
    )
    texts, scores = zip(*(line.split("\t") for line in lines), strict=True)
    assert status == 0 and sorted(texts) == ["w12", "w3 w4", "w9"]
    assert abs(sum(map(float, scores)) - 1) < 1e-3
    assert list(scores) == sorted(scores, key=float, reverse=True)


def test_errors_are_one_line(mplug2, checkpoint, clips, tmp_path):
    model = ("--checkpoint", checkpoint, *SMALL)
    status, _, error = mplug2("ask", clips[0], " ", *model)
    assert status == 2 and error == (
        "mplug2 ask: error: A question is empty; ask something.\n"
    )
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    status, _, error = mplug2("ask", clips[0], "w1", *model, "--candidates", empty)
    assert status == 2 and "empty.txt is empty" in error
    folder = small.save(
        tmp_path / "captions", ("vision", "local_temporal", "universal", "decoder")
    )
    status, _, error = mplug2("ask", clips[0], "w1", "--checkpoint", folder)
    assert status == 2 and "cannot answer questions: it has no text, fusion" in error
