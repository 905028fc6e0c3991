"""Annotations of the synthetic world for further tasks, checked against its pixels."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from mplug2_jax.cli.main import main
from mplug2_jax.data import shape_tasks, shapes
from mplug2_jax.data.opening import DataConfig, open_examples, open_text_examples
from mplug2_jax.data.records import Records
from mplug2_jax.data.video import read_media
from mplug2_jax.evaluation.vqa import soft_accuracy

SIZE = 96


def scenes(count: int, split: str = "train"):
    return [shapes.make_scene(shapes.scene_rng(split, 0, i)) for i in range(count)]


@pytest.mark.parametrize("scene", scenes(12), ids=range(12))
def test_a_box_is_where_the_shape_is_drawn(scene):
    for thing in scene.objects:
        alone = dataclasses.replace(scene, objects=(thing,))
        empty = dataclasses.replace(scene, objects=())
        pictures = [shapes.render(s, 1, SIZE)[0].astype(int) for s in (alone, empty)]
        drawn = np.abs(pictures[0] - pictures[1]).sum(-1) > 30
        rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
        seen = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(
            np.array(seen) / SIZE, shape_tasks.box(thing), atol=1.6 / SIZE
        )


def test_a_phrase_names_one_object():
    for scene in scenes(50):
        found = shape_tasks.regions(scene)
        assert len({region.phrase for region in found}) == len(found)
        for thing in scene.objects:
            named = [r for r in found if thing.color in r.phrase.split()]
            assert [r.phrase for r in named] == [
                f"{thing.color} {thing.shape}",
                f"the {thing.color} shape",
            ]
            assert {r.box for r in named} == {shape_tasks.box(thing)}


@pytest.mark.parametrize("motion", [True, False])
def test_statements_follow_from_the_caption_or_do_not(motion):
    """A false one differs in one word, and words alone do not tell which is which."""
    words = {True: Counter(), False: Counter()}
    changed = Counter()
    for index, scene in enumerate(scenes(600)):
        rng = np.random.default_rng(index)
        yes, no = shape_tasks.statements(scene, rng, motion)
        assert (yes.label, no.label) == ("entailment", "not_entailment")
        true = {
            f"{o.color} {o.shape}" + f" moves {o.motion[0]}" * motion
            for o in scene.objects
        }
        assert yes.text in true and no.text not in true
        pairs = list(zip(yes.text.split(), no.text.split(), strict=True))
        assert sum(a != b for a, b in pairs) == 1
        assert tuple(no.text.split()[:2]) not in shapes.UNSEEN_PAIRS
        changed[[a != b for a, b in pairs].index(True)] += 1
        words[True].update(yes.text.split())
        words[False].update(no.text.split())
    assert min(changed.values()) > 600 / len(changed) * 0.75
    for word, count in words[True].items():
        assert count == pytest.approx(words[False][word], rel=0.35)


def test_one_of_two_images_shows_what_is_said():
    """Each side, and each image, is right as often as the other."""
    sides = Counter()
    made = scenes(400)
    for index in range(0, 400, 2):
        pair = dict(zip(("left", "right"), made[index:], strict=False))
        if shape_tasks.things(pair["left"]) == shape_tasks.things(pair["right"]):
            continue
        rng = np.random.default_rng(index)
        yes, no = shape_tasks.sides(pair["left"], pair["right"], rng)
        for said, true in ((yes, True), (no, False)):
            assert said.label == ("entailment" if true else "not_entailment")
            color, shape, *where, side, image = said.text.split()
            assert [*where, image] == ["in", "the", "image"]
            assert ((color, shape) in shape_tasks.things(pair[side])) == true
        sides[yes.text.split()[-2]] += 1
    assert min(sides.values()) > 80


def test_ten_people_answer_and_most_are_right():
    kinds, wrong = Counter(), 0
    for index, scene in enumerate(scenes(40)):
        truths = {q.question: q.answer for q in shapes.questions(scene)}
        for qa in shape_tasks.voted_questions(scene, np.random.default_rng(index)):
            assert len(qa.votes) == qa.people == 10
            assert soft_accuracy(qa.answers[0], qa.votes) == pytest.approx(1)
            if qa.kind == "yes/no":
                thing = qa.question.removeprefix("is there a ")
                seen = thing in [f"{o.color} {o.shape}" for o in scene.objects]
                assert qa.answers[0] == ("yes" if seen else "no")
            else:
                assert qa.answers[0] == truths[qa.question]
            kinds[qa.kind] += 1
            wrong += len(qa.answers) - 1
    assert set(kinds) == {"yes/no", "number", "other"}
    assert 0.6 < wrong / sum(kinds.values()) < 0.9  # three of four questions


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    for name in (
        "boxes",
        "votes",
        "motion",
        "things",
        "pairs",
        "couples",
        "entailment",
    ):
        asked = ["--data-dir", str(folder), "--counts", "train=4"]
        assert main(["prepare", f"shapes_{name}", *asked]) == 0
    return folder / "mplug2_data"


def records(prepared, name):
    return open_examples(DataConfig(str(prepared / f"shapes_{name}" / "1.0.0")))


def test_prepared_sets_keep_what_was_annotated(prepared):
    scene = shapes.make_scene(shapes.scene_rng("train box", 0, 2))
    pairs = zip(
        records(prepared, "boxes")[2].regions, shape_tasks.regions(scene), strict=True
    )
    for found, made in pairs:
        assert found.phrase == made.phrase
        assert found.box == pytest.approx(made.box, abs=1e-6)  # float32
    scene = shapes.make_scene(shapes.scene_rng("train vote", 0, 3))
    asked = shape_tasks.voted_questions(scene, np.random.default_rng(3))
    for found, made in zip(records(prepared, "votes")[3].questions, asked, strict=True):
        assert found.weights == pytest.approx(made.weights, abs=1e-6)
        assert dataclasses.replace(found, weights=made.weights) == made
        assert found.votes == made.votes
    scene = shapes.make_scene(shapes.scene_rng("train pair", 0, 1))
    said = shape_tasks.statements(scene, np.random.default_rng(1))
    assert records(prepared, "pairs")[1].labels == said
    motions = records(prepared, "motion")
    assert isinstance(motions, Records) and motions.classes == tuple(shapes.DIRECTIONS)
    for index, example in enumerate(motions):
        scene = shapes.make_scene(shapes.scene_rng("train motion", 0, index))
        assert [its.label for its in example.labels] == list(scene.objects[0].motion)


def test_prepared_stills_show_what_their_labels_say(prepared):
    things = records(prepared, "things")
    assert isinstance(things, Records) and len(things.classes) == 20
    for index, example in enumerate(things):
        scene = shapes.make_scene(shapes.scene_rng("train thing", 0, index))
        (label,) = example.labels
        assert label.label in things.classes
        assert tuple(label.label.split()) in shape_tasks.things(scene)
    for index, example in enumerate(records(prepared, "couples")):
        scenes = [
            shapes.make_scene(shapes.scene_rng(f"train {name}", 0, index))
            for name in ("left", "right 0")
        ]
        said = shape_tasks.sides(*scenes, np.random.default_rng(index))
        assert example.labels == said
        pictures = [read_media(f, 1, 48) for f in (example.media, *example.others)]
        for picture, scene in zip(pictures, scenes, strict=True):
            np.testing.assert_array_equal(
                picture.frames[0], shapes.render(scene, 1, 48)[0]
            )


def test_prepared_texts_have_labels(prepared):
    path = prepared / "shapes_entailment" / "1.0.0"
    texts = open_text_examples(DataConfig(str(path)))
    assert texts.classes == ("entailment", "not_entailment")
    assert [text.label for text in texts] == [*texts.classes] * 2
    for text in texts:
        assert (text.second in text.text) == (text.label == "entailment")
    with pytest.raises(ValueError, match="holds texts; expected videos or images"):
        records(prepared, "entailment")
    with pytest.raises(ValueError, match="holds images; expected texts with labels"):
        open_text_examples(DataConfig(str(prepared / "shapes_boxes" / "1.0.0")))
