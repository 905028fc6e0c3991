"""Memory of a fine-tuning step and of captioning, from the compiled programs.

    python benchmarks/memory.py --size large --frames 16

Nothing is allocated: XLA's plan for this machine's backend says what a step holds. One
video and one question per step, bfloat16, every layer recomputed in the backward pass.
"""

import argparse

import jax
import jax.numpy as jnp

from mplug2_jax.models.config import PRESETS, preset
from mplug2_jax.models.decoder import Memory
from mplug2_jax.models.mplug2 import MPlug2, abstract_params
from mplug2_jax.tasks import TASKS
from mplug2_jax.training.optimizer import OptimizerConfig, make_optimizer
from mplug2_jax.training.step import DistillationConfig, init_state, make_step
from mplug2_jax.types import MultimodalBatch, Tokens

NUMERICS = {"dtype": "bfloat16", "remat": "full"}


def batch_of(frames: int, side: int) -> MultimodalBatch:
    def tokens(length):
        ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
        return Tokens(ids, ids)

    return MultimodalBatch(
        frames=jax.ShapeDtypeStruct((1, frames, side, side, 3), jnp.uint8),
        question=tokens(25),
        answer=tokens(10),
        answer_weight=jax.ShapeDtypeStruct((1,), jnp.float32),
        caption=tokens(20),
    )


def training(size: str, task_name: str, frames: int):
    """The compiled fine-tuning step."""
    config = preset(size).replace(numerics=NUMERICS)
    task = TASKS[task_name](config)
    optimizer = make_optimizer(OptimizerConfig(), 1000)
    distillation = DistillationConfig()
    state = jax.eval_shape(
        lambda params: init_state(params, optimizer, distillation),
        abstract_params(config, task.modules),
    )
    key = jax.eval_shape(lambda: jax.random.key(0))
    step = make_step(task, optimizer, distillation)
    return step.lower(state, batch_of(frames, config.vision.image_size), key).compile()


def scoring(size: str, frames: int):
    """The compiled forward pass of captioning."""
    config = preset(size).replace(numerics=NUMERICS)
    model = MPlug2(config, TASKS["captioning"](config).modules)

    def run(params, batch):
        def method(model):
            vision = model.encode_vision(batch.frames).embeds
            return model.decode(batch.caption, Memory.of(vision))

        return model.apply({"params": params}, method=method)

    batch = batch_of(frames, config.vision.image_size)
    params = abstract_params(config, model.modules)
    return jax.jit(run).lower(params, batch).compile()


def row(name: str, compiled) -> str:
    plan = compiled.memory_analysis()
    held = (plan.argument_size_in_bytes + plan.output_size_in_bytes) / 1e9
    held -= plan.alias_size_in_bytes / 1e9
    work = plan.temp_size_in_bytes / 1e9
    return f"| {name} | {held:.1f} | {work:.1f} | {held + work:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=sorted(PRESETS), default="large")
    parser.add_argument("--frames", type=int, default=16)
    args = parser.parse_args()
    print(f"{args.size}, {args.frames} frames, backend {jax.default_backend()}")
    print("| program | parameters and state, GB | work, GB | all, GB |")
    print("|---|---|---|---|")
    for task in ("captioning", "question_answering"):
        compiled = training(args.size, task, args.frames)
        print(row(f"fine-tuning, {task}", compiled), flush=True)
    print(row("captioning, forward", scoring(args.size, args.frames)))


if __name__ == "__main__":
    main()
