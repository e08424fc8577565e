"""The gang's network protocol: worker 0 is the hub, to which all others connect by TCP.

A message is a JSON object in one line. Each side sends a heartbeat per second, without which the
other side counts as lost.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import time

from launch.worker.gang import FAILURE_GRACE, Failure, Gang, Message, verdict

HEARTBEAT_SECONDS = 1.0
SILENCE_SECONDS = 30.0
_RETRY_SECONDS = 0.5
_LAST_SECONDS = 5.0  # for the last order to be received


class Lines:
    """A socket that sends and receives JSON lines."""

    def __init__(self, connection: socket.socket):
        self.connection, self.last_received = connection, time.monotonic()
        self._rest = b""
        connection.settimeout(5)

    def send(self, message: Message) -> None:
        """Sends a message; raises OSError if the connection is closed."""
        self.connection.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> list[Message]:
        """Returns at least one message; raises OSError if the connection is closed."""
        data = self.connection.recv(1 << 16)
        if not data:
            raise ConnectionResetError
        self.last_received = time.monotonic()
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [json.loads(line.decode()) for line in whole]

    def close(self) -> None:
        """Closes the connection."""
        self.connection.close()


class Hub:
    """Worker 0's end: passes messages to the gang and broadcasts its orders.

    Args:
      gang: the state of all workers.
      job: the job's name and attempt; workers of another one are rejected.
      port: the port to listen on; None if the job has one worker.
    """

    def __init__(self, gang: Gang, job: str, port: int | None):
        self._gang, self._job = gang, job
        self._selector = selectors.DefaultSelector()
        self._members: dict[int, Lines] = {}
        self._last_broadcast = 0.0
        self._listener: socket.socket | None = None
        if port is not None:
            self._listener = socket.socket()
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(("", port))
            self._listener.listen(1024)
            self._selector.register(self._listener, selectors.EVENT_READ, None)
        gang.join(0)

    def exchange(self, messages: list[Message], timeout: float) -> list[Message]:
        """Sends this worker's messages, and returns its orders within `timeout` seconds."""
        for message in messages:
            self._gang.receive(0, message, time.monotonic())
        if self._listener is None:
            time.sleep(timeout)
        else:
            for key, _ in self._selector.select(timeout):
                self._accept() if key.data is None else self._receive(key.data)
        self._drop_silent()
        orders = self._gang.orders(time.monotonic())
        if not orders and time.monotonic() > self._last_broadcast + HEARTBEAT_SECONDS:
            self._broadcast({"kind": "heartbeat"})
        for order in orders:
            self._broadcast(order)
        return orders

    def close(self) -> None:
        """Closes after the others: closing with unread data would discard sent orders."""
        until = time.monotonic() + _LAST_SECONDS
        while self._members and time.monotonic() < until:
            for key, _ in self._selector.select(0.2):
                if key.data is not None:
                    self._receive(key.data)
        for key in list((self._selector.get_map() or {}).values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._selector.close()

    def _accept(self) -> None:
        assert self._listener is not None
        connection, _ = self._listener.accept()
        self._selector.register(connection, selectors.EVENT_READ, Lines(connection))

    def _receive(self, lines: Lines) -> None:
        try:
            for message in lines.receive():
                self._handle(lines, message)
        except (OSError, ValueError, KeyError, TypeError):  # TypeError: no JSON object
            self._hang_up(lines)

    def _handle(self, lines: Lines, message: Message) -> None:
        rank = self._rank(lines)
        if rank is not None:
            self._gang.receive(rank, message, time.monotonic())
        elif message["job"] != self._job or message["rank"] in self._members:
            raise ValueError("unknown worker")
        else:
            self._members[message["rank"]] = lines
            self._gang.join(message["rank"])

    def _rank(self, lines: Lines) -> int | None:
        return next((rank for rank, member in self._members.items() if member is lines), None)

    def _hang_up(self, lines: Lines) -> None:
        rank = self._rank(lines)
        if rank is not None:
            del self._members[rank]
            self._gang.lost(rank, time.monotonic())
        with contextlib.suppress(KeyError):
            self._selector.unregister(lines.connection)
        lines.close()

    def _drop_silent(self) -> None:
        for lines in list(self._members.values()):
            if time.monotonic() > lines.last_received + SILENCE_SECONDS:
                self._hang_up(lines)

    def _broadcast(self, message: Message) -> None:
        self._last_broadcast = time.monotonic()
        for lines in list(self._members.values()):
            try:
                lines.send(message)
            except OSError:
                self._hang_up(lines)


class Link:
    """Another worker's end.

    Args:
      rank: the rank of this worker.
      job: the job's name and attempt.
      address: the host and port of the hub.
      join_seconds: the limit on the wait for the hub.
    """

    def __init__(self, rank: int, job: str, address: tuple[str, int], join_seconds: float):
        self._hello = {"rank": rank, "job": job}
        self._address = address
        self._give_up = time.monotonic() + join_seconds
        self._lines: Lines | None = None
        self._started = False

    def exchange(self, messages: list[Message], timeout: float) -> list[Message]:
        """Sends this worker's messages, and returns its orders within `timeout` seconds."""
        try:
            if self._lines is None:
                self._connect(timeout)
                return []
            for message in messages:
                self._lines.send(message)
            return self._listen(self._lines, timeout)
        except (OSError, ValueError):
            return self._lost()

    def close(self) -> None:
        """Closes the connection."""
        if self._lines is not None:
            self._lines.close()

    def _connect(self, timeout: float) -> None:
        self._lines = Lines(socket.create_connection(self._address, timeout=max(timeout, 1)))
        self._lines.send(self._hello)

    def _listen(self, lines: Lines, timeout: float) -> list[Message]:
        with selectors.DefaultSelector() as selector:
            selector.register(lines.connection, selectors.EVENT_READ)
            if not selector.select(timeout):
                if time.monotonic() > lines.last_received + SILENCE_SECONDS:
                    raise TimeoutError
                return []
        orders = [message for message in lines.receive() if message["kind"] != "heartbeat"]
        self._started = self._started or any(order["kind"] == "go" for order in orders)
        return orders

    def _lost(self) -> list[Message]:
        """Retries before the start, when the hub may not listen yet; fails afterwards."""
        self.close()
        self._lines = None
        if not self._started and time.monotonic() < self._give_up:
            time.sleep(_RETRY_SECONDS)
            return []
        what = (
            "was lost: killed, or its machine or network failed"
            if self._started
            else "did not connect"
        )
        failure = Failure(0, f"its agent {what}", again=True)
        return [{"kind": "end", "verdict": verdict("failed", failure), "grace": FAILURE_GRACE}]
