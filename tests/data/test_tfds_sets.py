"""TFDS's own data sets: its builders on imitated downloads, its own record files."""

import io
import json
import pickle
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from layouts import write
from PIL import Image

from mplug2_jax.cli.main import main
from mplug2_jax.data import tfds_sets
from mplug2_jax.data.batches import BatchConfig
from mplug2_jax.data.examples import Label, TextExample
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.opening import DataConfig, open_examples, open_text_examples
from mplug2_jax.data.pipeline import all_images, text_batches
from mplug2_jax.data.tokenizers import WordPieceTokenizer
from mplug2_jax.data.video import read_media
from mplug2_jax.evaluation.labels import GLUE
from mplug2_jax.models.config import tiny
from mplug2_jax.training.config import RunConfig
from mplug2_jax.training.start import with_classes


def tsv(*rows):
    return "".join("\t".join(row) + "\n" for row in rows)


PAIR = ("index", "sentence1", "sentence2")
MRPC = ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String")
MNLI = (*PAIR, "label1", "gold_label")
QUERY = ("id", "qid1", "qid2", "question1", "question2")
# Of each GLUE task the files as the benchmark's archives have them, and what they say:
# text, second text and label of the first training and validation example.
SETS = {
    "sst2": (
        {
            "SST-2/train.tsv": tsv(("sentence", "label"), ("so dull ", "0")),
            "SST-2/dev.tsv": tsv(("sentence", "label"), ('a "fine film', "1")),
            "SST-2/test.tsv": tsv(("index", "sentence"), ("0", "a mishmash")),
        },
        ("so dull ", "", "negative"),
        ('a "fine film', "", "positive"),
    ),
    "cola": (
        {
            "CoLA/train.tsv": tsv(("gj04", "1", "", "We yelled.")),
            "CoLA/dev.tsv": tsv(("gj04", "0", "*", "Us yelled.")),
            "CoLA/test.tsv": tsv(("index", "sentence"), ("0", "Bill ate.")),
        },
        ("We yelled.", "", "acceptable"),
        ("Us yelled.", "", "unacceptable"),
    ),
    "rte": (
        {
            "RTE/train.tsv": tsv((*PAIR, "label"), ("0", "a", "b", "not_entailment")),
            "RTE/dev.tsv": tsv((*PAIR, "label"), ("0", "c", "d", "entailment")),
            "RTE/test.tsv": tsv(PAIR, ("0", "e", "f")),
        },
        ("a", "b", "not_entailment"),
        ("c", "d", "entailment"),
    ),
    "qnli": (
        {
            f"QNLI/{name}.tsv": tsv(
                ("index", "question", "sentence", *(("label",) if label else ())),
                ("0", "who?", "He.", *label),
            )
            for name, label in (
                ("train", ["entailment"]),
                ("dev", ["not_entailment"]),
                ("test", []),
            )
        },
        ("who?", "He.", "entailment"),
        ("who?", "He.", "not_entailment"),
    ),
    "qqp": (
        {
            "QQP/train.tsv": tsv(
                (*QUERY, "is_duplicate"), ("1", "2", "3", "why?", "how?", "0")
            ),
            "QQP/dev.tsv": tsv(
                (*QUERY, "is_duplicate"), ("1", "2", "3", "who?", "who is?", "1")
            ),
            "QQP/test.tsv": tsv(
                ("id", "question1", "question2"), ("0", "what?", "when?")
            ),
        },
        ("why?", "how?", "not_duplicate"),
        ("who?", "who is?", "duplicate"),
    ),
    "stsb": (
        {
            "STS-B/train.tsv": tsv((*PAIR, "score"), ("0", "a", "b", "3.800")),
            "STS-B/dev.tsv": tsv((*PAIR, "score"), ("0", "c", "d", "0.000")),
            "STS-B/test.tsv": tsv(PAIR, ("0", "e", "f")),
        },
        ("a", "b", "3.8"),
        ("c", "d", "0.0"),
    ),
    "mnli": (
        {
            "MNLI/train.tsv": tsv(MNLI, ("0", "a", "b", "neutral", "neutral")),
            "MNLI/dev_matched.tsv": tsv(MNLI, ("0", "c", "d", "-", "entailment")),
            "MNLI/dev_mismatched.tsv": tsv(
                MNLI, ("0", "e", "f", "contradiction", "contradiction")
            ),
            **{
                f"MNLI/test_{name}matched.tsv": tsv(PAIR, ("0", "g", "h"))
                for name in ("", "mis")
            },
        },
        ("a", "b", "neutral"),
        ("c", "d", "entailment"),
    ),
    "mrpc": (
        {
            "train": "\ufeff"
            + tsv(MRPC, ("1", "7", "8", "a", "b"), ("0", "9", "10", 'c"', "d")),
            "test": tsv(MRPC, ("1", "5", "6", "e", "f")),
            "dev_ids": tsv(("9", "10")),
        },
        ("a", "b", "equivalent"),
        ('c"', "d", "not_equivalent"),
    ),
}


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """TFDS's downloads come from a folder of ours."""
    folder = tmp_path / "downloads"
    manager = tfds.download.DownloadManager
    monkeypatch.setattr(manager, "download_and_extract", lambda *_: str(folder))
    monkeypatch.setattr(
        manager, "download", lambda _, urls: {name: folder / name for name in urls}
    )
    return folder


def prepare(name, tmp_path, *options):
    """Of imitated files, which are fewer than the published ones."""
    shared = ["--data-dir", str(tmp_path / "data"), "--any-counts"]
    return main(["prepare", name, *shared, *options])


@pytest.mark.parametrize("task", SETS)
def test_glue_is_prepared_by_tfds_and_read(task, downloads, tmp_path, capsys):
    files, train, validation = SETS[task]
    write(downloads, files)
    assert prepare(f"tfds:glue/{task}", tmp_path) == 0
    folder = capsys.readouterr().out.splitlines()[-1]
    data = DataConfig(f"tfds:glue/{task}", data_dir=str(tmp_path / "data"))
    examples = open_text_examples(data)
    assert examples[:2] == [TextExample("train/0", *train)]
    assert tfds_sets.glue_task(folder) == tfds_sets.glue_task(data.path) == task
    assert (examples.name, examples.counts) == (f"glue/{task}", {"labels": 1})
    matched = "_matched" if task == "mnli" else ""
    (its,) = open_text_examples(DataConfig(folder, split=f"validation{matched}"))
    assert (its.text, its.second, its.label) == validation
    assert bool(examples.classes) == (task != "stsb")
    assert train[2] in examples.classes or task == "stsb"
    with pytest.raises(ValueError, match=f"glue/{task}, split test.* has no label"):
        open_text_examples(DataConfig(folder, split=f"test{matched}"))
    assert "tensorflow" not in sys.modules


def test_numbers_of_examples_are_checked(downloads, tmp_path, capsys):
    write(downloads, SETS["rte"][0])
    command = ["prepare", "tfds:glue/rte", "--data-dir", str(tmp_path / "data")]
    assert main(command) == main(command) == 2  # prepared before is no excuse
    assert "split train: 1 examples found, 2490 expected; remove" in (
        capsys.readouterr().err
    )
    assert main([*command, "--any-counts"]) == 0


def test_splits_and_versions_are_found_and_named(downloads, tmp_path, capsys):
    write(downloads, SETS["rte"][0])
    data = DataConfig("tfds:glue/rte", data_dir=str(tmp_path / "data"))
    with pytest.raises(ValueError, match="run `mplug2 prepare tfds:glue/rte --data"):
        open_text_examples(data)
    assert prepare("tfds:glue/rte", tmp_path) == 0
    folder = tmp_path / "data" / "glue" / "rte"
    (folder / "10.0.0").mkdir()  # not whole
    (folder / "1.9.0").symlink_to(folder / "2.0.0")
    found = tfds_sets.prepared_folder(data.path, data.data_dir)
    assert found == str(folder / "2.0.0")
    with pytest.raises(ValueError, match="no split 'dev'; expected one of .*'valid"):
        open_text_examples(DataConfig(found, split="dev"))
    with pytest.raises(ValueError, match="holds texts; expected videos or images"):
        open_examples(DataConfig(found))
    capsys.readouterr()
    assert prepare("tfds:glue/rte", tmp_path) == 0
    assert "prepared before" in capsys.readouterr().out
    again = pickle.loads(pickle.dumps(open_text_examples(data)))
    assert list(again) == list(open_text_examples(data))


def test_which_sets_are_of_glue():
    names = ("tfds:glue/mnli_matched", "/data/glue/mnli/2.0.0/", "glue/mnli")
    assert {tfds_sets.glue_task(name) for name in names} == {"mnli"}
    for name in (
        "tfds:cifar10",
        "mine.jsonl",
        "my_glue/rte",
        "runs/glue/rte/all.jsonl",
        "tfds:glue/wnli",
        "glue/ax/2.0.0",
    ):
        assert tfds_sets.glue_task(name) == ""
    known = [name for name in tfds_sets.COUNTS if name.startswith("glue/")]
    assert {tfds_sets.glue_task(name) for name in known} == GLUE.keys()


def test_batches_of_glue_and_of_its_numbers(downloads, tmp_path):
    write(downloads, SETS["rte"][0] | SETS["stsb"][0])
    words = WordPieceTokenizer.from_words(list("abcdef"))
    for task, label in (("rte", 1), ("stsb", np.float32(3.8))):
        assert prepare(f"tfds:glue/{task}", tmp_path) == 0
        data = DataConfig(f"tfds:glue/{task}", data_dir=str(tmp_path / "data"))
        run = RunConfig("text_classification", tiny(), data)
        if task == "rte":
            run, _ = with_classes(run)
            assert run.inputs.classes == ("entailment", "not_entailment")
        inputs = InputConfig(text_length=8, classes=run.inputs.classes)
        batches = text_batches(
            *(open_text_examples(data), words, inputs, BatchConfig(1), 0),
            regression=task == "stsb",
        )
        batch = next(batches)
        batches.close()
        assert batch.label.tolist() == [label]
        assert int(batch.text.mask.sum()) == 4  # [CLS] a [SEP] b


class Dots(tfds.core.GeneratorBasedBuilder):
    """Images of one colour each, as TFDS's image classification sets are."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 3)),
                    "label": tfds.features.ClassLabel(names=["red one", "blue"]),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(3):
            image = np.zeros((8, 8, 3), np.uint8)
            image[..., 2 * (i % 2)] = 255
            Image.fromarray(image).save(buffer := io.BytesIO(), "PNG")
            buffer.seek(0)
            yield i, {"image": buffer, "label": i % 2}


def test_images_keep_their_bytes_and_have_their_classes(tmp_path):
    builder = Dots(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    data = DataConfig("tfds:dots", data_dir=str(tmp_path))
    examples = open_examples(data)
    assert examples.classes == ("red one", "blue") and all_images(examples)
    assert {e.labels for e in examples} == {(Label("red one"),), (Label("blue"),)}
    for example in examples:
        assert example.media.data.startswith(b"\x89PNG")
        medium = read_media(example.media, 1)
        channel = examples.classes.index(example.labels[0].label) * 2
        assert medium.image and (medium.frames[0, ..., channel] == 255).all()
    with pytest.raises(ValueError, match="holds images; expected texts with labels"):
        open_text_examples(data)
    config, _ = with_classes(RunConfig("image_classification", tiny(), data))
    assert config.inputs.classes == ("red one", "blue")


def test_what_tfds_cannot_prepare_is_named(tmp_path, capsys, downloads):
    def error(*arguments):
        assert prepare(*arguments) == 2
        return capsys.readouterr().err

    assert "TFDS has no data set 'nothing'" in error("tfds:nothing", tmp_path)
    assert "invalid choice: 'glue/sst2'" in error("glue/sst2", tmp_path)
    text = error("tfds:glue/sst2", tmp_path, "--counts", "train=1")
    assert "--counts is not for tfds:glue/sst2" in text
    text = error("tfds:glue/none", tmp_path)
    assert "TFDS's glue has no 'none'; expected one of ['ax', 'cola'" in text
    manual = tmp_path / "manual"
    manual.mkdir()
    text = error("tfds:imagenet2012", tmp_path, "--manual-dir", str(manual))
    assert "ILSVRC2012_img_train.tar" in text
    write(manual, {f"ILSVRC2012_img_{part}.tar": b"" for part in ("train", "val")})
    text = error("tfds:imagenet2012", tmp_path, "--manual-dir", str(manual))
    assert "package tensorflow, which is missing; pip install tensorflow" in text


def test_other_fields_and_formats_are_named(tmp_path):
    folder = tmp_path / "rte" / "1.0.0"
    builder = Dots(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    source = tmp_path / "dots" / "1.0.0"
    for change, message in (
        ({"fileFormat": "tfrecord"}, "is stored as tfrecord; expected ArrayRecord"),
        ({}, r"has the fields \['label', 'picture'\]; expected label and image, or"),
    ):
        info = json.loads((source / "dataset_info.json").read_text()) | change
        features = json.loads((source / "features.json").read_text())
        if not change:
            its = features["featuresDict"]["features"]
            its["picture"] = its.pop("image")
        files = {"dataset_info.json": info, "features.json": features}
        write(folder, files | {"label.labels.txt": "red one\nblue\n"})
        with pytest.raises(ValueError, match=message):
            tfds_sets.open_records(folder, "train")
