"""Bytes counted in compiled programs against those worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mplug2_jax.planning.hlo import Program
from mplug2_jax.planning.traffic import traffic

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


# An all-gather of 4 begins, a share of it runs beside each turn of a loop, and it ends;
# the gradient of what it gathered is summed, of which each keeps its quarter.
OVERLAPPED = """HloModule jit_g, is_scheduled=true, num_partitions=4

%begin (p.0: bf16[16,64]) -> (bf16[16,64], bf16[64,64], u32[]) {
  %p.0 = bf16[16,64]{1,0:T(8,128)(2,1)} parameter(0)
  %g.0 = bf16[64,64]{1,0:T(8,128)(2,1)} all-gather(%p.0), channel_id=7, replica_groups=mesh['a'=4] {'a'}, dimensions={0}, frontend_attributes={chain_id="1"}
  ROOT %c.0 = (bf16[16,64]{1,0:T(8,128)(2,1)}, bf16[64,64]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) custom-call(%g.0), custom_call_target="AsyncCollectiveStart"
}

%share (q.0: bf16[16,64], q.1: bf16[64,64], q.2: u32[], q.3: bf16[8,64]) -> (bf16[8,64], bf16[16,64], bf16[64,64], bf16[64,64], u32[]) {
  %q.0 = bf16[16,64]{1,0:T(8,128)(2,1)} parameter(0)
  %q.1 = bf16[64,64]{1,0:T(8,128)(2,1)} parameter(1)
  %q.2 = u32[]{:S(2)} parameter(2)
  %q.3 = bf16[8,64]{1,0:T(8,128)(2,1)} parameter(3)
  %y.1 = bf16[8,64]{1,0:T(8,128)(2,1)} negate(%q.3)
  %g.1 = bf16[64,64]{1,0:T(8,128)(2,1)} all-gather(%q.0), channel_id=7, replica_groups=mesh['a'=4] {'a'}, dimensions={0}, frontend_attributes={chain_id="1"}
  ROOT %t.1 = (bf16[8,64]{1,0:T(8,128)(2,1)}, bf16[16,64]{1,0:T(8,128)(2,1)}, bf16[64,64]{1,0:T(8,128)(2,1)}, bf16[64,64]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) tuple(%y.1, %q.0, %q.1, %g.1, %q.2)
}

%end (r.0: bf16[16,64], r.1: bf16[64,64], r.2: u32[]) -> bf16[64,64] {
  %r.0 = bf16[16,64]{1,0:T(8,128)(2,1)} parameter(0)
  %r.1 = bf16[64,64]{1,0:T(8,128)(2,1)} parameter(1)
  %g.2 = bf16[64,64]{1,0:T(8,128)(2,1)} all-gather(%r.0), channel_id=7, replica_groups=mesh['a'=4] {'a'}, dimensions={0}, frontend_attributes={chain_id="1"}
  %r.2 = u32[]{:S(2)} parameter(2)
  ROOT %c.2 = bf16[64,64]{1,0:T(8,128)(2,1)} custom-call(%r.0, %r.1, %g.2, %r.2), custom_call_target="AsyncCollectiveDone"
}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%all-reduce-scatter (z.0: f32[64,64]) -> f32[16,64] {
  %z.0 = f32[64,64]{1,0:T(8,128)} parameter(0)
  %whole = f32[64,64]{1,0:T(8,128)} all-reduce(%z.0), channel_id=8, replica_groups={{0,1,2,3}}, to_apply=%add
  %me = u32[] partition-id()
  %zero = u32[] constant(0)
  ROOT %mine = f32[16,64]{1,0:T(8,128)} dynamic-slice(%whole, %me, %zero), dynamic_slice_sizes={16,64}
}

%body (s: (s32[], bf16[16,64], bf16[64,64], u32[], bf16[8,64])) -> (s32[], bf16[16,64], bf16[64,64], u32[], bf16[8,64]) {
  %s = (s32[]{:S(6)}, bf16[16,64]{1,0}, bf16[64,64]{1,0}, u32[]{:S(2)}, bf16[8,64]{1,0}) parameter(0)
  %i = s32[]{:S(6)} get-tuple-element(%s), index=0
  %w = bf16[16,64]{1,0:T(8,128)(2,1)} get-tuple-element(%s), index=1
  %d = bf16[64,64]{1,0:T(8,128)(2,1)} get-tuple-element(%s), index=2
  %u = u32[]{:S(2)} get-tuple-element(%s), index=3
  %x = bf16[8,64]{1,0:T(8,128)(2,1)} get-tuple-element(%s), index=4
  %f = (bf16[8,64]{1,0:T(8,128)(2,1)}, bf16[16,64]{1,0:T(8,128)(2,1)}, bf16[64,64]{1,0:T(8,128)(2,1)}, bf16[64,64]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) fusion(%w, %d, %u, %x), kind=kOutput, calls=%share
  %y = bf16[8,64]{1,0:T(8,128)(2,1)} get-tuple-element(%f), index=0
  ROOT %t = (s32[]{:S(6)}, bf16[16,64]{1,0}, bf16[64,64]{1,0}, u32[]{:S(2)}, bf16[8,64]{1,0}) tuple(%i, %w, %d, %u, %y)
}

%condition (c: (s32[], bf16[16,64], bf16[64,64], u32[], bf16[8,64])) -> pred[] {
  %c = (s32[]{:S(6)}, bf16[16,64]{1,0}, bf16[64,64]{1,0}, u32[]{:S(2)}, bf16[8,64]{1,0}) parameter(0)
  %n = s32[]{:S(6)} constant(5)
  %j = s32[]{:S(6)} get-tuple-element(%c), index=0
  ROOT %lt = pred[]{:S(6)} compare(%j, %n), direction=LT
}

ENTRY %main (w.0: bf16[16,64], x.0: bf16[8,64], g.0: f32[64,64]) -> (bf16[64,64], f32[16,64]) {
  %w.0 = bf16[16,64]{1,0:T(8,128)(2,1)} parameter(0)
  %x.0 = bf16[8,64]{1,0:T(8,128)(2,1)} parameter(1)
  %g.0 = f32[64,64]{1,0:T(8,128)} parameter(2)
  %async-collective-start.3 = (bf16[16,64]{1,0:T(8,128)(2,1)}, bf16[64,64]{1,0:T(8,128)(2,1)}, u32[]{:S(2)}) fusion(%w.0), kind=kCustom, calls=%begin
  %a.0 = bf16[16,64]{1,0:T(8,128)(2,1)} get-tuple-element(%async-collective-start.3), index=0
  %a.1 = bf16[64,64]{1,0:T(8,128)(2,1)} get-tuple-element(%async-collective-start.3), index=1
  %a.2 = u32[]{:S(2)} get-tuple-element(%async-collective-start.3), index=2
  %zero.1 = s32[]{:S(6)} constant(0)
  %m = (s32[]{:S(6)}, bf16[16,64]{1,0}, bf16[64,64]{1,0}, u32[]{:S(2)}, bf16[8,64]{1,0}) tuple(%zero.1, %a.0, %a.1, %a.2, %x.0)
  %loop = (s32[]{:S(6)}, bf16[16,64]{1,0}, bf16[64,64]{1,0}, u32[]{:S(2)}, bf16[8,64]{1,0}) while(%m), condition=%condition, body=%body
  %e.0 = bf16[16,64]{1,0:T(8,128)(2,1)} get-tuple-element(%loop), index=1
  %e.1 = bf16[64,64]{1,0:T(8,128)(2,1)} get-tuple-element(%loop), index=2
  %e.2 = u32[]{:S(2)} get-tuple-element(%loop), index=3
  %async-collective-done.3 = bf16[64,64]{1,0:T(8,128)(2,1)} fusion(%e.0, %e.1, %e.2), kind=kCustom, calls=%end
  %fusion.9 = f32[16,64]{1,0:T(8,128)} fusion(%g.0), kind=kCustom, calls=%all-reduce-scatter
  ROOT %out = (bf16[64,64]{1,0:T(8,128)(2,1)}, f32[16,64]{1,0:T(8,128)}) tuple(%async-collective-done.3, %fusion.9)
}
"""  # noqa: E501


# Two slices: summed within each, then handed to the hosts, which sum over the slices.
SLICES = """HloModule jit_h, is_scheduled=true, num_partitions=8

ENTRY %main (x: f32[8,128]) -> (f32[8,128], token[]) {
  %x = f32[8,128]{1,0:T(8,128)} parameter(0)
  %go = token[] after-all(), frontend_attributes={MegascaleRendezvousKeyName="sum_0"}
  %send = (f32[8,128]{1,0:T(8,128)}, u32[], token[]) send(%x, %go), channel_id=3, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv = (f32[8,128]{1,0:T(8,128)}, u32[], token[]) recv(%go), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %sent = token[] send-done(%send), channel_id=3, is_host_transfer=true
  ROOT %sum = (f32[8,128]{1,0:T(8,128)}, token[]) recv-done(%recv), channel_id=2, is_host_transfer=true
}
"""  # noqa: E501


def test_tpu_program():
    counted = traffic(Program(TPU), slice_size=8)
    assert counted.unknown_loops == 0
    assert counted.counts == {"all-reduce": 6}
    assert counted.collectives["all-reduce"] == 6 * 2 * (8 * 64 * 2) * 3 / 4
    assert counted.far == 0
    # A slice of the weights; two numbers compared, the answer written.
    assert counted.memory == 6 * (64 * 64 * 2 + 9)


def test_a_collective_beside_other_work_counts_once():
    counted = traffic(Program(OVERLAPPED))
    assert counted.counts == {"all-gather": 1, "reduce-scatter": 1}
    part, whole = 16 * 64, 64 * 64
    assert counted.collectives["all-gather"] == 3 * part * 2
    assert counted.collectives["reduce-scatter"] == whole * 4 * 3 / 4
    gathered, scattered = 2 * (part + whole), 4 * (whole + part)
    assert counted.memory == gathered + scattered + 5 * (2 * (8 * 64) * 2)


def test_groups_across_slices_are_told_apart():
    program = Program(TPU.replace("mesh['a'=2,'b'=4] {'b'}", "[4,2]<=[2,4]T(1,0)"))
    counted = traffic(program, slice_size=4)
    assert counted.far == counted.collectives["all-reduce"] > 0
    assert traffic(program, slice_size=8).far == 0


@pytest.mark.parametrize(
    ("kind", "slices", "share"),
    [
        ("ALL_REDUCE", "1,2", 2 * 1 / 2),
        ("ALL_REDUCE", "1:4", 2 * 3 / 4),
        ("ALL_GATHER", "1,2,3", 2),
        ("ANY_OTHER", "1,2", 1),
    ],
)
def test_what_hosts_exchange_crosses_slices(kind, slices, share):
    program = SLICES.replace("ALL_REDUCE", kind).replace("{1,2}", f"{{{slices}}}")
    counted = traffic(Program(program), slice_size=4)
    sent = 8 * 128 * 4
    assert counted.far == sum(counted.collectives.values()) == share * sent
    assert sum(counted.counts.values()) == 1
    assert counted.memory == pytest.approx(2 * sent, abs=16)  # read, and written


def test_loop_of_unknown_length_is_reported():
    program = TPU.replace("constant(6)", "get-tuple-element(%c), index=0")
    counted = traffic(Program(program))
    assert counted.unknown_loops == 1
    assert counted.counts == {"all-reduce": 1}


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
    counted = traffic(Program(text))
    op = {"sum": "all-reduce", "gather": "all-gather"}[kind]
    assert counted.counts[op] == trips
    assert counted.collectives[op] == trips * size * size * 4 * sent
