"""Arithmetic of a step, counted from its program.

XLA's own cost analysis counts the body of a loop once, whatever its length (10 layers
under `lax.scan` look like one), so it cannot say what our scanned stacks take. Here the
traced program is walked instead, before any device or sharding is involved: matrix
products and convolutions, loops times their length. Everything else is small.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from mplug2_jax.tasks.base import Task
from mplug2_jax.training.optimizer import Optimizer
from mplug2_jax.training.step import DistillationConfig, abstract_state, make_step
from mplug2_jax.types import MultimodalBatch


def model_flops(
    task: Task,
    optimizer: Optimizer,
    distillation: DistillationConfig,
    batch: MultimodalBatch,
    mesh: Mesh | None = None,
) -> float:
    """FLOPs of a step over all devices, whose share of their peak is the MFU.

    Of a step on the whole batch at once that keeps every block's activations: what
    `numerics.remat` and accumulation compute again is no use.

    Args:
      batch: arrays or their shapes.
      mesh: of the devices that the step is for; None: this process's.
    """
    model = task.config.replace(numerics={"remat": "none"})
    made_of = dataclasses.replace(task, config=model), optimizer, distillation
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), batch)
    state, key = abstract_state(*made_of), jax.eval_shape(jax.random.key, 0)
    return step_flops(make_step(*made_of, mesh=mesh), state, shapes, key)


def step_flops(function: Callable[..., Any], *args: Any) -> float:
    """FLOPs of `function`, traced on arrays or their shapes, over all devices.

    A multiplication and an addition count as two. What a backward pass recomputes is
    counted too; `model_flops` leaves it out.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def _count(jaxpr: Any) -> float:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    shapes: list[Any] = [getattr(v.aval, "shape", ()) for v in equation.invars]
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        depth = math.prod(shapes[0][axis] for axis in contracted)
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * depth
    if name == "conv_general_dilated":
        features = shapes[1][params["dimension_numbers"].rhs_spec[0]]
        outputs = math.prod(equation.outvars[0].aval.shape)
        return 2.0 * outputs * math.prod(shapes[1]) / features
    if name.startswith("dot_product_attention"):  # cuDNN's kernel: query and key, BLHK
        (rows, length, heads, width), keys = shapes[0], shapes[1][1]
        products = 4 if "bwd" in name else 2
        return 2.0 * products * rows * heads * length * keys * width
    inner = [_count(jaxpr) for jaxpr in _inner(params)]
    if name == "cond":
        return max(inner)
    return params.get("length", 1) * sum(inner) if name == "scan" else sum(inner)


def _inner(params: Mapping[str, Any]) -> Iterator[Any]:
    """Programs that an equation calls."""
    for value in params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            part = getattr(part, "jaxpr", part)  # a closed one's inside
            if hasattr(part, "eqns"):
                yield part
