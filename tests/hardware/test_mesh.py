import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from research.hardware.mesh import MeshConfig, batch_shards, parameter_shardings, shares_cores


def mesh(**axes):
    return MeshConfig(**axes).build(jax.devices())


def test_the_batch_is_split_over_data_and_fsdp():
    assert batch_shards(mesh(fsdp=2, tensor=2)) == 4
    assert batch_shards(mesh(devices=4, fsdp=4)) == 4
    assert batch_shards(mesh(tensor=8)) == 1


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((8, 32), PartitionSpec(None, "fsdp")),
        ((32, 8), PartitionSpec("fsdp", None)),
        ((64, 30), PartitionSpec("fsdp", None)),
        ((30, 16), PartitionSpec(None, "fsdp")),
        ((30, 2), PartitionSpec()),
    ],
)
def test_fsdp_splits_the_largest_divisible_axis(shape, spec):
    params = {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)}
    shardings = parameter_shardings(params, mesh(fsdp=4), MeshConfig().rules)
    assert shardings["kernel"].spec == spec


def test_only_several_emulated_devices_share_cores():
    assert not shares_cores(mesh(devices=1))
    assert shares_cores(mesh(devices=2))
