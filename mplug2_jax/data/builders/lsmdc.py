"""LSMDC (the challenge of 2016): clips of movies with sentences of their scripts."""

from collections import defaultdict
from pathlib import Path

from mplug2_jax.data.builders.declaration import Counts, Dataset
from mplug2_jax.data.builders.entries import usable
from mplug2_jax.data.builders.reading import MediaFolders, find, read_lines
from mplug2_jax.data.examples import Example
from mplug2_jax.data.text import clean_caption

FILES = {
    "train": "LSMDC16_annos_training.csv",
    "validation": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",
}
COLUMNS = 6  # clip, start and end as aligned and as cut, sentence; no header


def _retrieval(manual: Path) -> dict[str, list[Example]]:
    """Clips lie in a folder of their movie's."""
    folders = [path for path in sorted(manual.glob("videos/*")) if path.is_dir()]
    names = [str(path.relative_to(manual)) for path in folders]
    media = MediaFolders(manual, *names, "videos")
    return {
        split: [Example(clip, media(clip), its) for clip, its in _clips(path).items()]
        for split, path in (
            (split, find(manual, name)) for split, name in FILES.items()
        )
    }


def _clips(path: Path) -> dict[str, tuple[str, ...]]:
    """Sentences by clip; most have one."""
    clips: dict[str, tuple[str, ...]] = defaultdict(tuple)
    for clip, sentence in usable(path, read_lines(path), _line, "line"):
        clips[clip] += (sentence,)
    return clips


def _line(line: str) -> tuple[str, str] | None:
    columns = [column.strip() for column in line.split("\t")]
    if not any(columns):
        return None
    if len(columns) != COLUMNS or not columns[0] or not clean_caption(columns[-1]):
        raise ValueError(
            f"{len(columns)} columns; expected {COLUMNS} with tabs between, the first "
            "a clip and the last a sentence"
        )
    return columns[0], columns[-1]


# Clips: github.com/albanie/collaborative-experts, misc/datasets/lsmdc, which has no
# number for validation; that test clips have one sentence: the file.
DATASETS = (
    Dataset(
        "lsmdc_retrieval",
        "video",
        _retrieval,
        f"{', '.join(FILES.values())}, videos/MOVIE/CLIP.avi",
        {"test": Counts(1000, 1000)},
        {"train": Counts(101079)},
    ),
)
