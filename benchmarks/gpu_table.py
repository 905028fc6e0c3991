"""The results of `gpu.sh` as tables."""

import json
import math
from pathlib import Path
from typing import Any

from measuring import machine

# The two networks' first losses; dropout draws other numbers in each.
SAME_LOSS = 0.02
AIMS = {"MFU": 0.4, "times PyTorch": 1.2, "decoding, times recomputed": 10}


def records(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def table(args) -> None:
    """Prints all records, and how they compare with what is aimed at.

    Raises:
      SystemExit: the losses differ, so they are not of the same network.
    """
    found = {record["name"]: record for record in records(args.results)}
    steps = [r for r in found.values() if "clips_per_second" in r]
    ours = [r for r in steps if "flops_per_clip" in r]
    chip = next((r for r in ours if r["peak_flops"]), None)
    peak = chip["peak_flops"] / chip["flops_per_clip"] if chip else math.nan
    print(machine("jax"), *{r["device"] for r in ours}, sep="; ")
    print(f"{args.size}, {args.frames} frames, bfloat16\n")
    print(
        "| fine-tuning, QA | batch | clips/s | MFU | peak GB | compiled in s | loss |"
    )
    print("|---|---|---|---|---|---|---|")
    for r in steps:
        rate, memory = r["clips_per_second"], (r["peak_bytes"] or math.nan) / 1e9
        print(
            f"| {r['name']} | {r['batch']} | {rate:.2f} | {_shown(rate / peak)} "
            f"| {_shown(memory)} | {r['compile_seconds']:.0f} | {r['loss']:.3f} |"
        )
    reached: dict[str, float] = {}
    if ours:
        best = max(r["clips_per_second"] for r in ours)
        reached["MFU"] = best / peak
        if theirs := found.get("PyTorch"):
            reached["times PyTorch"] = best / theirs["clips_per_second"]
    if "decoding" in found:
        reached["decoding, times recomputed"] = _print_decoding(found["decoding"])
    print("\n| | reached | aim |\n|---|---|---|")
    for name, aim in AIMS.items():
        print(f"| {name} | {_shown(reached.get(name, math.nan))} | {aim} |")
    losses = [r["loss"] for r in steps]
    if losses and max(losses) > min(losses) * (1 + SAME_LOSS):
        raise SystemExit(f"Not the same network: first losses {losses}.")


def _shown(value: float) -> str:
    return "not measured" if math.isnan(value) else f"{value:.2f}"


def _print_decoding(record: dict[str, Any]) -> float:
    see, cached, again = (record[k] for k in ("vision", "cached", "recomputed"))
    print(
        "\n| captions, beam 5 | decoded clips/s | with vision, clips/s |\n|---|---|---|"
    )
    for name, seconds in {"cache": cached, "recomputed": again}.items():
        rates = [record["batch"] / s for s in (seconds, see + seconds)]
        print(f"| {name} | {rates[0]:.2f} | {rates[1]:.2f} |")
    return again / cached
