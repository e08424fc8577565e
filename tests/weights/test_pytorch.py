from pathlib import Path

import numpy as np
import pytest

from research.weights.pytorch import read_pytorch
from tests.weights.torch_files import OrderedDict, Parameter, Raw, tensor

A, B = np.arange(6, dtype=np.float32).reshape(2, 3), np.array([1, -2], np.int64)


def test_values_beside_the_tensors_are_left_out(write):
    # As pickled: numpy.float64(0.5) and argparse.Namespace(x=1).
    scalar = b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\nU\x02f8\x89\x88\x87R"
    scalar += b"(K\x03U\x01<NNNtbc_codecs\nencode\nU\x01aU\x06latin1\x86R\x86R"
    namespace = b"cargparse\nNamespace\n)\x81}U\x01xK\x01sb"
    value = {"a": Parameter(tensor(A)), "n": 3, "none": None, "list": [1.5, (True,), "x"]}
    tensors = read_pytorch(write(value | {"s": Raw(scalar), "args": Raw(namespace)}))
    assert list(tensors) == ["a"] and np.array_equal(tensors["a"], A)


STATE = OrderedDict(a=tensor(A), b=tensor(B))
OTHER = OrderedDict(a=tensor(A + 1))


@pytest.mark.parametrize(
    "checkpoint",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE, "optimizer": {"state": {0: {"step": tensor(B)}}}},
        {"model_state": STATE},
        {"model": {"state_dict": STATE}},
        {"model": OTHER, "ema": STATE},
        {"state_dict": OTHER, "state_dict_ema": STATE},
        {"ema": {"decay": 0.99}, "model": STATE},
        {"module.a": tensor(A), "module.b": tensor(B)},
        {"module._orig_mod.a": tensor(A), "module._orig_mod.b": tensor(B)},
        {"_orig_mod.module.a": tensor(A), "_orig_mod.module.b": tensor(B)},
    ],
)
def test_the_state_dict_of_a_checkpoint_is_found(write, checkpoint):
    tensors = read_pytorch(write(checkpoint))
    assert list(tensors) == ["a", "b"]
    assert np.array_equal(tensors["a"], A) and np.array_equal(tensors["b"], B)


def test_the_counter_of_averaged_models_has_no_prefix(write):
    averaged = {"n_averaged": tensor(B), "module.a": tensor(A)}
    assert list(read_pytorch(write(averaged))) == ["n_averaged", "a"]


def test_a_prefix_of_some_names_stays(write):
    assert list(read_pytorch(write({"module.a": tensor(A), "b": tensor(B)}))) == ["module.a", "b"]


@pytest.mark.parametrize("value", [{}, [tensor(A)], tensor(A), {"lr": 1.0}, {1: tensor(A)}])
def test_a_file_without_named_tensors_is_refused(write, value, refused):
    refused(write(value), "no tensors", "torch.save(model.state_dict(), FILE)")


def test_the_keys_of_another_checkpoint_are_named(write, refused):
    refused(write({"encoder": STATE, "decoder": STATE}), "encoder, decoder")


def test_a_checkpoint_within_itself_ends(write, refused):
    refused(write(Raw(b"}q\x09X\x05\x00\x00\x00modelh\x09s")), "no tensors")


def test_a_name_that_occurs_twice_is_refused(write, refused):
    twice = b"}(X\x01\x00\x00\x00aK\x01X\x01\x00\x00\x00aK\x02u"
    refused(write(Raw(twice)), "'a' twice")


EXPLOITS = {
    "os.system": b"cos\nsystem\nX\x0a\x00\x00\x00touch %s\x85R",
    "posix.system": b"cposix\nsystem\nX\x0a\x00\x00\x00touch %s\x85R",
    "builtins.eval": b"cbuiltins\neval\nX\x07\x00\x00\x00open(0)\x85R",
    "builtins.getattr": b"cbuiltins\ngetattr\nNN\x86R",
    "torch.load": b"ctorch\nload\nX\x01\x00\x00\x00x\x85R",
    "torch.hub.load": b"ctorch.hub\nload\nX\x01\x00\x00\x00x\x85R",
    "collections.OrderedDict.fromkeys": b"ccollections\nOrderedDict.fromkeys\n)R",
    "numpy.testing._private.utils.runstring": b"cnumpy.testing._private.utils\nrunstring\n)R",
}


@pytest.mark.parametrize("name", EXPLOITS)
def test_a_pickle_that_executes_code_is_refused(write, tmp_path, monkeypatch, name, refused):
    monkeypatch.chdir(tmp_path)
    exploit = EXPLOITS[name].replace(b"%s", b"evil")
    path = write({"a": tensor(A), "b": Raw(exploit)})
    refused(path, f"'{name}'", "not part of a state_dict")
    assert not Path("evil").exists()
