"""Retrieval: ranks by hand, and both stages against the model asked directly."""

import dataclasses
import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import small

from mplug2_jax.checkpoint.load import Metadata, save_checkpoint
from mplug2_jax.cli.main import main
from mplug2_jax.data.examples import Example
from mplug2_jax.evaluation import retrieval
from mplug2_jax.evaluation.retrieval import (
    TooManyUnusableError,
    dual,
    ranks_of,
    recall,
    retrieve,
    search_results,
)
from mplug2_jax.models.mplug2 import MPlug2
from mplug2_jax.predictor import Predictor
from mplug2_jax.retriever import Retriever
from mplug2_jax.tasks.pretraining import ObjectivesConfig

CAPTIONS = (("w1 w2 w3", "w9 w8"), ("w4 w5",), ("w6 w30 w31 w32",), ("w7",))


@pytest.fixture(scope="module")
def predictor():
    """The golden model with pretraining's heads."""
    config, modules, params = small.pretrained()
    model = MPlug2(config, modules)
    return Predictor(model, params, small.tokenizer(), small.INPUTS, batch_size=3)


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    paths = small.write_clips(tmp_path_factory.mktemp("clips"), 4)
    return [Example(p, Path(p), c) for p, c in zip(paths, CAPTIONS, strict=True)]


def directly(predictor, examples, caption, index):
    """Similarity and log odds of one pair, by the model's own methods."""
    tokens = predictor.inputs.plain_captions(predictor.tokenizer, [caption])
    frames = predictor.read(examples[index].media).frames[None]

    def run(model):
        vision, text = (
            model.encode_vision(frames, True),
            model.encode_text_stages(tokens),
        )
        features = model.contrast(vision, text)
        logits = model.match(model.fuse(vision.embeds, text.states, tokens.mask).text)
        return (features.vision * features.text).sum(), logits[0, 1] - logits[0, 0]

    return predictor.model.apply({"params": predictor.params}, method=run)


@pytest.mark.parametrize(
    ("learned", "used", "within"),
    [
        (2.0, 0.5, 0.2),
        (-1.0, 0.001, 0.03),
        (0.0147, 0.0147, 0.03),
        (0.1, 0.1, 0.1),
    ],
)
def test_the_temperature_keeps_to_the_bounds_of_training(
    predictor, learned, used, within
):
    """Those that nobody has stored are the defaults of training."""
    head = predictor.params["contrastive"] | {"temperature": np.float32(learned)}
    its = predictor.replace_params(predictor.params | {"contrastive": head})
    assert its.temperatures == ObjectivesConfig().temperatures
    assert Retriever(its).temperature == pytest.approx(used)
    its = dataclasses.replace(its, temperatures=(0.03, 0.2))
    assert Retriever(its).temperature == pytest.approx(within)


def test_stages_are_the_models(predictor, examples):
    retriever = Retriever(predictor)
    media = retriever.encode_media([e.media for e in examples])
    captions = [caption for e in examples for caption in e.captions]
    texts = retriever.encode_texts(captions)
    similarities = texts.features @ media.features.T
    pairs = [(0, 3), (4, 0), (2, 2), (1, 1)]  # more than a batch of three
    odds = retriever.match(texts, media, pairs)
    assert len(np.unique(odds.round(4))) == len(pairs)
    for (text, medium), found in zip(pairs[:2], odds, strict=False):
        similarity, expected = directly(predictor, examples, captions[text], medium)
        assert found == pytest.approx(float(expected), abs=1e-4)
        assert similarities[text, medium] == pytest.approx(float(similarity), abs=1e-5)


def test_reranking_orders_the_first_candidates_alone(predictor, examples):
    """All candidates matched: the order is matching's; one of them: contrast's."""
    retriever = Retriever(predictor)
    media = retriever.encode_media([e.media for e in examples])
    captions = [caption for e in examples for caption in e.captions]
    texts = retriever.encode_texts(captions)
    right = np.array([[c in e.captions for e in examples] for c in captions])
    scores = texts.features @ media.features.T
    pairs = [(t, m) for t in range(len(captions)) for m in range(len(examples))]
    odds = retriever.match(texts, media, pairs).reshape(scores.shape)

    def named(table):
        both = {"text_to_video": (table, right), "video_to_text": (table.T, right.T)}
        return {
            f"{d}/{k}": v for d, its in both.items() for k, v in recall(*its).items()
        }

    assert named(scores) != named(odds)
    assert retrieve(predictor, examples, rerank=0) == named(scores)
    assert retrieve(predictor, examples, rerank=1) == named(scores)
    assert retrieve(predictor, examples, rerank=9) == named(odds)


def test_recall_counts_by_hand():
    scores = np.array([[3.0, 2, 1], [3, 2, 1], [3, 2, 1], [1, 1, 1]])
    right = np.array([[1, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1]], bool)
    found = recall(scores, right)  # ranks 1, 2, 2 and, of equals, by its place: 3
    assert found["recall_1"] == 0.25 and found["recall_5"] == 1
    assert found["median_rank"] == 2


def test_equal_scores_are_right_by_chance_only():
    own = np.eye(4, dtype=bool)
    assert ranks_of(np.zeros((4, 4)), own).tolist() == [1, 2, 3, 4]
    lost = np.full((1, 3), np.nan)
    assert ranks_of(lost, np.array([[True, False, False]])) > 3
    some = np.array([[0.5, np.nan, 0.1]])  # a wrong one that is nan is no merit
    assert ranks_of(some, np.array([[True, False, False]])) == 2


def test_media_that_share_a_caption_are_asked_for_one_by_one(predictor, examples):
    """Only a caption's own medium is right; an equal text is encoded and matched once.

    Texts: shared (of 0), shared (of 1), own (of 1); by matching all pairs.
    """
    shared, own = "w1 w2 w3", "w4 w5"
    given = ((shared,), (shared, own))
    pair = [
        dataclasses.replace(e, captions=c)
        for e, c in zip(examples, given, strict=False)
    ]
    retriever = Retriever(predictor)
    media = retriever.encode_media([e.media for e in pair])
    texts = retriever.encode_texts([shared, own])
    asked = [(t, m) for t in range(2) for m in range(2)]
    odds = retriever.match(texts, media, asked).reshape(2, 2)
    found = search_results(predictor, pair, rerank=3)
    records = found.records["retrieval"]
    first = int(odds[0].argmax())
    assert [r.truth for r in records] == [(e.id,) for e in (pair[0], pair[1], pair[1])]
    assert [r.prediction for r in records[:2]] == [pair[first].id] * 2
    assert [r.rank for r in records[:2]] == [first, 1 - first]
    by_text = (1 + (odds[1, 1] > odds[1, 0])) / 3
    scores = found.metrics["retrieval"]
    assert scores["text_to_video/recall_1"] == pytest.approx(by_text)
    # The first medium's caption is the earlier of the equal ones, the second's later.
    right = [odds[0, 0] >= odds[1, 0], odds[1, 1] > odds[0, 1]]
    assert scores["video_to_text/recall_1"] == np.mean(right)


def test_a_dual_softmax_is_reported_apart(predictor, examples):
    """A candidate that suits all queries yields to one that suits its own."""
    logits = np.array([[2.0, 1.9], [2.0, -1.0]])
    both = np.exp(logits), np.exp(dual(logits))
    rows, columns = (both[0] / both[0].sum(axis, keepdims=True) for axis in (1, 0))
    np.testing.assert_allclose(both[1], rows * columns, rtol=1e-5)
    assert logits.argmax(1).tolist() == [0, 0] and dual(logits).argmax(1)[0] == 1
    plain = retrieve(predictor, examples, rerank=2)
    more = retrieve(predictor, examples, rerank=2, dual_softmax=True)
    apart = {
        k.removeprefix("dual_softmax/"): more.pop(k)
        for k in [*more]
        if k.startswith("dual_softmax/")
    }
    assert more == plain and apart.keys() == plain.keys()
    retriever = Retriever(predictor)
    media = retriever.encode_media([e.media for e in examples])
    captions = [caption for e in examples for caption in e.captions]
    scores = retriever.encode_texts(captions).features @ media.features.T
    right = np.array([[c in e.captions for e in examples] for c in captions])
    table = dual(scores / float(predictor.params["contrastive"]["temperature"]))
    found = recall(table.T, right.T)
    assert {k.split("/")[1]: v for k, v in apart.items() if "to_text" in k} == found


def test_what_cannot_be_searched_is_an_error(predictor, examples):
    with pytest.raises(ValueError, match=r"no contrastive.*checkpoint of pretraining"):
        retrieve(small.predictor(), examples)
    bare = dataclasses.replace(examples[1], captions=())
    with pytest.raises(ValueError, match=r"1 of 2 examples cannot .*it has no caption"):
        retrieve(predictor, [examples[0], bare])
    gone = dataclasses.replace(examples[1], media=Path("gone.mp4"))
    with pytest.raises(TooManyUnusableError, match=r"gone\.mp4") as error:
        retrieve(predictor, [examples[0], gone])
    assert list(error.value.skipped) == [gone.id]
    with pytest.raises(TooManyUnusableError, match="1 of 1 examples"):
        search_results(predictor, [gone], max_bad_share=1.0)


def test_a_share_of_the_examples_may_be_unusable(predictor, examples):
    """The others are searched as if these were not there."""
    bare = dataclasses.replace(examples[1], captions=())
    several = dataclasses.replace(examples[2], others=(examples[0].media,))
    gone = dataclasses.replace(examples[2], id="gone", media=Path("gone.mp4"))
    some = [examples[0], bare, gone, several, examples[3]]
    with pytest.raises(TooManyUnusableError, match="3 of 5"):
        search_results(predictor, some, 2, max_bad_share=0.5)
    found = search_results(predictor, some, 2, max_bad_share=0.6)
    alone = search_results(predictor, [examples[0], examples[3]], 2)
    assert (found.metrics, found.records) == (alone.metrics, alone.records)
    assert set(found.skipped) == {bare.id, "gone", several.id} and not alone.skipped


@pytest.mark.parametrize(("rerank", "kept"), [(0, [3, 1]), (2, [3, 4])])
def test_states_are_kept_for_matching_alone(
    predictor, examples, rerank, kept, monkeypatch
):
    """Without it at most those of one batch are in memory, here of three and one."""
    states, alive = [], []
    encode = Retriever.encode_window

    def watched(self, window):
        found = encode(self, window)
        states.extend(weakref.ref(state) for _, state in found)
        return found

    def count(what):
        return lambda done, total: alive.append(sum(s() is not None for s in states))

    monkeypatch.setattr(Retriever, "encode_window", watched)
    search_results(predictor, examples, rerank, progress=count)
    assert alive[:2] == kept


def test_progress_is_of_media_and_then_of_pairs(predictor, examples, monkeypatch):
    """Of each direction's pairs: five texts, four media, the best two of each."""
    told = []
    monkeypatch.setattr(retrieval, "MATCHED_AT_ONCE", 1)

    def tell(what):
        return lambda done, total: told.append((what, done, total))

    search_results(predictor, examples, 2, progress=tell)
    assert told[:2] == [("media", 3, 4), ("media", 4, 4)]
    assert told[2:6] == [("pairs", done, 10) for done in (3, 6, 9, 10)]
    assert told[6:] == [("pairs", done, 8) for done in (3, 6, 8)]
    told.clear()
    search_results(dataclasses.replace(predictor, rerank=0), examples, progress=tell)
    assert {what for what, _, _ in told} == {"media"}


def test_the_command(predictor, examples, tmp_path, capsys):
    its = dataclasses.asdict(predictor.inputs)
    made_of = predictor.model.config, predictor.model.modules
    used = {"rerank": 2, "temperatures": (0.1, 0.2)}
    metadata = Metadata(*made_of, inputs=its, task="retrieval", **used)
    folder, annotations = tmp_path / "checkpoint", tmp_path / "test.jsonl"
    save_checkpoint(folder, predictor.params, metadata, tokenizer=small.tokenizer())
    with annotations.open("w") as file:
        for example in examples:
            line = {"video": str(example.media), "captions": example.captions}
            file.write(json.dumps(line) + "\n")
    assert Retriever.from_checkpoint(folder).predictor.temperatures == (0.1, 0.2)
    assert Predictor.from_checkpoint(folder).temperatures == (0.1, 0.2)
    options = ["--batch-size", "3", "--dual-softmax", "--devices", "1"]
    output = tmp_path / "results.json"
    arguments = ["evaluate", "--checkpoint", str(folder), *options]
    arguments += ["--annotations", str(annotations), "--output", str(output)]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert "4/4 media" in printed.err and "10/10 pairs" in printed.err
    table = dict(line.split() for line in printed.out.splitlines())
    its = dataclasses.replace(predictor, temperatures=metadata.temperatures)
    expected = retrieve(its, examples, rerank=2, dual_softmax=True)
    written = json.loads(output.read_text())
    assert written["metrics"] == {"retrieval": expected}
    assert (written["rerank"], written["n"]) == (2, len(examples))
    ranks = [text["rank"] for text in written["records"]["retrieval"]]
    assert len(ranks) == sum(map(len, CAPTIONS))
    assert np.mean(np.array(ranks) == 0) == expected["text_to_video/recall_1"]
    assert table["text_to_video/median_rank"] == "2"
    assert (
        float(table["video_to_text/recall_1"])
        == 100 * expected["video_to_text/recall_1"]
    )
    assert main([*arguments, "--caption-length", "2"]) == 0
    cut = json.loads(output.read_text())
    assert main([*arguments, "--rerank", "1"]) == 0
    assert json.loads(output.read_text())["rerank"] == 1
    assert cut["inputs"]["caption_length"] == 2 and cut["metrics"] != written["metrics"]
    other = ["--checkpoint", str(folder), "--annotations", str(annotations)]
    assert main(["evaluate", *other, "--task", "qa", "--caption-length", "9"]) == 2
    assert "--caption-length needs --task retrieval" in capsys.readouterr().err
    with annotations.open("a") as file:
        bare = {"video": str(examples[0].media), "start": 0.5, "label": "a"}
        file.write(json.dumps(bare))
    capsys.readouterr()
    assert main(arguments) == 2
    assert "1 of 5 examples cannot be searched" in capsys.readouterr().err
    assert main([*arguments, "--max-bad-share", "0.2"]) == 0
    assert "it has no caption to be found by" in capsys.readouterr().err
    again = json.loads(output.read_text())
    assert again["metrics"] == written["metrics"] and again["n"] == len(examples)
