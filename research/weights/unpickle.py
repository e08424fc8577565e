"""Interprets the pickles of PyTorch without executing them.

A pickle is a program: the opcode `GLOBAL` names any function, and `REDUCE` calls it. This
interpreter knows the opcodes that `torch.save` writes, and calls the functions of a given table
only. It imports nothing and sets no attributes. An own `find_class` of `pickle.Unpickler` would
not suffice: `BUILD` could still change the functions of the table, `LONG_BINPUT` allocate any
amount of memory, and nested tuples as keys take exponential time to hash.
"""

import pickletools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import IO, Any

MAX_OPCODES = 2**22
"""A limit of time and memory: a tensor takes about 30 opcodes."""

_VALUES = {
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING", "BINSTRING"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_CONTAINERS: Mapping[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict}
_TUPLE_LENGTHS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class Global:
    """A class or function that a pickle names."""

    name: str  # such as "collections.OrderedDict"
    function: Callable[..., Any]  # that is called in its place


def unpickle(
    stream: IO[bytes],
    functions: Mapping[str, Callable[..., Any]],
    persistent_load: Callable[[Any], Any],
) -> Any:
    """Interprets one pickle and leaves the stream behind it.

    Args:
      stream: of limited length, since strings of the pickle may be as long as the stream.
      functions: are called in place of the classes and functions of these dotted names.
      persistent_load: returns the object of a persistent id.

    Returns:
      Values, lists, tuples, dicts of str and int keys, `Global`s and results of `functions`. State
      of objects (`BUILD`) is ignored.

    Raises:
      UnpicklingError: the pickle is damaged, or contains a name that is not in `functions`.
    """
    machine = _Machine(functions, persistent_load)
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count == MAX_OPCODES:
                raise UnpicklingError(f"its pickle has more than {MAX_OPCODES:,} opcodes")
            if opcode.name == "STOP":
                break
            machine.execute(opcode.name, argument)
        (value,) = machine.stack
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
        raise UnpicklingError(f"its pickle is damaged ({error})") from None
    return value


def new_dict(pairs: Iterable[tuple[Any, Any]] = ()) -> dict[Any, Any]:
    """Returns a dict of pairs, in place of `collections.OrderedDict`.

    Raises:
      UnpicklingError: a key occurs twice, or is neither str nor int.
    """
    result: dict[Any, Any] = {}
    _add_items(result, pairs)
    return result


class _Machine:
    """The stack and the memo of a pickle."""

    def __init__(
        self,
        functions: Mapping[str, Callable[..., Any]],
        persistent_load: Callable[[Any], Any],
    ):
        self._functions, self._persistent_load = functions, persistent_load
        self.stack: list[Any] = []
        self._below_marks: list[list[Any]] = []  # the stacks that the marks have set aside
        self._memo: dict[int, Any] = {}

    def execute(self, opcode: str, argument: Any) -> None:
        """Executes an opcode that has effects on the stack alone."""
        stack = self.stack
        if opcode in _VALUES:
            stack.append(argument)
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode])
        elif opcode in _CONTAINERS:
            stack.append(_CONTAINERS[opcode]())
        elif opcode in _TUPLE_LENGTHS:
            length = _TUPLE_LENGTHS[opcode]
            if len(stack) < length:
                raise IndexError("pop from an empty stack")
            stack[-length:] = [tuple(stack[-length:])]
        elif opcode not in ("PROTO", "FRAME"):
            self._execute_other(opcode, argument)

    def _execute_other(self, opcode: str, argument: Any) -> None:
        stack = self.stack
        match opcode:
            case "MARK":
                self._below_marks.append(stack)
                self.stack = []
            case "TUPLE":
                items = self._pop_mark()
                self.stack.append(tuple(items))
            case "APPEND":
                self._extend([stack.pop()])
            case "APPENDS":
                self._extend(self._pop_mark())
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _add_items(stack[-1], [(key, value)])
            case "SETITEMS":
                items = self._pop_mark()
                _add_items(self.stack[-1], zip(items[::2], items[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "GLOBAL":
                stack.append(self._global(argument.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                if not isinstance(module, str) or not isinstance(name, str):
                    raise TypeError("a name is not a string")
                stack.append(self._global(f"{module}.{name}"))
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                if not isinstance(function, Global) or not isinstance(arguments, tuple):
                    raise TypeError("it calls a value")
                stack.append(function.function(*arguments))
            case "BUILD":
                stack.pop()
            case "BINPERSID":
                stack.append(self._persistent_load(stack.pop()))
            case _:
                raise UnpicklingError(f"its pickle contains the opcode {opcode}")

    def _pop_mark(self) -> list[Any]:
        """Returns the values above the last mark and restores the stack below it."""
        items, self.stack = self.stack, self._below_marks.pop()
        return items

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise TypeError("it appends to a value")
        target.extend(items)

    def _global(self, name: str) -> Global:
        if name not in self._functions:
            raise UnpicklingError(
                f"its pickle refers to '{name[:100]}', which is not part of a state_dict"
            )
        return Global(name, self._functions[name])


def _add_items(target: Any, pairs: Iterable[tuple[Any, Any]]) -> None:
    if not isinstance(target, dict):
        raise TypeError("it sets an item of a value")
    for key, value in pairs:
        if not isinstance(key, str | int):
            raise UnpicklingError(f"its pickle has a key of type {type(key).__name__}")
        if key in target:
            raise UnpicklingError(f"its pickle contains '{str(key)[:100]}' twice")
        target[key] = value
