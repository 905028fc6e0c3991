"""Classes of texts and of texts about media: against passes made by hand."""

import dataclasses
import functools
import json
from pathlib import Path

import goldens
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from PIL import Image

from mplug2_jax.batching import joined
from mplug2_jax.checkpoint.load import Metadata, save_checkpoint
from mplug2_jax.cli.main import main
from mplug2_jax.data.examples import Example, Label, TextExample
from mplug2_jax.data.sources import read_jsonl
from mplug2_jax.data.video import Media
from mplug2_jax.evaluation.pairs import PairAsker, score_pairs
from mplug2_jax.evaluation.results import Record
from mplug2_jax.evaluation.runner import evaluate
from mplug2_jax.evaluation.texts import evaluate_texts
from mplug2_jax.evaluation.usable import unusable
from mplug2_jax.models.mplug2 import MODULES, MPlug2
from mplug2_jax.predictor import Predictor
from mplug2_jax.tasks.base import COMPOSITION
from mplug2_jax.tasks.classification import PairClassification, TextClassification
from mplug2_jax.text_classifier import PairClassifier, TextClassifier
from mplug2_jax.training.validation import score_of
from mplug2_jax.types import MultimodalBatch

CLASSES = ("contradiction", "entailment", "neutral")
INPUTS = dataclasses.replace(small.INPUTS, text_length=8, classes=CLASSES)
TEXTS = ["w5 w9", "w31", "w77 w8 w2"]


def config(media=1, classes=3):
    heads = {"num_classes": classes, "num_media": media}
    return goldens.config("base").replace(classifier=heads)


@functools.cache
def params(media=1, classes=3):
    """The golden weights, and a head drawn at random."""
    rng, width = np.random.default_rng(0), config().text.width
    kernel = 0.05 * rng.normal(size=(media * width, classes)).astype(np.float32)
    head = {"kernel": kernel, "bias": np.arange(classes, dtype=np.float32) / 8}
    return small.params() | {"classifier": jax.tree.map(jnp.asarray, head)}


def predictor(row, media=1, classes=CLASSES, batch_size=2):
    modules = COMPOSITION[row].modules
    count = max(1, len(classes))
    its = {k: v for k, v in params(media, count).items() if k in modules}
    model = MPlug2(config(media, count), modules)
    inputs = dataclasses.replace(INPUTS, classes=classes)
    return Predictor(model, its, small.tokenizer(), inputs, batch_size=batch_size)


def by_hand(run, media=1):
    """`run` of a bound model."""
    model = MPlug2(config(media), (*MODULES, "classifier"))
    return jax.jit(lambda its: model.apply({"params": its}, method=run))(params(media))


def images(count):
    rng = np.random.default_rng(3)
    return rng.integers(0, 256, (count, small.SIZE, small.SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def pair_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number, pixels in enumerate(images(4)):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_texts_are_classified_by_their_class_token():
    classifier = TextClassifier(predictor("text_classification"))
    pairs = [("w5 w9", ""), ("w5", "w9"), ("w31", "w2 w8")]
    tokens = INPUTS.text_pairs(small.tokenizer(), pairs)

    def run(model):
        states = model.encode_text(tokens)
        return states[:, 0] @ params()["classifier"]["kernel"] + jnp.arange(3) / 8

    expected = by_hand(run)
    np.testing.assert_allclose(classifier.scores(pairs), expected, atol=1e-4)
    said = classifier.classify("w5", "w9", top_k=3)
    shares = jax.nn.softmax(expected[1])
    order = np.argsort(-shares)
    assert [h.text for h in said.hypotheses] == [CLASSES[i] for i in order]
    found = [h.score for h in said.hypotheses]
    np.testing.assert_allclose(found, shares[order], atol=1e-5)
    batch = MultimodalBatch(text=tokens, label=jnp.array([1, -1, 2]), is_video=False)
    task = TextClassification(config())
    its = predictor("text_classification").params
    loss, output = jax.jit(task.loss)(its, batch)
    log_p = jax.nn.log_softmax(expected)
    assert float(loss) == pytest.approx(float(-(log_p[0, 1] + log_p[2, 2]) / 2), 1e-4)
    hits = (expected[0].argmax() == 1) + (expected[2].argmax() == 2)
    assert float(output.metrics["class_accuracy"]) == hits / 2


def test_empty_texts_are_left_out_and_named():
    """As those of prepared sets, which nobody has checked."""
    its = predictor("text_classification")
    texts = {"train/0": "w5 w9", "train/1": " ", "train/2": "w31"}
    examples = [TextExample(i, text, label=CLASSES[0]) for i, text in texts.items()]
    with pytest.raises(ValueError, match="1 of 3 texts .* of train/1 the text is empt"):
        evaluate_texts(its, examples)
    found = evaluate_texts(its, examples, max_bad_share=0.5)
    assert found.skipped == {"train/1": "the text is empty"}
    assert found.metrics["text_classification"]["n"] == 2


def test_a_number_is_what_regression_says():
    classifier = TextClassifier(predictor("text_classification", classes=()))
    (score,) = classifier.scores([("w5", "w9")])
    said = classifier.classify("w5", "w9")
    assert said.score == float(said.text) == pytest.approx(float(score[0]))


def test_the_longer_text_is_cut():
    words = [f"w{i}" for i in range(20, 40)]
    tokenizer, length = small.tokenizer(), INPUTS.text_length

    def row(first, second):
        pair = " ".join(words[:first]), " ".join(words[10 : 10 + second])
        tokens = INPUTS.text_pairs(tokenizer, [pair])
        return tokens.values[0, : int(tokens.mask.sum())].tolist()

    start, end = tokenizer.start_id, tokenizer.end_id
    a, b = list(range(20, 30)), list(range(30, 40))
    assert row(3, 0) == [start, *a[:3]]  # no second text, no end
    assert row(2, 2) == [start, *a[:2], end, *b[:2]]
    assert row(1, 9) == [start, a[0], end, *b[:5]]
    assert row(9, 1) == [start, *a[:5], end, b[0]]
    assert row(9, 9) == [start, *a[:3], end, *b[:3]]
    assert len(row(9, 9)) == length


def test_two_images_are_two_fused_passes(pair_files):
    files = [str(pair_files / f"{number}.png") for number in range(2)]
    classifier = PairClassifier(predictor("pair_classification", media=2))
    found = classifier.classify(files, TEXTS, top_k=3)
    tokens = INPUTS.text_pairs(small.tokenizer(), [(text, "") for text in TEXTS])
    frames = images(2)[:, None]  # as they were read: nothing is resized

    def run(model):
        states = model.encode_text(tokens)
        vision = model.encode_vision(frames, False).embeds
        fused = [
            model.fuse(vision[i : i + 1], states, tokens.mask).text[:, 0]
            for i in range(2)
        ]
        return model.classify(jnp.concatenate(fused, axis=1))

    expected = by_hand(run, 2)
    for prediction, row in zip(found, jax.nn.softmax(expected), strict=True):
        scores = {h.text: h.score for h in prediction.hypotheses}
        np.testing.assert_allclose([scores[c] for c in CLASSES], row, atol=1e-4)
    swapped = classifier.classify(files[::-1], TEXTS[:1], top_k=3)[0]
    assert swapped.score != pytest.approx(found[0].score, abs=1e-3)
    task = PairClassification(config(2))
    its = classifier.predictor.params
    batch = MultimodalBatch(
        frames[:, 0][None], text=tokens, label=jnp.array([0, 2, 1]), is_video=False
    )
    loss, _ = jax.jit(task.loss)(its, batch)
    picked = jax.nn.log_softmax(expected)[jnp.arange(3), jnp.array([0, 2, 1])]
    assert float(loss) == pytest.approx(float(-picked.mean()), rel=1e-4)


def lines(folder, name, records):
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_examples_are_evaluated_as_they_are_classified(pair_files):
    """Three examples in windows of two; NLVR2's ids give consistency."""
    its = predictor("pair_classification", media=2)
    classifier = PairClassifier(its)
    records = []
    for number, names in enumerate((["0", "1"], ["2", "3"], ["1", "3"])):
        paths = [str(pair_files / f"{name}.png") for name in names]
        said = [p.text for p in classifier.classify(paths, TEXTS)]
        if number == 2:  # one sentence is wrong about one of its pairs
            said[0] = next(c for c in CLASSES if c != said[0])
        labels = [
            {"text": text, "label": label, "id": f"dev-7-{number}-{sentence}"}
            for sentence, (text, label) in enumerate(zip(TEXTS, said, strict=True))
        ]
        names = [f"{name}.png" for name in names]
        records.append({"images": names, "id": f"dev-7-{number}", "labels": labels})
    examples = read_jsonl(lines(pair_files, "dev.jsonl", records))
    results = evaluate(its, examples)
    scores = results.metrics["pairs"]
    assert scores["n"] == 9 and scores["accuracy"] == pytest.approx(8 / 9)
    assert scores["consistency"] == pytest.approx(2 / 3)
    said = results.records["pairs"]
    assert [r.id for r in said[:2]] == ["dev-7-0-0", "dev-7-0-1"]
    assert said[1].question == TEXTS[1] and said[1].example == "dev-7-0"
    assert [r.rank == 0 for r in said] == [r.prediction == r.truth[0] for r in said]
    assert "consistency" not in score_pairs([Record("a", "x", ("x",), 1.0)])


def test_clips_have_pairs_too(tmp_path):
    """One medium with several texts, the rows of which share it."""
    (clip,) = small.write_clips(tmp_path, 1)
    its = predictor("pair_classification")
    said = PairClassifier(its).classify(clip, TEXTS)
    labels = tuple(
        Label(prediction.text, text)
        for prediction, text in zip(said, TEXTS, strict=True)
    )
    scores = evaluate(its, [Example("a", Path(clip), labels=labels)], ["pairs"])
    assert scores.metrics["pairs"] == {"accuracy": 1.0, "n": 3}


def test_texts_without_a_class_of_the_set_are_left_out_and_named(tmp_path):
    """As SNLI-VE's "-", on which its annotators did not agree."""
    clips = small.write_clips(tmp_path, 2)
    its = predictor("pair_classification")
    labels = [
        [Label("entailment", TEXTS[0]), Label("-", TEXTS[1]), Label("neutral", "w2")],
        [Label("-", TEXTS[2])],
    ]
    examples = [
        Example(name, Path(clip), labels=tuple(given))
        for name, clip, given in zip("ab", clips, labels, strict=True)
    ]
    with pytest.raises(ValueError, match="2 of 4 labels are outside .* of a: w31 the"):
        evaluate(its, examples)
    found = evaluate(its, examples, max_bad_share=0.5)
    said = found.records["pairs"]
    assert [(r.question, r.truth) for r in said] == [
        (TEXTS[0], ("entailment",)),
        ("w2", ("neutral",)),
    ]
    answers = PairClassifier(its).classify(clips[0], [TEXTS[0], "w2"])
    assert [r.prediction for r in said] == [answer.text for answer in answers]
    assert set(found.skipped) == {"a: w31", "b: w77 w8 w2", "b"}
    assert found.skipped["a: w31"] == "the label '-' is none of the 3 classes"
    numbers = {"1": ["2.5"], "2": ["nan"], "3": ["-"]}
    assert set(unusable(numbers, (), 0.7)) == {"2", "3"}


def test_numbers_of_texts_about_media_are_correlated():
    asker = PairAsker(predictor("pair_classification", classes=()))
    records = [
        Record(str(i), said, (true,), 1.0)
        for i, (said, true) in enumerate([("0.5", "1"), ("0.9", "2"), ("0.7", "3")])
    ]
    scores = asker.score(records)
    half = pytest.approx(0.5)
    assert scores == {"pearson": half, "spearman": half, "n": 3}
    assert score_of({f"pairs/{k}": v for k, v in scores.items()}) == half


def test_what_does_not_fit_is_named(pair_files, tmp_path):
    its = predictor("pair_classification", media=2)
    file = pair_files / "0.png"
    with pytest.raises(ValueError, match="about 1 media together; .* trained on 2"):
        PairClassifier(its).classify(str(file), TEXTS)
    with pytest.raises(ValueError, match="A text is empty"):
        PairClassifier(its).classify([str(file)] * 2, ["w1", " "])
    example = Example("x", file, labels=(Label("neutral", "w1"),))
    with pytest.raises(ValueError, match="None of the .* is 1 media .* expected 2"):
        evaluate(its, [example])
    example = Example("x", file, labels=(Label("yes", "w1"),), others=(file,))
    with pytest.raises(ValueError, match="1 of 1 labels .* of x: w1 the label 'yes'"):
        evaluate(its, [example])
    with pytest.raises(ValueError, match="None of the 1 examples has texts with labe"):
        evaluate(its, [Example("x", file)], ["pairs"])
    video = Media(np.zeros((2, 8, 8, 3), np.uint8), image=False)
    with pytest.raises(ValueError, match="One of several media is a video"):
        joined([video, video])
    with pytest.raises(ValueError, match="cannot classify texts: it has no"):
        TextClassifier(small.predictor())
    texts = predictor("text_classification")
    with pytest.raises(ValueError, match="are videos or images, and the task is text_"):
        evaluate(texts, [Example("x", file)], ["text_classification"])
    longer = dataclasses.replace(
        texts, inputs=dataclasses.replace(INPUTS, text_length=4096)
    )
    with pytest.raises(ValueError, match="4096 tokens do not fit the model's"):
        TextClassifier(longer)
    fewer = dataclasses.replace(INPUTS, classes=CLASSES[:2])
    with pytest.raises(ValueError, match="scores 3 classes, inputs.classes names 2"):
        TextClassifier(dataclasses.replace(texts, inputs=fewer))
    with pytest.raises(ValueError, match="top_k=4 classes were asked for"):
        TextClassifier(texts).classify("w1", top_k=4)


def saved(folder, row, media=1):
    its = predictor(row, media)
    inputs = dataclasses.asdict(its.inputs)
    metadata = Metadata(its.model.config, its.model.modules, inputs=inputs)
    save_checkpoint(folder, its.params, metadata, tokenizer=its.tokenizer)
    return str(folder)


def test_the_command_classifies_texts(tmp_path, capsys):
    checkpoint = saved(tmp_path / "texts", "text_classification")
    arguments = ["classify", "--checkpoint", checkpoint, "--text", "w5"]
    assert main([*arguments, "--second", "w9", "--top-k", "2", "--json"]) == 0
    line = json.loads(capsys.readouterr().out)
    said = TextClassifier(predictor("text_classification")).classify("w5", "w9", 2)
    assert (line["text"], line["class"]) == ("w5", said.text)
    found = [entry["probability"] for entry in line["classes"]]
    assert found == pytest.approx([h.score for h in said.hypotheses], abs=1e-5)
    for more, message in {
        ("--text", "w9", "--second", "w2"): "--second goes with one --text",
        ("--clips", "2"): "are for media without --text",
    }.items():
        assert main([*arguments, *more]) == 2
        assert message in capsys.readouterr().err
    assert main(["classify", "--checkpoint", checkpoint]) == 2
    assert "There is nothing to classify" in capsys.readouterr().err


def test_the_command_classifies_texts_about_images(pair_files, tmp_path, capsys):
    files = [str(pair_files / f"{number}.png") for number in range(2)]
    texts = [part for text in TEXTS[:2] for part in ("--text", text)]
    alone, both = (
        saved(tmp_path / str(media), "pair_classification", media) for media in (1, 2)
    )
    one, two = (
        PairClassifier(predictor("pair_classification", media)) for media in (1, 2)
    )
    assert main(["classify", *files, *texts, "--checkpoint", alone]) == 0
    expected = [
        f"{file}\t{text}\t{said.text}"
        for file in files
        for text, said in zip(TEXTS, one.classify(file, TEXTS[:2]), strict=False)
    ]
    assert capsys.readouterr().out.splitlines() == expected
    assert main(["classify", *files, *texts, "--checkpoint", both]) == 0
    said = two.classify(files, TEXTS[:2])
    assert capsys.readouterr().out.splitlines() == [
        f"{' '.join(files)}\t{text}\t{its.text}"
        for text, its in zip(TEXTS, said, strict=False)
    ]
    assert main(["classify", files[0], *texts, "--checkpoint", both]) == 2
    assert "the model was trained on 2" in capsys.readouterr().err
