"""Data sets laid out as their official files: read, counted, prepared, read back."""

import csv
import io
import json
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from mplug2_jax.cli.main import main
from mplug2_jax.data import shapes
from mplug2_jax.data.builders import DATASETS
from mplug2_jax.data.builders.declaration import Counts, check_counts
from mplug2_jax.data.records import Records
from mplug2_jax.data.video import read_media


@pytest.fixture(scope="module")
def clip():
    scene = shapes.make_scene(np.random.default_rng(0))
    return shapes.encode_mp4(shapes.render(scene, 3, 16))


@pytest.fixture(scope="module")
def picture():
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def manual(tmp_path):
    (tmp_path / "manual").mkdir()
    return tmp_path / "manual"


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_text(text)


def table(rows, delimiter=","):
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def prepare(name, manual, *options):
    data = manual.parent / "data"
    folder = ["--manual-dir", str(manual), "--data-dir", str(data)]
    status = main(["prepare", name, *folder, *options])
    return status, data / "mplug2_data" / name / "1.0.0"


def splits(name, manual):
    status, folder = prepare(name, manual, "--any-counts")
    assert status == 0
    found = {}
    for split in ("train", "validation", "test"):
        try:
            found[split] = {e.id: e for e in Records(folder, split)}
        except ValueError:
            continue
    return found


def write_msrvtt(manual, clip, videos=(("video0", "train"), ("video1", "validate"))):
    both = [[{"video_id": v, "split": s} for v, s in videos]]
    both.append([{"video_id": "video2", "split": "test"}])
    names = ("train_val_videodatainfo.json", "test_videodatainfo.json")
    for name, listed in zip(names, both, strict=True):
        sentences = [
            {"video_id": v["video_id"], "caption": f"{v['video_id']} {n}", "sen_id": n}
            for n in range(2)
            for v in listed
        ]
        write(manual / name, {"videos": listed, "sentences": sentences})
    for name, _ in videos:
        write(manual / "TrainValVideo" / f"{name}.mp4", clip)
    write(manual / "TestVideo" / "video2.mp4", clip)


def test_msrvtt_captions(manual, clip):
    write_msrvtt(manual, clip)
    found = splits("msrvtt_caption", manual)
    assert [list(f) for f in found.values()] == [["video0"], ["video1"], ["video2"]]
    assert found["train"]["video0"].captions == ("video0 0", "video0 1")
    assert found["test"]["video2"].media.data == clip


def write_qa(manual):
    for number, name in enumerate(("train", "val", "test"), 1):
        qa = {"question": "what is it?", "answer": "red", "video_id": number, "id": 7}
        other = {**qa, "question": "how many?", "answer": "two", "id": 8}
        write(manual / f"{name}_qa.json", [qa, other])


def test_msrvtt_qa(manual, clip):
    write_qa(manual)
    for number in (1, 2, 3):
        write(manual / "video" / f"video{number}.mp4", clip)
    found = splits("msrvtt_qa", manual)
    first, second = found["validation"]["video2"].questions
    assert (first.question, first.answers, first.id) == ("what is it?", ("red",), "7")
    assert second.answers == ("two",) and second.weights == (1.0,)


def test_msrvtt_retrieval(manual, clip):
    sentences = [{"video_id": f"video{i}", "caption": f"c{i}"} for i in (0, 1, 1)]
    write(manual / "MSRVTT_data.json", {"videos": [], "sentences": sentences})
    write(manual / "MSRVTT_train.9k.csv", "video_id\nvideo0\nvideo1\n")
    row = {"key": "ret0", "vid_key": "msr2", "video_id": "video2", "sentence": "a, b"}
    write(manual / "MSRVTT_JSFUSION_test.csv", table([row]))
    for number in range(3):
        write(manual / "videos" / "all" / f"video{number}.mp4", clip)
    found = splits("msrvtt_retrieval", manual)
    assert found["train"]["video1"].captions == ("c1", "c1")
    assert found["test"]["video2"].captions == ("a, b",)


def write_msvd(manual, clip):
    clips = [f"c{i}_0_{i}" for i in range(1, 1303)]
    mapping = "".join(f"{name} vid{i}\n" for i, name in enumerate(clips, 1))
    write(manual / "youtube_mapping.txt", mapping)
    for name in (clips[0], clips[1], clips[2], clips[1200], clips[1300]):
        write(manual / "YouTubeClips" / f"{name}.avi", clip)
    return clips


def test_msvd_captions(manual, clip):
    clips = write_msvd(manual, clip)
    lines = [f"{clips[0]} a man runs\n{clips[0]} someone\n{clips[1300]} a dog\n"]
    write(manual / "AllVideoDescriptions.txt", "# header lines\n\n" + "".join(lines))
    found = splits("msvd_caption", manual)
    assert found["train"][clips[0]].captions == ("a man runs", "someone")
    assert list(found["validation"]) == [clips[1200]]
    assert found["test"][clips[1300]].captions == ("a dog",)


def test_msvd_qa(manual, clip):
    clips = write_msvd(manual, clip)
    write_qa(manual)
    found = splits("msvd_qa", manual)
    assert found["train"]["vid1"].media.name == f"vid1/{clips[0]}.avi"
    assert len(found["test"]["vid3"].questions) == 2


def test_tgif_frame_qa(manual):
    frames = [Image.new("RGB", (8, 8), (i * 90, 0, 0)) for i in range(3)]
    (manual / "gifs").mkdir()
    frames[0].save(
        manual / "gifs" / "tumblr_a.gif", save_all=True, append_images=frames[1:]
    )
    row = {"gif_name": "tumblr_a", "question": "what color ?", "answer": "red"}
    row |= {"type": "2", "vid_id": "F1"}
    for split in ("Train", "Test"):
        text = table([row | {"key": "1", "description": "a man"}], "\t")
        write(manual / f"{split}_frameqa_question.csv", text)
    (qa,) = splits("tgif_frame_qa", manual)["train"]["tumblr_a"].questions
    assert (qa.question, qa.answers, qa.kind, qa.id) == (
        *("what color ?", ("red",)),
        *("color", "F1"),
    )


def test_webvid_leaves_out_what_could_not_be_fetched(manual, clip, monkeypatch):
    monkeypatch.setattr("mplug2_jax.data.builders.webvid.SHARD_SIZES", {"video": 2})
    row = {"contentUrl": "u", "duration": "PT", "page_dir": "p/1"}
    names = [f'a "{i}"\nb' for i in range(5)]
    rows = [{"videoid": i, **row, "name": name} for i, name in enumerate(names)]
    write(manual / "results_2M_train.csv", table(rows))
    for number in (0, 1, 4):
        write(manual / "videos" / "p" / "1" / f"{number}.mp4", clip)
    found = splits("webvid_2m", manual)["train"]
    assert sorted(found) == ["0", "1", "4"]
    assert found["4"].captions == ('a "4"\nb',)


def test_webvid_tars(manual, clip):
    write_tar(manual / "train" / "00000.tar", {"000": ("mp4", clip), "001": None})
    found = splits("webvid_2m", manual)["train"]
    assert [e.captions for e in found.values()] == [("text of 000",)]


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, medium in members.items():
            files = {f"{key}.json": b"{}", f"{key}.txt": f"text of {key}".encode()}
            if medium:
                files[f"{key}.{medium[0]}"] = medium[1]
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("layout", ["tar", "jsonl", "tsv", "files"])
def test_image_text_of_every_layout(manual, picture, layout):
    keys = ("000", "001")
    if layout == "tar":
        write_tar(manual / "train" / "0.tar", dict.fromkeys(keys, ("jpg", picture)))
    for key in keys:
        write(manual / "train" / f"{key}.jpg", picture)
        if layout == "files":
            write(manual / "train" / f"{key}.txt", f"text of {key}\n")
    rows = [{"image": f"train/{k}.jpg", "caption": f"text of {k}"} for k in keys]
    if layout == "jsonl":
        write(manual / "train.jsonl", "\n".join(map(json.dumps, rows)))
    if layout == "tsv":
        write(manual / "train.tsv", table(rows, "\t"))
    found = splits("cc3m", manual)["train"].values()
    assert {e.captions for e in found} == {("text of 000",), ("text of 001",)}
    assert all(e.media.data == picture for e in found)
    assert all(read_media(e.media, 1).image for e in found)


def test_coco_captions(manual, picture):
    images = [
        {"cocoid": i, "split": split, "filepath": "val2014"}
        | {"filename": f"C_{i}.jpg"}
        | {"sentences": [{"raw": f"caption {i} "}]}
        for i, split in enumerate(("train", "restval", "val", "test"))
    ]
    write(manual / "dataset_coco.json", {"images": images, "dataset": "coco"})
    for image in images:
        write(manual / "val2014" / image["filename"], picture)
    found = splits("coco_captions", manual)
    assert sorted(found["train"]) == ["0", "1"]
    assert found["test"]["3"].captions == ("caption 3",)


def test_visual_genome(manual, picture):
    regions = [{"phrase": p, "image_id": 5} for p in ("a dog", "a dog", " ", "a cat ")]
    write(manual / "region_descriptions.json", [{"id": 5, "regions": regions}])
    qas = [{"image_id": 5, "qa_id": 9, "question": "who?", "answer": "a dog."}]
    write(manual / "question_answers.json", [{"id": 5, "qas": qas}])
    write(manual / "VG_100K_2" / "5.jpg", picture)
    example = splits("visual_genome", manual)["train"]["5"]
    assert example.captions == ("a dog", "a cat")
    (qa,) = splits("visual_genome_qa", manual)["train"]["5"].questions
    assert (qa.answers, qa.id) == (("a dog.",), "9")


def test_plain_text(manual, monkeypatch):
    monkeypatch.setitem(
        DATASETS["plain_text"].read.__globals__["SHARD_SIZES"], "text", 1
    )
    lines = [f"this is passage number {i} " + "of many " * 40 for i in range(20)]
    write(manual / "train-0.txt", "\n".join(["= heading =", *lines]))
    status, folder = prepare("plain_text", manual)
    assert status == 0
    assert sorted(Records(folder, "train")) == sorted(line.strip() for line in lines)
    assert len(list(folder.glob("*.array_record*"))) > 2


def test_published_counts_are_checked(manual, clip, capsys):
    write_msrvtt(manual, clip)
    status, folder = prepare("msrvtt_caption", manual)
    assert status == 2 and not folder.exists()
    error = capsys.readouterr().err
    assert "split train: 1 media found, 6513 expected" in error
    status, folder = prepare("msrvtt_caption", manual, "--counts", "train=1,test=1")
    assert status == 0 and len(Records(folder, "train")) == 1


def test_counts_of_texts_are_checked(manual, clip):
    write_msrvtt(manual, clip)
    found = DATASETS["msrvtt_caption"].read(manual, {})
    check_counts("x", found, {"train": Counts(1, captions=2)})
    with pytest.raises(ValueError, match="2 captions found, 3 expected"):
        check_counts("x", found, {"train": Counts(1, captions=3)})
    with pytest.raises(ValueError, match="no split 'extra'"):
        check_counts("x", found, {"extra": Counts()})


def test_missing_files_are_named(manual, clip, capsys):
    assert prepare("msrvtt_caption", manual)[0] == 2
    assert "is empty; check --manual-dir" in capsys.readouterr().err
    write(manual / "readme", "downloads")
    assert prepare("msrvtt_caption", manual)[0] == 2
    assert "has no train_val_videodatainfo.json" in capsys.readouterr().err
    write_msrvtt(manual, clip)
    (manual / "TestVideo" / "video2.mp4").unlink()
    assert prepare("msrvtt_caption", manual, "--counts", "test=1")[0] == 2
    assert "1 media are missing" in capsys.readouterr().err
    assert main(["prepare", "msrvtt_qa", "--data-dir", str(manual)]) == 2
    assert "--manual-dir" in capsys.readouterr().err


def test_preparing_goes_on_where_it_stopped(manual, clip, monkeypatch, capsys):
    monkeypatch.setattr("mplug2_jax.data.builders.msrvtt.SIZE", 2)
    videos = [(f"video{i}", "train") for i in range(10, 16)]
    write_msrvtt(manual, clip, videos)
    bad = manual / "TrainValVideo" / "video15.mp4"
    bad.chmod(0o644)
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
    assert (
        main(
            [
                "prepare",
                "shapes_texts",
                "--data-dir",
                str(tmp_path),
                "--counts",
                "train=2",
            ]
        )
        == 0
    )
    folder = tmp_path / "mplug2_data" / "shapes_texts" / "1.0.0"
    assert Records(folder, "train").kind == "text"
    with pytest.raises(
        ValueError, match=r"no split 'dev'; expected one of \['train'\]"
    ):
        Records(folder, "dev")


def test_beam_gives_the_same_records(manual, picture):
    pytest.importorskip("apache_beam")
    keys = [f"{i:03d}" for i in range(5)]
    write_tar(manual / "train" / "0.tar", dict.fromkeys(keys, ("jpg", picture)))
    write_tar(manual / "train" / "1.tar", dict.fromkeys(keys[:2], ("jpg", picture)))
    status, folder = prepare("sbu", manual, "--beam-runner", "DirectRunner")
    assert status == 0
    ids = [example.id for example in Records(folder, "train")]
    assert ids == [f"0/{k}" for k in keys] + [f"1/{k}" for k in keys[:2]]


def test_beam_without_its_extra_is_an_error(manual, capsys):
    write(manual / "train.txt", "this is a line of text\n")
    try:
        import apache_beam  # noqa: F401
    except ImportError:
        assert prepare("plain_text", manual, "--beam-runner", "DirectRunner")[0] == 2
        assert "extra [beam]" in capsys.readouterr().err
    assert prepare("plain_text", manual, "--beam-option", "a=b")[0] == 2
    assert "--beam-option needs --beam-runner" in capsys.readouterr().err
