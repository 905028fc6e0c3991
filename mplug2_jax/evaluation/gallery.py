"""A page of the best and the worst examples of an evaluation, with pictures."""

import html
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from pycocoevalcap.rouge.rouge import Rouge

from mplug2_jax.boxes import iou
from mplug2_jax.data.examples import Example
from mplug2_jax.data.video import read_media
from mplug2_jax.evaluation.ptb import ptb_tokenize
from mplug2_jax.evaluation.report import STYLE, contact_sheet, data_url_of
from mplug2_jax.evaluation.results import Record
from mplug2_jax.evaluation.vqa import soft_accuracy

if TYPE_CHECKING:
    from mplug2_jax.evaluation.suite import Measured

SHOWN = 6  # best, and as many worst, of each task
FRAMES, SIDE = 4, 160
TRUE, FOUND = "#1a9850", "#d73027"  # colours of the annotated box and the model's


def gallery(measured: Sequence["Measured"], about: Mapping[str, Any]) -> str:
    """One self-contained page of HTML: the table, and examples of each task."""
    from mplug2_jax.evaluation.suite import HEADS, rows

    facts = ", ".join(f"{name}: {value}" for name, value in about.items())
    heads = "".join(f"<th>{head}</th>" for head in HEADS)
    table = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
        for cells in rows(measured)
    )
    sections = "".join(itertools.chain.from_iterable(map(_sections, measured)))
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<title>mPLUG-2: results</title><style>{STYLE}</style>
<h1>Results</h1><p>{html.escape(facts)}</p>
<table><tr>{heads}</tr>{table}</table>{sections}
</html>"""


def _sections(measured: "Measured") -> list[str]:
    """Best and worst of each task of a data set."""
    chosen = {
        f"{task}, {measured.name}: {which}": records
        for task, its in measured.results.records.items()
        for which, records in best_and_worst(task, its).items()
    }
    wanted = {record.example for records in chosen.values() for record in records}
    examples = {e.id: e for e in measured.examples if e.id in wanted}
    return [
        f"<h2>{html.escape(title)}</h2>"
        + "".join(_shown(record, examples) for record in records)
        for title, records in chosen.items()
    ]


def best_and_worst(task: str, records: Sequence[Record]) -> dict[str, list[Record]]:
    """By `quality`; of equally good or bad ones those that the model was surest of."""
    marked = [(quality(task, record), record) for record in records]
    best = sorted(marked, key=lambda pair: (-pair[0], -pair[1].score))
    worst = sorted(marked, key=lambda pair: (pair[0], -pair[1].score))
    return {
        name: [record for _, record in order[:SHOWN]]
        for name, order in (("best", best), ("worst", worst))
    }


def quality(task: str, record: Record) -> float:
    """How good a prediction is, in [0, 1]: by overlap, rank, votes or wording."""
    if record.true_box:
        boxes = (np.array(box)[None] for box in (record.box, record.true_box))
        return float(np.nan_to_num(iou(*boxes)[0]))
    if record.rank is not None:
        return 1 / (1 + record.rank)
    if len(record.votes) > 3:
        return soft_accuracy(record.prediction, list(record.votes))
    if task == "caption":
        said, *truths = (
            " ".join(ptb_tokenize(text)) for text in (record.prediction, *record.truth)
        )
        return float(Rouge().calc_score([said], truths))
    return float(record.prediction in record.truth)


def _shown(record: Record, examples: Mapping[str, Example]) -> str:
    example = examples.get(record.example)
    picture = ""
    if example is not None:
        pixels = _picture(example, record)
        picture = f'<img alt="medium" src="{data_url_of(pixels)}">'
    right = record.prediction in record.truth
    mark = "right" if right else "wrong"
    asked = html.escape(record.question or "")
    said, truth = (
        html.escape(record.prediction),
        html.escape(" / ".join(record.truth[:3])),
    )
    rows = f'<tr><td>said</td><td class="{mark}">{said}</td></tr>'
    if asked:
        rows = f"<tr><td>asked</td><td>{asked}</td></tr>{rows}"
    rows += f"<tr><td>truth</td><td>{truth}</td></tr>"
    return f'<div class="clip">{picture}<table>{rows}</table></div>'


def _picture(example: Example, record: Record) -> UInt8[np.ndarray, "H W 3"]:
    """Frames side by side; with boxes, the image with both."""
    files = (example.media, *example.others)
    read = [
        read_media(f, FRAMES, SIDE, None, example.start, example.end) for f in files
    ]
    frames = np.concatenate([medium.frames for medium in read])
    if not record.true_box:
        return contact_sheet(frames)
    image = Image.fromarray(frames[0])
    draw = ImageDraw.Draw(image)
    for box, color in ((record.true_box, TRUE), (record.box, FOUND)):
        if len(box) == 4 and np.isfinite(box).all():
            draw.rectangle([SIDE * edge for edge in box], outline=color, width=2)
    return np.asarray(image)
