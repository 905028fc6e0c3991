"""Arithmetic of a step, counted from its program.

XLA's own cost analysis counts the body of a loop once, whatever its length (10 layers
under `lax.scan` look like one), so it cannot say what our scanned stacks take. Here the
traced program is walked instead, before any device or sharding is involved: matrix
products and convolutions, loops times their length. Everything else is small.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax


def step_flops(function: Callable[..., Any], *args: Any) -> float:
    """FLOPs of `function`, traced on arrays or their shapes, over all devices.

    A multiplication and an addition count as two. What a backward pass recomputes is
    counted too: trace a model that recomputes nothing for model FLOPs.
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
