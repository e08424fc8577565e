"""The exact command lines of each generation and way, as they are written down in `golden/`.

`python -m tests.launch.test_golden` writes them anew: read what has changed before you commit it.
"""

import shlex
from pathlib import Path

import pytest

from launch.cloud import TIMER, Resources, State
from launch.commands import cloud_of
from launch.plan import Plan
from research.common.errors import UserError
from tests.launch import grammar

GOLDEN = Path(__file__).parent / "golden"
GENERATIONS = {
    "v2": ("v2-32", "us-central1-a"),
    "v3": ("v3-32", "europe-west4-a"),
    "v4": ("v4-32", "us-central2-b"),
    "v5e": ("v5litepod-16", "us-west4-a"),
    "v5p": ("v5p-32", "us-east5-a"),
    "v6e": ("v6e-16", "us-east5-b"),
    "tpu7x": ("tpu7x-16", "us-central1-c"),
}
WAYS = {
    "direct": {"queued": False},
    "queued": {"capacity": "spot"},
    "multislice": {"slices": 2, "internal_ips": True, "max_wait_hours": 6.0},
    "all flags": {
        "service_account": "me@p.iam.gserviceaccount.com",
        "network": "n",
        "subnetwork": "s",
        "runtime_version": "mine",
        "max_hours": 8.0,
    },
}


def lines(generation, way):
    """All commands of a run's machines, or the refusal."""
    accelerator, zone = GENERATIONS[generation]
    try:
        plan = Plan(name="run", project="p", zone=zone, accelerator=accelerator, **WAYS[way])
        plan.slice.check_zone(zone)
        cloud = cloud_of(plan)
    except UserError as error:
        return [f"error: {error}"]
    machines = Resources(State.READY, "", ("run-abcd", "run-efgh"))
    commands = cloud.create(Path("plan.json")) + cloud.ssh("hostname", machines)
    commands += cloud.ssh("", machines)[:1] + cloud.delete()
    return [shlex.join(argv).replace(str(TIMER), "launch/worker/deadman.py") for argv in commands]


def written(generation):
    """The golden file of a generation."""
    return "".join(f"# {way}\n" + "\n".join(lines(generation, way)) + "\n\n" for way in WAYS)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_command_lines_match_the_golden_files(generation):
    assert written(generation) == (GOLDEN / f"{generation}.txt").read_text()


@pytest.mark.parametrize("generation", GENERATIONS)
def test_gcloud_knows_every_flag(generation):
    for line in (GOLDEN / f"{generation}.txt").read_text().splitlines():
        if line.startswith("gcloud"):
            assert grammar.check(shlex.split(line)) == []


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name in GENERATIONS:
        (GOLDEN / f"{name}.txt").write_text(written(name))
