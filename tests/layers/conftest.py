import jax
import pytest


@pytest.fixture(scope="package", autouse=True)
def quick_compilation():
    """Disables XLA optimizations: these tests spend their time on compilation."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
