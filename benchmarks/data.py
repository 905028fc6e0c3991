"""How many clips a second the input pipeline gives, and how long a step waits for it.

    python benchmarks/data.py
    python benchmarks/data.py --data videos.jsonl --step-seconds 0.5 1 --batch 16

Without `--data`, clips like MSRVTT's are made: 320 x 240, 25 frames/s, 15 s, H.264 with
chroma subsampling. Each is decoded at random frames, cropped, flipped and augmented
(RandAugment), as fine-tuning does. A step is a wait of `--step-seconds`, as an
accelerator computes it: what it does not hide of the loading is the wait measured.
"""

import argparse
import dataclasses
import io
import json
import os
import tempfile
import time
from pathlib import Path

import av
import numpy as np
from absl import logging
from measuring import machine

from mplug2_jax.data.examples import Example
from mplug2_jax.data.inputs import InputConfig
from mplug2_jax.data.pipeline import BatchConfig, Batches, training_batches
from mplug2_jax.data.sources import read_jsonl
from mplug2_jax.data.tokenizers import WordPieceTokenizer

CAPTION = "a person talks"


def make_clips(folder: Path, count: int, seconds: int) -> Path:
    """Writes clips of noise that moves, and their annotations."""
    rng = np.random.default_rng(0)
    world = np.repeat(np.repeat(rng.integers(0, 255, (40, 60, 3)), 12, 0), 12, 1)
    world = world.astype(np.uint8)
    lines = []
    for number in range(count):
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="mp4") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
            for t in range(25 * seconds):
                x, y = (t + 37 * number) % 380, (t // 2 + 11 * number) % 230
                picture = np.ascontiguousarray(world[y : y + 240, x : x + 320])
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        (folder / f"{number}.mp4").write_bytes(buffer.getvalue())
        lines.append(json.dumps({"video": f"{number}.mp4", "caption": CAPTION}))
    (folder / "train.jsonl").write_text("\n".join(lines))
    return folder / "train.jsonl"


def stream(examples: list[Example], args, workers: int, processes: bool) -> Batches:
    """The pipeline with so many threads, or processes of one thread."""
    config = BatchConfig(args.batch, captions_per_video=1)
    counts = {"threads": 1, "processes": workers} if processes else {"threads": workers}
    config = dataclasses.replace(config, **counts)
    tokenizer = WordPieceTokenizer.from_words([CAPTION, "a video of"])
    inputs = InputConfig(args.frames)
    return training_batches(examples, tokenizer, inputs, config, args.size, seed=0)


def rate(batches: Batches, args, workers: int) -> float:
    """Clips a second, after a batch of every worker that is not counted."""
    for _ in range(2 * workers):  # what is read ahead during these is not counted
        next(batches)
    count = max(args.batches, 3 * workers)
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    seconds = time.perf_counter() - start
    batches.close()
    return count * args.batch / seconds


def waiting(batches: Batches, count: int, step_seconds: float) -> float:
    """Seconds a step waits for its batch."""
    next(batches)
    waited = 0.0
    for _ in range(count):
        time.sleep(step_seconds)
        start = time.perf_counter()
        next(batches)
        waited += time.perf_counter() - start
    batches.close()
    return waited / count


def print_rates(examples: list[Example], args) -> None:
    """The table of clips a second."""
    print("| workers | clips/s | per worker |\n|---|---|---|")
    for kind in ("threads", "processes"):
        for workers in args.workers:
            batches = stream(examples, args, workers, kind == "processes")
            found = rate(batches, args, workers)
            print(f"| {workers} {kind} | {found:.1f} | {found / workers:.1f} |")


def print_shares(examples: list[Example], args) -> None:
    """The table of what a step waits for, with a thread for every core."""
    threads = os.cpu_count() or 1
    print(f"| step of {args.batch} clips, s | wait for {threads} threads, s | share |")
    print("|---|---|---|")
    for seconds in args.step_seconds:
        batches = stream(examples, args, threads, False)
        wait = waiting(batches, args.batches, seconds)
        print(f"| {seconds:g} | {wait:.3f} | {wait / (wait + seconds):.1%} |")


def main() -> None:
    """Prints the machine and two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--data", help="annotations of your own videos (JSON lines)")
    add("--clips", type=int, default=16, help="made without --data")
    add("--seconds", type=int, default=15, help="of each of them")
    add("--batch", type=int, default=8)
    add("--frames", type=int, default=16)
    add("--size", type=int, default=224)
    add("--batches", type=int, default=6, help="counted")
    add("--workers", type=int, nargs="+", default=[1, 2])
    add("--step-seconds", type=float, nargs="+", default=[0.5, 1.0, 2.0])
    args = parser.parse_args()
    print(machine("av", "grain", "pillow"))
    print(f"\nbatch {args.batch}, {args.frames} frames of {args.size} pixels\n")
    with tempfile.TemporaryDirectory() as folder:
        path = args.data or make_clips(Path(folder), args.clips, args.seconds)
        examples = read_jsonl(path)
        print_rates(examples, args)
        print()
        print_shares(examples, args)
        # Of what is still read ahead, the files are about to go.
        logging.set_verbosity(logging.ERROR)


if __name__ == "__main__":
    main()
