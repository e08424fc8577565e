"""Which worker this is, and where the others are: from the machine's metadata, as JAX finds it."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from typing import Any, NamedTuple


class JobError(Exception):
    """The job cannot run here. The message is one line that names the culprit and the remedy."""


class WorkerRank(NamedTuple):
    """This worker among all of the job."""

    rank: int
    workers: int
    coordinator: str  # the host of worker 0


def worker_rank(job: dict[str, Any], rank: int | None) -> WorkerRank:
    """This worker's place: as the job says where it names hosts, else from the metadata.

    Raises:
      JobError: neither tells it.
    """
    hosts = job.get("hosts")
    if not hosts:
        return _rank_from_metadata()
    if rank is None or not 0 <= rank < len(hosts):
        raise JobError(
            f"--rank is {rank}, but the job names {len(hosts)} hosts; give 0 to {len(hosts) - 1}"
        )
    return WorkerRank(rank, len(hosts), hosts[0])


def attribute(key: str) -> str | None:
    """A metadata attribute of this machine; None where it has none."""
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
        raise JobError(f"cannot read this machine's metadata ({error}); name hosts") from None


def _rank_from_metadata() -> WorkerRank:
    number, endpoints = attribute("agent-worker-number"), attribute("worker-network-endpoints")
    if number is None or not endpoints:
        raise JobError("the metadata do not name the workers; name hosts in the job, and --rank")
    hosts = [_host(worker) for worker in endpoints.split(",")]
    slices = _tpu_environment()
    slice_id = int(slices.get("MEGASCALE_SLICE_ID") or 0)
    slice_count = int(slices.get("MEGASCALE_NUM_SLICES") or 1)
    coordinator = slices.get("MEGASCALE_COORDINATOR_ADDRESS") or hosts[0]
    rank = slice_id * len(hosts) + int(number)
    return WorkerRank(rank, slice_count * len(hosts), coordinator.split(":")[0])


def _host(worker: str) -> str:
    """Of a host's name alone, or of the older `name:id:address`."""
    return worker.split(":")[-1].strip()


def _tpu_environment() -> dict[str, str]:
    """The lines `KEY: 'value'` of `tpu-env`; what the environment says goes before."""
    lines = [line.partition(":") for line in (attribute("tpu-env") or "").splitlines()]
    found = {key.strip(): value.strip().strip("'\"") for key, _, value in lines}
    found.update({k: v for k, v in os.environ.items() if k.startswith("MEGASCALE_")})
    return found
