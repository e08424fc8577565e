"""A plan's metadata, its attempts, and its invalid values."""

import dataclasses
import json

import pytest

from launch.plan import Plan
from research.common.errors import UserError

PLAN = Plan("job", "p", "us-east5-b", "v6e-8", max_hours=10.0)
EVERYTHING = Plan(
    name="a" * 40,
    project="p",
    zone="us-central2-b",
    accelerator="v4-16",
    slices=2,
    capacity="spot",
    runtime_version="tpu-ubuntu2404-next",
    network="net",
    subnetwork="sub",
    service_account="me@p.iam.gserviceaccount.com",
    internal_ips=True,
    max_hours=7.5,
    max_wait_hours=1.0,
    lease_minutes=5.0,
    stall_minutes=2.0,
    tries=9,
    workdir="gs://bucket/run",
    data="gs://bucket/data",
    commit="0123abc-dirty",
    arguments=("--config=experiments/mine.py", "--config.duration=300 steps"),
    attempt=3,
    spent_hours=1.25,
)


def written(plan, **more):
    """What a machine carries, changed."""
    return json.dumps(json.loads(plan.metadata([], "")) | more)


@pytest.mark.parametrize("plan", [PLAN, EVERYTHING], ids=["defaults", "everything"])
def test_machines_carry_the_whole_plan(plan):
    assert Plan.from_metadata(plan.metadata([["gcloud", "x"]], "set -- 'a b'")) == plan


def test_a_new_value_of_the_plan_is_to_be_carried_too():
    """Otherwise the test above would not see that it is lost."""
    fields = dataclasses.fields(Plan)
    same = [field.name for field in fields if getattr(EVERYTHING, field.name) == field.default]
    assert same == ["queued"]  # several slices do not come without the queue


def test_the_metadata_contain_the_timers_commands():
    delete, begin = [["gcloud", "delete", "job"], ["gcloud", "delete", "more"]], "set -- 'a b'\n"
    told = json.loads(PLAN.next_attempt(4.0).metadata(delete, begin))
    assert told["hours"] == 6.0  # what is left, not the cap
    assert told["lease_seconds"] == 900
    assert told["delete"] == delete and told["begin"] == begin


def test_a_newer_version_writes_more():
    assert Plan.from_metadata(written(PLAN, colour="red", nested={"a": [1]})) == PLAN


def test_an_older_version_writes_less():
    needed = {"name": "job", "project": "p", "zone": "us-east5-b", "accelerator": "v6e-8"}
    assert Plan.from_metadata(json.dumps(needed)) == dataclasses.replace(PLAN, max_hours=24.0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        written(PLAN)[:-20],
        "[]",
        "null",
        '"name"',
        '{"name": "job"}',
        written(PLAN, name=3),
        written(PLAN, max_hours="ten"),
        written(PLAN, arguments=None),
    ],
    ids=["empty", "cut", "list", "null", "string", "little", "number", "word", "no list"],
)
def test_an_invalid_plan_is_a_one_line_error(text):
    with pytest.raises(UserError, match=r"^cannot read the VMs' plan \(.*\); delete them$"):
        Plan.from_metadata(text)


def test_each_attempt_has_what_the_others_left():
    second = PLAN.next_attempt(2.5)
    third = second.next_attempt(4.0)
    assert [p.attempt for p in (PLAN, second, third)] == [1, 2, 3]
    assert [p.hours for p in (PLAN, second, third)] == [10.0, 7.5, 3.5]
    assert dataclasses.replace(third, attempt=1, tries=PLAN.tries, spent_hours=0.0) == PLAN
    assert [p.tries for p in (PLAN, second, third)] == [PLAN.tries - n for n in range(3)]


def test_an_attempt_that_overran_leaves_no_hours():
    assert PLAN.next_attempt(9.0).next_attempt(1.5).hours == 0.0


def test_slices_have_names_machines_and_a_price():
    assert PLAN.nodes == ("job",)
    two = dataclasses.replace(EVERYTHING, name="job")
    assert two.nodes == ("job-0", "job-1")
    assert (two.chips, two.workers) == (16, 4)
    one = dataclasses.replace(two, slices=1)
    assert two.dollars_per_hour == pytest.approx(2 * one.dollars_per_hour)
    assert one.dollars_per_hour < dataclasses.replace(one, capacity="on-demand").dollars_per_hour


def test_the_image_is_the_accelerators_unless_another_is_named():
    assert PLAN.image == PLAN.slice.runtime_version
    assert EVERYTHING.image == "tpu-ubuntu2404-next"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": ""}, "''"),
        ({"name": "Job"}, "'Job'"),
        ({"name": "1job"}, "a letter first"),
        ({"name": "job-"}, "'job-'"),
        ({"name": "a" * 41}, "at most 40"),
        ({"name": "job\n"}, "invalid name"),
        ({"slices": 0}, "--slices=0: expected at least 1"),
        ({"tries": -1}, "--tries=-1: expected at least 1"),
        ({"max_hours": 0.0}, "--max-hours=0: expected at least 0.001"),
        ({"max_wait_hours": -2.0}, "--max-wait-hours=-2: expected"),
        ({"lease_minutes": 0.0}, "--lease-minutes=0: expected at least 2"),
        ({"max_hours": float("nan")}, "--max-hours=nan: expected"),
        ({"max_hours": float("inf")}, "--max-hours=inf: expected"),
        ({"stall_minutes": -5.0}, "--stall-minutes=-5: expected"),
        ({"accelerator": "v3-8", "slices": 2}, "TPU v3 has no multislice; use --slices=1"),
        ({"slices": 2, "queued": False}, "remove --direct"),
        ({"internal_ips": True, "queued": False}, "remove --direct"),
        ({"accelerator": "v6e-7", "slices": 2}, "invalid accelerator type 'v6e-7'"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_an_invalid_value_is_an_error_with_its_remedy(changes, says):
    with pytest.raises(UserError) as error:
        dataclasses.replace(PLAN, **changes)
    assert says in str(error.value)
    if "name" not in changes:
        assert "\n" not in str(error.value)
