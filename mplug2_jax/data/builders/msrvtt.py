"""MSRVTT: captions (official split), questions (MSRVTT-QA) and retrieval (1k-A)."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from mplug2_jax.data.builders.declaration import Counts, Dataset
from mplug2_jax.data.builders.entries import caption_of, one_of, text_of, usable
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


class _Captioned:
    """The example of a record's video, with the captions that the files have for it."""

    def __init__(self, media: MediaFolders, *files: Path):
        self.media = media
        self.captions: dict[str, tuple[str, ...]] = defaultdict(tuple)
        for file in files:
            sentences = read_json(file, "sentences")
            for video, caption in usable(file, sentences, _sentence, "sentence"):
                self.captions[video] += (caption,)

    def __call__(self, record: Any) -> Example:
        name = text_of(record, "video_id")
        if name not in self.captions:
            raise ValueError(f"{name} has no caption")
        return Example(name, self.media(name), self.captions[name])


def _sentence(record: Any) -> tuple[str, str]:
    return text_of(record, "video_id"), caption_of(record, "caption")


def _caption(manual: Path) -> dict[str, list[Example]]:
    names = ("train_val_videodatainfo.json", "test_videodatainfo.json")
    files = [find(manual, name) for name in names]
    example = _Captioned(MediaFolders(manual, *FOLDERS), *files)

    def video(record: Any) -> tuple[str, Example]:
        return SPLITS[one_of(record, "split", SPLITS)], example(record)

    splits: dict[str, list[Example]] = defaultdict(list)
    for file in files:
        for split, its in usable(file, read_json(file, "videos"), video, "video"):
            splits[split].append(its)
    return splits


def _qa(manual: Path) -> dict[str, list[Example]]:
    return questions_of(manual, "video{video_id}", MediaFolders(manual, *FOLDERS))


def _retrieval(manual: Path) -> dict[str, list[Example]]:
    media = MediaFolders(manual, *FOLDERS)
    train = find(manual, "MSRVTT_train.9k.csv")
    test = find(manual, "MSRVTT_JSFUSION_test.csv")
    captioned = _Captioned(media, find(manual, "MSRVTT_data.json"))

    def tested(row: Any) -> Example:
        name = text_of(row, "video_id")
        return Example(name, media(name), (caption_of(row, "sentence"),))

    rows = read_table(test, ("video_id", "sentence"))
    return {
        "train": [*usable(train, read_table(train, ("video_id",)), captioned, "row")],
        "test": [*usable(test, rows, tested, "row")],
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
