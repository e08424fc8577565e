import io
import os
import pickle
import time
import tracemalloc
from collections import OrderedDict
from contextlib import suppress
from pickle import UnpicklingError

import pytest

from research.weights.unpickle import MAX_OPCODES, Global, new_dict, unpickle

FUNCTIONS = {"collections.OrderedDict": new_dict}


def load(data, functions=FUNCTIONS, persistent_load=None):
    return unpickle(io.BytesIO(data), functions, persistent_load)


VALUES = [
    None, True, False, 0, 255, 65535, -1, 2**31, -(2**40), 2**100, 1.5, "", "\u00fc", "x" * 300,
    b"", b"x" * 300, [], [1, [2]], (), (1,), (1, 2), (1, 2, 3), tuple(range(9)), {}, {"a": {1: 2}},
    OrderedDict(), OrderedDict(a=1, b=[2]), [[1] * 2000, ["x" * 10] * 300],
]  # fmt: skip


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_plain_values_equal_those_of_pickle(protocol, value):
    if isinstance(value, bytes) and protocol == 2:
        pytest.skip("protocol 2 has no bytes")
    assert load(pickle.dumps(value, protocol)) == value


def test_shared_and_recursive_values_stay_so():
    shared = [1]
    first, second = load(pickle.dumps((shared, shared), 2))
    assert first is second
    shared.append(shared)
    recursive = load(pickle.dumps(shared, 2))
    assert recursive[1] is recursive


def test_persistent_ids_are_loaded():
    assert load(b"\x80\x02X\x01\x00\x00\x00aQ.", persistent_load=str.upper) == "A"


def test_the_stream_is_left_behind_the_pickle():
    stream = io.BytesIO(pickle.dumps(1, 2) + pickle.dumps(2, 2) + b"rest")
    assert [unpickle(stream, {}, None) for _ in range(2)] == [1, 2]
    assert stream.read() == b"rest"


def test_a_name_is_a_global_and_never_an_object():
    value = load(b"\x80\x02ccollections\nOrderedDict\n.")
    assert isinstance(value, Global) and value.name == "collections.OrderedDict"


class Exploit:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("function", [os.system, eval, exec, os.popen, getattr, pickle.loads])
def test_functions_are_not_called(tmp_path, monkeypatch, function, protocol):
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps([Exploit(function, "touch evil", "x")], protocol)
    with pytest.raises(UnpicklingError, match=f"{function.__name__}'"):
        load(data)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "data",
    [
        b"(ios\nsystem\n.",
        b"(X\x01\x00\x00\x00xios\nsystem\n.",
        b"(cos\nsystem\no.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02cbuiltins\nobject\n)\x81.",
        b"\x80\x04ccollections\nOrderedDict\n)}\x92.",
        b"I1\n.",
        b"Pid\n.",
    ],
    ids=["INST", "INST_argument", "OBJ", "EXT1", "NEWOBJ", "NEWOBJ_EX", "INT", "PERSID"],
)
def test_opcodes_that_torch_save_does_not_write_are_refused(data):
    with pytest.raises(UnpicklingError):
        load(data)


def test_state_of_an_object_is_ignored():
    """`BUILD` could otherwise replace attributes of the functions that the interpreter calls."""
    state = b"}X\x0c\x00\x00\x00__defaults__)s"
    assert load(b"\x80\x02ccollections\nOrderedDict\n" + state + b"b)R.") == {}
    assert new_dict.__defaults__ == ((),)


@pytest.mark.parametrize(
    "data",
    [
        b"", b".", b"\x80\x02", b"\x80\x02N", b"\x80\x02NN.", b"\x80\x02t.", b"\x80\x02h\x07.",
        b"\x80\x02\x87.", b"\x80\x02R.", b"\x80\x02N)R.", b"\x80\x02Na.", b"\x80\x02NNNs.",
        b"\x80\x02}(Nu.", b"\x80\x02(.", b"\x80\x02X\xff\xff\xff\xffa.", b"\x80\x02q\x00.",
        b"\x80\x02ccollections\nOrderedDict\nK\x01\x85R.", b"\x80\x02c\xff\n\xff\n.",
        b"\x80\x02ccollections\nOrderedDict\n]R.", b"\x80\x04NN\x93.", b"\x80\x02NQ.", b"\xff",
    ],
)  # fmt: skip
def test_damaged_pickles_are_refused(data):
    with pytest.raises(UnpicklingError):
        load(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02Nr\xff\xff\xff\x7f.",
        b"\x80\x02B\xff\xff\xff\x7fxx.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\x00\x00\x00xx.",
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\x00\x00\x00xx.",
        b"\x80\x04\x95\xff\xff\xff\xff\xff\x00\x00\x00N.",
        b"\x80\x02\x8b\xff\xff\xff\x7fxx.",
    ],
    ids=["LONG_BINPUT", "BINBYTES", "BINBYTES8", "BINUNICODE8", "FRAME", "LONG4"],
)
def test_declared_lengths_allocate_nothing(data):
    tracemalloc.start()
    with suppress(UnpicklingError):
        load(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_tuples_as_keys_are_refused_before_they_are_hashed():
    """This one takes 2^60 steps to hash."""
    nested = b")" + b"q\x00h\x00\x86" * 60
    begin = time.monotonic()
    with pytest.raises(UnpicklingError, match="key of type tuple"):
        load(b"\x80\x02}" + nested + b"Ns.")
    with pytest.raises(UnpicklingError):
        load(b"\x80\x04" + nested + nested + b"\x93.")
    assert time.monotonic() - begin < 1


def test_keys_that_occur_twice_are_refused():
    with pytest.raises(UnpicklingError, match="'1' twice"):
        load(b"\x80\x02}(K\x01NK\x01Nu.")


def test_the_number_of_opcodes_is_limited(monkeypatch):
    assert MAX_OPCODES > 10**6
    monkeypatch.setattr("research.weights.unpickle.MAX_OPCODES", 1000)
    with pytest.raises(UnpicklingError, match="1,000"):
        load(b"\x80\x02" + b"N" * 1000 + b".")
