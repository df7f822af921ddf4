"""Computations, loops, replica groups and shapes read from HLO text."""

import numpy as np
import pytest

from pav_jax.preflight import hlo

LOOP = """\
HloModule jit_step, num_partitions=1

%cond (p: (s32[], s32[])) -> pred[] {{
  %p = (s32[], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %carried = s32[] get-tuple-element(%p), index=1
  %fixed = s32[] constant(8)
  ROOT %lt = pred[] compare(%i, %{limit}), direction=LT
}}

%body (q: (s32[], s32[])) -> (s32[], s32[]) {{
  %q = (s32[], s32[]) parameter(0)
  %j = s32[] get-tuple-element(%q), index=0
  %same = s32[] get-tuple-element(%q), index=1
  %one = s32[] constant(1)
  %first = s32[] add(%j, %one)
  %second = s32[] add(%one, %first)
  ROOT %next = (s32[], s32[]) tuple(%{counter}, %same)
}}

ENTRY %main (x: s32[]) -> (s32[], s32[]) {{
  %x = s32[] parameter(0)
  %from = s32[] constant({start})
  %copied = s32[] copy(%from)
  %upto = s32[] constant(20)
  %begin = (s32[], s32[]) tuple(%copied, %{end})
  ROOT %loop = (s32[], s32[]) while(%begin), condition=%cond, body=%body{note}
}}
"""


@pytest.mark.parametrize(
    "fields, want",
    [
        (dict(), 8),
        (dict(start=3), 5),
        (dict(counter="second"), 4),  # two at a time
        (dict(counter="second", start=1), 4),  # 1, 3, 5, 7
        (dict(limit="carried"), 20),
        (dict(limit="carried", end="x"), None),  # only known at run time
        (dict(note=', backend_config={"known_trip_count":{"n":"77"}}'), 77),
    ],
)
def test_trip_count(fields, want):
    module = hlo.HloModule(
        LOOP.format(**dict(start=0, limit="fixed", counter="first", end="upto", note="") | fields)
    )
    assert module.trip_count("main", module.computations["main"]["loop"]) == want
    assert list(module.executed("main", 2, default_trip_count=5)) == [
        ("main", 2),
        ("body", 2 * (want or 5)),
    ]


@pytest.mark.parametrize(
    "text, want",
    [
        ("replica_groups={{0,2},{1,3}}, x", [[0, 2], [1, 3]]),
        ("replica_groups=[2,2]<=[4], x", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0), x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}, x", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}, x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=1,'b'=4] {'b':(2)2}, x", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=1,'b'=4] {'b':(1)2}, x", [[0, 2], [1, 3]]),
        ("replica_groups={}, x", [[0, 1, 2, 3]]),
    ],
)
def test_replica_groups(text, want):
    np.testing.assert_array_equal(hlo.replica_groups(text, 4), want)


@pytest.mark.parametrize(
    "shape, total, in_hbm",
    [
        ("bf16[8,128]{1,0:T(8,128)(2,1)}", 2048, 2048),
        ("bf16[8,128]{1,0:T(8,128)(2,1)S(1)}", 2048, 0),
        ("(f32[2,3]{1,0}, pred[4]{0}, u32[]{:S(2)})", 32, 28),
        ("f8e4m3fn[16]", 16, 16),
        ("s4[16]", 8, 8),
        ("token[]", 0, 0),
    ],
)
def test_shape_bytes(shape, total, in_hbm):
    assert hlo.shape_bytes(shape) == total
    assert hlo.shape_bytes(shape, hbm_only=True) == in_hbm
