"""TGIF-QA, frame questions: answers seen in single frames of animated GIFs."""

from pathlib import Path

from mplug2_jax.data.builders.declaration import (
    SHARD_SIZES,
    Counts,
    Dataset,
    Split,
    listed,
)
from mplug2_jax.data.builders.reading import (
    MediaFolders,
    find,
    questions_by_video,
    read_table,
)
from mplug2_jax.data.sources import Example

KINDS = {"0": "object", "1": "number", "2": "color", "3": "location"}


def _frame_qa(manual: Path, _) -> dict[str, Split]:
    media = MediaFolders((manual / "gifs", manual), (".gif",))
    splits = {}
    for split in ("train", "test"):
        name = f"{split.capitalize()}_frameqa_question"
        rows = read_table(find(manual, f"{name}.csv", f"{name}.tsv"), "\t")
        asked = questions_by_video(
            rows,
            lambda row: row["gif_name"],
            "vid_id",
            lambda row: KINDS.get(row.get("type", "")),
        )
        examples = [Example(g, media(g), questions=tuple(q)) for g, q in asked.items()]
        splits[split] = listed(examples, SHARD_SIZES["video"])
    return splits


DATASETS = (
    Dataset(
        "tgif_frame_qa",
        "video",
        _frame_qa,
        "Train_frameqa_question.csv, Test_frameqa_question.csv (tab-separated), gifs/",
        {"train": Counts(questions=39392), "test": Counts(questions=13691)},
    ),
)
