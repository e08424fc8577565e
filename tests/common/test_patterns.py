import jax
import jax.numpy as jnp
import pytest

from research.common.errors import ConfigError
from research.common.patterns import check_patterns, match

TREE = {
    "Conv_0": {"kernel": jnp.ones((3, 3)), "bias": jnp.ones(3)},
    "head": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)},
}


def test_the_first_match_decides():
    values = match(TREE, (("head/kernel", 1), ("kernel", 2), ("head", 3)), "key", default=0)
    assert values == {"Conv_0": {"kernel": 2, "bias": 0}, "head": {"kernel": 1, "bias": 3}}


def test_values_may_be_trees_and_the_tree_abstract():
    shapes = jax.eval_shape(lambda: TREE)
    values = match(shapes, ((".*", (None, "fsdp")),), "key")
    assert values["head"]["kernel"] == (None, "fsdp")


@pytest.mark.parametrize("rules", [(("kernal", 1),), (("kernel", 1), ("head/kernel", 2))])
def test_a_pattern_without_effect_is_refused_with_the_nearest_path(rules):
    with pytest.raises(ConfigError, match=r"config.my.key: pattern 'k?.*'") as error:
        match(TREE, rules, "my.key")
    assert "did you mean" in str(error.value) or "known:" in str(error.value)


def test_the_rest_may_be_empty():
    match(TREE, (("kernel|bias", 1), (".*", 2)), "key")


@pytest.mark.parametrize("rule", ["kernel", ("kernel",), (3, True), ("(", True)])
def test_an_invalid_rule_is_refused(rule):
    with pytest.raises(ConfigError, match=r"config\.key: invalid"):
        check_patterns((rule,), "key")
