"""Compiles programs for TPUs that need not exist, with the TPU compiler libtpu on any machine."""

import importlib.metadata
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies  # nothing outside of jax.experimental describes absent TPUs
from jax.stages import Compiled, Lowered

from research.common.errors import UserError
from research.hardware.slices import TpuSlice

# libtpu looks for a TPU and its metadata server, and locks itself, unless told otherwise.
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
    r"required for [\w ]+ \(([\d.]+[KMG])\) exceeds available HBM \(([\d.]+[KMG])\)"
    r"|Used ([\d.]+[KMG]) of ([\d.]+[KMG]) hbm"
)
_INSTALL = "`make plan` installs it beside the environment and runs this command"


class DoesNotFit(Exception):
    """The program needs more memory than a device has.

    Attributes:
      needed: bytes of the arrays that do not fit; 0 if the compiler does not say.
      available: bytes of a device that programs can use; 0 if the compiler does not say.
    """

    def __init__(self, message: str):
        super().__init__(message.splitlines()[0])
        found = _NEEDED.search(message)
        values = (found[1] or found[3], found[2] or found[4]) if found else ("0K", "0K")
        units = {"K": 2**10, "M": 2**20, "G": 2**30}
        self.needed, self.available = (int(float(v[:-1]) * units[v[-1]]) for v in values)


class CompilerFailure(Exception):
    """The TPU compiler failed for another reason, which is a defect of the compiler."""


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
    # By default a topology has hosts of several chips.
    options: dict[str, Any] = (
        {"chips_per_host_bounds": [1, 1, 1]} if tpu_slice.num_chips == 1 else {}
    )
    if tpu_slice.chip.generation == "v4":  # its two cores are one device
        options["chip_config_name"] = "megacore"
    name = f"{tpu_slice.chip.generation}:{tpu_slice.topology}"
    return topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices


def compile_program(lowered: Lowered) -> Compiled:
    """Compiles a program that was lowered for the devices of a slice.

    Raises:
      DoesNotFit: it needs more memory than a device has.
      CompilerFailure: the compiler failed.
    """
    try:
        return lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise DoesNotFit(str(error)) from None
        raise CompilerFailure(str(error).splitlines()[0]) from None
