"""Collectives and HBM traffic of a TPU program, and of programs for eight devices."""

import json
import os
import subprocess
import sys

import pytest

from pav_jax.preflight import hlo
from pav_jax.preflight.traffic import measure_traffic

# The program of one of two slices with four chips each. A scan of three iterations over layers
# gathers a slice of stacked weights, in a chain of two fusions. A loop of unknown trip count runs
# an all-reduce over chips. Then follow a collective permute, an all-reduce of which each chip keeps
# its part, and an all-reduce over both slices, which the runtime does.
TPU = """\
HloModule jit_step, is_scheduled=true, num_partitions=4

%add.1 (x: f32[], y: f32[]) -> f32[] {
  %x = f32[]{:T(128)} parameter(0)
  %y = f32[]{:T(128)} parameter(1)
  ROOT %sum = f32[]{:T(128)} add(%x, %y)
}

%cond (p.0: (s32[], bf16[3,64,64])) -> pred[] {
  %p.0 = (s32[]{:T(128)}, bf16[3,64,64]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %limit = s32[]{:T(128)} constant(4)
  %i = s32[]{:T(128)} get-tuple-element(%p.0), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %limit), direction=LT
}

%start_gather (p.1: bf16[3,64,64]) -> (bf16[64,64], bf16[128,64]) {
  %p.1 = bf16[3,64,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %zero.1 = s32[]{:T(128)} constant(0)
  %slice = bf16[1,64,64]{2,1,0:T(8,128)(2,1)} dynamic-slice(%p.1, %zero.1, %zero.1, %zero.1), dynamic_slice_sizes={1,64,64}
  %flat = bf16[64,64]{1,0:T(8,128)(2,1)} bitcast(%slice)
  %all-gather.1 = bf16[128,64]{1,0:T(8,128)(2,1)} all-gather(%flat), channel_id=7, replica_groups=[2,2]<=[4], dimensions={0}, use_global_device_ids=true, frontend_attributes={chain_id="0"}
  ROOT %custom-call.1 = (bf16[64,64]{1,0:T(8,128)(2,1)}, bf16[128,64]{1,0:T(8,128)(2,1)S(1)}) custom-call(%all-gather.1)
}

%async_collective_fusion.1 (p.2: bf16[64,64]) -> bf16[128,64] {
  %p.2 = bf16[64,64]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.2 = bf16[128,64]{1,0:T(8,128)(2,1)S(1)} all-gather(%p.2), channel_id=7, replica_groups=[2,2]<=[4], dimensions={0}, use_global_device_ids=true, frontend_attributes={chain_id="0"}
}

%body (p.3: (s32[], bf16[3,64,64])) -> (s32[], bf16[3,64,64]) {
  %p.3 = (s32[]{:T(128)}, bf16[3,64,64]{2,1,0:T(8,128)(2,1)}) parameter(0)
  %weights = bf16[3,64,64]{2,1,0:T(8,128)(2,1)} get-tuple-element(%p.3), index=1
  %fusion.1 = (bf16[64,64]{1,0:T(8,128)(2,1)}, bf16[128,64]{1,0:T(8,128)(2,1)S(1)}) fusion(%weights), kind=kCustom, calls=%start_gather
  %got = bf16[64,64]{1,0:T(8,128)(2,1)} get-tuple-element(%fusion.1), index=0
  %fusion.2 = bf16[128,64]{1,0:T(8,128)(2,1)S(1)} fusion(%got), kind=kOutput, calls=%async_collective_fusion.1
  %j = s32[]{:T(128)} get-tuple-element(%p.3), index=0
  ROOT %next = (s32[]{:T(128)}, bf16[3,64,64]{2,1,0:T(8,128)(2,1)}) tuple(%j, %weights)
}

%unknown (p.4: f32[8,128]) -> pred[] {
  %p.4 = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %go = pred[]{:T(512)} custom-call(%p.4)
}

%turn (p.5: f32[8,128]) -> f32[8,128] {
  %p.5 = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %all-reduce.1 = f32[8,128]{1,0:T(8,128)} all-reduce(%p.5), channel_id=2, replica_groups=mesh['a'=2,'b'=2] {'a'}, use_global_device_ids=true, to_apply=%add.1
}

%all-reduce-scatter.1 (p.6: f32[8,128]) -> f32[4,128] {
  %p.6 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %all-reduce.2 = f32[8,128]{1,0:T(8,128)} all-reduce(%p.6), channel_id=3, replica_groups={{0,1},{2,3}}, use_global_device_ids=true, to_apply=%add.1
  %zero.2 = s32[]{:T(128)} constant(0)
  ROOT %part = f32[4,128]{1,0:T(4,128)} dynamic-slice(%all-reduce.2, %zero.2, %zero.2), dynamic_slice_sizes={4,128}
}

ENTRY %main (stacked: bf16[3,64,64], start: f32[8,128]) -> f32[4,128] {
  %stacked = bf16[3,64,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %start = f32[8,128]{1,0:T(8,128)} parameter(1)
  %one = s32[]{:T(128)} constant(1)
  %counter = s32[]{:T(128)} copy(%one)
  %tuple.1 = (s32[]{:T(128)}, bf16[3,64,64]{2,1,0:T(8,128)(2,1)}) tuple(%counter, %stacked)
  %while.1 = (s32[]{:T(128)}, bf16[3,64,64]{2,1,0:T(8,128)(2,1)}) while(%tuple.1), condition=%cond, body=%body
  %while.2 = f32[8,128]{1,0:T(8,128)} while(%start), condition=%unknown, body=%turn
  %permute = (f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%while.2), channel_id=4, source_target_pairs={{0,1},{1,0},{2,3},{3,2}}
  %permuted = f32[8,128]{1,0:T(8,128)} collective-permute-done(%permute)
  %scattered = f32[4,128]{1,0:T(4,128)} fusion(%permuted), kind=kCustom, calls=%all-reduce-scatter.1
  %token = token[] after-all(), frontend_attributes={MegascaleRendezvousKeyName="all-reduce.9_0"}
  %recv = (f32[4,128]{1,0:T(4,128)}, u32[], token[]) recv(%token), channel_id=8, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %send = (f32[4,128]{1,0:T(4,128)}, u32[], token[]) send(%scattered, %token), channel_id=9, is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %send-done = token[] send-done(%send), channel_id=9, is_host_transfer=true
  %recv-done = (f32[4,128]{1,0:T(4,128)}, token[]) recv-done(%recv), channel_id=8, is_host_transfer=true
  ROOT %summed = f32[4,128]{1,0:T(4,128)} get-tuple-element(%recv-done), index=0
}
"""  # noqa: E501

KIB = 1024


@pytest.fixture(scope="module")
def tpu():
    return hlo.HloModule(TPU)


def test_measure_traffic_collectives(tpu):
    traffic = measure_traffic(tpu, default_trip_count=10)
    assert traffic.count == {
        "all-gather": 3,
        "all-reduce": 11,
        "collective-permute": 1,
        "reduce-scatter": 1,
    }
    # a gather of 16 KiB from two chips, three times; an all-reduce of 4 KiB over two, ten times; a
    # permute of 4 KiB and two flags; 4 KiB reduce-scattered over two chips, and that over two
    # slices
    assert traffic.received == {
        ("all-gather", "ici"): 3 * 8 * KIB,
        ("all-reduce", "ici"): 10 * 4 * KIB,
        ("all-reduce", "dcn"): 2 * KIB,
        ("collective-permute", "ici"): 4 * KIB + 8,
        ("reduce-scatter", "ici"): 2 * KIB,
    }
    assert traffic.bytes_over("dcn") == 2 * KIB
    assert traffic.bytes_over("ici") == (24 + 40 + 4 + 2) * KIB + 8


def test_measure_traffic_one_iteration_is_difference(tpu):
    iteration = measure_traffic(tpu, 1) - measure_traffic(tpu, 0)
    assert iteration.count == {"all-reduce": 1}
    assert iteration.received == {("all-reduce", "ici"): 4 * KIB}
    assert iteration.hbm_bytes == 2 * 4 * KIB


def test_measure_traffic_hbm_bytes(tpu):
    # in an iteration of the scan: a slice of 8 KiB read and written, then read again; the gathered
    # array stays in on-chip memory
    inside = 3 * (8 + 8 + 8) * KIB
    # the counter is copied; the permute has source and destination; the last fusion reads 4 KiB
    # and writes 2
    outside = 8 + 8 * KIB + (4 + 2) * KIB
    assert measure_traffic(tpu, 0).hbm_bytes == inside + outside


NESTED = """\
HloModule jit_layer, num_partitions=1

%turned (p.0: bf16[64,128]) -> bf16[128,64] {
  %p.0 = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %flat = bf16[128,64]{0,1:T(8,128)(2,1)} bitcast(%p.0)
}

%layer (p.1: bf16[64,128], p.2: bf16[4,64,64]) -> bf16[128,64] {
  %p.1 = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  %p.2 = bf16[4,64,64]{2,1,0:T(8,128)(2,1)} parameter(1)
  %fusion.0 = bf16[128,64]{0,1:T(8,128)(2,1)} fusion(%p.1), kind=kLoop, calls=%turned
  %same = bf16[4,64,64]{2,1,0:T(8,128)(2,1)} bitcast(%p.2)
  %third = bf16[1,64,64]{2,1,0:T(8,128)(2,1)} slice(%same), slice={[2:3], [0:64], [0:64]}
  %square = bf16[64,64]{1,0:T(8,128)(2,1)} bitcast(%third)
  ROOT %product = bf16[128,64]{1,0:T(8,128)(2,1)} convolution(%fusion.0, %square),
  dim_labels=bf_io->bf
}

ENTRY %main (x: bf16[64,128], w: bf16[4,64,64]) -> bf16[128,64] {
  %x = bf16[64,128]{1,0:T(8,128)(2,1)} parameter(0)
  %w = bf16[4,64,64]{2,1,0:T(8,128)(2,1)} parameter(1)
  ROOT %fusion.1 = bf16[128,64]{1,0:T(8,128)(2,1)S(1)} fusion(%x, %w), kind=kOutput, calls=%layer
}
"""


def test_measure_traffic_fusion_reads_slices():
    expected = 64 * 128 * 2 + 64 * 64 * 2
    assert measure_traffic(hlo.HloModule(NESTED)).hbm_bytes == expected


PROGRAM = """
import json
import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, PartitionSpec as P
from pav_jax.preflight.hlo import HloModule
from pav_jax.preflight.traffic import measure_traffic

mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(AxisType.Auto,) * 2)

def scanned(x):
    return lax.scan(lambda c, _: (jnp.tanh(lax.psum(c, "b")), None), x, length=5)[0]

bodies = {
    "scanned": (scanned, P("a", "b")),
    "gathered": (lambda x: lax.all_gather(x, "a", tiled=True), P(None, "b")),
    "scattered": (lambda x: lax.psum_scatter(x, "b", tiled=True), P(("a", "b"))),
    "shifted": (lambda x: lax.ppermute(x, "b", [(i, (i + 1) % 4) for i in range(4)]), P("a", "b")),
    "turned": (lambda x: lax.all_to_all(x, "b", 0, 1, tiled=True), P(("a", "b"))),
}
result = {}
for name, (body, out) in bodies.items():
    mapped = jax.shard_map(body, mesh=mesh, in_specs=P("a", "b"), out_specs=out, check_vma=False)
    text = jax.jit(mapped).lower(jax.ShapeDtypeStruct((16, 16), jnp.float32)).compile().as_text()
    traffic = measure_traffic(HloModule(text))
    received = {kind: size for (kind, _), size in traffic.received.items()}
    result[name] = [traffic.count, received]
print(json.dumps(result))
"""


def test_measure_traffic_eight_devices():
    flags = "--xla_force_host_platform_device_count=8 " + os.environ.get("XLA_FLAGS", "")
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.getcwd()}
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=env, check=True, stdout=subprocess.PIPE, text=True
    )
    # every device holds an array of 8 x 4, 128 bytes
    assert json.loads(process.stdout.splitlines()[-1]) == {
        "scanned": [{"all-reduce": 5}, {"all-reduce": 5 * 2 * 128 * 3 / 4}],
        "gathered": [{"all-gather": 1}, {"all-gather": 128}],
        "scattered": [{"reduce-scatter": 1}, {"reduce-scatter": 32 * 3}],
        "shifted": [{"collective-permute": 1}, {"collective-permute": 128}],
        "turned": [{"all-to-all": 1}, {"all-to-all": 96}],
    }
