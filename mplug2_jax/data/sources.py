"""Annotations in JSON lines: which video or image, and what is said about it.

One object per line. The medium is named by `video`, `image`, `video_id` or `clip_name`,
with its extension or without; several images that belong together by `images`, a list.
What is said about it is any of

    "captions": ["...", ...]    also caption, golden_captions, golden_caption
    "question": "...", "answer": "..."
    "qa": [{"question": "...", "answer": "...", "kind": "...", "id": "..."}, ...]
    "label": "..."              its class
    "text": "...", "label": "..."        the class of a text about it
    "labels": [{"text": "...", "label": "...", "id": "..."}, ...]
    "phrase": "...", "box": [x0, y0, x1, y1]    where what is named can be seen
    "regions": [{"phrase": "...", "box": [...], "id": "..."}, ...]

where an answer is a string, a list of strings (as several people gave them), a list of
{"answer": "...", "weight": 0.5}, or null where nobody knows it, and a box is in shares
of width and height, or with "size": [width, height] in pixels. Optional: `start` and
`end` in seconds, and `id`. Other keys are ignored. These are the official files of
video question answering and captioning, and the ones `data/shapes.py` writes.

Texts without a medium, for text classification: "text", "label", and where there are
two, "second".
"""

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from absl import logging

from mplug2_jax.data.examples import QA, Box, Example, Label, Region, TextExample
from mplug2_jax.data.files import MediaFile, local_path
from mplug2_jax.data.text import clean_caption

T = TypeVar("T")
MEDIUM_KEYS = ("video", "image", "video_id", "clip_name")
CAPTION_KEYS = ("captions", "caption", "golden_captions", "golden_caption")
# Tried in this order where a name has no file of its own.
SUFFIXES = (".mp4", ".avi", ".gif", ".webm", ".mkv", ".jpg", ".jpeg", ".png", ".webp")


def read_jsonl(
    path: str | os.PathLike,
    media_dir: str | os.PathLike | None = None,
    group: bool = True,
    max_bad_share: float = 0.0,
) -> list[Example]:
    """Reads an annotation file.

    Args:
      path: the file.
      media_dir: folder the media names are relative to; None is the file's own.
      group: lines about the same medium and segment become one example, at the place
        of the first; without, there is one example per line.
      max_bad_share: of the lines, which may be malformed: they are named in the log and
        left out; and of the media, which may be missing: they keep their place, and
        reading them fails.

    Raises:
      ValueError: more lines are malformed (with their numbers), the file has none, or
        it is in a bucket.
      FileNotFoundError: more media are missing (the first few are listed), or the file.
    """
    advice = "mount the bucket, or prepare the data set: those are read from buckets."
    path = local_path(path, advice)
    root = path.parent if media_dir is None else local_path(media_dir, advice)
    parsed = parsed_lines(path, _example, max_bad_share)
    names = dict.fromkeys(m for e in parsed for m in (e.media, *e.others))
    found = {name: _find(root, str(name)) for name in names}
    if missing := [str(name) for name, file in found.items() if file is None]:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        message = (
            f"{path}: {len(missing)} of {len(names)} media are not in {root} ({shown});"
            f" expected each as named or with one of {' '.join(SUFFIXES)}"
        )
        if len(missing) > max_bad_share * len(names):
            raise FileNotFoundError(message)
        logging.warning(message)

    def file(name: MediaFile) -> MediaFile:
        return found[name] or root / str(name)

    examples = [
        replace(e, media=file(e.media), others=tuple(map(file, e.others)))
        for e in parsed
    ]
    return _grouped(examples) if group else examples


def read_text_jsonl(
    path: str | os.PathLike, max_bad_share: float = 0.0
) -> list[TextExample]:
    """Reads texts and their classes, one object per line.

    Raises: as `read_jsonl`.
    """
    path = local_path(path, "copy the file here.")
    examples = parsed_lines(path, _text_example, max_bad_share)
    return [replace(e, id=e.id or str(n)) for n, e in enumerate(examples)]


def parsed_lines(
    path: Path, parse: Callable[[Any], T], max_bad_share: float = 0.0
) -> list[T]:
    """What `parse` makes of the objects on the lines of a file; see `read_jsonl`."""
    parsed, wrong = [], []
    if not path.exists():
        raise FileNotFoundError(
            f"There is no {path}; expected annotations in JSON lines, or the folder of "
            "a prepared data set (see `mplug2 prepare`): check the path."
        )
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                parsed.append(parse(json_object(line)))
            except ValueError as error:
                wrong.append(f"{path}, line {number}: {error}")
    total = len(parsed) + len(wrong)
    if not total:
        raise ValueError(f"{path} holds no annotations: expected one object per line")
    if len(wrong) > max_bad_share * total:
        more = f" ({len(wrong)} of {total} lines are bad)" if len(wrong) > 1 else ""
        raise ValueError(wrong[0] + more)
    for message in wrong:
        logging.warning("left out: %s", message)
    return parsed


def json_object(line: bytes) -> dict:
    """The object of an annotation's line.

    Raises:
      ValueError: there is none.
    """
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except ValueError as error:
        raise ValueError(f"not a JSON object on one line ({error})") from error
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, found {_short(record)}")
    return record


def _example(record: dict) -> Example:
    """Checks one line; `media` is still the bare name."""
    names = _media_names(record)
    captions = [c for key in CAPTION_KEYS for c in _captions(record.get(key), key)]
    questions = _questions(record)
    labels = [_label(r) for r in _listed(record, "labels", "label")]
    regions = [_region(r, record) for r in _listed(record, "regions", "box")]
    if not (captions or questions or labels or regions):
        raise ValueError(
            "neither a caption nor a question with its answer, a label or a region"
        )
    start, end = (
        _seconds(record.get("start"), "start"),
        _seconds(record.get("end"), "end"),
    )
    if end is not None and end <= (start or 0.0):
        raise ValueError(f"end ({end}) is not after start ({start or 0.0})")
    is_theirs = record.keys() & {"question", "label", "box"}
    own_id = None if is_theirs else record.get("id")
    name = ",".join(names)
    return Example(
        id=str(own_id) if own_id is not None else _default_id(name, start, end),
        media=Path(names[0]),
        captions=tuple(captions),
        questions=tuple(questions),
        start=start,
        end=end,
        labels=tuple(labels),
        regions=tuple(regions),
        others=tuple(map(Path, names[1:])),
    )


def _media_names(record: dict) -> list[str]:
    keys = [key for key in MEDIUM_KEYS if key in record]
    if keys:
        return [_text(record[keys[0]], keys[0])]
    if names := _texts(record.get("images"), "images"):
        return names
    raise ValueError(f"no medium: expected one of {', '.join(MEDIUM_KEYS)}, images")


def _text_example(record: dict) -> TextExample:
    if "label" not in record:
        raise ValueError("a text without its label")
    second, id_ = record.get("second"), record.get("id")
    return TextExample(
        id="" if id_ is None else str(id_),
        text=_text(record.get("text"), "text"),
        second="" if second is None else _text(second, "second"),
        label=_name(record["label"]),
    )


def _default_id(name: str, start: float | None, end: float | None) -> str:
    if start is None and end is None:
        return name
    return f"{name}@{start or 0:g}-{'' if end is None else format(end, 'g')}"


def _listed(record: dict, key: str, own: str) -> list[dict]:
    """The objects under `key`, and before them the line itself, if it has `own`."""
    listed = record.get(key) or []
    if not isinstance(listed, list) or not all(isinstance(q, dict) for q in listed):
        raise ValueError(f"{key} must be a list of objects, found {_short(listed)}")
    return [record, *listed] if own in record else listed


def _questions(record: dict) -> list[QA]:
    """Questions of a line: its own, and those listed under `qa`."""
    if "answer" in record and "question" not in record:
        raise ValueError("an answer without its question")
    return [_qa(item) for item in _listed(record, "qa", "question")]


def _label(item: dict) -> Label:
    if "label" not in item:
        raise ValueError(f"a label's object needs label, found {_short(item)}")
    text = _text(item["text"], "text") if "text" in item else ""
    id_ = item.get("id")
    return Label(_name(item["label"]), text, None if id_ is None else str(id_))


def _name(value: Any) -> str:
    """A class, or the number of regression."""
    if type(value) is not float:
        return _text(value, "label")
    if not math.isfinite(value):
        raise ValueError(f"label must be a class or a finite number, found {value}")
    return str(value)


def _region(item: dict, record: dict) -> Region:
    id_, size = item.get("id"), record.get("size")
    box = checked_box(item.get("box"), size)
    return Region(
        _text(item.get("phrase"), "phrase"), box, None if id_ is None else str(id_)
    )


def checked_box(box: Any, size: Any = None) -> Box:
    """A box in shares of the image.

    Args:
      size: width and height, if the box is in pixels.

    Raises:
      ValueError: not four numbers, without area, or outside the image.
    """
    if not _numbers(box, 4):
        raise ValueError(f"box must be [x0, y0, x1, y1], found {_short(box)}")
    if size is not None and not (_numbers(size, 2) and min(size) > 0):
        raise ValueError(f"size must be [width, height], found {_short(size)}")
    width, height = size or (1, 1)
    x0, y0, x1, y1 = (n / s for n, s in zip(box, (width, height) * 2, strict=True))
    if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
        unit = f"pixels of {width} x {height}" if size else "shares of the image"
        raise ValueError(
            f"the box {_short(box)} is not inside the image, in {unit}; expected "
            "x0 < x1 and y0 < y1"
        )
    return x0, y0, x1, y1


def _numbers(value: Any, count: int) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == count
        and all(isinstance(n, (int, float)) and math.isfinite(n) for n in value)
    )


def _qa(item: dict) -> QA:
    if "question" not in item or "answer" not in item:
        raise ValueError(f"a question needs question and answer, found {_short(item)}")
    answers = _answers(item["answer"])
    kind, id_ = item.get("kind"), item.get("question_id", item.get("id"))
    return QA(
        question=_text(item["question"], "question"),
        answers=tuple(answers),
        weights=tuple(answers.values()),
        kind=None if kind is None else str(kind),
        id=None if id_ is None else str(id_),
        people=_people(item["answer"]),
    )


def _people(value: Any) -> int:
    counted = isinstance(value, list) and not any(isinstance(v, dict) for v in value)
    return len(value) if counted else 0


def _answers(value: Any) -> dict[str, float]:
    """Distinct answers and weights, heaviest first; of n equal votes each is 1/n."""
    if value is None:
        return {}
    if not isinstance(value, list):
        return {_text(value, "answer"): 1.0}
    if not value:
        raise ValueError("answer is an empty list; write null for an unknown one")
    weights: dict[str, float] = {}
    for item in value:
        if isinstance(item, dict):
            answer, weight = _text(item.get("answer"), "answer"), _weight(item)
        else:
            answer, weight = _text(item, "answer"), 1 / len(value)
        weights[answer] = weights.get(answer, 0.0) + weight
    return dict(sorted(weights.items(), key=lambda pair: -pair[1]))


def _weight(item: dict) -> float:
    value = item.get("weight", 1.0)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ValueError(f"an answer's weight must be > 0, found {_short(value)}")
    return float(value)


def _text(value: Any, key: str) -> str:
    """A text that says something; numbers are taken as their digits."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{key} must be a text, found {_short(value)}")
    return value


def _texts(value: Any, key: str) -> list[str]:
    if value is None:
        return []
    return [
        _text(item, key) for item in (value if isinstance(value, list) else [value])
    ]


def _captions(value: Any, key: str) -> list[str]:
    """Texts of which cleaning leaves something."""
    captions = _texts(value, key)
    for caption in captions:
        if not clean_caption(caption):
            raise ValueError(f"{key} must have words, found {_short(caption)}")
    return captions


def _seconds(value: Any, key: str) -> float | None:
    if value is None:
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value < math.inf:
        raise ValueError(f"{key} must be seconds >= 0, found {_short(value)}")
    return float(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _find(root: Path, name: str) -> Path | None:
    """The file of a name: itself, or with the first suffix that exists."""
    candidates = [root / name, *(root / (name + suffix) for suffix in SUFFIXES)]
    return next((file for file in candidates if file.is_file()), None)


def _grouped(examples: list[Example]) -> list[Example]:
    """Joins the texts of examples about one medium and segment, in file order."""
    groups: dict[tuple, list[Example]] = {}
    for example in examples:
        key = (example.media, example.others, example.start, example.end)
        groups.setdefault(key, []).append(example)
    return [
        replace(
            members[0],
            captions=tuple(c for e in members for c in e.captions),
            questions=tuple(q for e in members for q in e.questions),
            labels=tuple(label for e in members for label in e.labels),
            regions=tuple(r for e in members for r in e.regions),
        )
        for members in groups.values()
    ]
