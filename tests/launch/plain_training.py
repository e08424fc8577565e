"""The same without JAX, so that it starts at once: each step waits for all, through process 0."""

import faulthandler
import os
import signal
import socket
import sys
import time
from itertools import count

from tests.launch.failing import fail

WAY, GUILTY, STEP, TOLD = sys.argv[1:5]
RANK, PROCESSES = int(os.environ["JAX_PROCESS_ID"]), int(os.environ["JAX_NUM_PROCESSES"])
HOST, PORT = os.environ["JAX_COORDINATOR_ADDRESS"].split(":")
MINE = str(RANK) == GUILTY


class JaxRuntimeError(Exception):
    """As JAX tells that another has gone."""


def connect():
    if RANK == 0:
        with socket.create_server(("", int(PORT))) as server:
            return [server.accept()[0] for _ in range(PROCESSES - 1)]
    while True:
        try:
            return [socket.create_connection((HOST, int(PORT)))]
        except OSError:
            time.sleep(0.02)


def wait_for_all(others):
    try:
        for send_first in (RANK > 0, RANK == 0):
            for other in others:
                if send_first:
                    other.sendall(b".")
                elif not other.recv(1):
                    raise ConnectionResetError
    except OSError:
        raise JaxRuntimeError(
            "UNKNOWN: Gloo all-reduce failed: Connection closed by peer"
        ) from None


def beat(file, number):
    os.pwrite(file, b"%20d %20d\n" % (number, number + 1), 0)


if __name__ == "__main__":
    if MINE and WAY == "exception_at_import":
        fail(WAY, TOLD)
    faulthandler.register(signal.SIGUSR1)
    file = os.open(os.environ["POLYMATH_HEARTBEAT"], os.O_WRONLY | os.O_CREAT)
    beat(file, 0)
    others = connect()
    for step in count(1):
        if MINE and step == int(STEP):
            fail(WAY, TOLD)
        beat(file, step)
        wait_for_all(others)
        time.sleep(0.05)
