"""Annotation files: the official ones, our own, and what is wrong with bad ones."""

import json

import pytest

from mplug2_jax.data.examples import QA
from mplug2_jax.data.sources import read_jsonl


@pytest.fixture
def folder(tmp_path):
    """Four media, one of each way a name finds its file."""
    for name in ("video1.mp4", "video2.avi", "tumblr_x.gif", "own/00001.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def write(folder, *records) -> str:
    path = folder / "data.jsonl"
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_official_questions_are_grouped_by_video(folder):
    path = write(
        folder,
        {"video_id": "video1", "question": "what is it", "answer": "dog"},
        {"video_id": "video2", "question": "who runs", "answer": "man"},
        {"video_id": "video1", "question": "where", "answer": "park", "id": 7},
    )
    first, second = read_jsonl(path)
    assert first.media == folder / "video1.mp4" and first.id == "video1"
    assert second.media == folder / "video2.avi"
    assert first.questions == (
        QA("what is it", ("dog",), (1.0,)),
        QA("where", ("park",), (1.0,), id="7"),
    )
    single = read_jsonl(path, group=False)
    assert [e.questions[0].question for e in single] == [
        "what is it",
        "who runs",
        "where",
    ]


def test_official_captions(folder):
    path = write(
        folder,
        {"video_id": "video1", "caption": "a dog runs"},
        {"video_id": "video1", "caption": "a dog in a park"},
        {"video_id": "video2", "golden_captions": ["a man", "a person"]},
        {"video_id": "tumblr_x", "golden_caption": ["a cat"]},
        {"clip_name": "own/00001", "caption": ["one", "two"]},
    )
    examples = read_jsonl(path)
    assert [e.captions for e in examples] == [
        ("a dog runs", "a dog in a park"),
        ("a man", "a person"),
        ("a cat",),
        ("one", "two"),
    ]
    assert examples[2].media == folder / "tumblr_x.gif"


def test_own_format_with_segments(folder):
    qa = [{"question": "what color", "answer": "red", "kind": "color", "id": "q1"}]
    path = write(
        folder,
        {"video": "own/00001.mp4", "captions": ["red circle"], "qa": qa, "id": "a"},
        {"video": "own/00001.mp4", "caption": "later", "start": 1.5, "end": 4},
        "",
        {"image": "own/00001.mp4", "caption": "later too", "start": 1.5, "end": 4},
    )
    whole, segment = read_jsonl(path)
    assert whole.id == "a" and (whole.start, whole.end) == (None, None)
    assert whole.questions == (QA("what color", ("red",), (1.0,), "color", "q1"),)
    assert segment.captions == ("later", "later too")
    assert (segment.start, segment.end) == (1.5, 4.0)
    assert segment.id == "own/00001.mp4@1.5-4"


def test_several_answers_get_weights(folder):
    votes = ["yes", "no", "yes", "yes"]
    weighted = [{"answer": "cat", "weight": 0.25}, {"answer": "dog", "weight": 0.75}]
    path = write(
        folder,
        {"video": "video1", "question": "q", "answer": votes},
        {"video": "video2", "question": "q", "answer": weighted},
        {"video": "tumblr_x", "question": "how many", "answer": 2},
    )
    first, second, third = (e.questions[0] for e in read_jsonl(path))
    assert (first.answers, first.weights) == (("yes", "no"), (0.75, 0.25))
    assert (second.answers, second.weights) == (("dog", "cat"), (0.75, 0.25))
    assert third.answers == ("2",)


def test_media_may_lie_elsewhere(folder, tmp_path_factory):
    path = write(tmp_path_factory.mktemp("texts"), {"video": "video1", "caption": "x"})
    assert read_jsonl(path, folder)[0].media == folder / "video1.mp4"
    with pytest.raises(FileNotFoundError, match="1 of 1 media"):
        read_jsonl(path)


def test_missing_media_are_counted_and_listed_once(folder):
    gone = [{"video": f"gone{i}", "caption": "x"} for i in range(9)]
    path = write(folder, {"video": "video1", "caption": "x"}, *gone, gone[0])
    with pytest.raises(FileNotFoundError) as error:
        read_jsonl(path)
    message = str(error.value)
    assert "9 of 10 media" in message and "gone0, gone1" in message
    assert "gone5" not in message and "data.jsonl" in message


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('{"video": "video1", "caption": ', "not a JSON object"),
        ('["video1", "x"]', "expected a JSON object"),
        ('{"caption": "x"}', "no medium: expected one of video, image"),
        ('{"video": "video1"}', "neither a caption nor a question"),
        ('{"video": "", "caption": "x"}', "video must be a text"),
        ('{"video": "video1", "caption": null, "captions": []}', "neither"),
        ('{"video": "video1", "caption": ["x", " "]}', "caption must be a text"),
        ('{"video": "video1", "captions": ["x", "..."]}', "captions must have words"),
        ('{"video": "video1", "question": "q"}', "needs question and answer"),
        ('{"video": "video1", "answer": "a"}', "answer without its question"),
        ('{"video": "video1", "question": "q", "answer": []}', "empty list"),
        ('{"video": "video1", "question": "q", "answer": true}', "answer must be"),
        ('{"video": "video1", "qa": {"q": "a"}}', "qa must be a list"),
        (
            '{"video": "video1", "question": "q",'
            ' "answer": [{"answer": "a", "weight": -1}]}',
            "weight must be > 0",
        ),
        ('{"video": "video1", "caption": "x", "start": "1"}', "start must be seconds"),
        ('{"video": "video1", "caption": "x", "start": 3, "end": 2}', "not after"),
        ('{"video": "video1", "caption": "x", "end": NaN}', "end must be seconds"),
        ('{"video": "video1", "label": Infinity}', "class or a finite number"),
    ],
)
def test_a_bad_line_is_named(folder, line, complaint):
    path = write(folder, {"video": "video1", "caption": "fine"}, line)
    with pytest.raises(ValueError, match=complaint) as error:
        read_jsonl(path)
    assert "data.jsonl, line 2" in str(error.value)


def test_questions_and_answers_may_be_signs(folder):
    path = write(folder, {"video": "video1", "question": "?", "answer": "!"})
    (qa,) = read_jsonl(path)[0].questions
    assert (qa.question, qa.answers) == ("?", ("!",))


def test_an_empty_or_binary_file_is_named(folder):
    path = folder / "data.jsonl"
    path.write_bytes(b"\n\n")
    with pytest.raises(ValueError, match=r"data.jsonl holds no annotations"):
        read_jsonl(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"data.jsonl, line 1"):
        read_jsonl(path)


def test_byte_order_marks_are_accepted(folder):
    path = folder / "data.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"video": "video1", "caption": "x"}')
    assert read_jsonl(path)[0].captions == ("x",)
