"""Captions per second with the cache against recomputing every token, as upstream does.

    python benchmarks/decode.py --size large

Same parameters, same beam search, same ids, one process. Without the cache each step
runs the decoder over the whole prefix of every beam and projects every beam's own copy
of the memory again. Random weights; all steps run.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import numpy as np
from measuring import interleaved, machine, random_params, row

from mplug2_jax.decoding import BeamConfig, beam_search
from mplug2_jax.models.config import PRESETS, preset
from mplug2_jax.models.decoder import Memory
from mplug2_jax.models.mplug2 import MPlug2
from mplug2_jax.tasks import generation
from mplug2_jax.types import Tokens

MODULES = ("vision", "local_temporal", "universal", "decoder")


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

    return model.apply({"params": params}, method=run)


def main() -> None:
    """Prints the machine and a table of times in seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=sorted(PRESETS), default="large")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--limit", type=float, help="least allowed ratio of times")
    args = parser.parse_args()

    model = MPlug2(preset(args.size), MODULES)
    params = random_params(model.config, MODULES)
    special = {"start_id": 1, "end_id": 2}  # in every preset's vocabulary
    length = {"max_length": args.tokens, "min_length": args.tokens}
    config = BeamConfig(beam_size=5, **length, **special)
    side = model.config.vision.image_size
    frames = np.random.default_rng(1).integers(
        0, 256, (1, args.frames, side, side, 3), np.uint8
    )
    vision = generation.encode(model, params, frames)
    rng, ids = jax.random.key(0), jnp.arange(1)

    def cached():
        out = generation.caption(model, config, params, vision, rng, ids)
        return np.asarray(out.ids)

    def recomputing():
        return np.asarray(recomputed(model, config, params, vision).ids)

    def seeing():
        return np.asarray(generation.encode(model, params, frames))

    print(machine("jax"))
    print(f"{args.size}, {args.frames} frames, beam 5, {args.tokens} tokens, float32")
    if not np.array_equal(cached(), recomputing()):
        raise SystemExit("The two searches found different texts.")
    seconds = interleaved({"cache": cached, "recomputed": recomputing}, args.repeats)
    vision_time = interleaved({"vision": seeing}, args.repeats)["vision"]
    print("| | min s | median s |\n|---|---|---|")
    print(row("vision and universal layers", vision_time))
    print(row("decoding, cache", seconds["cache"]))
    print(row("decoding, recomputed", seconds["recomputed"]))
    fast, slow, see = map(min, (seconds["cache"], seconds["recomputed"], vision_time))
    print(f"decoding: {slow / fast:.1f} times faster with the cache")
    print(
        f"whole captions per second: {1 / (see + fast):.3f} with the cache, "
        f"{1 / (see + slow):.3f} recomputed ({(see + slow) / (see + fast):.1f} times)"
    )
    if args.limit is not None and slow / fast < args.limit:
        raise SystemExit(f"Ratio {slow / fast:.1f} is below {args.limit}.")


if __name__ == "__main__":
    main()
