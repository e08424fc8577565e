import numpy as np
import pytest

from research.common.errors import UserError
from research.weights.conversion import convert, unmatched


def numbers(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_kernels_get_the_axes_of_flax():
    tensors = {
        "conv.weight": numbers(4, 3, 5, 2),
        "fc.weight": numbers(2, 3),
        "fc.bias": numbers(2),
    }
    converted = convert(tensors, (("conv", "Conv_0", "conv"), ("fc", "head", "dense")))
    assert converted.keys() == {"params/Conv_0/kernel", "params/head/kernel", "params/head/bias"}
    kernel = converted["params/Conv_0/kernel"]
    assert kernel.shape == (5, 2, 3, 4)
    assert kernel[4, 1, 2, 3] == tensors["conv.weight"][3, 2, 4, 1]
    np.testing.assert_array_equal(converted["params/head/kernel"], tensors["fc.weight"].T)
    np.testing.assert_array_equal(converted["params/head/bias"], tensors["fc.bias"])


def test_statistics_of_batch_normalisation_are_no_parameters():
    names = ("weight", "bias", "running_mean", "running_var")
    tensors = {f"bn.{name}": np.full(2, i) for i, name in enumerate(names)}
    tensors["bn.num_batches_tracked"] = np.array(7)
    rules = (("bn", "norm", "batch_norm"),)
    converted = convert(tensors, rules)
    assert {path: array[0] for path, array in converted.items()} == {
        "params/norm/scale": 0,
        "params/norm/bias": 1,
        "batch_stats/norm/mean": 2,
        "batch_stats/norm/var": 3,
    }
    assert unmatched(tensors, rules) == []


def test_a_joint_projection_becomes_queries_keys_and_values_with_heads():
    weight, bias = numbers(3 * 6, 5), numbers(3 * 6)
    rules = (("qkv", "own", "qkv:2"), ("proj", "own/out", "out:2"))
    out = numbers(5, 6)
    converted = convert({"qkv.weight": weight, "qkv.bias": bias, "proj.weight": out}, rules)
    x, y = np.ones(5, np.float32), numbers(6)
    projected = weight @ x + bias
    for part, name in enumerate(("query", "key", "value")):
        kernel, offset = (converted[f"params/own/{name}/{leaf}"] for leaf in ("kernel", "bias"))
        assert kernel.shape == (5, 2, 3)
        expected = projected[6 * part : 6 * (part + 1)].reshape(2, 3)
        np.testing.assert_allclose(np.einsum("i,ihd->hd", x, kernel) + offset, expected)
    merged = np.einsum("hd,hdo->o", y.reshape(2, 3), converted["params/own/out/kernel"])
    np.testing.assert_allclose(merged, out @ y)


def test_the_two_biases_of_an_lstm_are_added():
    tensors = {}
    for i, suffix in enumerate(("l0", "l0_reverse", "l1", "l1_reverse")):
        tensors[f"rnn.weight_ih_{suffix}"] = numbers(8, 3)
        tensors[f"rnn.weight_hh_{suffix}"] = numbers(8, 2)
        tensors[f"rnn.bias_ih_{suffix}"] = np.full(8, i)
        tensors[f"rnn.bias_hh_{suffix}"] = np.full(8, 10)
    converted = convert(tensors, (("rnn", "LSTM_{layer}", "lstm"),))
    assert len(converted) == 12
    assert converted["params/LSTM_1/backward_bias"].tolist() == [13] * 8
    assert converted["params/LSTM_0/forward_bias"].tolist() == [10] * 8
    assert converted["params/LSTM_0/forward_input"].shape == (3, 8)
    assert converted["params/LSTM_0/backward_recurrent"].shape == (2, 8)


def test_the_first_matching_rule_decides():
    rules = ((r"block\.(1)", r"first_\1", "dense"), (r"block\.(\d+)", r"other_\1", "dense"))
    tensors = {f"block.{i}.bias": numbers(1) for i in (1, 12)}
    assert convert(tensors, rules).keys() == {"params/first_1/bias", "params/other_12/bias"}


def test_tensors_that_no_rule_matches_are_left_out_and_listed():
    rules = (("fc", "head", "dense"), ("token", "token", "tensor"))
    tensors = {name: numbers(2) for name in ("fc.bias", "xfc.bias", "fc.scale", "token", "bias")}
    assert convert(tensors, rules).keys() == {"params/head/bias", "params/token"}
    assert unmatched(tensors, rules) == ["xfc.bias", "fc.scale", "bias"]


@pytest.mark.parametrize(
    ("name", "layout", "shape"),
    [("a.weight", "conv", (3,)), ("a.weight", "qkv:4", (6, 6)), ("a.weight", "out:4", (6, 6))],
)
def test_tensors_of_another_shape_are_an_error(name, layout, shape):
    with pytest.raises(UserError, match=r"tensor 'a.weight' of shape .* to 'params/b"):
        convert({name: numbers(*shape)}, (("a", "b", layout),))


def test_two_tensors_for_one_parameter_are_an_error():
    rules = (("a|b", "c", "dense"),)
    with pytest.raises(UserError, match=r"'b\.bias' and another one both convert to 'params/c/b"):
        convert({"a.bias": numbers(1), "b.bias": numbers(1)}, rules)
