"""The memory that a compiled program needs, and the memory that a device has."""

import math
import re
from pathlib import Path

import jax
from jax.stages import Compiled


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

    Of a CPU it is the memory, with the swap space, that other processes leave free.
    """
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return float(stats["bytes_limit"])
    try:
        report = Path("/proc/meminfo").read_text()
    except OSError:
        return math.inf
    free = re.findall(r"^(?:MemAvailable|SwapFree): +(\d+) kB", report, re.MULTILINE)
    return 1024.0 * sum(map(int, free)) if free else math.inf
