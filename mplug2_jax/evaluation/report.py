"""The quickstart's `report.html`: numbers, curves, and clips beside what was said."""

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mplug2_jax.data.examples import Example
from mplug2_jax.data.video import read_media
from mplug2_jax.evaluation import answers, captions
from mplug2_jax.evaluation.results import Record, Results

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

KINDS = ("count", "shape", "color", "motion", "order")
SHOWN = 12  # clips in the report
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto;
       padding: 0 1rem; color: #1c1e21 }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { padding: .25rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
img { max-width: 100% }
.clip { margin: 1.6rem 0; border-top: 1px solid #ddd; padding-top: .8rem }
.clip img { display: block; margin-bottom: .4rem; image-rendering: pixelated }
.clip table { margin: .3rem 0; font-size: .92rem }
.clip td, .clip th { text-align: left; border: 0; padding: 0 1rem 0 0 }
.right { color: #127a3e } .wrong { color: #b3261e; font-weight: 600 }
"""


def write_report(
    path: Path,
    results: Mapping[str, Results],
    examples: Sequence[Example],
    metrics: Path,
    summary: str,
) -> None:
    """Writes one self-contained HTML file.

    Args:
      path: the file.
      results: per split; the first one's clips are shown.
      examples: the annotated clips of the first split.
      metrics: `metrics.jsonl` of the training run.
      summary: a sentence on what was run and how long it took.
    """
    shown = next(iter(results.values()))
    clips = "".join(_clip(e, shown) for e in examples[:SHOWN])
    text = f"""<!doctype html><html lang="en"><meta charset="utf-8">
<title>mPLUG-2 quickstart</title><style>{STYLE}</style>
<h1>A model trained from nothing</h1>
<p>{html.escape(summary)}</p>
<h2>What it can do on clips it never saw</h2>{_table(results)}
<p>Every split is read with the same weights. <em>Image only</em> shows the middle frame
in place of all frames: motion cannot be told from it, so that column is chance (25 %).
<em>unseen_pairs</em> shows colours on shapes they never had in training;
<em>order</em> has objects that turn and asks which way they moved first or last, in
words that training never used.</p>
<h2>Training</h2><img alt="training curves" src="{_curves(metrics)}">
<h2>Clips, questions and answers</h2>{clips}
</html>"""
    path.write_text(text)


def _table(results: Mapping[str, Results]) -> str:
    heads = "".join(f"<th>{name}</th>" for name in ("all", *KINDS, "caption exact"))
    rows = "".join(_row(name, result) for name, result in results.items())
    return f"<table><tr><th>split</th>{heads}</tr>{rows}</table>"


def _row(name: str, result: Results) -> str:
    qa, caption = result.metrics["qa"], result.metrics["caption"]
    by_kind = [qa["by_kind"].get(kind, {}).get("accuracy") for kind in KINDS]
    values = [qa["accuracy"], *by_kind, caption["exact_match"]]
    cells = "".join(f"<td>{'' if v is None else f'{v:.1%}'}</td>" for v in values)
    return f"<tr><td>{html.escape(name)} ({qa['n']} questions)</td>{cells}</tr>"


def _clip(example: Example, result: Results) -> str:
    """Contact sheet, caption and answers of one clip."""
    frames = read_media(example.media, num_frames=5, size=144).frames
    asked = {(qa.question, qa.answers) for qa in example.questions}
    said = [r for r in result.answers if _belongs(r, example, asked)]
    captions = [r for r in result.captions if r.id == example.id]
    rows = "".join(map(_line, [*captions, *said]))
    head = "<tr><th></th><th>said</th><th>truth</th></tr>"
    picture = data_url_of(contact_sheet(frames))
    return (
        f'<div class="clip"><img alt="frames" src="{picture}">'
        f"<table>{head}{rows}</table></div>"
    )


def _belongs(record: Record, example: Example, asked: set) -> bool:
    same = record.id == example.id or record.id.startswith(f"{example.id}#")
    return same and (record.question, record.truth) in asked


def _line(record: Record) -> str:
    if record.question is None:
        is_right = captions.matches(record.prediction, record.truth)
    else:
        is_right = answers.matches(record.prediction, record.truth[0])
    mark = "right" if is_right else "wrong"
    question = html.escape(record.question or "caption")
    said, truth = html.escape(record.prediction), html.escape(record.truth[0])
    return f'<tr><td>{question}</td><td class="{mark}">{said}</td><td>{truth}</td></tr>'


def contact_sheet(
    frames: UInt8[np.ndarray, "T H W 3"], gap: int = 4
) -> UInt8[np.ndarray, "H W 3"]:
    """Frames side by side, white between them."""
    padded = np.pad(frames, ((0, 0), (0, 0), (0, gap), (0, 0)), constant_values=255)
    return np.concatenate(list(padded), axis=1)[:, :-gap]


def _curves(metrics: Path) -> str:
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    lines = [line for line in lines if "train/answer_loss" in line]
    steps = [line["step"] for line in lines]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), dpi=110)
    for axis, kind in ((left, "loss"), (right, "accuracy")):
        for name, key in (
            ("answers", f"train/answer_{kind}"),
            ("captions", f"train/caption_{'token_' * (kind == 'accuracy')}{kind}"),
        ):
            axis.plot(steps, [line[key] for line in lines], label=name)
        axis.set(xlabel="step", title=f"training {kind}")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return _data_url(buffer.getvalue())


def data_url_of(pixels: UInt8[np.ndarray, "H W 3"]) -> str:
    """A picture as a page can hold it."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return _data_url(buffer.getvalue())


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
