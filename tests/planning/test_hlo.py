"""Bytes counted in compiled programs against those worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mplug2_jax.planning.hlo import Program

# As libtpu writes it: S(1) lies on the chip, the loop's length stands in its condition,
# groups are axes of a mesh, and a fusion reads one slice of the stacked weights.
TPU = """HloModule jit_f, is_scheduled=true, num_partitions=8

%inner (p.0: bf16[6,64,64], p.1: s32[]) -> bf16[64,64] {
  %p.0 = bf16[6,64,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p.1 = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %cut = bf16[1,64,64]{2,1,0:T(8,128)} dynamic-slice(%p.0, %p.1, %zero, %zero), x={1}
  ROOT %b = bf16[64,64]{1,0:T(8,128)} bitcast(%cut)
}

%fused (q.0: bf16[8,64], q.1: bf16[6,64,64], q.2: s32[]) -> bf16[8,64] {
  %q.0 = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %q.1 = bf16[6,64,64]{2,1,0:T(8,128)(2,1)} parameter(1)
  %q.2 = s32[]{:T(128)} parameter(2)
  %w = bf16[64,64]{1,0:T(8,128)} fusion(%q.1, %q.2), kind=kLoop, calls=%inner
  ROOT %y = bf16[8,64]{1,0:T(8,128)} convolution(%q.0, %w), dim_labels=bf_io->bf
}

%add (a: bf16[], b: bf16[]) -> bf16[] {
  %a = bf16[] parameter(0)
  %b = bf16[] parameter(1)
  ROOT %sum = bf16[] add(%a, %b)
}

%body (s: (s32[], bf16[8,64], bf16[6,64,64])) -> (s32[], bf16[8,64], bf16[6,64,64]) {
  %s = (s32[]{:T(128)}, bf16[8,64]{1,0:S(1)}, /*index=2*/bf16[6,64,64]{2,1,0}) parameter(0)
  %i = s32[]{:T(128)S(6)} get-tuple-element(%s), index=0
  %x = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} get-tuple-element(%s), index=1
  %ws = bf16[6,64,64]{2,1,0:T(8,128)(2,1)} get-tuple-element(%s), index=2
  %h = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} fusion(%x, %ws, %i), kind=kOutput, calls=%fused
  %r = bf16[8,64]{1,0:T(8,128)(2,1)S(1)} all-reduce(%h), channel_id=1, replica_groups=mesh['a'=2,'b'=4] {'b'}, to_apply=%add
  ROOT %t = (s32[]{:T(128)}, bf16[8,64]{1,0:S(1)}, bf16[6,64,64]{2,1,0}) tuple(%i, %r, %ws)
}

%condition (c: (s32[], bf16[8,64], bf16[6,64,64])) -> pred[] {
  %c = (s32[]{:T(128)}, bf16[8,64]{1,0:S(1)}, bf16[6,64,64]{2,1,0}) parameter(0)
  %n = s32[]{:T(128)} constant(6)
  %j = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %lt = pred[]{:T(512)} compare(%j, %n), direction=LT
}

ENTRY %main (m: (s32[], bf16[8,64], bf16[6,64,64])) -> (s32[], bf16[8,64], bf16[6,64,64]) {
  %m = (s32[]{:T(128)}, bf16[8,64]{1,0:S(1)}, bf16[6,64,64]{2,1,0}) parameter(0)
  ROOT %loop = (s32[]{:T(128)}, bf16[8,64]{1,0:S(1)}, bf16[6,64,64]{2,1,0}) while(%m), condition=%condition, body=%body
}
"""  # noqa: E501


def test_tpu_program():
    traffic = Program(TPU).traffic(slice_size=8)
    assert traffic.unknown_loops == 0
    assert traffic.counts == {"all-reduce": 6}
    assert traffic.collectives["all-reduce"] == 6 * 2 * (8 * 64 * 2) * 3 / 4
    assert traffic.far == 0
    assert traffic.memory == pytest.approx(6 * 64 * 64 * 2, abs=6 * 16)  # and a counter


def test_groups_across_slices_are_told_apart():
    program = TPU.replace("mesh['a'=2,'b'=4] {'b'}", "[4,2]<=[2,4]T(1,0)")
    traffic = Program(program).traffic(slice_size=4)
    assert traffic.far == traffic.collectives["all-reduce"] > 0
    assert Program(program).traffic(slice_size=8).far == 0


def test_loop_of_unknown_length_is_reported():
    program = TPU.replace("constant(6)", "get-tuple-element(%c), index=0")
    traffic = Program(program).traffic()
    assert traffic.unknown_loops == 1
    assert traffic.counts == {"all-reduce": 1}


@pytest.mark.parametrize(("kind", "sent"), [("sum", 2 * 7 / 8), ("gather", 7 / 8)])
def test_collectives_of_a_compiled_scan(kind, sent):
    mesh = Mesh(np.array(jax.devices()), ("x",))
    rows, whole = (NamedSharding(mesh, PartitionSpec(a)) for a in ("x", None))
    size, trips = 256, 5

    def step(carry, weight):
        if kind == "sum":  # contracts the divided axis
            product = jax.lax.with_sharding_constraint(carry.T @ carry, whole)
            return carry * weight + product[:1, :1], None
        full = jax.lax.with_sharding_constraint(carry, whole)
        return jax.lax.with_sharding_constraint(jnp.tanh(full), rows) * weight, None

    run = jax.jit(lambda x, w: jax.lax.scan(step, x, w)[0], in_shardings=(rows, whole))
    x = jax.ShapeDtypeStruct((size, size), jnp.float32)
    text = run.lower(x, jax.ShapeDtypeStruct((trips,), jnp.float32)).compile().as_text()
    traffic = Program(text).traffic()
    op = {"sum": "all-reduce", "gather": "all-gather"}[kind]
    assert traffic.counts[op] == trips
    assert traffic.collectives[op] == trips * size * size * 4 * sent
