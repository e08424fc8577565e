import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec

from research.hardware.mesh import MeshConfig
from research.training.state import TrainState, state_shardings

SHARDED, REPLICATED = PartitionSpec("fsdp", None), PartitionSpec()


@pytest.fixture
def shardings():
    """Those of two parameters of equal shape, of which the rules shard one."""
    config = MeshConfig(fsdp=8, rules=(("head", "replicate"), (".*", "fsdp")))
    params = {"kernel": jnp.ones((8, 4)), "head": {"kernel": jnp.ones((8, 4))}}
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        variables={},
        opt_state=optax.adam(0.1).init(params),
        ema=params,
        totals={},
    )
    shardings = state_shardings(state, config.build(jax.devices()), config.rules)
    return jax.tree.map(lambda sharding: sharding.spec, shardings)


def test_moments_and_the_moving_average_are_sharded_like_their_parameters(shardings):
    """The path of a moment of `head/kernel` ends with `kernel`, another parameter, too."""
    expected = {"kernel": SHARDED, "head": {"kernel": REPLICATED}}
    moments = shardings.opt_state[0]
    assert shardings.params == moments.mu == moments.nu == shardings.ema == expected


def test_all_else_is_replicated(shardings):
    assert shardings.step == shardings.opt_state[0].count == REPLICATED
