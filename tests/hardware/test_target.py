import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.hardware.mesh import MeshConfig
from research.hardware.target import (
    Target,
    compile_for,
    compile_for_any_platform,
    has_cudnn,
    loops_are_slow,
    target,
    traced_for,
)


class Device:
    """A fake device of a platform that this machine lacks."""

    def __init__(self, platform):
        self.platform = platform


class AbsentMesh:
    def __init__(self, platform, count):
        self.devices = np.array([Device(platform) for _ in range(count)])


@pytest.mark.parametrize(
    ("platform", "count", "cudnn", "slow"),
    [
        ("tpu", 4, False, False),
        ("gpu", 1, True, False),
        ("gpu", 2, False, False),
        ("cpu", 1, False, True),
    ],
)
def test_choices_follow_the_mesh_and_not_the_host(platform, count, cudnn, slow):
    with compile_for(AbsentMesh(platform, count)):
        assert target() == Target(platform, count)
        assert (has_cudnn(), loops_are_slow()) == (cudnn, slow)
    assert target() == Target("cpu", 1)


def test_a_program_for_any_platform_makes_no_choice_of_one():
    with compile_for_any_platform():
        assert target() == Target("any", 1)
        assert (has_cudnn(), loops_are_slow()) == (False, False)
    assert target() == Target("cpu", 1)


def test_a_function_is_traced_for_its_mesh():
    traced = []

    def step(x):
        traced.append(target().platform)
        return x + jnp.ones(())

    on_tpu = jax.make_jaxpr(traced_for(AbsentMesh("tpu", 1), step))
    on_cpu = jax.jit(traced_for(MeshConfig(devices=1).build(jax.devices()), step))
    on_tpu(jnp.ones(()))
    on_cpu(jnp.ones(()))
    assert traced == ["tpu", "cpu"]


def test_a_mesh_is_built_over_the_given_devices():
    devices = jax.devices()[2:6]
    mesh = MeshConfig(fsdp=2).build(devices)
    assert mesh.shape == {"data": 2, "fsdp": 2, "tensor": 1}
    assert set(mesh.devices.flat) == set(devices)
