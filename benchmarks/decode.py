"""Captions per second with the cache against recomputing every token, as upstream does.

    python benchmarks/decode.py --size large

Same parameters, same beam search, one process. Without the cache each step runs the
decoder over the whole prefix of every beam and projects every beam's own copy of the
memory again. Random weights; all steps run. In float32 both must find the same texts,
in bfloat16 texts of the same score.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from measuring import append, arguments, interleaved, machine, random_params, table

from mplug2_jax.decoding import BeamConfig, beam_search
from mplug2_jax.models.config import MPlug2Config, preset
from mplug2_jax.models.decoder import Memory
from mplug2_jax.models.mplug2 import MPlug2
from mplug2_jax.tasks import generation
from mplug2_jax.types import Tokens

MODULES = ("vision", "local_temporal", "universal", "decoder")
BEAM = 5
SPECIAL = 1, 2  # start and end, in every preset's vocabulary
SCORES = {"float32": 1e-5, "bfloat16": 2e-2}  # greatest relative difference


@functools.partial(jax.jit, static_argnames=("model", "config"))
def recomputed(model: MPlug2, config: BeamConfig, params, vision):
    """The same search; what it carries along is each beam's prefix, not a cache."""

    def run(model: MPlug2):
        rows = len(vision) * config.beam_size
        memory = Memory.of(jnp.repeat(vision, config.beam_size, axis=0))

        def after(length: int, prefix):
            prefix = prefix[:, :length]
            text = Tokens(prefix, jnp.ones_like(prefix))
            return model.decode(text, memory)[:, -1]

        def step(ids, position, cache):
            prefix = jax.lax.dynamic_update_index_in_dim(cache[0], ids, position, 1)
            lengths = range(1, config.max_length + 1)
            branches = [functools.partial(after, length) for length in lengths]
            return jax.lax.switch(position, branches, prefix), prefix[None]

        prefixes = jnp.zeros((1, rows, config.max_length), jnp.int32)
        return beam_search(step, prefixes, len(vision), config)

    params = generation.in_computed_type(model, params)
    return model.apply({"params": params}, method=run)


def compare(
    config: MPlug2Config, frames: int, batch: int, tokens: int, repeats: int
) -> dict[str, list[float]]:
    """Seconds of seeing a batch, and of decoding it both ways.

    Raises:
      SystemExit: the two searches disagree.
    """
    model = MPlug2(config, MODULES)
    params = jax.device_put(random_params(config, MODULES))
    search = BeamConfig(tokens, tokens, *SPECIAL, beam_size=BEAM)
    side = config.vision.image_size
    videos = np.random.default_rng(1).integers(
        0, 256, (batch, frames, side, side, 3), np.uint8
    )
    videos = jax.device_put(videos)
    vision = generation.encode(model, params, videos)
    rng, ids = jax.random.key(0), jnp.arange(batch)

    def cached():
        return generation.caption(model, search, params, vision, rng, ids)

    runs = {
        "vision and universal layers": lambda: generation.encode(model, params, videos),
        "decoding, cache": cached,
        "decoding, recomputed": lambda: recomputed(model, search, params, vision),
    }
    _agree(cached(), runs["decoding, recomputed"](), config.numerics.dtype)
    waiting = {k: lambda run=v: jax.block_until_ready(run()) for k, v in runs.items()}
    return interleaved(waiting, repeats)


def _agree(one: Any, other: Any, dtype: str) -> None:
    if dtype == "float32" and not np.array_equal(one.ids, other.ids):
        raise SystemExit("The two searches found different texts.")
    difference = np.abs(one.scores / other.scores - 1).max()
    if not difference <= SCORES[dtype]:
        raise SystemExit(f"The two searches' scores differ by {difference:.1e}.")


def main() -> None:
    """Prints the machine and a table of times in seconds."""
    parser = arguments(__doc__, frames=8, batch=1, tokens=20, repeats=2)
    parser.add_argument("--dtype", choices=sorted(SCORES), default="float32")
    parser.add_argument("--results", type=Path, help="file to add a line of JSON to")
    args = parser.parse_args()
    print(machine("jax"))
    print(f"{args.size}, {args.frames} frames, beam {BEAM}, {args.dtype}, ", end="")
    print(f"{args.batch} videos, {args.tokens} tokens")
    config = preset(args.size).replace(numerics={"dtype": args.dtype})
    seconds = compare(config, args.frames, args.batch, args.tokens, args.repeats)
    print(table(seconds))
    see, fast, slow = map(min, seconds.values())
    if args.results:
        times = {"vision": see, "cached": fast, "recomputed": slow}
        append(args.results, {"name": "decoding", "batch": args.batch} | times)
    print(f"decoding: {slow / fast:.1f} times faster with the cache")
    print(
        f"whole captions per second: {args.batch / (see + fast):.3f} with the cache, "
        f"{args.batch / (see + slow):.3f} recomputed "
        f"({(see + slow) / (see + fast):.1f} times)"
    )
    if args.limit is not None and slow / fast < args.limit:
        raise SystemExit(f"Ratio {slow / fast:.1f} is below {args.limit}.")


if __name__ == "__main__":
    main()
