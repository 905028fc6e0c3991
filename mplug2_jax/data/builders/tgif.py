"""TGIF-QA, frame questions: answers seen in single frames of animated GIFs."""

from pathlib import Path
from typing import Any

from mplug2_jax.data.builders.declaration import Counts, Dataset
from mplug2_jax.data.builders.reading import MediaFolders, asked, find, read_table
from mplug2_jax.data.examples import Example

COLUMNS = ("gif_name", "question", "answer")
KINDS = {"0": "object", "1": "number", "2": "color", "3": "location"}
# github.com/YunseokJANG/tgif-qa, README: what its Frame QA has.
COUNTS = {"train": Counts(questions=39392), "test": Counts(questions=13691)}


def _frame_qa(manual: Path) -> dict[str, list[Example]]:
    media = MediaFolders(manual, "gifs", ".", suffixes=(".gif",))
    splits = {}
    for split in COUNTS:
        name = f"{split.capitalize()}_frameqa_question"
        file = find(manual, f"{name}.csv", f"{name}.tsv")
        rows: list[Any] = read_table(file, COLUMNS, "\t")
        for row in rows:
            row["kind"] = KINDS.get(row.get("type"), "")
        splits[split] = asked(file, rows, "{gif_name}", media, "vid_id")
    return splits


FILES = "Train_frameqa_question.csv, Test_frameqa_question.csv (tab-separated), gifs/"
DATASETS = (Dataset("tgif_frame_qa", "video", _frame_qa, FILES, COUNTS),)
