"""AdamW with two learning rates, upstream's weight-decay rule, and frozen parts.

Source of the recipe: upstream's fine-tuning configurations (10 epochs, 2e-5 and 2e-6,
weight decay 0.02, warm-up from 1e-6 in 200 steps, cosine per step to 1e-6).
"""

import dataclasses
import math
from collections.abc import Callable, Hashable, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import keystr

from mplug2_jax.training.layer_decay import layer_factors


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Learning rates are peaks; the schedule is linear warm-up, then cosine.

    Raises ValueError for values that no schedule and no step could use.

    Attributes:
      vision_learning_rate: of the vision encoder alone; everything else, the visual
        projection included, uses `learning_rate`. What has a rate of 0 learns nothing.
      warmup_init, end_learning_rate: where the warm-up starts and the cosine ends;
        with `schedule` "constant" neither is used.
      clip_norm: global gradient norm; 0 turns clipping off.
      freeze: parameters that stay as they are: paths such as "vision" or
        "text/embeddings", with everything below them; `*` stands for any letters
        ("*/local_temporal_*").
      layer_decay: learning rates, and with them weight decay, are multiplied by this to
        the power of a layer's depth below the heads; `layer_decay.layer_depths` says
        which depth is whose. 1 changes nothing.
    """

    learning_rate: float = 2e-5
    vision_learning_rate: float = 2e-6
    weight_decay: float = 0.02
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    schedule: str = "cosine"
    warmup_steps: int = 200
    warmup_init: float = 1e-6
    end_learning_rate: float = 1e-6
    clip_norm: float = 0.0
    freeze: tuple[str, ...] = ()
    layer_decay: float = 1.0

    def __post_init__(self):
        def need(condition: bool, name: str, expected: str) -> None:
            if not condition:
                found = getattr(self, name)
                raise ValueError(f"optimizer.{name} is {found!r}; expected {expected}.")

        schedules = self.schedule in ("cosine", "constant")
        need(schedules, "schedule", "'cosine' or 'constant'")
        for name in (
            *("learning_rate", "vision_learning_rate", "weight_decay", "clip_norm"),
            *("warmup_steps", "warmup_init", "end_learning_rate"),
        ):
            need(0 <= getattr(self, name) < math.inf, name, "0 or a number above it")
        for name in ("b1", "b2"):
            need(0 <= getattr(self, name) < 1, name, "a share from 0 to below 1")
        need(0 < self.eps < math.inf, "eps", "a number above 0")
        off = "above 0, and at most 1, which turns it off"
        need(0 < self.layer_decay <= 1, "layer_decay", off)


class Optimizer(NamedTuple):
    """An optax transformation, and which parameters it leaves alone.

    Attributes:
      freeze: see `OptimizerConfig.freeze`.
    """

    init: optax.TransformInitFn
    update: optax.TransformUpdateFn
    freeze: tuple[str, ...] = ()


def learning_rate(config: OptimizerConfig, peak: float, steps: int) -> optax.Schedule:
    """The schedule that reaches `peak` after the warm-up and ends at step `steps`."""
    if config.schedule == "constant" or peak == 0:
        return optax.constant_schedule(peak)
    warmup = min(config.warmup_steps, max(steps - 1, 0))
    floor = min(config.end_learning_rate, peak)
    ramp = optax.linear_schedule(min(config.warmup_init, peak), peak, warmup)
    decay = optax.cosine_decay_schedule(peak, max(steps - warmup, 1), floor / peak)
    return optax.join_schedules([ramp, decay], [warmup])


def is_decayed(path: str) -> bool:
    """Whether upstream decays this parameter.

    Biases and BERT's layer norms are not decayed; the norms of CLIP, of the local
    temporal modules and of the visual embeddings are (their names in upstream do not
    contain `LayerNorm.weight`).
    """
    if path.endswith("/bias"):
        return False
    is_vision = path.startswith(("vision/", "visual_projection/"))
    return not path.endswith("/scale") or is_vision or "/vision_norm/" in path


def is_frozen(path: str, freeze: Sequence[str]) -> bool:
    """Whether one of the patterns (`OptimizerConfig.freeze`) is this path's."""
    return any(fnmatchcase(path, p) or fnmatchcase(path, f"{p}/*") for p in freeze)


def zero_frozen(grads: Any, freeze: Sequence[str]) -> Any:
    """The gradients, zero where frozen: the compiler then never computes those."""

    def keep(path, grad):
        return jnp.zeros_like(grad) if is_frozen(path, freeze) else grad

    return _by_path(grads, keep) if freeze else grads


def make_optimizer(config: OptimizerConfig, steps: int) -> Optimizer:
    """AdamW over a parameter tree, with `steps` optimizer steps in all.

    Frozen parameters have no moments, and their gradients do not count in clipping.
    Initialising raises ValueError if a pattern of `config.freeze` matches none.
    """

    def adamw(peak: float) -> optax.GradientTransformation:
        return optax.adamw(
            learning_rate(config, peak, steps),
            config.b1,
            config.b2,
            config.eps,
            weight_decay=config.weight_decay,
            mask=lambda params: _by_path(params, lambda path, _: is_decayed(path)),
        )

    def group(path: str) -> str:
        if is_frozen(path, config.freeze):
            return "frozen"
        return "vision" if path.startswith("vision/") else "rest"

    def label(params: Any) -> Any:
        _check_freeze(params, config.freeze)
        return _by_path(params, lambda path, _: group(path))

    groups: dict[Hashable, optax.GradientTransformation] = {
        "vision": adamw(config.vision_learning_rate),
        "rest": adamw(config.learning_rate),
        "frozen": optax.set_to_zero(),
    }
    optimizer = optax.multi_transform(groups, label)
    if config.layer_decay < 1:
        optimizer = optax.chain(optimizer, _slowed_below(config.layer_decay))
    if config.clip_norm > 0:
        ignore = optax.stateless(lambda grads, _: zero_frozen(grads, config.freeze))
        clip = optax.clip_by_global_norm(config.clip_norm)
        optimizer = optax.chain(ignore, clip, optimizer)
    return Optimizer(*optimizer, tuple(config.freeze))


def _slowed_below(decay: float) -> optax.GradientTransformation:
    """Updates, the learning rate in them, scaled by their layers' factors."""

    def scale(updates: Any, params: Any) -> Any:
        return jax.tree.map(jnp.multiply, updates, layer_factors(updates, decay))

    return optax.stateless(scale)


def _check_freeze(params: Any, freeze: Sequence[str]) -> None:
    paths: list[str] = jax.tree.leaves(_by_path(params, lambda path, _: path))
    for pattern in freeze:
        if not any(is_frozen(path, (pattern,)) for path in paths):
            tops = sorted({path.split("/")[0] for path in paths})
            raise ValueError(
                f"optimizer.freeze names {pattern!r}, which is no parameter's path; "
                f"the paths start with {tops} (`mplug2 modules` lists the modules)."
            )


def _by_path(tree: Any, function: Callable[[str, Any], Any]) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: function(keystr(path, simple=True, separator="/"), leaf),
        tree,
    )
