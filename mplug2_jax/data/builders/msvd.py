"""MSVD: captions and questions (MSVD-QA), whose splits are not the same."""

import re
from collections import defaultdict
from pathlib import Path

from mplug2_jax.data.builders.declaration import Counts, Dataset
from mplug2_jax.data.builders.entries import usable
from mplug2_jax.data.builders.reading import (
    MediaFolders,
    find,
    questions_of,
    read_lines,
)
from mplug2_jax.data.examples import Example
from mplug2_jax.data.text import clean_caption

FOLDERS = ("YouTubeClips", "video", ".")
# The usual split of the captions, by number in youtube_mapping.txt, from 1 on.
BOUNDS = {"train": (0, 1200), "validation": (1200, 1300), "test": (1300, 1970)}


def _clips(manual: Path) -> dict[int, str]:
    """Clip by the number that youtube_mapping.txt gives it ("vid1")."""
    path = find(manual, "youtube_mapping.txt")
    return dict(usable(path, read_lines(path), _mapped, "line"))


def _mapped(line: str) -> tuple[int, str] | None:
    if not line.strip():
        return None
    if not (match := re.fullmatch(r"(\S+)\s+vid(\d+)\s*", line)):
        raise ValueError(f"expected a clip and its number, such as vid1: {line[:60]!r}")
    return int(match.group(2)), match.group(1)


def _caption(manual: Path) -> dict[str, list[Example]]:
    captions: dict[str, tuple[str, ...]] = defaultdict(tuple)
    path = find(manual, "AllVideoDescriptions.txt")
    for clip, caption in usable(path, read_lines(path), _described, "line"):
        captions[clip] += (caption,)
    media, clips = MediaFolders(manual, *FOLDERS), _clips(manual)

    def example(clip: str) -> Example:
        if clip not in captions:
            raise ValueError(f"{clip} has no caption")
        return Example(clip, media(clip), captions[clip])

    splits = {}
    for split, (first, last) in BOUNDS.items():
        its = [clip for number, clip in clips.items() if first < number <= last]
        splits[split] = [*usable(path, its, example, f"{split} clip")]
    return {split: its for split, its in splits.items() if its}


def _described(line: str) -> tuple[str, str] | None:
    if not line.strip() or line.startswith("#"):
        return None
    clip, _, caption = line.partition(" ")
    if not clean_caption(caption):
        raise ValueError(f"there is no caption of {clip} (found {caption!r})")
    return clip, caption.strip()


def _qa(manual: Path) -> dict[str, list[Example]]:
    media = MediaFolders(manual, *FOLDERS)
    clips = {f"vid{number}": clip for number, clip in _clips(manual).items()}
    return questions_of(manual, "vid{video_id}", lambda v: media(clips.get(v, v)))


# Videos of the captions: github.com/albanie/collaborative-experts, misc/datasets/msvd
# (how many captions they have depends on the cleaning); questions:
# huggingface.co/datasets/MMInstruction/M3IT, data/vqa/msvd-qa, which has 1161, 245 and
# 504 videos with questions, where papers have all videos of the splits.
DATASETS = (
    Dataset(
        "msvd_caption",
        "video",
        _caption,
        "AllVideoDescriptions.txt, youtube_mapping.txt, YouTubeClips/",
        {"train": Counts(1200), "validation": Counts(100), "test": Counts(670)},
    ),
    Dataset(
        "msvd_qa",
        "video",
        _qa,
        "train_qa.json, val_qa.json, test_qa.json, youtube_mapping.txt, YouTubeClips/",
        {
            "train": Counts(questions=30933),
            "validation": Counts(questions=6415),
            "test": Counts(questions=13157),
        },
        {"train": Counts(1200), "validation": Counts(250), "test": Counts(520)},
    ),
)
