# ruff: noqa: E501 - lines of XLA programs
"""The cost model, on programs whose costs are known."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from research.hardware.hlo import parse
from research.hardware.roofline import Device, estimate

DEVICE = Device(
    clock_hz=1e9,
    vector_units=1,
    flops_per_second=1e14,
    bytes_per_second=1e12,
    link_bytes_per_second=1e11,
    torus=(2, 2),
)

LOOP = """HloModule jit_step, is_scheduled=true

%slice (q: f32[100,8,128], i: s32[]) -> f32[1,8,128] {
  %q = f32[100,8,128]{2,1,0:T(8,128)} parameter(0)
  %i = s32[]{:T(128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %read = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%q, %i, %zero, %zero), dynamic_slice_sizes={1,8,128}
  ROOT %n = f32[1,8,128]{2,1,0:T(8,128)} negate(%read)
}

%update (s: f32[100,8,128], v: f32[1,8,128], j: s32[]) -> f32[100,8,128] {
  %s = f32[100,8,128]{2,1,0:T(8,128)} parameter(0)
  %v = f32[1,8,128]{2,1,0:T(8,128)} parameter(1)
  %j = s32[]{:T(128)} parameter(2)
  %zero = s32[]{:T(128)} constant(0)
  ROOT %write = f32[100,8,128]{2,1,0:T(8,128)} dynamic-update-slice(%s, %v, %j, %zero, %zero)
}

%body (p: (s32[], f32[100,8,128], f32[100,8,128], s32[])) -> (s32[], f32[100,8,128], f32[100,8,128], s32[]) {
  %p = (s32[], f32[100,8,128]{2,1,0:T(8,128)}, f32[100,8,128]{2,1,0:T(8,128)}, s32[]) parameter(0)
  %k = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = f32[100,8,128]{2,1,0:T(8,128)} get-tuple-element(%p), index=1
  %y = f32[100,8,128]{2,1,0:T(8,128)} get-tuple-element(%p), index=2
  %end = s32[]{:T(128)} get-tuple-element(%p), index=3
  %a = f32[1,8,128]{2,1,0:T(8,128)} fusion(%x, %k), kind=kLoop, calls=%slice
  %b = f32[100,8,128]{2,1,0:T(8,128)} fusion(%y, %a, %k), kind=kLoop, calls=%update
  ROOT %t = (s32[], f32[100,8,128]{2,1,0:T(8,128)}, f32[100,8,128]{2,1,0:T(8,128)}, s32[]) tuple(%k, %x, %b, %end)
}

%condition (p: (s32[], f32[100,8,128], f32[100,8,128], s32[])) -> pred[] {
  %p = (s32[], f32[100,8,128]{2,1,0:T(8,128)}, f32[100,8,128]{2,1,0:T(8,128)}, s32[]) parameter(0)
  %k = s32[]{:T(128)} get-tuple-element(%p), index=0
  %end = s32[]{:T(128)} get-tuple-element(%p), index=3
  ROOT %less = pred[]{:T(512)} compare(%k, %end), direction=LT
}

ENTRY %main (x: f32[100,8,128], y: f32[100,8,128]) -> f32[100,8,128] {
  %x = f32[100,8,128]{2,1,0:T(8,128)} parameter(0)
  %y = f32[100,8,128]{2,1,0:T(8,128)} parameter(1)
  %first = s32[]{:T(128)} constant(0)
  %last = s32[]{:T(128)} constant(100)
  %begin = (s32[], f32[100,8,128]{2,1,0:T(8,128)}, f32[100,8,128]{2,1,0:T(8,128)}, s32[]) tuple(%first, %x, %y, %last)
  %loop = (s32[], f32[100,8,128]{2,1,0:T(8,128)}, f32[100,8,128]{2,1,0:T(8,128)}, s32[]) while(%begin), condition=%condition, body=%body
  ROOT %result = f32[100,8,128]{2,1,0:T(8,128)} get-tuple-element(%loop), index=2
}
"""


def test_a_loop_counts_its_repetitions_and_slices_of_its_arrays():
    costs = estimate(parse(LOOP), DEVICE, 1)
    row = 8 * 128 * 4
    # Each step reads a row of x, writes it, reads it again and writes it into y.
    assert costs.bytes == pytest.approx(100 * 4 * row, rel=1e-3)
    assert [loop.repetitions for loop in costs.loops] == [100]
    assert costs.kernel_seconds == pytest.approx(100 * 2 * (0.7e-6 + 2 * row / 0.9e12), rel=1e-3)
    assert not costs.unknown_loops


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups"), [(1, 1, 1, 1), (2, 0, 1, 1), (2, 1, 2, 2)]
)
def test_products_with_padding_do_not_count_as_operations(stride, padding, dilation, groups):
    def convolve(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(padding, padding)] * 2,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    x, kernel = jnp.ones((2, 7, 9, 4)), jnp.ones((3, 3, 4 // groups, 6))
    # With ones everywhere, an output is the number of its products.
    expected = 2 * float(convolve(x, kernel).sum())
    found = estimate(parse(_compiled(convolve, x, kernel)), DEVICE, 1)
    assert found.flops == expected


def test_operations_of_matrix_products_count_repetitions():
    def step(x, w):
        return lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, length=7)[0]

    found = estimate(parse(_compiled(step, jnp.ones((4, 8)), jnp.ones((8, 8)))), DEVICE, 1)
    assert found.flops == 7 * 2 * 4 * 8 * 8


@pytest.mark.parametrize(
    ("opcode", "output", "group", "moved", "hops"),
    [
        # Two links of a square of four chips, one of a pair.
        ("all-reduce", "f32[1024]", 4, 2 * 4096 * 3 / 4 / 2e11, 4),
        ("all-gather", "f32[4096]", 4, 4096 * 3 / 2e11, 2),
        ("reduce-scatter", "f32[256]", 4, 4096 * 3 / 4 / 2e11, 2),
        ("all-reduce", "f32[1024]", 2, 2 * 4096 / 2 / 1e11, 2),
        ("all-reduce", "f32[1024]", 1, 0.0, 0),
    ],
)
def test_collectives_take_the_time_of_a_ring(opcode, output, group, moved, hops):
    devices = ",".join(map(str, range(group)))
    program = f"""HloModule m

%add (a: f32[], b: f32[]) -> f32[] {{
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %s = f32[] add(%a, %b)
}}

ENTRY %main (x: f32[1024]) -> {output} {{
  %x = f32[1024]{{0:T(1024)}} parameter(0)
  ROOT %r = {output}{{0:T(1024)}} {opcode}(%x), replica_groups={{{{{devices}}}}}, to_apply=%add
}}
"""
    (found,) = estimate(parse(program), DEVICE, 4).collectives
    assert found.seconds == pytest.approx(moved + hops * 1e-6)


def _compiled(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().as_text()


OVERLAPPED = """HloModule m

%scatter (a: bf16[128,128]) -> bf16[64,128] {
  %a = bf16[128,128]{1,0:T(8,128)(2,1)} parameter(0)
  %i = s32[]{:T(128)} constant(0)
  %sum = bf16[128,128]{1,0:T(8,128)(2,1)} all-reduce(%a), channel_id=1, replica_groups=mesh['x'=2] {'x'}
  ROOT %part = bf16[64,128]{1,0:T(8,128)(2,1)} dynamic-slice(%sum, %i, %i), dynamic_slice_sizes={64,128}
}

%compute (b: f32[8,128]) -> f32[8,128] {
  %b = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %n = f32[8,128]{1,0:T(8,128)} negate(%b)
}

ENTRY %main (x: bf16[128,128], y: f32[8,128]) -> bf16[64,128] {
  %x = bf16[128,128]{1,0:T(8,128)(2,1)} parameter(0)
  %y = f32[8,128]{1,0:T(8,128)} parameter(1)
  %first = bf16[64,128]{1,0:T(8,128)(2,1)} fusion(%x), kind=kCustom, calls=%NAME
  %start = (bf16[64,128]{1,0}, bf16[128,128]{1,0}) all-gather-start(%first), channel_id=2, replica_groups=mesh['x'=2] {'x'}
  %kernel = f32[8,128]{1,0:T(8,128)} fusion(%y), kind=kLoop, calls=%compute
  %done = bf16[128,128]{1,0:T(8,128)(2,1)} all-gather-done(%start)
  ROOT %end = bf16[64,128]{1,0:T(8,128)(2,1)} fusion(%x), kind=kCustom, calls=%NAME
}
"""


def test_collectives_in_fusions_count_once_and_those_behind_kernels_less():
    program = OVERLAPPED.replace("%scatter", "%all-reduce-scatter.1")
    costs = estimate(parse(program.replace("%NAME", "%all-reduce-scatter.1")), DEVICE, 2)
    scatter, gather = costs.collectives
    assert (scatter.opcode, scatter.bytes) == ("reduce-scatter", 2 * 128 * 128)
    assert (gather.opcode, gather.bytes) == ("all-gather", 2 * 64 * 128)
    assert gather.hidden_seconds == pytest.approx(0.7e-6 + 2 * 4096 / 0.9e12)
    assert costs.collective_seconds < scatter.seconds + gather.seconds


def test_a_copy_in_the_background_moves_its_slice_in_the_memory_that_it_is_in():
    program = """HloModule m

ENTRY %main (x: f32[64,128]) -> f32[8,128] {
  %x = f32[64,128]{1,0:T(8,128)} parameter(0)
  %start = ((f32[64,128]{1,0:T(8,128)}), f32[8,128]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:8], [0:128]}
  %done = f32[8,128]{1,0:T(8,128)S(1)} slice-done(%start)
  %out = (f32[8,128]{1,0:T(8,128)}, f32[8,128]{1,0:T(8,128)S(1)}, u32[]{:S(2)}) copy-start(%done)
  ROOT %end = f32[8,128]{1,0:T(8,128)} copy-done(%out)
}
"""
    assert estimate(parse(program), DEVICE, 1).hidden_bytes == 2 * 8 * 128 * 4
