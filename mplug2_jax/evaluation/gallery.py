"""A page of the best and the worst examples of an evaluation, with pictures."""

import html
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw
from pycocoevalcap.rouge.rouge import Rouge

from mplug2_jax.boxes import iou
from mplug2_jax.data.examples import Example
from mplug2_jax.data.records import described
from mplug2_jax.data.video import read_media
from mplug2_jax.evaluation.answers import matches
from mplug2_jax.evaluation.measured import HEADS, Measured, rows
from mplug2_jax.evaluation.ptb import ptb_tokenize
from mplug2_jax.evaluation.report import STYLE, contact_sheet, data_url_of
from mplug2_jax.evaluation.results import Record
from mplug2_jax.evaluation.vqa import MIN_PEOPLE, soft_accuracy

SHOWN = 6  # best, and as many worst, of each task
FRAMES, SIDE = 4, 160
TRUE, FOUND = "#1a9850", "#d73027"  # colours of the annotated box and the model's
# An overlap that counts as found, and an answer that several of ten people gave.
RIGHT_BOX, RIGHT_VOTES = 0.5, 1 / 3
# Words stand left, counts right; a metric and its number are not parted.
TABLE = """
.results td, .results th { text-align: left; vertical-align: top; white-space: nowrap }
.results td:nth-child(4), .results th:nth-child(4) { text-align: right }
.results td:nth-child(5) { white-space: normal; width: 100% }
.results td:nth-child(6) { white-space: normal; min-width: 14rem }
.results span { display: inline-block; margin-right: 1rem; white-space: nowrap }
"""


def gallery(measured: Sequence[Measured], about: Mapping[str, Any]) -> str:
    """One self-contained page of HTML: the table, and examples of each task."""
    facts = ", ".join(f"{name}: {value}" for name, value in about.items())
    heads = "".join(f"<th>{head}</th>" for head in HEADS)
    table = "".join(map(_row, rows(measured)))
    sections = "".join(itertools.chain.from_iterable(map(_sections, measured)))
    return f"""<!doctype html><html lang="en"><meta charset="utf-8">
<title>mPLUG-2: results</title><style>{STYLE}{TABLE}</style>
<h1>Results</h1><p>{html.escape(facts)}</p>
<table class="results"><tr>{heads}</tr>{table}</table>{sections}
</html>"""


def _row(cells: Sequence[str]) -> str:
    data, split, task, n, numbers, how = map(html.escape, cells)
    spans = "".join(f"<span>{number}</span>" for number in numbers.split(", "))
    shown = (data, split, task, n, spans, how)
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in shown)}</tr>"


def _sections(measured: Measured) -> list[str]:
    """Best and worst of each task of a data set."""
    chosen = [
        (task, which, records)
        for task, its in measured.results.records.items()
        for which, records in best_and_worst(task, its).items()
    ]
    wanted = {record.example for *_, records in chosen for record in records}
    # Of prepared sets the media that are shown are read, and no others.
    places = {
        e.id: n for n, e in enumerate(described(measured.examples)) if e.id in wanted
    }
    examples = {id_: measured.examples[place] for id_, place in places.items()}
    name = f"{measured.name} {measured.split}".strip()
    return [
        f"<h2>{html.escape(f'{task}, {name}: {which}')}</h2>"
        + "".join(_shown(task, record, examples) for record in records)
        for task, which, records in chosen
    ]


def best_and_worst(task: str, records: Sequence[Record]) -> dict[str, list[Record]]:
    """By `quality`; of equally good or bad ones those that the model was surest of.

    None is both: of few records the better half are the best, the others the worst.
    """
    marked = [(quality(task, record), record) for record in records]
    marked.sort(key=lambda pair: (-pair[0], -pair[1].score))
    count = min(SHOWN, (len(marked) + 1) // 2)
    best, rest = marked[:count], marked[count:]
    rest.sort(key=lambda pair: (pair[0], -pair[1].score))
    shown = {"best": best, "worst": rest[:SHOWN]}
    return {name: [record for _, record in its] for name, its in shown.items() if its}


def quality(task: str, record: Record) -> float:
    """How good a prediction is, in [0, 1]: by overlap, rank, votes or wording."""
    if record.true_box:
        boxes = (np.array(box)[None] for box in (record.box, record.true_box))
        return float(np.nan_to_num(iou(*boxes)[0]))
    if record.rank is not None:
        return 1 / (1 + record.rank)
    if len(record.votes) >= MIN_PEOPLE:
        return soft_accuracy(record.prediction, list(record.votes))
    if task == "caption":
        said, *truths = (
            " ".join(ptb_tokenize(text)) for text in (record.prediction, *record.truth)
        )
        return float(Rouge().calc_score([said], truths))
    if _regression(task, record):
        return 1 / (1 + abs(float(record.prediction) - float(record.truth[0])))
    return float(matches(record.prediction, record.truth[0]))


def _regression(task: str, record: Record) -> bool:
    """Whether the class is a number: those with names have a rank."""
    return task not in ("qa", "caption") and record.rank is None and not record.true_box


def right(task: str, record: Record) -> bool | None:
    """Whether a prediction counts as right; None of captions and numbers."""
    if task == "caption" or _regression(task, record):
        return None
    needed = 1.0
    if record.true_box:
        needed = RIGHT_BOX
    elif record.rank is None and len(record.votes) >= MIN_PEOPLE:
        needed = RIGHT_VOTES
    return quality(task, record) >= needed


def _shown(task: str, record: Record, examples: Mapping[str, Example]) -> str:
    example = examples.get(record.example)
    picture = ""
    if example is not None:
        pixels = _picture(example, record)
        picture = f'<img alt="medium" src="{data_url_of(pixels)}">'
    mark = {True: "right", False: "wrong", None: ""}[right(task, record)]
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
