"""The synthetic world: honest single frames, well-posed questions, disjoint splits."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from mplug2_jax.data import shapes
from mplug2_jax.data.sources import read_jsonl
from mplug2_jax.data.video import read_video


def scenes(split: str, count: int, seed: int = 0) -> list[shapes.Scene]:
    return [
        shapes.make_scene(shapes.scene_rng(split, seed, index), split)
        for index in range(count)
    ]


def test_a_clip_follows_from_split_seed_and_index():
    first, again = scenes("train", 20), scenes("train", 20)
    assert first == again
    others = scenes("test", 20) + scenes("train", 20, seed=1)
    assert not {s.texture for s in first} & {s.texture for s in others}
    assert (shapes.render(first[0]) == shapes.render(again[0])).all()


def test_splits_keep_their_colour_shape_pairs_apart():
    unseen = set(shapes.UNSEEN_PAIRS)
    pairs = {
        split: {(o.color, o.shape) for s in scenes(split, 300) for o in s.objects}
        for split in shapes.SPLITS
    }
    everything = {(c, s) for c in shapes.COLORS for s in shapes.SHAPES}
    assert pairs["unseen_pairs"] == unseen
    assert pairs["train"] == pairs["test"] == pairs["order"] == everything - unseen


def test_scenes_hold_one_to_three_colours_in_order():
    order = list(shapes.COLORS)
    counts = Counter()
    for scene in scenes("train", 600):
        places = [order.index(o.color) for o in scene.objects]
        assert places == sorted(set(places))
        counts[len(places)] += 1
    assert set(counts) == {1, 2, 3}
    assert min(counts.values()) > 150


def test_only_order_clips_turn_and_one_object_does():
    for split in shapes.SPLITS:
        turns = [sum(len(o.motion) == 2 for o in s.objects) for s in scenes(split, 50)]
        assert set(turns) == {1 if split == "order" else 0}
    moving = [o for s in scenes("order", 50) for o in s.objects if len(o.motion) == 2]
    assert all(o.motion[0] != o.motion[1] for o in moving)


def test_the_middle_frame_is_the_same_whatever_the_directions():
    scene = scenes("train", 30)[3]
    middles = set()
    for direction in shapes.DIRECTIONS:
        objects = tuple(replace(o, motion=(direction,)) for o in scene.objects)
        frames = shapes.render(replace(scene, objects=objects), num_frames=5)
        middles.add(frames[2].tobytes())
        assert (frames[0] != frames[2]).any()
    assert len(middles) == 1


def test_middles_do_not_depend_on_the_direction():
    things = [o for s in scenes("train", 2000) for o in s.objects]
    for direction in shapes.DIRECTIONS:
        middle = np.mean([o.middle for o in things if o.motion == (direction,)], axis=0)
        # About 1000 draws of standard deviation 0.15.
        np.testing.assert_allclose(middle, 0.5, atol=0.02)


def test_paths_cover_the_travel_at_one_speed_and_stay_inside():
    time = np.linspace(0, 1, 9)
    for scene in scenes("train", 30) + scenes("order", 30):
        for thing in scene.objects:
            path = thing.path(time)
            assert (path > 0).all() and (path < 1).all()
            steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
            np.testing.assert_allclose(steps, shapes.TRAVEL / 8)
            first, last = path[4] - path[0], path[8] - path[4]
            np.testing.assert_allclose(
                [first, last],
                [
                    np.array(shapes.DIRECTIONS[m]) * shapes.TRAVEL / 2
                    for m in (thing.motion[0], thing.motion[-1])
                ],
                atol=1e-12,
            )


def test_objects_are_drawn_in_their_colour_where_they_are():
    for scene in scenes("test", 40):
        frames = shapes.render(scene, num_frames=3, size=48)
        assert frames.shape == (3, 48, 48, 3) and frames.dtype == np.uint8
        for thing in scene.objects:
            x, y = (int(p * 48) for p in thing.middle)
            np.testing.assert_array_equal(frames[1, y, x], shapes.COLORS[thing.color])


def test_shapes_differ_in_their_outlines():
    areas = {}
    for shape in shapes.SHAPES:
        thing = shapes.Object("white", shape, (0.5, 0.5), ("left",), 0.17)
        frame = shapes.render(shapes.Scene((thing,), texture=1), 1)[0]
        areas[shape] = int((frame.min(-1) > 200).sum())
    assert areas["circle"] > areas["square"] > areas["cross"] > 90
    assert 90 < areas["triangle"] < areas["square"]


def answer(scene: shapes.Scene, question: str) -> list[str]:
    """Answers a question from the scene, independently of how it was generated."""
    words = question.split()
    if words[0] == "how":
        return [shapes.NUMBERS[len(scene.objects) - 1]]
    meant = [o for o in scene.objects if o.color in words or o.shape in words]
    if words[:2] == ["what", "shape"]:
        return [o.shape for o in meant]
    if words[:2] == ["what", "color"]:
        return [o.color for o in meant]
    place = -1 if words[-1] == "last" else 0
    assert (words[-1] in ("first", "last")) == (len(meant[0].motion) == 2)
    return [o.motion[place] for o in meant]


@pytest.mark.parametrize("split", shapes.SPLITS)
def test_questions_have_one_referent_and_the_right_answer(split):
    for scene in scenes(split, 100):
        asked = shapes.questions(scene)
        assert len({q.question for q in asked}) == len(asked)
        for question in asked:
            assert answer(scene, question.question) == [question.answer]


def test_random_questions_are_a_permutation():
    scene = scenes("train", 20)[3]
    assert len(scene.objects) == 3
    shuffled = shapes.questions(scene, np.random.default_rng(0))
    assert shuffled != shapes.questions(scene)
    assert set(shuffled) == set(shapes.questions(scene))


def test_no_answer_is_favoured():
    counts: dict[str, Counter] = {}
    for scene in scenes("train", 1500):
        for question in shapes.questions(scene):
            counts.setdefault(question.kind, Counter())[question.answer] += 1
    assert {kind: len(c) for kind, c in counts.items()} == {
        "color": 6,
        "shape": 4,
        "count": 3,
        "motion": 4,
    }
    for kind, answers in counts.items():
        assert min(answers.values()) > 0.8 * max(answers.values()), kind


def test_captions_say_everything_in_known_words():
    red = shapes.Object("red", "cross", (0.3, 0.3), ("left",), 0.16)
    blue = shapes.Object("blue", "circle", (0.7, 0.7), ("up", "down"), 0.16)
    scene = shapes.Scene((red, blue), texture=0)
    expected = "red cross moves left and blue circle moves up then down"
    assert shapes.caption(scene) == expected
    words = set(shapes.vocabulary())
    assert len(words) == len(shapes.vocabulary())
    for scene in (s for split in shapes.SPLITS for s in scenes(split, 30)):
        texts = [shapes.caption(scene)]
        texts += [f"{q.question} {q.answer}" for q in shapes.questions(scene)]
        assert set(" ".join(texts).split()) <= words


def test_unknown_split_is_an_error():
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        shapes.make_scene(np.random.default_rng(0), "dev")


def test_written_clips_read_back(tmp_path):
    path = shapes.write_dataset(tmp_path, "order", 6, num_frames=6, size=48, seed=5)
    assert path == tmp_path / "order.jsonl"
    expected = scenes("order", 6, seed=5)
    for scene, example in zip(expected, read_jsonl(path), strict=True):
        assert example.captions == (shapes.caption(scene),)
        read = {(q.question, *q.answers, q.kind) for q in example.questions}
        written = {(q.question, q.answer, q.kind) for q in shapes.questions(scene)}
        assert read == written
        frames = read_video(example.media, 6).astype(int)
        error = np.abs(frames - shapes.render(scene, 6, 48))
        assert error.mean() < 2
    line = json.loads(path.read_text().splitlines()[0])
    assert line["video"] == "order/00001.mp4"
    assert set(line["qa"][0]) == {"question", "answer", "kind"}


def test_an_interrupted_run_leaves_no_annotations(tmp_path):
    path = shapes.write_dataset(tmp_path, "train", 2)
    (tmp_path / "train/00003.mp4").mkdir()
    with pytest.raises(IsADirectoryError):
        shapes.write_dataset(tmp_path, "train", 4, seed=1)
    assert not path.exists()
    assert not list(tmp_path.glob("*.partial"))
