"""Ways in which a training process fails. Each leaves the time in a file just before."""

import ctypes
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from research.common.errors import UserError


class Unlucky(Exception):
    """What the guilty process raises."""


def fail(way, told):
    """Fails in one of the ways, of which a name is the function's below; does not return well."""
    Path(told).write_text(str(time.time()))
    WAYS[way]()


def exception_in_a_step():
    raise Unlucky("the first cause")


def exception_at_import():
    raise Unlucky("the first cause")


def exception_while_tidying():
    try:
        raise Unlucky("the first cause")
    finally:
        raise RuntimeError("a second thing went wrong")


def user_error():
    raise UserError("the first cause; mend it")


def exit_code_7():
    os._exit(7)


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def segmentation_fault():
    ctypes.string_at(0)


def abort():
    os.abort()


def stop_signal():
    os.kill(os.getpid(), signal.SIGSTOP)


def endless_sleep():
    time.sleep(1e6)


def endless_loop():
    while True:
        pass


def exit_0_too_early():
    os._exit(0)


def return_too_early():
    sys.exit(0)


def exception_in_a_thread():
    """As of a library that watches its threads and ends the process by them."""
    before = threading.excepthook

    def end(arguments):
        before(arguments)
        os._exit(1)

    threading.excepthook = end
    threading.Thread(target=exception_in_a_step).start()
    time.sleep(1e6)


def exception_that_does_not_end():
    """As of a script that lets JAX tidy up, which waits for the others."""
    try:
        raise Unlucky("the first cause")
    except Unlucky:
        traceback.print_exc()
    time.sleep(1e6)


def memory_error():
    return bytearray(1 << 62)


def killed_agent():
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(1e6)


WAYS = {
    function.__name__: function
    for function in (
        exception_in_a_step,
        exception_at_import,
        exception_while_tidying,
        user_error,
        exit_code_7,
        kill,
        segmentation_fault,
        abort,
        stop_signal,
        endless_sleep,
        endless_loop,
        exit_0_too_early,
        return_too_early,
        exception_in_a_thread,
        exception_that_does_not_end,
        memory_error,
        killed_agent,
    )
}

# What the verdict must say, in its cause or its traceback.
SIGNS = {
    "exception_in_a_step": "Unlucky: the first cause",
    "exception_at_import": "Unlucky: the first cause",
    "exception_while_tidying": "Unlucky: the first cause",
    "user_error": "rror: the first cause; mend it",
    "exit_code_7": "exit code 7",
    "kill": "killed by SIGKILL",
    "segmentation_fault": "in segmentation_fault",
    "abort": "in abort",
    "stop_signal": "stopped by a signal such as SIGSTOP",
    "endless_sleep": "in endless_sleep",
    "endless_loop": "in endless_loop",
    "exit_0_too_early": "exited with code 0 while others were training",
    "return_too_early": "exited with code 0 while others were training|stalled at step",
    "exception_in_a_thread": "Unlucky: the first cause",
    "exception_that_does_not_end": "Unlucky: the first cause",
    "memory_error": "error: out of memory",
    "killed_agent": "its agent was lost",
}
