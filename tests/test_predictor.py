"""From files and frames to texts: parity, batching, loading."""

import dataclasses
import shutil

import goldens
import jax
import numpy as np
import pytest
import small
from PIL import Image

from mplug2_jax.checkpoint.load import save_checkpoint
from mplug2_jax.data.tokenizers import WordPieceTokenizer
from mplug2_jax.data.video import Media
from mplug2_jax.decoding.settings import Decoding
from mplug2_jax.models.mplug2 import HEADS, MODULES
from mplug2_jax.predictor import Predictor
from mplug2_jax.tasks import TASKS, generation
from mplug2_jax.tasks.base import COMPOSITION

SCORE_ATOL = 1e-3
PROBABILITY_ATOL = 1e-4
CAPTIONING = ("vision", "local_temporal", "universal", "decoder")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return small.save(tmp_path_factory.mktemp("checkpoint") / "small")


@pytest.fixture(scope="module")
def clips():
    return [small.clip(index) for index in range(3)]


@pytest.fixture(scope="module")
def captions(clips):
    return small.predictor().caption(clips)


def test_captions_are_those_of_the_official_code():
    videos = list(goldens.frames(goldens.arrays("base")["video"]))
    found = small.predictor().caption(videos, top_k=small.BEAM)
    stored = goldens.read_json("base", "caption_beams.json")
    assert [[list(h.ids) for h in one.hypotheses] for one in found] == [
        [hypothesis["ids"] for hypothesis in sample] for sample in stored
    ]
    np.testing.assert_allclose(
        [[h.score for h in one.hypotheses] for one in found],
        [[hypothesis["score"] for hypothesis in sample] for sample in stored],
        atol=SCORE_ATOL,
    )
    ids = found[0].hypotheses[0].ids
    assert found[0].text == " ".join(f"w{token}" for token in ids[1:])


def test_rankings_are_those_of_the_official_code(monkeypatch):
    generation.rank.__wrapped__.clear_cache()
    monkeypatch.setattr(generation, "RANKED_ROWS", 2)  # 5 candidates are three blocks
    stored, decode = goldens.arrays("base"), small.tokenizer().decode
    candidates = [decode(row) for row in stored["candidate_ids"]]
    predictor = small.predictor(decoding=small.RANKING)
    videos, questions = goldens.frames(stored["qa_video"]), stored["question_ids"]
    for row, video in enumerate(videos):
        found = predictor.answer(video, decode(questions[row]), candidates, top_k=5)
        best = [candidates.index(h.text) for h in found.hypotheses]
        assert best == stored["rank_ids"][row].tolist()
        probabilities = [h.score for h in found.hypotheses]
        expected = stored["rank_probs"][row]
        np.testing.assert_allclose(probabilities, expected, atol=PROBABILITY_ATOL)


def test_batches_do_not_change_a_caption(clips, captions):
    assert len({caption.text for caption in captions}) > 1
    alone = small.predictor(batch_size=1)
    for clip, caption in zip(clips, captions, strict=True):
        again = alone.caption(clip)
        assert again.hypotheses[0].ids == caption.hypotheses[0].ids
        assert again.score == pytest.approx(caption.score, abs=SCORE_ATOL)


def test_a_file_gives_what_its_frames_give(tmp_path, captions):
    predictor = small.predictor()
    paths = small.write_clips(tmp_path, 2)
    read = [predictor.read(path) for path in paths]
    assert predictor.caption(paths) == predictor.caption(read)
    # H.264 loses little: the first clip's caption survives it.
    assert predictor.caption(paths)[0].text == captions[0].text


def test_images_and_videos_mixed(tmp_path, clips, captions):
    predictor = small.predictor()
    Image.fromarray(clips[0][0]).resize((60, 40)).save(tmp_path / "photo.png")
    photo = predictor.read(tmp_path / "photo.png")
    assert photo.image and photo.frames.shape == (1, small.SIZE, small.SIZE, 3)
    mixed = predictor.caption([photo.frames[0], clips[1], tmp_path / "photo.png"])
    assert mixed[1].text == captions[1].text
    assert mixed[0] == mixed[2]


def test_images_do_not_see_the_temporal_modules(clips):
    predictor = small.predictor()
    blocks = dict(predictor.params["vision"]["blocks"])
    temporal = ("local_temporal_1", "local_temporal_2")
    blocks |= {name: jax.tree.map(np.negative, blocks[name]) for name in temporal}
    vision = predictor.params["vision"] | {"blocks": blocks}
    other = predictor.replace_params(predictor.params | {"vision": vision})
    shapes = predictor.shapes([0, 0])
    for frames, image in ((clips[0][:1], True), (clips[0], False)):
        media = [Media(frames, image)] * 2
        (ours,), (theirs,) = (p.encode(media, shapes) for p in (predictor, other))
        assert np.array_equal(ours.vision, theirs.vision) == image


def test_several_questions_at_once(clips):
    predictor = small.predictor()
    together = predictor.answer(clips[0], list(small.QUESTIONS))
    assert [predictor.answer(clips[0], q).text for q in small.QUESTIONS] == [
        answer.text for answer in together
    ]
    assert len({answer.text for answer in together}) > 1


def test_random_texts_do_not_depend_on_the_batch(clips):
    decoding = Decoding("sample", seed=3)
    predictor = small.predictor(decoding=decoding)
    first = predictor.caption(clips[:2])
    assert first == predictor.caption(clips[:2])
    assert first[0].text == predictor.caption([clips[0], clips[2]])[0].text
    reseeded = dataclasses.replace(decoding, seed=4)
    other = dataclasses.replace(predictor, decoding=reseeded).caption(clips[:2])
    assert [c.text for c in other] != [c.text for c in first]


def test_other_parameters_compile_nothing(clips, captions):
    predictor = small.predictor()
    params = jax.tree.map(lambda leaf: 0.9 * leaf, predictor.params)
    programs = generation.encode.__wrapped__, generation.caption.__wrapped__
    compiled = [program._cache_size() for program in programs]
    other = predictor.replace_params(params).caption(clips)
    assert compiled == [program._cache_size() for program in programs]
    assert [c.score for c in other] != [c.score for c in captions]
    assert predictor.caption(clips) == captions


def test_a_checkpoint_gives_the_same(checkpoint, clips, captions):
    loaded = Predictor.from_checkpoint(
        checkpoint, decoding=Decoding(beam_size=small.BEAM), batch_size=2
    )
    assert loaded.inputs == small.INPUTS
    assert loaded.decoding == small.DECODING
    assert loaded.caption(clips) == captions


def test_only_the_modules_of_the_task_are_loaded(checkpoint, clips):
    predictor = Predictor.from_checkpoint(checkpoint, task="caption")
    assert predictor.model.modules == CAPTIONING
    assert set(predictor.params) == {"vision", "universal", "decoder"}
    assert predictor.can("caption") and not predictor.can("qa")
    with pytest.raises(ValueError, match="has no text, fusion"):
        predictor.answer(clips[0], "w5")


def test_a_checkpoint_of_captioning_cannot_answer(tmp_path):
    folder = small.save(tmp_path / "captioning", CAPTIONING)
    assert not Predictor.from_checkpoint(folder).can("qa")
    with pytest.raises(ValueError, match="has no text, fusion"):
        Predictor.from_checkpoint(folder, task="qa")


def test_what_a_checkpoint_was_trained_for(tmp_path):
    """It can do that; what it has all modules for it may be asked all the same."""
    metadata = dataclasses.replace(small.metadata(), task="question_answering")
    params = goldens.params("base")
    save_checkpoint(tmp_path / "qa", params, metadata, tokenizer=small.tokenizer())
    predictor = Predictor.from_checkpoint(tmp_path / "qa")
    assert predictor.can("qa") and not predictor.can("caption")
    predictor.require("caption")
    unknown = dataclasses.replace(predictor, trained_for="")
    assert unknown.can("caption") and not unknown.can("retrieval")


def test_every_training_teaches_what_its_modules_allow():
    assert set(generation.TAUGHT) == set(TASKS)
    joint = {"caption_and_answer": MODULES, "pretraining": (*MODULES, *HEADS)}
    for name, taught in generation.TAUGHT.items():
        modules = joint[name] if name in joint else COMPOSITION[name].modules
        assert taught and not any(generation.missing(its, modules) for its in taught)


def test_the_best_checkpoint_of_a_work_folder(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "final")
    assert Predictor.from_checkpoint(tmp_path).can("qa")
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="best/config.json lacks"):
        Predictor.from_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="no checkpoint at"):
        Predictor.from_checkpoint(tmp_path / "nowhere")


def test_the_tokenizer_must_fit(checkpoint, tmp_path):
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    with pytest.raises(ValueError, match="has 6 tokens, the model 120"):
        Predictor.from_checkpoint(checkpoint, vocab=vocab)
    bare = small.save(tmp_path / "bare", CAPTIONING, with_tokenizer=False)
    with pytest.raises(OSError, match="no tokenizer.*--vocab"):
        Predictor.from_checkpoint(bare)
    vocab.write_text("\n".join(small.tokenizer()._pieces))
    predictor = Predictor.from_checkpoint(bare, vocab=vocab)
    assert isinstance(predictor.tokenizer, WordPieceTokenizer)


def test_frames_and_inputs_of_a_checkpoint(tmp_path, checkpoint):
    assert Predictor.from_checkpoint(checkpoint, num_frames=2).inputs.num_frames == 2
    with pytest.raises(ValueError, match="number of frames is 0"):
        Predictor.from_checkpoint(checkpoint, num_frames=0)
    odd = small.metadata(CAPTIONING, colour="red")
    params = goldens.params("base", CAPTIONING)
    save_checkpoint(tmp_path / "odd", params, odd, tokenizer=small.tokenizer())
    with pytest.raises(ValueError, match="unknown input 'colour'"):
        Predictor.from_checkpoint(tmp_path / "odd")


@pytest.mark.parametrize(
    ("media", "message"),
    [
        (np.zeros((4, 28, 28), np.uint8), "are no medium"),
        (np.zeros((4, 28, 28, 4), np.uint8), "are no medium"),
        (np.zeros((4, 30, 28, 3), np.float32), "expected uint8, or normalised"),
        (np.zeros((4, 28, 28, 3), np.int64), "Frames are int64"),
    ],
)
def test_frames_that_are_none(media, message):
    with pytest.raises(ValueError, match=message):
        small.predictor().caption(media)


def test_what_cannot_be_asked(clips, tmp_path):
    predictor = small.predictor()
    with pytest.raises(ValueError, match="question is empty"):
        predictor.answer(clips[0], ["w5", " "])
    with pytest.raises(ValueError, match="list of candidates is empty"):
        predictor.answer(clips[0], "w5", [" "])
    with pytest.raises(ValueError, match="'w5 w5.*' has more tokens than"):
        predictor.answer(clips[0], "w5", ["w5", "w5 " * 70])
    with pytest.raises(ValueError, match="top_k=5 .* there are 1 to 4"):
        predictor.caption(clips[0], top_k=5)
    with pytest.raises(FileNotFoundError, match="missing.mp4"):
        predictor.caption([clips[0], tmp_path / "missing.mp4"])
    with pytest.raises(ValueError, match="neither"):
        Decoding(rule="other")  # type: ignore[arg-type]
