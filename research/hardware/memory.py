"""The memory that a compiled program needs, and the memory that a device has."""

import math
import re
from pathlib import Path

import jax
from jax.stages import Compiled

_PROC, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def needed_bytes(program: Compiled) -> int:
    """Returns the memory of a program on each device: of its arguments, results and temporaries.

    It is 0 if the compiler reports no statistics.
    """
    stats = program.memory_analysis()
    if stats is None:
        return 0
    results = stats.output_size_in_bytes - stats.alias_size_in_bytes  # donated arguments count once
    return int(stats.argument_size_in_bytes + results + stats.temp_size_in_bytes)


def available_bytes(device: jax.Device) -> float:
    """Returns the memory that programs can use on a device; infinity if unknown.

    Of a CPU it is the memory, with the swap space, that other processes leave free, or what the
    limit of a container leaves of it.
    """
    if device.platform != "cpu":
        return float((device.memory_stats() or {}).get("bytes_limit", math.inf))
    free = re.findall(r"^(?:MemAvailable|SwapFree): +(\d+) kB", _text(_PROC / "meminfo"), re.M)
    machine = 1024.0 * sum(map(int, free)) if free else math.inf
    return min([machine, *map(_available_to_group, _memory_groups())])


def _memory_groups() -> list[Path]:
    """Returns the folder of this process's control group, of version 1 or 2, and those above it."""
    groups = re.findall(r"^\d+:(.*?):/(.*)$", _text(_PROC / "self" / "cgroup"), re.M)
    folders = []
    for controllers, name in groups:
        if controllers == "" or "memory" in controllers.split(","):
            root = _CGROUPS / "memory" if controllers else _CGROUPS
            folder = root / name
            # In a container the name can be the host's; the root is then the container's group.
            folders += [folder, *(up for up in folder.parents if up.is_relative_to(root))]
    return folders


def _available_to_group(folder: Path) -> float:
    """Returns the memory that the limit of a control group leaves; infinity without a limit."""
    limit = _text(folder / "memory.max") or _text(folder / "memory.limit_in_bytes")
    used = _text(folder / "memory.current") or _text(folder / "memory.usage_in_bytes")
    if not (limit.strip().isdecimal() and used.strip().isdecimal()):
        return math.inf  # "max" means unlimited
    # The usage includes cached files, which the kernel drops when a program needs the memory.
    # Version 1 lists those of the groups below as total_inactive_file.
    stat = dict(line.split() for line in _text(folder / "memory.stat").splitlines())
    cached = sum(
        int(stat.get(f"total_{name}", stat.get(name, 0)))
        for name in ("inactive_file", "active_file")
    )
    return float(int(limit) - int(used) + cached)


def _text(file: Path) -> str:
    """Returns the contents of a file; empty if it cannot be read, as on another system."""
    try:
        return file.read_text()
    except OSError:
        return ""
