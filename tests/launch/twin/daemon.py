"""The twin with real processes: a folder stands for each machine, and SSH runs commands there.

with Twin(tmp_path, quick("preemption")) as twin:
    subprocess.run(["gcloud", "compute", "tpus", ...], env=twin.environment)
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO

from tests.launch.twin.bucket import Bucket
from tests.launch.twin.cloud import FakeCloud
from tests.launch.twin.command import Completed, Disk, Vm
from tests.launch.twin.faults import DELAYS, Faults
from tests.launch.twin.metadata import Metadata

BIN = Path(__file__).parent / "bin"
Output = int | IO[bytes]


def quick(*kinds: str, seed: int | None = None, **delays: float | tuple[float, float]) -> Faults:
    """A schedule in which everything takes fractions of seconds, but for the delays given."""
    short = {name: (least / 400, most / 400) for name, (least, most) in DELAYS.items()}
    named = {name.replace("_", " "): seconds for name, seconds in delays.items()}
    return Faults(kinds, seed, short | {"latency": 0.0, "ssh": 0.0} | named)


class WallClock:
    """Real time. Whoever looks at the twin or changes it holds `lock`; sleeping lets go of it."""

    def __init__(self) -> None:
        self.lock = threading.Condition(threading.RLock())
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._open = True

    def now(self) -> float:
        return time.time()

    def at(self, when: float, action: Callable[[], None]) -> None:
        with self.lock:
            heapq.heappush(self._events, (when, next(self._order), action))
            self.lock.notify_all()

    def sleep(self, seconds: float) -> None:
        until = time.time() + seconds
        while (left := until - time.time()) > 0:
            self.lock.wait(left)

    @contextlib.contextmanager
    def released(self) -> Iterator[None]:
        """For what takes its time outside of the twin."""
        self.lock.release()
        try:
            yield
        finally:
            self.lock.acquire()

    def run(self) -> None:
        """Lets events happen, until `close`."""
        with self.lock:
            while self._open:
                while self._events and self._events[0][0] <= time.time():
                    heapq.heappop(self._events)[2]()
                pause = self._events[0][0] - time.time() if self._events else 1.0
                self.lock.wait(max(0.0, pause))

    def close(self) -> None:
        with self.lock:
            self._open = False
            self.lock.notify_all()


class Worker:
    """A machine: its folder, its metadata server, its processes."""

    def __init__(self, folder: Path, metadata: Mapping[str, str], environment: dict[str, str]):
        self.folder, self.metadata = folder, Metadata(metadata)
        self.root = folder / "polymath"
        self.boots = 0
        (folder / "tmp").mkdir(parents=True)
        self.environment = environment | {
            "HOME": str(folder),
            "TMPDIR": str(folder / "tmp"),
            "POLYMATH_ROOT": str(self.root),
            "GCE_METADATA_HOST": self.metadata.address,
            "GCE_METADATA_IP": self.metadata.address,  # JAX asks here
        }
        self._script = folder / "startup-script"
        self._script.write_text(metadata.get("startup-script", "#!/bin/sh\n"))
        self._script.chmod(0o755)

    def start_up(self) -> None:
        """Runs the startup script, in the background."""
        with (self.folder / "startup.log").open("ab") as log:
            self._popen = self._start([str(self._script)], stdout=log, stderr=log)

    def run(self, command: str) -> Completed:
        """Runs a command to its end."""
        process = self._start(
            ["bash", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        stdout, stderr = process.communicate()
        if process.returncode < 0:  # the machine vanished
            return Completed(255, "", "Connection closed by remote host\n")
        return Completed(process.returncode, _text(stdout), _text(stderr))

    def _start(self, argv: list[str], stdout: Output, stderr: Output) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            argv,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )

    def kill(self) -> None:
        """Ends all its processes, as a power cut does."""
        until = time.time() + 10
        while (pids := processes(self.root)) and time.time() < until:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)


class RealMachines:
    """Machines as folders. Of those that vanished, the folders are kept under `gone`."""

    def __init__(self, folder: Path, clock: WallClock, faults: Faults, environment: dict[str, str]):
        self.folder, self._clock, self._faults = folder, clock, faults
        self._environment = environment
        self._count = itertools.count(1)
        self.workers: dict[Vm, Worker] = {}

    def boot(self, vm: Vm, metadata: Mapping[str, str]) -> None:
        name = f"{vm.node}-{vm.worker}"
        environment = self._environment | {"TWIN_MACHINE": name}
        self.workers[vm] = Worker(self.folder / "machines" / name, metadata, environment)
        self._start_up(self.workers[vm])

    def _start_up(self, worker: Worker) -> None:
        boots = worker.boots
        when = self._clock.now() + self._faults.delay("boot")
        self._clock.at(when, lambda: worker.start_up() if worker.boots == boots else None)

    def reboot(self, vm: Vm) -> None:
        worker = self.workers[vm]
        worker.boots += 1
        worker.kill()
        self._start_up(worker)

    def vanish(self, vm: Vm) -> None:
        worker = self.workers.pop(vm)
        worker.boots += 1
        worker.kill()
        worker.metadata.close()
        gone = self.folder / "gone"
        gone.mkdir(exist_ok=True)
        worker.folder.rename(gone / f"{next(self._count)}-{worker.folder.name}")

    def run(self, vms: list[Vm], command: str) -> Generator[float, None, list[Completed]]:
        workers = [self.workers[vm] for vm in vms]
        with self._clock.released(), ThreadPoolExecutor(len(vms) or 1) as pool:
            done = list(pool.map(lambda worker: worker.run(command), workers))
        yield 0.0
        return done

    def copy(self, vm: Vm, source: str, target: str) -> Completed:
        return _copy(Path(source), self._path(vm, target))

    def fetch(self, vm: Vm, source: str, target: str) -> Completed:
        return _copy(self._path(vm, source), Path(target))

    def _path(self, vm: Vm, name: str) -> Path:
        return self.workers[vm].folder / name.removeprefix("~/")


class Twin:
    """A cloud, its machines, and a bucket `gs://bucket`, while the context is open.

    Args:
      folder: for all of it; an empty one.
      faults: what goes wrong, see `quick`.
      environment: more variables of the machines.
    """

    def __init__(
        self,
        folder: Path,
        faults: Faults | None = None,
        environment: Mapping[str, str] | None = None,
    ):
        self.folder, self.faults, self.clock = folder, faults or quick(), WallClock()
        self.bucket = Bucket(folder / "buckets", "bucket")
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        common = {
            "PATH": f"{BIN}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "TWIN_ADDRESS": f"127.0.0.1:{self._server.server_port}",
            **self.bucket.environment,
        }
        self.environment = dict(os.environ) | common  # of the laptop
        machine = {"TWIN_PYTHON": sys.executable, "LANG": "C.UTF-8"} | common
        for variable in ("POLYMATH_GANG_PORT", "POLYMATH_COORDINATOR_PORT"):
            machine[variable] = str(_free_port())
        self.machines = RealMachines(
            folder, self.clock, self.faults, machine | dict(environment or {})
        )
        addresses = (f"127.0.{i >> 8}.{i & 255}" for i in itertools.count(2))
        self.cloud = FakeCloud(
            self.clock, self.machines, self.faults, self.bucket.objects, addresses
        )

    def __enter__(self) -> Twin:
        self.bucket.__enter__()
        for work in (self.clock.run, lambda: self._server.serve_forever(0.05)):
            threading.Thread(target=work, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self.clock.close()
        with self.clock.lock:
            for vm in list(self.machines.workers):
                self.machines.vanish(vm)
        self.bucket.__exit__()

    def leaked(self) -> list[str]:
        """All that still costs, or eats quota."""
        with self.clock.lock:
            return self.cloud.leaked()

    def processes(self) -> dict[int, str]:
        """Command lines of all that runs on machines, by process id."""
        return processes(self.folder)

    def wait(self, condition: Callable[[], object], timeout: float = 10.0) -> None:
        """Waits until it is true.

        Raises:
          TimeoutError: it did not become true in so many seconds.
        """
        until = time.time() + timeout
        while True:
            with self.clock.lock:
                if condition():
                    return
            if time.time() > until:
                raise TimeoutError(f"after {timeout} s: {self.leaked()}")
            time.sleep(0.01)


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # commands come many at once


def processes(root: Path) -> dict[int, str]:
    """Command lines of the processes whose POLYMATH_ROOT is a folder or below it."""
    found: dict[int, str] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has just ended
            environment = b"\0" + (folder / "environ").read_bytes() + b"\0"
            mark = b"\0POLYMATH_ROOT=" + os.fsencode(root)
            if mark + b"\0" in environment or mark + b"/" in environment:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                found[int(folder.name)] = " ".join(_text(word) for word in words)
    return found


def _copy(source: Path, target: Path) -> Completed:
    try:
        if source.is_dir():
            shutil.copytree(source, target / source.name if target.is_dir() else target)
        else:
            shutil.copy(source, target)
    except OSError as error:
        return Completed(1, "", f"scp: {error}\n")
    return Completed(0, "", "")


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _handler(twin: Twin) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        """Answers the fake gcloud."""

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            disk = Disk(asked["folder"], asked["stdin"].encode("latin-1"))
            with twin.clock.lock:
                done = twin.cloud.gcloud(asked["argv"], disk=disk, machine=bool(asked["machine"]))
            with contextlib.suppress(OSError):  # nobody waits for it any more
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(done._asdict()).encode())

        def log_message(self, *_: object) -> None:
            pass

    return Handler
