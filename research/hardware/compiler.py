"""Compiles programs for TPUs that need not exist, with the TPU compiler libtpu on any machine."""

import gzip
import hashlib
import importlib.metadata
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.experimental import topologies  # nothing outside of jax.experimental describes absent TPUs
from jax.stages import Lowered

from research.common.cache import cache_folder
from research.common.errors import UserError
from research.common.progress import activity
from research.hardware.slices import TpuSlice

# Without these libtpu searches for a TPU and its metadata server, and allows a single process.
_ENVIRONMENT = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
}
_NEEDED = re.compile(
    r"required for [\w ]+ \(([\d.]+[KMGT])\) exceeds available HBM \(([\d.]+[KMGT])\)"
    r"|Used ([\d.]+[KMGT]) of ([\d.]+[KMGT]) hbm"
)
_INSTALL = "`make plan` installs it beside the environment and runs this command"


class DoesNotFit(Exception):
    """The program needs more memory than a device has.

    Attributes:
      needed: bytes of the arrays that do not fit; 0 if its message does not contain them.
      available: bytes of a device that programs can use; 0 if its message does not contain them.
    """

    def __init__(self, message: str):
        super().__init__(message.splitlines()[0])
        found = _NEEDED.search(message)
        values = (found[1] or found[3], found[2] or found[4]) if found else ("0K", "0K")
        units = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
        self.needed, self.available = (int(float(v[:-1]) * units[v[-1]]) for v in values)


class CompilerFailure(Exception):
    """The TPU compiler failed for another reason, which is a defect of the compiler."""


@dataclass(frozen=True)
class CompiledText:
    """A compiled program, as far as planning needs it."""

    text: str
    """The scheduled HLO."""

    memory: Mapping[str, float]
    """Bytes per device by kind; donated arguments count once."""

    seconds: float
    """Time of the compilation."""


def version() -> str:
    """Returns the version of libtpu.

    Raises:
      UserError: it is not installed.
    """
    try:
        return importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"missing package libtpu, the TPU compiler; {_INSTALL}") from None


def devices_of(tpu_slice: TpuSlice) -> Sequence[jax.Device]:
    """Returns the devices of a slice, for a mesh; nothing can run on them.

    It must be called before JAX uses another platform than the CPU.
    """
    version()
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)  # it cannot read programs for TPUs
    # By default a topology has hosts of several chips.
    options: dict[str, Any] = (
        {"chips_per_host_bounds": [1, 1, 1]} if tpu_slice.num_chips == 1 else {}
    )
    if tpu_slice.chip.generation == "v4":  # its two cores are one device
        options["chip_config_name"] = "megacore"
    name = f"{tpu_slice.chip.generation}:{tpu_slice.topology}"
    return topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices


def compile_cached(lowered: Lowered, tpu_slice: TpuSlice) -> CompiledText:
    """Compiles a program that was lowered for the devices of a slice, or reads an earlier result.

    Raises:
      DoesNotFit: it needs more memory than a device has.
      CompilerFailure: the compiler failed.
    """
    file = cache_folder() / "plans" / f"{fingerprint(lowered, tpu_slice)}.json.gz"
    if file.exists():
        found = json.loads(gzip.decompress(file.read_bytes()))
    else:
        found = _compile(lowered, tpu_slice)
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(gzip.compress(json.dumps(found).encode(), 1))
        temporary.replace(file)
    if "refusal" in found:
        raise DoesNotFit(found["refusal"])
    return CompiledText(**found)


def fingerprint(lowered: Lowered, tpu_slice: TpuSlice) -> str:
    """Returns a hash of a program and of all else that decides what the compiler makes of it."""
    flags = [os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
    known = [lowered.as_text(), jax.__version__, version(), tpu_slice.name, *flags]
    return hashlib.sha256("\0".join(known).encode()).hexdigest()[:32]


def _compile(lowered: Lowered, tpu_slice: TpuSlice) -> dict[str, Any]:
    begin = time.perf_counter()
    try:
        with activity(f"compiling for {tpu_slice.name}"):
            compiled = lowered.compile()
        text = compiled.as_text() or ""
    except jax.errors.JaxRuntimeError as error:
        message = str(error)
        if "RESOURCE_EXHAUSTED" in message and "hbm" in message.lower():
            return {"refusal": message}
        where = f"libtpu {version()}, {tpu_slice.name}"
        raise CompilerFailure(
            f"the TPU compiler failed ({where}): {message.splitlines()[0]}"
        ) from None
    seconds = time.perf_counter() - begin
    stats: Any = compiled.memory_analysis()
    memory = {
        "arguments": stats.argument_size_in_bytes,
        "outputs": stats.output_size_in_bytes - stats.alias_size_in_bytes,
        "temporary": stats.temp_size_in_bytes,
        "program": stats.generated_code_size_in_bytes,
    }
    return {"text": text, "memory": memory, "seconds": seconds}
