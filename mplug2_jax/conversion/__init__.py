"""Weights between PyTorch files and our parameter tree, in both directions."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
from jaxtyping import Shaped

from mplug2_jax.checkpoint.lazy import LazyArray, Tree
from mplug2_jax.conversion.backward import export_state_dict
from mplug2_jax.conversion.forward import plan_conversion
from mplug2_jax.conversion.report import Report
from mplug2_jax.models.config import MPlug2Config

__all__ = ["Report", "check", "convert_state_dict", "export_state_dict"]


def convert_state_dict(
    state: Mapping[str, Shaped[Any, "..."]],
    config: MPlug2Config,
    modules: Iterable[str],
    *,
    allow_missing: str | None = None,
) -> tuple[Tree, Tree | None, Report]:
    """Converts arrays in memory; returns (params, teacher or None, report).

    Args:
      state: PyTorch keys, in any spelling of upstream's files, with numpy arrays.
      modules: the modules whose parameters are wanted.
      allow_missing: regular expression of keys that may be missing.

    Raises:
      ValueError: a key is missing, unexpected, of the wrong shape or not finite.
    """
    tensors = {key: LazyArray.of(array) for key, array in state.items()}
    plan = plan_conversion(tensors, config, modules, allow_missing=allow_missing)
    check(plan.report)
    params, teacher = jax.tree.map(
        lambda leaf: leaf.read(), (plan.params, plan.teacher)
    )
    check(plan.report)
    return params, teacher, plan.report


def check(report: Report) -> None:
    """Raises ValueError where the report has a fault."""
    if problem := report.problem():
        raise ValueError(problem)
