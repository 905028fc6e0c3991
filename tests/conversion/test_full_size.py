"""The released sizes: every key of upstream's models, without memory.

`golden/keys` lists upstream's keys with `#` for the layer: [shape, first, end].
"""

import goldens
import jax
import numpy as np
import pytest

from mplug2_jax.checkpoint.lazy import LazyArray, flatten, unflatten
from mplug2_jax.conversion.backward import plan_export
from mplug2_jax.conversion.forward import plan_conversion
from mplug2_jax.conversion.infer import infer_config
from mplug2_jax.models.config import preset
from mplug2_jax.models.mplug2 import MODULES, abstract_params

PARAMETERS = {"large": 1_555_014_005, "base": 595_084_149}  # dead ones included


def key_list(size):
    shapes = {}
    for key, (shape, *layers) in goldens.read_json("keys", f"{size}.json").items():
        for layer in range(*layers) if layers else [""]:
            shapes[key.replace("#", str(layer))] = tuple(shape)
    return shapes


def unreadable():
    raise AssertionError("shapes alone must do")


@pytest.fixture(scope="module", params=["base", "large"])
def planned(request):
    shapes = key_list(request.param)
    config = infer_config(shapes)
    dtype = np.dtype(np.float32)
    tensors = {k: LazyArray(s, dtype, unreadable) for k, s in shapes.items()}
    return request.param, shapes, config, plan_conversion(tensors, config, MODULES)


def test_the_size_is_told_from_the_shapes(planned):
    size, shapes, config, _ = planned
    assert config == preset(size)
    assert sum(map(np.prod, shapes.values())) == PARAMETERS[size]


def test_every_key_has_one_fate(planned):
    _, shapes, _, plan = planned
    report = plan.report
    assert report.problem() is None and not report.initialised
    fates = [*report.matched, *report.tied, *report.dead]
    assert sorted(fates) == sorted(shapes)
    assert plan.teacher is None


def test_every_parameter_is_filled_exactly_once(planned):
    _, shapes, config, plan = planned
    leaves = flatten(abstract_params(config, MODULES))
    assert {k: v.shape for k, v in flatten(plan.params).items()} == {
        k: v.shape for k, v in leaves.items()
    }
    padding = config.text.padded_vocab_size - config.text.vocab_size
    padded = 2 * padding * config.text.width + padding  # two tables and a bias
    live = sum(int(np.prod(shapes[key])) for key in plan.report.matched)
    assert sum(leaf.size for leaf in leaves.values()) == live + padded


def test_back_to_the_same_shapes(planned):
    _, shapes, config, plan = planned
    params = unflatten(flatten(plan.params))
    back = plan_export(params, config, fusion_total=plan.fusion_total)
    live = {*plan.report.matched, *plan.report.tied}
    assert {k: t.shape for k, t in back.items()} == {k: shapes[k] for k in live}
    for tied, owner in plan.report.tied.items():
        assert back[tied] is back[owner]
    assert all(isinstance(t, LazyArray) for t in jax.tree.leaves(back))
