"""The worker's rank and coordinator, from the VM's metadata as JAX reads them."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from typing import Any, NamedTuple


class JobError(Exception):
    """The job cannot run here. The message is one line with the cause and the remedy."""


class WorkerRank(NamedTuple):
    """The rank of a worker in its job."""

    rank: int
    workers: int
    coordinator: str  # the host of worker 0


def worker_rank(job: dict[str, Any], rank: int | None) -> WorkerRank:
    """Returns this worker's rank, from the job's hosts or else from the VM's metadata.

    Raises:
      JobError: neither contains it.
    """
    hosts = job.get("hosts")
    if not hosts:
        return _rank_from_metadata()
    if rank is None or not 0 <= rank < len(hosts):
        raise JobError(
            f"invalid --rank={rank}: the job has {len(hosts)} hosts; expected 0 to {len(hosts) - 1}"
        )
    return WorkerRank(rank, len(hosts), hosts[0])


def attribute(key: str) -> str | None:
    """Returns a metadata attribute of this VM; None if it is not set."""
    host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
    url = f"http://{host}/computeMetadata/v1/instance/attributes/{key}"
    request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=10) as answer:
            text: str = answer.read().decode()
            return text
    except urllib.error.HTTPError:
        return None
    except OSError as error:
        raise JobError(
            f"cannot read this machine's metadata ({error}); set the job's hosts"
        ) from None


def _rank_from_metadata() -> WorkerRank:
    number, endpoints = attribute("agent-worker-number"), attribute("worker-network-endpoints")
    if number is None or not endpoints:
        raise JobError("missing workers in the metadata; set the job's hosts and --rank")
    hosts = [_host(worker) for worker in endpoints.split(",")]
    slices = _tpu_environment()
    slice_id = int(slices.get("MEGASCALE_SLICE_ID") or 0)
    slice_count = int(slices.get("MEGASCALE_NUM_SLICES") or 1)
    coordinator = slices.get("MEGASCALE_COORDINATOR_ADDRESS") or hosts[0]
    rank = slice_id * len(hosts) + int(number)
    return WorkerRank(rank, slice_count * len(hosts), coordinator.split(":")[0])


def _host(worker: str) -> str:
    """Returns the address in a host name or in the older form `name:id:address`."""
    return worker.split(":")[-1].strip()


def _tpu_environment() -> dict[str, str]:
    """Returns the `KEY: 'value'` lines of `tpu-env`; environment variables take precedence."""
    lines = [line.partition(":") for line in (attribute("tpu-env") or "").splitlines()]
    found = {key.strip(): value.strip().strip("'\"") for key, _, value in lines}
    found.update({k: v for k, v in os.environ.items() if k.startswith("MEGASCALE_")})
    return found
