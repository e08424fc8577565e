# ruff: noqa: E501 - lines of XLA programs
"""The parser, on programs that XLA compiles for the CPU and on lines of TPU programs."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.hardware import hlo
from research.layers.convolution import max_pool_3x3

PACKAGE = Path(hlo.__file__).parents[1]
PROGRAM = f"""HloModule jit_step, is_scheduled=true

FileNames
1 "{PACKAGE}/layers/frozen.py"
2 "{PACKAGE}/layers/resnet.py"
3 "/usr/lib/flax/linen/linear.py"

FunctionNames
1 "f"

FileLocations
1 {{file_name_id=1 function_name_id=1 line=35 end_line=35 column=4 end_column=58}}
2 {{file_name_id=2 function_name_id=1 line=80 end_line=80 column=4 end_column=58}}
3 {{file_name_id=3 function_name_id=1 line=700 end_line=700 column=4 end_column=58}}

StackFrames
1 {{file_location_id=2 parent_frame_id=1}}
2 {{file_location_id=1 parent_frame_id=2}}
3 {{file_location_id=3 parent_frame_id=3}}

%fused (p.0: bf16[8,8,1]) -> bf16[8,8,1] {{
  %p.0 = bf16[8,8,1]{{2,1,0:T(8,128)(2,1)S(1)}} parameter(0)
  ROOT %n = bf16[8,8,1]{{2,1,0:T(8,128)(2,1)}} negate(%p.0), metadata={{op_name="a" stack_frame_id=3}}
}}

ENTRY %main (x.1: bf16[8,8,1]) -> (bf16[8,8,1], s32[]) {{
  %x.1 = bf16[8,8,1]{{2,1,0:T(8,128)(2,1)S(1)}} parameter(0)
  %c = s32[]{{:T(128)}} constant(7)
  %y = bf16[8,8,1]{{2,1,0:T(8,128)(2,1)}} fusion(%x.1), kind=kLoop, calls=%fused, backend_config={{"window_config":{{"estimated_cycles":"1828"}}}}
  ROOT %t = (bf16[8,8,1]{{2,1,0:T(8,128)(2,1)}}, /*index=1*/s32[]{{:T(128)}}) tuple(%y, %c)
}}
"""


def test_arrays_have_the_bytes_of_their_padded_layout():
    program = hlo.parse(PROGRAM)
    x, y = (program.entry.instructions[name].outputs[0] for name in ("x.1", "y"))
    assert (x.shape, x.memory, y.memory) == ((8, 8, 1), 1, 0)
    assert (x.size, x.padded_size, x.bytes) == (64, 8 * 8 * 128, 2 * 8 * 8 * 128)
    assert program.entry.root.outputs[1] == hlo.Array("s32", (), (), (128,), 0)


def test_a_kernel_has_the_line_of_the_project_that_is_not_a_wrapper():
    program = hlo.parse(PROGRAM)
    fusion = program.entry.instructions["y"]
    assert fusion.cycles == 1828
    assert program.source(fusion) == "research/layers/resnet.py:80"
    assert program.source(program.entry.root) == ""


def test_programs_of_xla_are_parsed_whole():
    step = jax.jit(lambda x: max_pool_3x3(jnp.sin(x) @ x).sum())
    text = step.lower(jax.ShapeDtypeStruct((2, 8, 8, 8), jnp.float32)).compile().as_text()
    program = hlo.parse(text)
    lines = [line for line in text.splitlines() if " = " in line and line.startswith("  ")]
    assert sum(len(c.instructions) for c in program.computations.values()) == len(lines)
    names = {name for c in program.computations.values() for name in c.instructions}
    for computation in program.computations.values():
        for one in computation.instructions.values():
            assert set(one.operands) <= names
            assert set(one.called) <= set(program.computations)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("replica_groups={{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}, dimensions={0}", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=2,'b'=2] {'a'}, dimensions={0}", [[0, 2], [1, 3]]),
        ("source_target_pairs={{0,1},{1,0}}", [[0, 1], [1, 0]]),
    ],
)
def test_groups_of_devices_are_read_in_all_notations(text, expected):
    one = hlo.Instruction("a", "all-reduce", (), (), (), f"(%x), {text}, to_apply=%add")
    np.testing.assert_array_equal(hlo.replica_groups(one), expected)
    assert hlo.replica_groups(hlo.Instruction("a", "all-reduce", (), (), (), "(%x)")) is None


def test_an_unknown_notation_of_groups_is_an_error():
    one = hlo.Instruction("a", "all-reduce", (), (), (), "(%x), replica_groups=<3>")
    with pytest.raises(ValueError, match="unknown notation"):
        hlo.replica_groups(one)
