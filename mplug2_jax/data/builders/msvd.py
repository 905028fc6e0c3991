"""MSVD: captions and questions (MSVD-QA), whose splits are not the same."""

from collections import defaultdict
from pathlib import Path

from mplug2_jax.data.builders.declaration import Counts, Dataset
from mplug2_jax.data.builders.reading import MediaFolders, find, questions_of
from mplug2_jax.data.examples import Example

FOLDERS = ("YouTubeClips", "video", ".")
# The usual split of the captions, by place in youtube_mapping.txt.
BOUNDS = {"train": (0, 1200), "validation": (1200, 1300), "test": (1300, 1970)}


def _clips(manual: Path) -> dict[str, str]:
    """Clip by the number that youtube_mapping.txt gives it ("vid1")."""
    lines = find(manual, "youtube_mapping.txt").read_text("utf-8").splitlines()
    pairs = [line.split() for line in lines if line.strip()]
    return {number: clip for clip, number in pairs}


def _caption(manual: Path) -> dict[str, list[Example]]:
    captions: dict[str, tuple[str, ...]] = defaultdict(tuple)
    path = find(manual, "AllVideoDescriptions.txt")
    for line in path.read_text("utf-8").splitlines():
        clip, _, caption = line.partition(" ")
        if caption.strip() and not line.startswith("#"):
            captions[clip] += (caption.strip(),)
    media = MediaFolders(manual, *FOLDERS)
    examples = [Example(c, media(c), captions[c]) for c in _clips(manual).values()]
    return {
        split: examples[first:last]
        for split, (first, last) in BOUNDS.items()
        if examples[first:last]
    }


def _qa(manual: Path) -> dict[str, list[Example]]:
    clips, media = _clips(manual), MediaFolders(manual, *FOLDERS)
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
