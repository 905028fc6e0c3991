"""Annotations in JSON lines: which video or image, its captions, its questions.

One object per line. The medium is named by `video`, `image`, `video_id` or `clip_name`,
with its extension or without; the texts by any of

    "captions": ["...", ...]    also caption, golden_captions, golden_caption
    "question": "...", "answer": "..."
    "qa": [{"question": "...", "answer": "...", "kind": "...", "id": "..."}, ...]

where an answer is a string, a list of strings (as several people gave them), or a list
of {"answer": "...", "weight": 0.5}. Optional: `start` and `end` in seconds, and `id`.
Other keys are ignored. These are the official files of video question answering and
captioning, and the ones `data/shapes.py` writes.
"""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from absl import logging

from mplug2_jax.data.files import MediaFile, local_path

MEDIUM_KEYS = ("video", "image", "video_id", "clip_name")
CAPTION_KEYS = ("captions", "caption", "golden_captions", "golden_caption")
# Tried in this order where a name has no file of its own.
SUFFIXES = (".mp4", ".avi", ".gif", ".webm", ".mkv", ".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class QA:
    """A question and its accepted answers with their weights, best known first."""

    question: str
    answers: tuple[str, ...]
    weights: tuple[float, ...]
    kind: str | None = None
    id: str | None = None


@dataclass(frozen=True)
class Example:
    """What is known about one medium, or its segment from `start` to `end` seconds."""

    id: str
    media: MediaFile
    captions: tuple[str, ...] = ()
    questions: tuple[QA, ...] = ()
    start: float | None = None
    end: float | None = None


def read_jsonl(
    path: str | os.PathLike,
    media_dir: str | os.PathLike | None = None,
    group: bool = True,
    max_missing: float = 0.0,
) -> list[Example]:
    """Reads an annotation file.

    Args:
      path: the file.
      media_dir: folder the media names are relative to; None is the file's own.
      group: lines about the same medium and segment become one example, at the place
        of the first; without, there is one example per line.
      max_missing: share of the media that may be missing; they keep their place, and
        reading them fails.

    Raises:
      ValueError: a line is malformed (with its number), the file has none, or it is in
        a bucket.
      FileNotFoundError: more media are missing (the first few are listed), or the file.
    """
    advice = "mount the bucket, or prepare the data set: those are read from buckets."
    path = local_path(path, advice)
    root = path.parent if media_dir is None else local_path(media_dir, advice)
    parsed = list(_parsed_lines(path))
    names = dict.fromkeys(example.media for example in parsed)
    found = {name: _find(root, str(name)) for name in names}
    if missing := [str(name) for name, file in found.items() if file is None]:
        shown = ", ".join(missing[:5]) + (", ..." if len(missing) > 5 else "")
        message = (
            f"{path}: {len(missing)} of {len(names)} media are not in {root} ({shown});"
            f" expected each as named or with one of {' '.join(SUFFIXES)}"
        )
        if len(missing) > max_missing * len(names):
            raise FileNotFoundError(message)
        logging.warning(message)
    examples = [replace(e, media=found[e.media] or root / str(e.media)) for e in parsed]
    return _grouped(examples) if group else examples


def _parsed_lines(path: Path) -> Iterable[Example]:
    """Examples whose `media` is still the bare name."""
    empty = True
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            empty = False
            try:
                record = json.loads(line.decode("utf-8-sig"))
                yield _example(record)
            except ValueError as error:
                where = f"{path}, line {number}"
                if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
                    raise ValueError(
                        f"{where}: not a JSON object on one line ({error})"
                    ) from error
                raise ValueError(f"{where}: {error}") from error
    if empty:
        raise ValueError(f"{path} holds no annotations: expected one object per line")


def _example(record: Any) -> Example:
    """Checks one line."""
    if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, found {_short(record)}")
    keys = [key for key in MEDIUM_KEYS if key in record]
    if not keys:
        raise ValueError(f"no medium: expected one of {', '.join(MEDIUM_KEYS)}")
    name = _text(record[keys[0]], keys[0])
    captions = [c for key in CAPTION_KEYS for c in _texts(record.get(key), key)]
    questions = _questions(record)
    if not captions and not questions:
        raise ValueError("neither a caption nor a question with its answer")
    start, end = (
        _seconds(record.get("start"), "start"),
        _seconds(record.get("end"), "end"),
    )
    if end is not None and end <= (start or 0.0):
        raise ValueError(f"end ({end}) is not after start ({start or 0.0})")
    own_id = record.get("id") if "question" not in record else None
    return Example(
        id=str(own_id) if own_id is not None else _default_id(name, start, end),
        media=Path(name),
        captions=tuple(captions),
        questions=tuple(questions),
        start=start,
        end=end,
    )


def _default_id(name: str, start: float | None, end: float | None) -> str:
    if start is None and end is None:
        return name
    return f"{name}@{start or 0:g}-{'' if end is None else format(end, 'g')}"


def _questions(record: dict) -> list[QA]:
    """Questions of a line: its own, and those listed under `qa`."""
    listed = record.get("qa") or []
    if not isinstance(listed, list) or not all(isinstance(q, dict) for q in listed):
        raise ValueError(f"qa must be a list of objects, found {_short(listed)}")
    if "question" in record:
        listed = [record, *listed]
    elif "answer" in record:
        raise ValueError("an answer without its question")
    return [_qa(item) for item in listed]


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
    )


def _answers(value: Any) -> dict[str, float]:
    """Distinct answers and weights, heaviest first; of n equal votes each is 1/n."""
    if not isinstance(value, list):
        return {_text(value, "answer"): 1.0}
    if not value:
        raise ValueError("answer is an empty list")
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
        key = (example.media, example.start, example.end)
        groups.setdefault(key, []).append(example)
    return [
        replace(
            members[0],
            captions=tuple(c for e in members for c in e.captions),
            questions=tuple(q for e in members for q in e.questions),
        )
        for members in groups.values()
    ]
