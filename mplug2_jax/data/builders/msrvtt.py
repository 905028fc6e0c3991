"""MSRVTT: captions (official split), questions (MSRVTT-QA) and retrieval (1k-A)."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from mplug2_jax.data.builders.declaration import Counts, Dataset
from mplug2_jax.data.builders.reading import (
    MediaFolders,
    find,
    questions_of,
    read_json,
    read_table,
)
from mplug2_jax.data.examples import Example

FOLDERS = ("TrainValVideo", "TestVideo", "video", "videos", "videos/all", ".")
SPLITS = {"train": "train", "validate": "validation", "test": "test"}


def _captions(*annotations: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    """Captions by video, in the order of the files."""
    captions: dict[str, tuple[str, ...]] = defaultdict(tuple)
    for sentence in (s for each in annotations for s in each["sentences"]):
        captions[sentence["video_id"]] += (sentence["caption"],)
    return captions


def _caption(manual: Path) -> dict[str, list[Example]]:
    names = ("train_val_videodatainfo.json", "test_videodatainfo.json")
    annotations = [read_json(find(manual, name)) for name in names]
    captions, media = _captions(*annotations), MediaFolders(manual, *FOLDERS)
    splits: dict[str, list[Example]] = defaultdict(list)
    for video in (video for each in annotations for video in each["videos"]):
        name = video["video_id"]
        example = Example(name, media(name), captions[name])
        splits[SPLITS[video["split"]]].append(example)
    return splits


def _qa(manual: Path) -> dict[str, list[Example]]:
    return questions_of(manual, "video{video_id}", MediaFolders(manual, *FOLDERS))


def _retrieval(manual: Path) -> dict[str, list[Example]]:
    captions = _captions(read_json(find(manual, "MSRVTT_data.json")))
    train = read_table(find(manual, "MSRVTT_train.9k.csv"))
    test = read_table(find(manual, "MSRVTT_JSFUSION_test.csv"))
    media = MediaFolders(manual, *FOLDERS)
    pairs = {
        "train": [(row["video_id"], captions[row["video_id"]]) for row in train],
        "test": [(row["video_id"], (row["sentence"],)) for row in test],
    }
    return {
        split: [Example(name, media(name), texts) for name, texts in its]
        for split, its in pairs.items()
    }


# Videos of both splits: github.com/albanie/collaborative-experts, misc/datasets/msrvtt;
# 20 captions of each: arXiv 2102.06448, section 1.
VIDEOS = {"train": 6513, "validation": 497, "test": 2990}
# 243 thousand in all: github.com/salesforce/LAVIS, dataset_card/msrvtt_qa.md. The split
# is the one that papers use; the official files themselves were not at hand.
QUESTIONS = {"train": 158581, "validation": 12278, "test": 72821}
DATASETS = (
    Dataset(
        "msrvtt_caption",
        "video",
        _caption,
        "train_val_videodatainfo.json, test_videodatainfo.json, TrainValVideo/, "
        "TestVideo/",
        {split: Counts(number, 20 * number) for split, number in VIDEOS.items()},
    ),
    Dataset(
        "msrvtt_qa",
        "video",
        _qa,
        "train_qa.json, val_qa.json, test_qa.json, video/",
        {s: Counts(VIDEOS[s], questions=QUESTIONS[s]) for s in VIDEOS},
    ),
    Dataset(
        "msrvtt_retrieval",
        "video",
        _retrieval,
        "MSRVTT_data.json, MSRVTT_train.9k.csv, MSRVTT_JSFUSION_test.csv, videos/all/",
        {"train": Counts(9000, 20 * 9000), "test": Counts(1000, 1000)},
    ),
)
