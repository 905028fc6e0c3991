"""Data sets laid out as their official files: read, counted, prepared, read back."""

import dataclasses
import json
import logging
import subprocess
import sys

import numpy as np
import pytest
from goldens import FOLDER
from layouts import (
    CLIPS,
    COCO,
    FLICKR,
    IMAGES,
    KINETICS,
    LAYOUTS,
    MEDIA,
    MOMENTS,
    NOCAPS,
    PAIRS,
    SSV2,
    TGIF,
    VQA_SAID,
    entailed,
    jsonl,
    msrvtt,
    table,
    tar,
    true_of,
    write,
)

from mplug2_jax.cli import prepare as command
from mplug2_jax.cli.main import main
from mplug2_jax.data.batches import BatchConfig
from mplug2_jax.data.builders import DATASETS, entries
from mplug2_jax.data.builders.declaration import SHARD_SIZES, Counts
from mplug2_jax.data.examples import labels_of
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.pipeline import training_batches
from mplug2_jax.data.records import Records, classes_of
from mplug2_jax.data.targets import Classes
from mplug2_jax.data.tokenizers import WordPieceTokenizer
from mplug2_jax.data.video import read_media


@pytest.fixture
def manual(tmp_path):
    (tmp_path / "manual").mkdir()
    return tmp_path / "manual"


def prepare(name, manual, *options):
    data = manual.parent / "data"
    folder = ["--manual-dir", str(manual), "--data-dir", str(data)]
    status = main(["prepare", name, *folder, *options])
    return status, data / "mplug2_data" / name / "1.0.0"


def content(example):
    asked = [(q.question, q.answers, q.kind, q.id) for q in example.questions]
    named = [(region.phrase, region.box, region.id) for region in example.regions]
    classes = [(its.label, its.text, its.id) for its in example.labels if its.text]
    texts = example.captions or tuple(labels_of(example, texts=False))
    return asked or named or classes or texts


@pytest.mark.parametrize("layout", LAYOUTS)
def test_official_files_are_read(manual, monkeypatch, layout):
    monkeypatch.setitem(SHARD_SIZES, DATASETS[layout.split()[0]].kind, 2)
    files, expected = LAYOUTS[layout]
    write(manual, files)
    status, folder = prepare(layout.split()[0], manual, "--any-counts")
    assert status == 0
    for split, examples in expected.items():
        found = list(Records(folder, split))
        assert {e.id: content(e) for e in found} == examples
        for example in found:
            assert example.media.data == MEDIA["." + example.media.name.split(".")[-1]]
            still = example.media.name.endswith(("jpg", "png"))
            assert read_media(example.media, 1).image is still


def test_every_data_set_is_imitated():
    made = {name for name, its in DATASETS.items() if not its.manual} | {"plain_text"}
    imitated = {layout.split()[0] for layout in LAYOUTS} | {"webvid_10m"}
    assert imitated | made == set(DATASETS)


def test_plain_text(manual, monkeypatch):
    monkeypatch.setitem(SHARD_SIZES, "text", 1)
    lines = [f"this is passage number {i} " + "of many " * 40 for i in range(20)]
    write(manual, {"train-0.txt": "\n".join(["= heading =", *lines])})
    status, folder = prepare("plain_text", manual)
    assert status == 0
    assert sorted(Records(folder, "train")) == sorted(line.strip() for line in lines)
    assert len(list(folder.glob("*.array_record*"))) > 2


def test_published_counts_are_checked(manual, capsys, caplog):
    write(manual, msrvtt())
    status, folder = prepare("msrvtt_caption", manual)
    assert status == 2 and not folder.exists()
    assert "split train: 1 media found, 6513 expected" in capsys.readouterr().err
    status, folder = prepare("msrvtt_caption", manual, "--counts", "train=1,test=1")
    assert status == 0 and len(Records(folder, "train")) == 1
    splits = DATASETS["msrvtt_caption"].splits
    splits(manual, {"train": Counts(1, captions=2)})
    with pytest.raises(ValueError, match="2 captions found, 3 expected"):
        splits(manual, {"train": Counts(1, captions=3)})
    with pytest.raises(ValueError, match="no split 'extra'"):
        splits(manual, {"extra": Counts()})
    write(manual, LAYOUTS["msrvtt_qa"][0])
    asked = DATASETS["msrvtt_qa"].counts["train"].questions
    with pytest.raises(ValueError, match="2 questions found, 158581 expected"):
        DATASETS["msrvtt_qa"].splits(manual, {"train": Counts(questions=asked)})
    write(manual, LAYOUTS["msvd_qa"][0])
    with caplog.at_level(logging.WARNING):
        DATASETS["msvd_qa"].splits(manual, {})
    assert "train: 1 media found, 1200 expected, as papers" in caplog.text


def test_a_share_of_kinetics_may_have_disappeared(manual, capsys, caplog):
    """Of three clips, one."""
    write(manual, LAYOUTS["kinetics400"][0])
    assert prepare("kinetics400", manual)[0] == 2
    said = capsys.readouterr().err
    assert "train: 1 media are missing (" in said
    assert "33.3% of the split; at most 20% may be" in said
    half = dataclasses.replace(DATASETS["kinetics400"], max_missing=0.5)
    with caplog.at_level(logging.WARNING):
        splits = half.splits(manual, half.counts)
    assert splits["train"].counts.media == 2
    assert "33.3% of the split; they are left out" in caplog.text
    assert "2 media found, 246534 expected" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        status, folder = prepare("kinetics400", manual, "--any-counts")
    assert status == 0 and len(Records(folder, "train")) == 2
    assert "they are left out" in caplog.text


def test_missing_files_are_named(manual, capsys):
    def error(*options, name="msrvtt_caption"):
        assert prepare(name, manual, *options)[0] == 2
        return capsys.readouterr().err

    assert "is empty; check --manual-dir" in error()
    write(manual, {"readme": "downloads"})
    assert "has no train_val_videodatainfo.json" in error()
    write(manual, msrvtt())
    (manual / "TestVideo" / "video2.mp4").unlink()
    assert "1 media are missing" in error("--counts", "test=1")
    write(manual, {"train_val_videodatainfo.json": '{"videos": ['})
    assert "is not JSON" in error()
    assert "has no train/*.tar, train.jsonl" in error(name="cc3m")
    assert "has no train*.txt" in error(name="plain_text")
    assert "invalid choice: 'imagenet'" in error(name="imagenet")
    assert main(["prepare", "msrvtt_qa", "--data-dir", str(manual)]) == 2
    assert "give their folder with --manual-dir" in capsys.readouterr().err


@pytest.mark.parametrize(("line", "count"), [("a\tb", 2), ("a\t1\t2\t1\t2\t...", 6)])
def test_a_line_of_other_columns_is_named(manual, capsys, line, count):
    files = LAYOUTS["lsmdc_retrieval"][0]
    write(manual, files | {"LSMDC16_annos_val.csv": f"{line}\n"})
    assert prepare("lsmdc_retrieval", manual, "--any-counts")[0] == 2
    said = f"LSMDC16_annos_val.csv, line 1: {count} columns; expected 6"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("cc3m", {"train.tsv": "a red cat\thttp://x/1.jpg\n"}, "no image"),
        ("webvid_2m", {"results_2M_train.csv": "videoid,caption\n1,x\n"}, "no name"),
        ("sbu", {"train.tsv": ""}, "no image"),
    ],
)
def test_a_table_of_other_columns_is_named(name, files, message, manual, capsys):
    """As the official tables of addresses are, which have no header."""
    write(manual, files)
    assert prepare(name, manual)[0] == 2
    said = capsys.readouterr().err
    assert "expected a header that names the columns" in said and message in said


def test_preparing_goes_on_where_it_stopped(manual, monkeypatch, capsys):
    monkeypatch.setitem(SHARD_SIZES, "video", 2)
    videos = [(f"video{i}", "train") for i in range(10, 16)]
    write(manual, msrvtt(videos))
    bad = manual / "TrainValVideo" / "video15.mp4"
    reads, read_bytes = [], type(bad).read_bytes

    def reading(path):
        reads.append(path.name)
        if path == bad and len(reads) < 7:
            raise OSError("the disk went away")
        return read_bytes(path)

    monkeypatch.setattr(type(bad), "read_bytes", reading)
    status, folder = prepare("msrvtt_caption", manual, "--any-counts")
    assert status == 2 and not folder.exists()
    assert "the disk went away" in capsys.readouterr().err
    (folder.parent / "incomplete.KILLED_1.0.0").mkdir()
    status, folder = prepare("msrvtt_caption", manual, "--any-counts")
    assert status == 0 and "train: 6 of 6" in capsys.readouterr().out
    assert reads.count("video10.mp4") == 1 and reads.count("video14.mp4") == 2
    assert [e.id for e in Records(folder, "train")] == [v for v, _ in videos]
    assert {path.name for path in folder.parent.iterdir()} == {"1.0.0"}
    assert prepare("msrvtt_caption", manual, "--any-counts")[0] == 0
    assert "prepared before" in capsys.readouterr().out
    assert reads.count("video14.mp4") == 2


def test_shapes_are_made_and_read_back_without_tensorflow(tmp_path):
    code = (
        "import sys\n"
        "from mplug2_jax.cli.main import main\n"
        "from mplug2_jax.data.opening import DataConfig, open_examples\n"
        "for name in ('shapes', 'shapes_images'):\n"
        "    assert main(['prepare', name, '--data-dir', sys.argv[1],\n"
        "                 '--counts', 'train=3,test=2']) == 0\n"
        "    path = f'{sys.argv[1]}/mplug2_data/{name}/1.0.0'\n"
        "    examples = open_examples(DataConfig(path, split='test'))\n"
        "    assert len(examples) == 2 and examples[1].captions, examples[1]\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_wrong_folders_and_splits_are_named(tmp_path):
    with pytest.raises(ValueError, match="no prepared data set"):
        Records(tmp_path, "train")
    options = ["--data-dir", str(tmp_path), "--counts", "train=2"]
    assert main(["prepare", "shapes_texts", *options]) == 0
    folder = tmp_path / "mplug2_data" / "shapes_texts" / "1.0.0"
    assert Records(folder, "train").kind == "text"
    with pytest.raises(ValueError, match=r"no split 'dev'; expected .* \['train'\]"):
        Records(folder, "dev")


def test_beam_gives_the_same_records(manual):
    pytest.importorskip("apache_beam")
    keys = [f"k{i}" for i in range(5)]
    members = dict.fromkeys(keys, "jpg")
    write(manual, {"train/0.tar": tar(**members), "train/1.tar": tar(a="jpg", b="jpg")})
    options = ("--beam-option=direct_running_mode=in_memory", "--beam-option=no_auth")
    status, folder = prepare("sbu", manual, "--beam-runner=DirectRunner", *options)
    assert status == 0
    ids = [example.id for example in Records(folder, "train")]
    assert ids == [*(f"0/{key}" for key in keys), "1/a", "1/b"]


def test_options_go_to_the_runner_of_beam():
    options = pytest.importorskip("apache_beam.options.pipeline_options")
    given = ["project=mine", "temp_location=gs://b/t", "num_workers=3", "streaming"]
    found = command.beam("DataflowRunner", given)
    assert found["beam_runner"] == "DataflowRunner"
    cloud = found["beam_options"].view_as(options.GoogleCloudOptions)
    assert (cloud.project, cloud.temp_location) == ("mine", "gs://b/t")
    assert found["beam_options"].view_as(options.WorkerOptions).num_workers == 3
    assert found["beam_options"].view_as(options.StandardOptions).streaming
    spark = command.beam("SparkRunner", ["spark_master_url=spark://host:7077"])
    view = spark["beam_options"].view_as(options.SparkRunnerOptions)
    assert view.spark_master_url == "spark://host:7077"


def test_beam_without_its_extra_is_an_error(manual, capsys, monkeypatch):
    write(manual, {"train.txt": "this is a line of text\n"})
    monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", None)
    assert prepare("plain_text", manual, "--beam-runner", "DirectRunner")[0] == 2
    assert "extra [beam]" in capsys.readouterr().err
    assert prepare("plain_text", manual, "--beam-option", "a=b")[0] == 2
    assert "--beam-option needs --beam-runner" in capsys.readouterr().err
    assert main(["prepare", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("DataflowRunner", "NAME=VALUE", *DATASETS))


def test_votes_of_ten_people_are_kept(manual):
    write(manual, LAYOUTS["vqa_v2"][0])
    _, folder = prepare("vqa_v2", manual, "--any-counts")
    first, second = Records(folder, "train")
    assert [qa.people for qa in (*first.questions, *second.questions)] == [10] * 3
    assert sorted(first.questions[0].votes) == ["no", *["yes"] * 9]
    assert first.questions[1].weights == pytest.approx((0.7, 0.2, 0.1))
    assert Records(folder, "validation").counts["questions"] == 3
    assert Records(folder, "test")[0].questions[0].votes == []
    files = LAYOUTS["vqa_v2"][0].copy()
    files["v2_mscoco_train2014_annotations.json"] = {"annotations": [VQA_SAID[0]]}
    write(manual, files)
    with pytest.raises(ValueError, match="questions.json, question 2: 25000 has no"):
        DATASETS["vqa_v2"].splits(manual, {})


def test_parts_that_few_need_may_be_absent(manual):
    for name, left_out in (("vqa_v2", "test-dev"), ("nocaps", "nocaps_test")):
        files = LAYOUTS[name][0]
        write(
            manual, {file: its for file, its in files.items() if left_out not in file}
        )
    assert set(DATASETS["vqa_v2"].splits(manual, {})) == {"train", "validation", "test"}
    assert set(DATASETS["nocaps"].splits(manual, {})) == {"validation"}


def test_the_domain_of_a_picture_is_its_kind_and_no_class(manual):
    write(manual, LAYOUTS["nocaps"][0])
    _, folder = prepare("nocaps", manual, "--any-counts")
    found = Records(folder, "validation")
    assert [example.kind for example in found] == ["in-domain", "out-domain"]
    assert not any(map(labels_of, found)) and classes_of(found, texts=False) == ()
    words = WordPieceTokenizer.from_words(["a"])
    classes = Classes(words, InputConfig(), BatchConfig(2), texts=False)
    with pytest.raises(ValueError, match="0 has no label of its own"):
        classes(found[0], np.random.default_rng(0))


def test_two_images_belong_together_and_classes_are_kept(manual):
    write(manual, LAYOUTS["nlvr2"][0])
    _, folder = prepare("nlvr2", manual, "--any-counts")
    first = Records(folder, "train")[0]
    names = [str(file) for file in (first.media, *first.others)]
    assert names == [f"train-10-0/train-10-0-img{side}.png" for side in (0, 1)]
    assert first.others[0].data == MEDIA[".png"]
    assert Records(folder, "test").classes == ("False", "True")
    (manual / "images" / "dev" / "dev-2-3-img1.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 media are missing .*dev-2-3-img1"):
        DATASETS["nlvr2"].splits(manual, {"validation": Counts()})


@pytest.mark.parametrize(
    ("name", "file", "line", "message"),
    [
        ("nlvr2", "dev.json", true_of("dev-2", "True")[0], "such as dev-1-0-1"),
        ("nlvr2", "dev.json", true_of("dev-2-3", "yes")[0], "label is 'yes'; expected"),
        ("snli_ve", "snli_ve_dev.jsonl", entailed("32", "-")[0], "gold_label is '-'"),
        ("snli_ve", "snli_ve_dev.jsonl", entailed("", "neutral")[0], "no Flickr30K_ID"),
        ("snli_ve", "snli_ve_dev.jsonl", "{", "not a JSON object on one line"),
    ],
)
def test_lines_about_images_are_checked(manual, name, file, line, message):
    text = line if isinstance(line, str) else json.dumps(line)
    write(manual, LAYOUTS[name][0] | {file: f"\n{text}\n"})
    with pytest.raises(ValueError, match=f"{file}, line 2: .*{message}"):
        DATASETS[name].splits(manual, {})


@pytest.mark.parametrize(
    ("layout", "file", "content", "message"),
    [
        (
            *("coco_captions", "dataset_coco.json"),
            {"images": [COCO[0] | {"split": "dev"}]},
            "image 1: split is 'dev'; expected one of train, restval",
        ),
        (
            *("coco_captions", "dataset_coco.json"),
            {"images": [COCO[0] | {"sentences": [{"raw": " "}]}]},
            "image 1: there is no raw",
        ),
        (
            *("coco_captions", "dataset_coco.json"),
            {"images": [COCO[0] | {"sentences": [{"raw": "..."}]}]},
            "image 1: raw has no words",
        ),
        (*("coco_captions", "dataset_coco.json"), COCO, " has no list of images"),
        (
            *("flickr30k_captions", "dataset_flickr30k.json"),
            {"images": [FLICKR[0] | {"sentences": None}]},
            "image 1: there is no raw",
        ),
        (
            *("didemo_retrieval", "val_data.json"),
            [MOMENTS[0] | {"description": "."}],
            "entry 1: description has no words",
        ),
        (
            *("msrvtt_caption", "test_videodatainfo.json"),
            {"videos": [{"video_id": "v", "split": "dev"}], "sentences": []},
            "video 1: split is 'dev'",
        ),
        (
            *("msrvtt_caption", "test_videodatainfo.json"),
            {"videos": [], "sentences": [{"video_id": "v", "caption": "-"}]},
            "sentence 1: caption has no words",
        ),
        (
            *("msrvtt_retrieval", "MSRVTT_train.9k.csv"),
            "video_id\nvideo0\nvideo7\n",
            "row 2: video7 has no caption",
        ),
        ("msvd_qa", "youtube_mapping.txt", "a_1 vid1 b\n", "line 1: expected a clip"),
        (
            *("msvd_caption", "AllVideoDescriptions.txt"),
            "".join(f"{clip} a dog\n" for clip in CLIPS[:1100]),  # it is cut off
            "train clip 1101: c1101_0_1101 has no caption .100 of 1200 are bad",
        ),
        (
            *("msvd_caption", "AllVideoDescriptions.txt"),
            f"{CLIPS[0]} ...\n",
            "line 1: there is no caption of c1_0_1 .found '...'",
        ),
        (
            *("nocaps", "nocaps_val_4500_captions.json"),
            {"images": NOCAPS, "annotations": [{"image_id": 7, "caption": "a cat"}]},
            "caption 1: there is no image 7",
        ),
        (
            *("kinetics400", "train.csv"),
            table([KINETICS[0] | {"time_start": ""}]),
            "row 1: there is no time_start",
        ),
        (
            *("kinetics400", "train.csv"),
            table(KINETICS) + "air drumming,b_c\n",
            "row 4: there is no time_start",
        ),
        (
            *("kinetics400", "train.csv"),
            table([KINETICS[0], KINETICS[1] | {"label": ""}]),
            "row 2: there is no label",
        ),
        (
            *("tgif_frame_qa", "Test_frameqa_question.csv"),
            table([TGIF]),
            "expected a header that names the columns gif_name, question, answer",
        ),
        (
            *("ssv2", "labels/train.json"),
            [SSV2[0] | {"template": "Lifting [something]"}],
            "entry 1: the class 'Lifting something' is not one of labels.json",
        ),
        (
            *("vqa_v2", "v2_mscoco_train2014_annotations.json"),
            {"annotations": [None]},
            "entry 1: there is no question_id",
        ),
        (
            *("cc12m jsonl", "train.jsonl"),
            jsonl(PAIRS[0], PAIRS[1] | {"caption": None}),
            "line 2: there is no caption .found None",
        ),
        ("cc12m jsonl", "train.jsonl", "\n{\n", "line 2: not a JSON object on one"),
        (
            "webvid_2m csv",
            "results_2M_train.csv",
            "videoid,name\n7\n",
            "row 1: .* name",
        ),
    ],
)
def test_what_is_wrong_with_an_entry_is_said(manual, layout, file, content, message):
    write(manual, LAYOUTS[layout][0] | {file: content})
    with pytest.raises(ValueError, match=f"{file}.*{message}"):
        DATASETS[layout.split()[0]].splits(manual, {})


def test_few_bad_rows_of_a_table_are_in_no_shard(manual, monkeypatch, caplog):
    """Counted over the whole table, of whose shards the last has a single row."""
    monkeypatch.setitem(SHARD_SIZES, "image", 40)
    lines = [PAIRS[0]] * 120 + [PAIRS[0] | {"caption": ""}]
    write(manual, {"train.jsonl": jsonl(*lines), **IMAGES})
    with caplog.at_level(logging.WARNING):
        split = DATASETS["cc12m"].splits(manual, {})["train"]
    assert "train.jsonl, line 121: there is no caption" in caplog.text
    assert split.counts.media == 120
    assert [len(list(shard())) for shard in split.shards] == [40, 40, 40, 0]


def test_tars_that_are_cut_off_are_read_to_their_end(
    manual, monkeypatch, caplog, capsys
):
    whole = tar(a="jpg", b="jpg", c="jpg")
    cut = whole[: whole.rindex(MEDIA[".jpg"]) + 9]
    write(manual, {"train/0.tar": tar(a="jpg"), "train/1.tar": cut})
    assert prepare("cc3m", manual)[0] == 2
    said = capsys.readouterr().err
    assert "train, shard 2: 1.tar is cut off, its end is missing (1 of 2" in said
    monkeypatch.setattr(entries, "MAX_BAD_SHARE", 0.5)
    with caplog.at_level(logging.WARNING):
        status, folder = prepare("cc3m", manual)
    assert status == 0
    assert [e.id for e in Records(folder, "train")] == ["0/a", "1/a", "1/b"]
    assert "shard 2: 1.tar is cut off" in caplog.text
    assert "1.tar: 2 of 2 pairs are taken" in caplog.text
    write(manual, {"train/1.tar": b"no tar".ljust(512) + bytes(1024)})
    assert prepare("sbu", manual)[0] == 2
    assert "1.tar is damaged" in capsys.readouterr().err


def test_what_the_web_has_lost_is_left_out_and_counted(manual, capsys, caplog):
    write(manual, LAYOUTS["webvid_2m csv"][0])
    assert prepare("webvid_2m", manual)[0] == 0
    assert "train: 3 examples of 5 listed" in capsys.readouterr().out
    write(manual, LAYOUTS["image_text files"][0] | {"train/000.txt": "..."})
    with caplog.at_level(logging.WARNING):
        assert prepare("image_text", manual)[0] == 0
    assert "train: 1 examples of 2 listed" in capsys.readouterr().out
    assert "left out, no text: 000" in caplog.text


def test_splits_of_which_the_web_has_kept_nothing_are_left_out(manual, capsys, caplog):
    files = LAYOUTS["webvid_2m csv"][0]
    write(manual, {name: its for name, its in files.items() if name.endswith("csv")})
    status, folder = prepare("webvid_2m", manual)
    assert status == 2 and not list(folder.parent.iterdir())
    assert "nothing of what its files list is here" in capsys.readouterr().err
    gone = {"results_2M_val.csv": "videoid,page_dir,name\n9,gone,a dog\n"}
    write(manual, files | gone)
    with caplog.at_level(logging.WARNING):
        assert prepare("webvid_2m", manual)[0] == 0
    assert "split validation: nothing of what it lists is here" in caplog.text
    assert len(Records(folder, "train")) == 3
    assert not list(folder.glob("*validation*"))
    with pytest.raises(ValueError, match=r"no split 'validation'; .* \['train'\]"):
        Records(folder, "validation")


def test_media_missing_in_any_split_are_an_error(manual, caplog):
    """Also where, as of LSMDC's training clips, only papers have a number."""
    files = LAYOUTS["lsmdc_retrieval"][0]
    write(manual, files)
    clip = next(name for name in files if name.endswith(".avi"))
    (manual / clip).unlink()
    its = DATASETS["lsmdc_retrieval"]
    with pytest.raises(FileNotFoundError, match="split train: 1 media are missing"):
        its.splits(manual, {"test": Counts(1, 1)})
    with caplog.at_level(logging.WARNING):
        assert its.splits(manual, {})["train"].counts.media == 1
    assert "50.0% of the split; they are left out" in caplog.text


@pytest.mark.parametrize(
    ("name", "folder", "left"),
    [
        ("vqa_v2", "test2015/", {"train", "validation"}),
        ("kinetics400", "val/", {"train"}),
    ],
)
def test_a_split_without_media_needs_any_counts(manual, caplog, name, folder, left):
    files = LAYOUTS[name][0].items()
    write(manual, {file: its for file, its in files if not file.startswith(folder)})
    its = dataclasses.replace(DATASETS[name], max_missing=0.5)
    with pytest.raises(
        FileNotFoundError, match="leave the split out with --any-counts"
    ):
        its.splits(manual, {"train": Counts()})
    with caplog.at_level(logging.WARNING):
        assert its.splits(manual, {}).keys() == left
    assert "100.0% of the split; the split is left out" in caplog.text
    with pytest.raises(ValueError, match="shapes: no split holds anything"):
        DATASETS["shapes"].splits(manual, {})


def test_a_picture_among_prepared_clips_is_replaced(manual, caplog):
    videos = [(f"video{i}", "train") for i in range(10, 14)]
    bad = {"TrainValVideo/video12.mp4": MEDIA[".jpg"]}
    write(manual, msrvtt(videos) | bad)
    _, folder = prepare("msrvtt_caption", manual, "--any-counts")
    words = WordPieceTokenizer.from_words(["video"])
    config = BatchConfig(4, captions_per_video=1, threads=1, max_bad_share=0.25)
    batches = training_batches(
        Records(folder, "train"), words, InputConfig(2), config, 16, seed=0
    )
    assert next(batches).frames.shape == (4, 2, 16, 16, 3)
    batches.close()
    (why,) = batches.faults["training data"].bad.values()
    assert "video12.mp4 is not a video" in why


def test_declared_counts_are_the_published_ones():
    """A number that changes is seen beside its set and split."""
    lines = [
        f"{name} {split} {its.kind} {word}"
        + "".join(f" {n} {what}" for what, n in vars(counts).items() if n is not None)
        for name, its in DATASETS.items()
        for word, splits in (("checked", its.counts), ("reported", its.reported))
        for split, counts in splits.items()
    ]
    assert lines == (FOLDER / "datasets.txt").read_text().splitlines()
