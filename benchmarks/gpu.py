"""Training on one GPU, ours and plain PyTorch's: parts of `gpu.sh`.

    python benchmarks/gpu.py PART --results FILE

Each part measures one thing in a process of its own, and adds it to FILE as a line of
JSON. The part `table` prints them all. Without a GPU everything runs on the CPU, which
says that the code works and nothing else.
"""

import contextlib
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gpu_table import records, table
from measuring import append, arguments, random_params

from mplug2_jax.models.config import MPlug2Config, preset
from mplug2_jax.types import MultimodalBatch, Tokens

TASK = "question_answering"
QUESTION, ANSWER = 25, 10  # tokens
BATCHES = (16, 12, 8, 6, 4, 2, 1)
DEFAULT_BATCH = 8
ROUNDS = 3


def model_config(args, **numerics: str) -> MPlug2Config:
    """The preset, of a rehearsal with fewer layers."""
    config = preset(args.size).replace(numerics=numerics)
    if not args.layers:
        return config
    cut, text = {"num_layers": args.layers}, {"num_layers": 2 * args.layers}
    return config.replace(vision=cut, universal=cut, text=text, fusion=cut, decoder=cut)


def videos(config: MPlug2Config, rows: int, frames: int) -> MultimodalBatch:
    """A batch of random videos, a question and an answer to each."""
    rng = np.random.default_rng(0)
    side, words = config.vision.image_size, config.text.vocab_size

    def tokens(length: int) -> Tokens:
        filled = np.arange(length) < rng.integers(length // 2, length + 1, (rows, 1))
        ids = rng.integers(3, words, (rows, length), np.int32)
        return Tokens(ids * filled, filled.astype(np.int32))

    return MultimodalBatch(
        frames=rng.integers(0, 256, (rows, frames, side, side, 3), np.uint8),
        question=tokens(QUESTION),
        answer=tokens(ANSWER),
        answer_weight=np.ones(rows, np.float32),
    )


def per_step(step: Callable[[], Any], wait: Callable[[Any], Any], seconds: float):
    """Median over rounds of the time a step takes when one follows the other."""
    for _ in range(2):
        wait(step())
    start = time.perf_counter()
    wait(step())
    count = max(1, int(seconds / ROUNDS / (time.perf_counter() - start)))
    rounds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(count):
            last = step()
        wait(last)
        rounds.append((time.perf_counter() - start) / count)
    return statistics.median(rounds)


def train(args) -> dict[str, Any]:
    """Our fine-tuning step: bfloat16, state donated."""
    import jax

    from mplug2_jax.planning.chips import of_device
    from mplug2_jax.tasks import TASKS
    from mplug2_jax.training.flops import model_flops
    from mplug2_jax.training.optimizer import OptimizerConfig, make_optimizer
    from mplug2_jax.training.step import DistillationConfig, create_state, make_step

    config = model_config(args, dtype="bfloat16", remat=args.remat)
    task = TASKS[TASK](config)
    optimizer, distillation = (
        make_optimizer(OptimizerConfig(), 1000),
        DistillationConfig(),
    )
    rows = batch_size(args)
    batch = jax.device_put(videos(config, rows, args.frames))
    key = jax.random.key(0)
    params = jax.device_put(random_params(config, task.modules))
    state = create_state(task, optimizer, distillation, key, params=params)
    del params
    flops = model_flops(task, optimizer, distillation, batch)
    start = time.perf_counter()
    step = make_step(task, optimizer, distillation).lower(state, batch, key).compile()
    compiled = time.perf_counter() - start
    state, first = step(state, batch, key)
    first = {name: float(value) for name, value in first.items()}

    def advance():
        nonlocal state
        state, metrics = step(state, batch, key)
        return metrics

    seconds = per_step(advance, jax.block_until_ready, args.seconds)
    if state.skipped or not math.isfinite(float(advance()["loss"])):
        raise SystemExit("Steps were skipped: their loss or gradient is not finite.")
    device = jax.devices()[0]
    chip, used = of_device(device), device.memory_stats() or {}
    plan = step.memory_analysis()
    return {
        "name": f"ours, remat {args.remat}",
        "device": device.device_kind,
        "batch": rows,
        "clips_per_second": rows / seconds,
        "peak_bytes": used.get("peak_bytes_in_use"),
        "planned_bytes": plan.argument_size_in_bytes + plan.temp_size_in_bytes,
        "flops_per_clip": flops / rows,
        "peak_flops": chip and chip.flops,
        "compile_seconds": compiled,
        "loss": first["loss"],
        "gradient_norm": first["gradient_norm"],
    }


def pytorch(args) -> dict[str, Any]:
    """The same step in PyTorch: the largest batch of `BATCHES` that fits uncompiled."""
    import torch
    from pytorch_answering import QuestionAnswering, load_answering
    from pytorch_modules import LocalTemporal, TextLayer, VisionBlock

    from mplug2_jax.tasks import TASKS

    cuda = torch.cuda.is_available()
    config, device = model_config(args), "cuda" if cuda else "cpu"
    params = random_params(config, TASKS[TASK](config).modules)
    LocalTemporal.shifts = True
    model = QuestionAnswering(config)
    load_answering(model, params)
    del params
    model.to(device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), 2e-6, weight_decay=0.02, fused=True
    )

    def step(batch):
        optimizer.zero_grad()  # of a step for which memory did not suffice
        with torch.autocast(device, torch.bfloat16):
            loss = model(*batch)
        loss.backward()
        norm = torch.nn.utils.get_total_norm(
            [p.grad for p in model.parameters() if p.grad is not None]
        )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach(), norm

    def on_device(rows):
        batch = videos(config, rows, args.frames)
        texts = [batch.require(name) for name in ("question", "answer")]
        ids = [torch.from_numpy(a).long() for t in texts for a in (t.values, t.mask)]
        arrays = (batch.frames, *ids, batch.answer_weight)
        return [torch.as_tensor(array, device=device) for array in arrays]

    first, batch = _largest(step, on_device, args.batch)
    # Layer by layer: compiling the whole graph would take longer than all else here.
    backend = "inductor" if cuda else "aot_eager"
    torch._dynamo.config.cache_size_limit = 64
    for layer in model.modules():
        if isinstance(layer, (VisionBlock, TextLayer)):
            layer.compile(backend=backend, dynamic=False)
    start = time.perf_counter()
    step(batch)
    compiled = time.perf_counter() - start
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    wait = torch.cuda.synchronize if cuda else lambda: None
    seconds = per_step(lambda: step(batch), lambda _: wait(), args.seconds)
    rows = len(batch[0])
    return {
        "name": "PyTorch",
        "version": torch.__version__,
        "batch": rows,
        "clips_per_second": rows / seconds,
        "peak_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "compile_seconds": compiled,
        "loss": float(first[0]),
        "gradient_norm": float(first[1]),
    }


def _largest(step, on_device, batch: int):
    """The first step's loss and gradient norm with the largest batch that fits."""
    import torch

    for rows in [batch] if batch else BATCHES:
        with contextlib.suppress(torch.OutOfMemoryError):
            arrays = on_device(rows)
            return step(arrays), arrays
        torch.cuda.empty_cache()
    raise SystemExit("Not even one clip fits into this GPU's memory.")


def batch_size(args) -> int:
    """The batch that PyTorch was measured with."""
    theirs = [r["batch"] for r in records(args.results) if r["name"] == "PyTorch"]
    return args.batch or (theirs[-1] if theirs else DEFAULT_BATCH)


def main() -> None:
    """Measures one part and adds it to the results."""
    parts = {"train": train, "pytorch": pytorch, "table": table}
    parser = arguments(__doc__, frames=16, batch=0, layers=0)
    parser.add_argument("part", choices=parts)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--remat", choices=("none", "dots", "full"), default="dots")
    parser.add_argument("--seconds", type=float, default=9, help="to measure for")
    args = parser.parse_args()
    record = parts[args.part](args)
    if record is not None:
        append(args.results, record)
        print(record)


if __name__ == "__main__":
    main()
