import math
import types

import jax
import jax.numpy as jnp
import pytest

from research.hardware import memory
from research.hardware.memory import available_bytes, needed_bytes


def test_donated_arguments_count_once():
    array = jax.ShapeDtypeStruct((1000,), jnp.float32)
    plain = needed_bytes(jax.jit(lambda x: x + 1).lower(array).compile())
    donated = needed_bytes(jax.jit(lambda x: x + 1, donate_argnums=0).lower(array).compile())
    assert (plain, donated) == (8000, 4000)


def test_a_cpu_has_the_free_memory_of_its_machine():
    assert 1e6 < available_bytes(jax.devices()[0]) < math.inf


def test_a_device_without_statistics_is_not_compared_with_the_memory_of_its_machine():
    device = types.SimpleNamespace(platform="gpu", memory_stats=lambda: None)
    assert available_bytes(device) == math.inf


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Returns a function that writes files of an emulated /proc or /sys; 8 MiB are free."""
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "cgroup")

    def write(**files):
        for name, text in files.items():
            path = tmp_path.joinpath(*name.split("__"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    write(proc__meminfo="MemTotal: 9999 kB\nMemAvailable:    4096 kB\nSwapFree:    4096 kB\n")
    return write


def write_v2(machine, folder, limit):
    machine(
        **{
            f"{folder}memory.max": limit,
            f"{folder}memory.current": "3000\n",
            f"{folder}memory.stat": "anon 1\nfile 600\ninactive_file 200\nactive_file 300\n",
        }
    )


def test_a_container_has_the_memory_that_its_limit_leaves(machine):
    """Its cached files do not count: the kernel drops them when a program needs the memory."""
    machine(proc__self__cgroup="0::/\n")
    write_v2(machine, "cgroup__", "5000\n")
    assert available_bytes(jax.devices()[0]) == 5000 - 3000 + 500


def test_each_group_above_a_process_limits_it(machine):
    machine(proc__self__cgroup="0::/a/b\n")
    write_v2(machine, "cgroup__a__b__", "max\n")
    write_v2(machine, "cgroup__a__", "4000\n")
    assert available_bytes(jax.devices()[0]) == 4000 - 3000 + 500


def test_a_container_of_cgroup_v1_is_limited(machine):
    # The path is that on the host, which the container does not contain.
    machine(proc__self__cgroup="5:devices:/x\n4:hugetlb,memory:/docker/1\n0::/\n")
    machine(
        **{
            "cgroup__memory__memory.limit_in_bytes": "5000\n",
            "cgroup__memory__memory.usage_in_bytes": "3000\n",
            "cgroup__memory__memory.stat": "total_inactive_file 200\ntotal_active_file 300\n",
        }
    )
    assert available_bytes(jax.devices()[0]) == 5000 - 3000 + 500


@pytest.mark.parametrize("group", ["0::/\n", "4:memory:/\n", ""])
def test_without_a_limit_the_memory_is_that_of_the_machine(machine, group):
    machine(proc__self__cgroup=group)
    assert available_bytes(jax.devices()[0]) == 2**23
    write_v2(machine, "cgroup__", "max\n")
    assert available_bytes(jax.devices()[0]) == 2**23
