"""Whole launches with real training processes on the fake cloud."""

import pytest

from tests.launch import runs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    return runs.tree(tmp_path_factory.mktemp("launch") / "tree")


@pytest.fixture(scope="module")
def undisturbed(code):
    return runs.undisturbed(code.parent / "undisturbed", code)


def test_run_trains_on_two_workers_and_leaves_nothing(code, undisturbed):
    _, events = undisturbed
    told = [event.get("event") for event in events]
    order = ["cost", "creating", "running", "first step"]
    assert [event for event in told if event in order] in (order, [*order[:2], *order[:1:-1]])
    assert any(event.get("text", "").startswith("test: accuracy") for event in events)
    folder = code.parent / "undisturbed/buckets/bucket/run"
    assert (folder / "report.html").exists()
    assert "step 300" in (folder / "logs/attempt-1/worker-0.log").read_text()
    assert (folder / "logs/attempt-1/worker-1.log").exists()


@pytest.mark.parametrize("seed", range(3))
def test_preemption_does_not_change_the_result(code, undisturbed, seed):
    found, *_, wrong = runs.schedule(code.parent / f"{seed}", code, seed)
    assert wrong == []
    assert runs.same_bits(undisturbed[0], found)


def test_a_killed_launcher_costs_no_more_than_the_limit(code):
    late, step = runs.orphaned(code.parent / "orphan", code, 30.0)
    assert late < 60
    assert step > 0  # it had time to save
