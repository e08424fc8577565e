import jax
import pytest


@pytest.fixture(scope="package", autouse=True)
def quick_compilation():
    """What takes time in these tests is to compile; what they compute is small."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
