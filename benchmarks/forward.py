"""Forward time of vision encoder and universal layers, ours against plain PyTorch.

    python benchmarks/forward.py --size large

Same weights, same frames, float32, all cores, both in one process and in turn. Fails
if the outputs differ, or with `--limit` if ours takes longer than that many times
PyTorch's time.
"""

import os

import jax
import numpy as np
import torch
from measuring import arguments, interleaved, machine, random_params, table
from pytorch_modules import VisionWithUniversal, load

from mplug2_jax.models.config import preset
from mplug2_jax.models.mplug2 import MPlug2

MODULES = ("vision", "local_temporal", "universal")
ATOL = 1e-4  # of layer-normalised outputs


def networks(size: str, num_frames: int, batch: int):
    """Two functions without arguments: our forward pass and PyTorch's, as NumPy."""
    config = preset(size)
    params = random_params(config, MODULES)
    side = config.vision.image_size
    rng = np.random.default_rng(1)
    frames = rng.standard_normal((batch, num_frames, side, side, 3), np.float32)
    module = VisionWithUniversal(config).eval()
    load(module, params)
    channels_first = torch.from_numpy(np.ascontiguousarray(np.moveaxis(frames, -1, 1)))

    @jax.jit
    def encode(params, frames):
        variables = {"params": params}
        model = MPlug2(config, MODULES)
        return model.apply(variables, frames, method="encode_vision").embeds

    ours = jax.device_put((params, frames))

    @torch.inference_mode()
    def theirs():
        return module(channels_first).numpy()

    return lambda: np.asarray(encode(*ours)), theirs


def main() -> None:
    """Prints the machine and a table of times in seconds."""
    args = arguments(__doc__, frames=8, batch=1, repeats=7).parse_args()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    ours, theirs = networks(args.size, args.frames, args.batch)
    difference = float(np.abs(ours() - theirs()).max())
    print(machine("jax", "torch"))
    print(f"{args.size}, {args.frames} frames, batch {args.batch}, float32")
    print(f"largest difference of outputs: {difference:.1e} (at most {ATOL})")
    if not difference <= ATOL:
        raise SystemExit("The networks differ; their times cannot be compared.")
    seconds = interleaved({"ours": ours, "PyTorch": theirs}, args.repeats)
    print(table(seconds))
    least = min(seconds["ours"]) / min(seconds["PyTorch"])
    median = np.median(seconds["ours"]) / np.median(seconds["PyTorch"])
    print(f"| ours / PyTorch | {least:.2f} | {median:.2f} |")
    if args.limit is not None and not median <= args.limit:
        raise SystemExit(f"Ratio {median:.2f} exceeds {args.limit}.")


if __name__ == "__main__":
    main()
